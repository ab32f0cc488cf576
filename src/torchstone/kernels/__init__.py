"""Similarities between examples, and what a representation's own similarities say about it."""

from torchstone.kernels.cka import (
    AlignmentEstimate,
    linear_cka,
    linear_cka_interval,
    minibatch_linear_cka,
    unbiased_hsic,
    unbiased_linear_cka,
    unbiased_linear_hsic,
)
from torchstone.kernels.nearest import Metric, Neighbours, majority_vote, nearest_neighbours
from torchstone.kernels.spectrum import (
    Whitening,
    condition_number,
    covariance_spectrum,
    effective_rank,
    isotropy,
    participation_ratio,
    stable_rank,
    zca_whitening,
)

__all__ = [
    "AlignmentEstimate",
    "Metric",
    "Neighbours",
    "Whitening",
    "condition_number",
    "covariance_spectrum",
    "effective_rank",
    "isotropy",
    "linear_cka",
    "linear_cka_interval",
    "majority_vote",
    "minibatch_linear_cka",
    "nearest_neighbours",
    "participation_ratio",
    "stable_rank",
    "unbiased_hsic",
    "unbiased_linear_cka",
    "unbiased_linear_hsic",
    "zca_whitening",
]
