from __future__ import annotations

import pytest
import torch

from torchstone.errors import ObjectiveError, SpecimenError
from torchstone.robust import differentiate, evaluate, misclassify, raise_loss, reach_class


def test_gradients_are_each_examples_own(network) -> None:
    model = network(4, 8, 3)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (6,), generator=generator)
    seen = differentiate(misclassify(model, labels), inputs)
    assert seen.gradient is not None
    for row in range(6):
        loss = lambda x, row=row: torch.nn.functional.cross_entropy(model(x[None]), labels[row : row + 1])
        expected = torch.func.grad(loss)(inputs[row])
        assert torch.allclose(seen.gradient[row], expected, rtol=1e-12)
    assert torch.equal(seen.losses, evaluate(misclassify(model, labels), inputs).losses)
    assert evaluate(misclassify(model, labels), inputs).gradient is None


def test_any_objective_can_be_attacked_by_its_losses() -> None:
    goal = raise_loss(lambda x: (x - 1).square().mean(dim=1), above=4.0)
    seen = evaluate(goal, torch.tensor([[4.0, 4.0], [2.0, 2.0]]))
    assert seen.losses.tolist() == [9.0, 1.0]
    assert seen.success.tolist() == [True, False]
    assert not bool(evaluate(raise_loss(lambda x: x.sum(1)), torch.ones(2, 1)).success.any())


def test_a_loss_that_is_no_number_is_no_success() -> None:
    goal = misclassify(lambda x: torch.stack([x[:, 0], 0 / x[:, 1]], 1), torch.tensor([0]))
    assert evaluate(goal, torch.tensor([[1.0, 0.0]])).success.tolist() == [False]


@pytest.mark.parametrize("model", [lambda x: x.detach(), lambda x: torch.zeros(len(x), 2), lambda x: x.round().detach() + torch.zeros(1, requires_grad=True)])  # fmt: skip
def test_outputs_cut_off_from_the_inputs_are_refused(model) -> None:
    goal = misclassify(model, torch.tensor([0]))
    with pytest.raises(SpecimenError, match=r"outputs cut off from the inputs.*black-box attack"):
        differentiate(goal, torch.zeros(1, 2))


def test_labels_and_outputs_are_checked() -> None:
    with pytest.raises(ObjectiveError, match=r"integer class labels.*float32.*raise_loss"):
        misclassify(lambda x: x, torch.zeros(2))
    with pytest.raises(ObjectiveError, match=r"integer class labels, shape \(N,\); got .*\(2, 1\)"):
        reach_class(lambda x: x, torch.zeros(2, 1, dtype=torch.long))
    goal = misclassify(lambda x: x[:, :1], torch.tensor([0, 1]))
    with pytest.raises(ObjectiveError, match=r"C >= 2; got shape \(2, 1\).*return the two scores \(0, z\)"):
        evaluate(goal, torch.zeros(2, 3))
    goal = misclassify(lambda x: x, torch.tensor([0, 3]))
    with pytest.raises(
        ObjectiveError, match=r"label in 0\.\.2 for each of 2 inputs; got 2 labels from 0 to 3"
    ):
        evaluate(goal, torch.zeros(2, 3))
    goal = misclassify(lambda x: x, torch.tensor([0, 1]))
    with pytest.raises(ObjectiveError, match="for each of 3 inputs; got 2 labels"):
        evaluate(goal, torch.zeros(3, 3))
    with pytest.raises(ObjectiveError, match=r'shape \(3,\); got shape \(\).*reduction="none"'):
        evaluate(raise_loss(lambda x: x.mean()), torch.zeros(3, 3))
