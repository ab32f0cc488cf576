"""The empirical tangent kernel, layer by layer and block by block."""

from torchstone.operators.tangent_kernel.examples import Examples, examples_of
from torchstone.operators.tangent_kernel.factors import Factors, Sizes
from torchstone.operators.tangent_kernel.linearised import Block, Linearised
from torchstone.operators.tangent_kernel.plan import KernelPlan, plan_blocks

__all__ = ["Block", "Examples", "Factors", "KernelPlan", "Linearised", "Sizes", "examples_of", "plan_blocks"]
