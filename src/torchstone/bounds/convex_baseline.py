"""A convex baseline for any experiment: a fixed feature map and a linear fit, with nothing to go wrong in between."""

from __future__ import annotations

from typing import Any

import torch

from torchstone.bounds.risk_bound import check_at_least, check_count
from torchstone.errors import SettingError

_FITS = ("ridge", "logistic", "ridge_classifier")


def convex_baseline(
    fit: str = "logistic",
    fourier_features: int = 0,
    penalty: float = 1.0,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Any:
    r"""A scikit-learn pipeline: standardise, optionally map to random Fourier features, fit a convex loss.

    What a network must beat before its depth is worth explaining. With D Fourier features it approximates a Gaussian
    kernel machine of kernel :math:`\exp(-\|x - x'\|^2 / (2 s^2 d))` on standardised inputs.

    Cost: linear in examples; memory of n x D numbers.

    Args:
        fit: "logistic" or "ridge_classifier" for labels, "ridge" for real targets.
        fourier_features: D; 0 for a linear fit to the inputs.
        penalty: :math:`\alpha` of :math:`\alpha \|w\|^2` beside the sum of squares; for "logistic" 1 / C.
        scale: s, width of the kernel in units of the root of the number of inputs.
        generator: Of the random features; needed where there are any.

    Returns:
        A pipeline with `fit`, `predict` and `score`; steps "standardise", "features", "fit".

    Raises:
        SettingError: An unknown fit, a penalty or scale that is not positive, or features without a generator.

    Source: Rahimi & Recht 2007; Hoerl & Kennard 1970; Hardt & Recht 2022, chapter 7.
    """
    from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if fit not in _FITS:
        raise SettingError(f"fit must be one of {', '.join(_FITS)}", repr(fit), 'Use "logistic" for labels.')
    check_at_least("penalty", penalty, strictly=True)
    check_at_least("scale", scale, strictly=True)
    steps: list[tuple[str, Any]] = [("standardise", StandardScaler())]
    if check_count("fourier_features", fourier_features, least=0):
        if generator is None:
            raise SettingError(
                "Random features need a generator", "None", "Pass torch.Generator().manual_seed(0)."
            )
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        steps.append(("features", _fourier(fourier_features, scale, seed)))
    match fit:
        case "logistic":
            steps.append(("fit", LogisticRegression(C=1 / penalty, max_iter=1000)))
        case "ridge":
            steps.append(("fit", Ridge(alpha=penalty)))
        case _:
            steps.append(("fit", RidgeClassifier(alpha=penalty)))
    return Pipeline(steps)


def _fourier(features: int, scale: float, seed: int) -> Any:
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    # The kernel's width follows the number of inputs, which is known when fitting only.
    shrink = FunctionTransformer(_over_root_of_inputs)
    return Pipeline(
        [
            ("shrink", shrink),
            ("cosines", RBFSampler(gamma=0.5 / scale**2, n_components=features, random_state=seed)),
        ]
    )


def _over_root_of_inputs(x: Any) -> Any:
    return x / x.shape[1] ** 0.5
