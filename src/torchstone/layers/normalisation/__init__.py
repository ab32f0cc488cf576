"""Normalisation beyond PyTorch's own BatchNorm, LayerNorm, GroupNorm, weight_norm and spectral_norm."""

from torchstone.layers.normalisation.batch_renormalisation import BatchRenorm, limits_at
from torchstone.layers.normalisation.deconvolution import Deconv2d, inverse_root
from torchstone.layers.normalisation.partition import (
    batch_blocks,
    group_blocks,
    instance_blocks,
    layer_blocks,
    partition_normalise,
    window_normalise,
)
from torchstone.layers.normalisation.reference import (
    BatchNormed,
    batch_norm,
    batch_norm_backward,
    squared_gradient_norm,
)
from torchstone.layers.normalisation.spectral import (
    ExactSpectralNorm,
    circular_singular_values,
    exact_spectral_norm,
    reshaped_norm,
)
from torchstone.layers.normalisation.stepwise import StepwiseBatchNorm
from torchstone.layers.normalisation.weight_normalisation import MeanOnlyBatchNorm, weight_norm_data_init

__all__ = [
    "BatchNormed",
    "BatchRenorm",
    "Deconv2d",
    "ExactSpectralNorm",
    "MeanOnlyBatchNorm",
    "StepwiseBatchNorm",
    "batch_blocks",
    "batch_norm",
    "batch_norm_backward",
    "circular_singular_values",
    "exact_spectral_norm",
    "group_blocks",
    "instance_blocks",
    "inverse_root",
    "layer_blocks",
    "limits_at",
    "partition_normalise",
    "reshaped_norm",
    "squared_gradient_norm",
    "weight_norm_data_init",
    "window_normalise",
]
