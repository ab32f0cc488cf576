"""What networks remember: linear autoencoders, attractors of iterated maps, Hopfield networks, denoising, codelengths."""

from torchstone.memory.attractors import Attractor, Attractors, find_attractors, nearest_stored
from torchstone.memory.codelength import Codelength, entropy_bits, gaussian_bits, linear_codelength
from torchstone.memory.denoising import (
    LinearDenoiser,
    gaussian_score,
    linear_denoiser,
    mixture_score,
    score_from_denoiser,
)
from torchstone.memory.hopfield import CRITICAL_LOAD, HopfieldNetwork, Recall, overlap, unstable_bit_rate
from torchstone.memory.identity import IdentityCorrelations, identity_correlations
from torchstone.memory.noisy_codes import CodeModel, fit_code_model, noisy_code_bits
from torchstone.memory.orbits import Orbits, distances, follow
from torchstone.memory.principal_components import ProbabilisticPCA
from torchstone.memory.span_projection import linear_autoencoder_limit, span_projection
from torchstone.memory.stability import (
    ArnoldiRadius,
    SpectralRadius,
    arnoldi_radius,
    floquet_multipliers,
    jacobians,
    spectral_radius,
)

__all__ = [
    "CRITICAL_LOAD",
    "ArnoldiRadius",
    "Attractor",
    "Attractors",
    "CodeModel",
    "Codelength",
    "HopfieldNetwork",
    "IdentityCorrelations",
    "LinearDenoiser",
    "Orbits",
    "ProbabilisticPCA",
    "Recall",
    "SpectralRadius",
    "arnoldi_radius",
    "distances",
    "entropy_bits",
    "find_attractors",
    "fit_code_model",
    "floquet_multipliers",
    "follow",
    "gaussian_bits",
    "gaussian_score",
    "identity_correlations",
    "jacobians",
    "linear_autoencoder_limit",
    "linear_codelength",
    "linear_denoiser",
    "mixture_score",
    "nearest_stored",
    "noisy_code_bits",
    "overlap",
    "score_from_denoiser",
    "span_projection",
    "spectral_radius",
    "unstable_bit_rate",
]
