"""torchstone: why a network trains, why it generalises, where its error comes from, what to change."""

import torchstone._before_torch  # noqa: F401 - first, as it says
from torchstone._version import __version__
from torchstone.examination import Examination
from torchstone.examining import examine
from torchstone.objectives import CausalLM, Classification, HuggingFace, Objective, Regression
from torchstone.plan import Plan
from torchstone.reading import Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.watching import watch

__all__ = [
    "CausalLM",
    "Classification",
    "Examination",
    "HuggingFace",
    "Objective",
    "Plan",
    "Reading",
    "Recipe",
    "Regression",
    "Specimen",
    "__version__",
    "examine",
    "watch",
]
