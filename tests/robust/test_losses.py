from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchstone.errors import SettingError
from torchstone.robust import (
    carlini_wagner,
    cross_entropy,
    dlr,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    return logits, torch.randint(6, (200,), generator=generator)


def test_every_loss_matches_its_formula_by_hand(scored) -> None:
    logits, labels = scored
    targets = (labels + 2) % 6
    for z, y, t, *got in zip(
        logits.tolist(),
        labels.tolist(),
        targets.tolist(),
        margin(logits, labels).tolist(),
        dlr(logits, labels).tolist(),
        targeted_dlr(logits, labels, targets).tolist(),
        targeted_margin(logits, targets).tolist(),
        strict=True,
    ):
        ranked = sorted(z, reverse=True)
        lead = max(v for c, v in enumerate(z) if c != y) - z[y]
        expected = [
            lead,
            lead / (ranked[0] - ranked[2]),
            (z[t] - z[y]) / (ranked[0] - (ranked[2] + ranked[3]) / 2),
            z[t] - max(v for c, v in enumerate(z) if c != t),
        ]
        assert got == pytest.approx(expected, rel=1e-12)


def test_cross_entropies_are_torchs(scored) -> None:
    logits, labels = scored
    assert torch.equal(cross_entropy(logits, labels), F.cross_entropy(logits, labels, reduction="none"))
    assert torch.equal(targeted_cross_entropy(logits, labels), -cross_entropy(logits, labels))


def test_positive_margins_are_misclassifications(scored) -> None:
    logits, labels = scored
    wrong = logits.argmax(1) != labels
    assert torch.equal(margin(logits, labels) > 0, wrong)
    assert torch.equal(dlr(logits, labels) > 0, wrong)
    assert torch.equal(targeted_margin(logits, labels) > 0, ~wrong)


def test_the_ratio_ignores_shifts_and_scales_and_is_at_least_minus_one(scored) -> None:
    logits, labels = scored
    assert torch.allclose(dlr(1e3 * logits - 7, labels), dlr(logits, labels), rtol=1e-9)
    targets = (labels + 1) % 6
    assert torch.allclose(
        targeted_dlr(1e3 * logits - 7, labels, targets), targeted_dlr(logits, labels, targets), rtol=1e-9
    )
    assert float(dlr(logits, labels).min()) >= -1


def test_the_capped_margin_has_no_gradient_past_its_confidence() -> None:
    logits = torch.tensor([[0.0, 3.0], [0.0, 0.5]], requires_grad=True)
    losses = carlini_wagner(logits, torch.tensor([0, 0]), confidence=1.0)
    assert losses.tolist() == [1.0, 0.5]
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_ties_of_all_logits_are_finite_with_finite_gradients() -> None:
    logits = torch.ones(2, 4, requires_grad=True)
    labels = torch.tensor([0, 1])
    for losses in (dlr(logits, labels), targeted_dlr(logits, labels, labels + 1)):
        assert losses.tolist() == [0.0, 0.0]
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert bool(torch.isfinite(gradient).all())


def test_half_precision_logits_are_compared_in_single() -> None:
    logits = torch.tensor([[300.0, 1.0]], dtype=torch.bfloat16)
    assert margin(logits, torch.tensor([0])).item() == -299.0  # no number of bfloat16
    assert cross_entropy(logits, torch.tensor([0])).dtype == torch.float32


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(SettingError, match=r"dlr needs at least 3 classes; got 2\. Use margin"):
        dlr(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(SettingError, match="targeted_dlr needs at least 4 classes; got 3"):
        targeted_dlr(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([1]))
