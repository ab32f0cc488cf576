"""Similarities between examples, and what a representation's own similarities say about it."""

from torchstone.kernels.arccosine import arc_cosine, two_layer_relu_tangent
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
from torchstone.kernels.tangent import DenseKernels, dense_kernels

__all__ = [
    "AlignmentEstimate",
    "DenseKernels",
    "Metric",
    "Neighbours",
    "Whitening",
    "arc_cosine",
    "condition_number",
    "covariance_spectrum",
    "dense_kernels",
    "effective_rank",
    "isotropy",
    "linear_cka",
    "linear_cka_interval",
    "majority_vote",
    "minibatch_linear_cka",
    "nearest_neighbours",
    "participation_ratio",
    "stable_rank",
    "two_layer_relu_tangent",
    "unbiased_hsic",
    "unbiased_linear_cka",
    "unbiased_linear_hsic",
    "zca_whitening",
]
