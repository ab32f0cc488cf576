"""What a network is trained for: outputs of a batch and one loss per example."""

from torchstone.objectives.base import Objective
from torchstone.objectives.causal_lm import CausalLM
from torchstone.objectives.classification import Classification
from torchstone.objectives.hugging_face import HuggingFace
from torchstone.objectives.regression import Regression

__all__ = ["CausalLM", "Classification", "HuggingFace", "Objective", "Regression"]
