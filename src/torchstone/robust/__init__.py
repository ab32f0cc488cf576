"""Attacks on inputs, checks that they can be trusted, and corruptions that occur by themselves."""

from torchstone.robust.apgd import apgd
from torchstone.robust.attack_result import AttackResult, nearest, strongest
from torchstone.robust.ball import Ball
from torchstone.robust.boundary import pull_back
from torchstone.robust.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Contrast,
    Corruption,
    FeatureDropout,
    GaussianBlur,
    GaussianNoise,
    ImpulseNoise,
    UniformNoise,
    corrupted,
)
from torchstone.robust.deepfool import deepfool
from torchstone.robust.fast_minimum_norm import fast_minimum_norm
from torchstone.robust.fgsm import fgsm
from torchstone.robust.goal import (
    Evaluation,
    Goal,
    differentiate,
    evaluate,
    misclassify,
    misclassify_towards,
    raise_loss,
    reach_class,
)
from torchstone.robust.input_scale import InputScale
from torchstone.robust.langevin import langevin_search
from torchstone.robust.losses import (
    carlini_wagner,
    cross_entropy,
    dlr,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)
from torchstone.robust.minimal_norm import BallAttack, minimal_norm
from torchstone.robust.misuse import (
    Finding,
    Flag,
    dynamic,
    probabilities,
    randomised,
    weaker_attack_wins,
    zero_gradients,
)
from torchstone.robust.norms import Norm, distances, dual_lengths, lengths, steepest
from torchstone.robust.pgd import pgd
from torchstone.robust.random_noise import random_noise
from torchstone.robust.robust_curve import RobustCurve, robust_accuracy, robust_curve
from torchstone.robust.targeted_apgd import targeted_apgd

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "AttackResult",
    "Ball",
    "BallAttack",
    "Contrast",
    "Corruption",
    "Evaluation",
    "FeatureDropout",
    "Finding",
    "Flag",
    "GaussianBlur",
    "GaussianNoise",
    "Goal",
    "ImpulseNoise",
    "InputScale",
    "Norm",
    "RobustCurve",
    "UniformNoise",
    "apgd",
    "carlini_wagner",
    "corrupted",
    "cross_entropy",
    "deepfool",
    "differentiate",
    "distances",
    "dlr",
    "dual_lengths",
    "dynamic",
    "evaluate",
    "fast_minimum_norm",
    "fgsm",
    "langevin_search",
    "lengths",
    "margin",
    "minimal_norm",
    "misclassify",
    "misclassify_towards",
    "nearest",
    "pgd",
    "probabilities",
    "pull_back",
    "raise_loss",
    "random_noise",
    "randomised",
    "reach_class",
    "robust_accuracy",
    "robust_curve",
    "steepest",
    "strongest",
    "targeted_apgd",
    "targeted_cross_entropy",
    "targeted_dlr",
    "targeted_margin",
    "weaker_attack_wins",
    "zero_gradients",
]
