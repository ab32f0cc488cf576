"""Learning theory as pure functions: intervals, Bayes errors, risk decompositions, margins and margin bounds."""

from torchstone.bounds.bayes_error import (
    BayesErrorBracket,
    NeighbourError,
    bayes_error_interval,
    cover_hart_bracket,
    nearest_neighbour_error,
    tightest_bracket,
)
from torchstone.bounds.bootstrap import bootstrap_interval
from torchstone.bounds.convolution import ConvolutionLayer, NormBracket, convolution_norm
from torchstone.bounds.decomposition import (
    RiskDecomposition,
    bayes_risk_of_law,
    empirical_risks,
    risk_decomposition,
    risks_under_law,
)
from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.interval import Interval
from torchstone.bounds.margin import margins, normalised_margins, path_norm, product_norm
from torchstone.bounds.mean import mean_interval
from torchstone.bounds.proportion import (
    bonferroni_difference,
    clopper_pearson,
    hoeffding,
    newcombe_difference,
    wilson,
)
from torchstone.bounds.spectral import SpectralComplexity, spectral_complexity
from torchstone.bounds.spectral_margin import SpectralMarginBound, ramp_loss, spectral_margin_bound

__all__ = [
    "BayesErrorBracket",
    "ConvolutionLayer",
    "DenseLayer",
    "Interval",
    "NeighbourError",
    "NormBracket",
    "RiskDecomposition",
    "SpectralComplexity",
    "SpectralMarginBound",
    "bayes_error_interval",
    "bayes_risk_of_law",
    "bonferroni_difference",
    "bootstrap_interval",
    "clopper_pearson",
    "convolution_norm",
    "cover_hart_bracket",
    "empirical_risks",
    "hoeffding",
    "margins",
    "mean_interval",
    "nearest_neighbour_error",
    "newcombe_difference",
    "normalised_margins",
    "path_norm",
    "product_norm",
    "ramp_loss",
    "risk_decomposition",
    "risks_under_law",
    "spectral_complexity",
    "spectral_margin_bound",
    "tightest_bracket",
    "wilson",
]
