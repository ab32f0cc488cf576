"""What holds for every attack, whatever the model."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import NumericalError, SettingError, SpecimenError
from torchstone.robust import (
    AttackResult,
    apgd,
    deepfool,
    distances,
    dlr,
    fast_minimum_norm,
    fgsm,
    margin,
    minimal_norm,
    misclassify,
    nearest,
    pgd,
    raise_loss,
    random_noise,
    strongest,
    targeted_apgd,
)

NORMS = ["linf", "l2"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fgsm(logits, labels, inputs, eps, norm, bounds):
    return fgsm(misclassify(logits, labels), inputs, eps, norm=norm, bounds=bounds)


def _pgd(logits, labels, inputs, eps, norm, bounds):
    goal = misclassify(logits, labels)
    return pgd(goal, inputs, eps, norm=norm, bounds=bounds, steps=5, restarts=2, generator=_generator())


def _apgd(logits, labels, inputs, eps, norm, bounds):
    goal = misclassify(logits, labels, dlr)
    return apgd(goal, inputs, eps, norm=norm, bounds=bounds, steps=12, restarts=2, generator=_generator())


def _targeted(logits, labels, inputs, eps, norm, bounds):
    return targeted_apgd(logits, labels, inputs, eps, norm=norm, bounds=bounds, steps=5, generator=_generator())  # fmt: skip


def _noise(logits, labels, inputs, eps, norm, bounds):
    goal = misclassify(logits, labels)
    return random_noise(goal, inputs, eps, norm=norm, bounds=bounds, generator=_generator())


def _bisection(logits, labels, inputs, eps, norm, bounds):
    attack = functools.partial(pgd, steps=5, generator=_generator())
    return minimal_norm(misclassify(logits, labels), inputs, eps, norm=norm, bounds=bounds, attack=attack)


def _deepfool(logits, labels, inputs, eps, norm, bounds):
    return deepfool(logits, labels, inputs, norm=norm, bounds=bounds)


def _fast(logits, labels, inputs, eps, norm, bounds):
    return fast_minimum_norm(logits, labels, inputs, norm=norm, bounds=bounds, steps=20)


IN_A_BALL = [_fgsm, _pgd, _apgd, _targeted, _noise]
MINIMAL = [_bisection, _deepfool, _fast]
ALL = IN_A_BALL + MINIMAL


@pytest.fixture
def case(network):
    """A network of five classes, inputs in [0, 1], a third of them with wrong labels."""
    model = network(6, 12, 5)
    inputs = torch.rand(30, 6, generator=_generator(1), dtype=torch.float64)
    labels = model(inputs).argmax(1)
    labels[::3] = (labels[::3] + 1) % 5
    return model, inputs, labels


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_say_what_the_model_says_and_lie_in_ball_and_box(
    case, attack, norm, dtype: torch.dtype
) -> None:
    model, inputs, _ = case
    model, inputs = model.to(dtype), inputs.to(dtype)
    labels = model(inputs).argmax(1)
    labels[::3] = (labels[::3] + 1) % 5
    eps = 0.2
    found = attack(model, labels, inputs, eps, norm, (0.0, 1.0))
    assert found.inputs.dtype == dtype
    assert found.inputs.shape == inputs.shape
    assert torch.equal(model(found.inputs).argmax(1) != labels, found.success)
    assert float(found.inputs.double().min()) >= 0
    assert float(found.inputs.double().max()) <= 1
    away = distances(found.inputs, inputs, norm)
    if attack in MINIMAL:
        assert torch.equal(found.distances.isinf(), ~found.success)
        assert torch.equal(found.distances[found.success], away[found.success])
        # Misclassified as they are: nothing need be changed.
        assert bool((found.distances[::3] == 0).all())
        assert torch.equal(found.inputs[::3], inputs[::3])
        assert bool((found.distances[1::3] > 0).all())
    else:
        assert torch.equal(found.distances, away)
        assert float(away.max()) <= eps + 1e-15
        assert bool(found.success[::3].all())
    assert bool(found.success[1::3].any()), "an attack that never wins is not tested"


@pytest.mark.parametrize("attack", IN_A_BALL)
@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_of_zero_changes_nothing(case, attack, norm) -> None:
    model, inputs, labels = case
    found = attack(model, labels, inputs, 0.0, norm, None)
    assert torch.equal(found.inputs, inputs)
    assert torch.equal(found.success, model(inputs).argmax(1) != labels)
    assert bool((found.distances == 0).all())


@pytest.mark.parametrize("attack", ALL)
def test_an_empty_batch_is_an_empty_result(case, attack) -> None:
    model, inputs, labels = case
    found = attack(model, labels[:0], inputs[:0], 0.1, "linf", (0.0, 1.0))
    assert found.inputs.shape == (0, 6)
    assert [len(part) for part in (found.losses, found.success, found.distances)] == [0, 0, 0]
    assert found.losses_per_step.shape[1] == 0
    assert found.gradient_evaluations == 0


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(case, attack, training: bool) -> None:
    model, inputs, labels = case
    model.train(training)
    first, *rest = model.parameters()
    first.grad = torch.full_like(first, 7.0)
    rest[-1].requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    fired = []
    for p in model.parameters():
        if p.requires_grad:
            p.register_hook(lambda _: fired.append(1))
    kept, rng = inputs.clone(), torch.get_rng_state()
    attack(model, labels, inputs, 0.2, "l2", None)
    assert not fired, "a gradient of a parameter was formed"
    assert bool((first.grad == 7).all())
    assert all(p.grad is None for p in rest)
    assert [p.requires_grad for p in model.parameters()] == [True] * 3 + [False]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(module.training == training for module in model.modules())
    assert torch.equal(inputs, kept)
    assert not inputs.requires_grad
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("attack", ALL)
def test_the_same_seed_gives_the_same_bits(case, attack) -> None:
    model, inputs, labels = case
    first, second = (attack(model, labels, inputs, 0.2, "l2", None) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.losses, second.losses)


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_attacks_work_where_gradients_are_off(case, attack, context) -> None:
    model, inputs, labels = case
    expected = attack(model, labels, inputs, 0.2, "linf", None)
    with context():
        found = attack(model, labels.clone(), inputs.clone(), 0.2, "linf", None)
    assert torch.equal(found.inputs, expected.inputs)


@pytest.mark.parametrize("attack", ALL)
def test_bad_inputs_are_refused(case, attack) -> None:
    model, inputs, labels = case
    with pytest.raises(SettingError, match="floating point inputs"):
        attack(model, labels, inputs.long(), 0.1, "linf", None)
    broken = inputs.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(NumericalError, match="finite inputs; got 1 NaN"):
        attack(model, labels, broken, 0.1, "linf", None)
    with pytest.raises(NumericalError, match="number at the clean inputs; got NaN for 30 of 30"):
        attack(lambda x: model(x) * torch.nan, labels, inputs, 0.1, "linf", None)


@pytest.mark.parametrize("attack", [_fgsm, _pgd, _apgd, _targeted, _bisection, _deepfool, _fast])
def test_models_without_gradients_are_refused(case, attack) -> None:
    model, inputs, _ = case
    right = model(inputs).argmax(1)
    with pytest.raises(SpecimenError, match="cut off"):
        attack(lambda x: model(x).detach(), right, inputs, 0.1, "linf", None)


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("norm", NORMS)
def test_numbers_that_fail_away_from_the_inputs_do_no_harm(case, attack, norm) -> None:
    model, inputs, labels = case

    def fragile(x: Tensor) -> Tensor:
        # NaN outputs and NaN gradients once the first feature passes 0.6.
        return model(x) + torch.where(x[:, :1] > 0.6, torch.nan, 0.0) * x[:, :1]

    inputs[:, 0] *= 0.6
    found = attack(fragile, labels, inputs, 0.3, norm, None)
    assert bool(torch.isfinite(found.losses).all())
    assert bool(torch.isfinite(found.inputs).all())
    assert bool(torch.isfinite(fragile(found.inputs)).all())


@pytest.mark.parametrize("attack", ALL)
def test_images_are_attacked_like_their_flat_copies(case, attack) -> None:
    model, inputs, labels = case
    flat = attack(model, labels, inputs, 0.2, "l2", (0.0, 1.0))
    images = attack(lambda x: model(x.flatten(1)), labels, inputs.reshape(30, 1, 2, 3), 0.2, "l2", (0.0, 1.0))
    assert torch.equal(images.inputs.flatten(1), flat.inputs)
    scalars = attack(lambda x: torch.stack([x, -x, 0 * x, x.square()], 1), labels % 2, inputs[:, 0] - 0.5, 0.5, "l2", None)  # fmt: skip
    assert scalars.inputs.shape == (30,)


def test_each_example_may_have_its_own_radius(case) -> None:
    model, inputs, labels = case
    goal = misclassify(model, labels, margin)
    eps = torch.linspace(0, 0.3, 30, dtype=torch.float64)
    together = pgd(goal, inputs, eps, norm="l2")
    assert bool((together.distances <= eps + 1e-15).all())
    alone = pgd(misclassify(model, labels[20:21], margin), inputs[20:21], float(eps[20]), norm="l2")
    assert torch.allclose(together.losses[20], alone.losses[0], rtol=1e-12)


def test_restarts_keep_the_best_of_each_example() -> None:
    # Many local maxima: one run from one point finds the global one for few examples.
    goal = raise_loss(lambda x: (5 * x).sin().sum(1) + x.sum(1))
    inputs = torch.randn(40, 3, generator=_generator(), dtype=torch.float64)
    runs = [pgd(goal, inputs, 2.0, restarts=r, generator=_generator()) for r in (1, 2, 8)]
    assert bool((runs[1].losses >= runs[0].losses).all())
    assert bool((runs[2].losses >= runs[1].losses).all())
    assert float((runs[2].losses - runs[0].losses).mean()) > 0.1
    assert runs[2].gradient_evaluations == 8 * 40
    single = pgd(goal, inputs, 2.0, generator=_generator())
    assert torch.equal(single.losses, runs[0].losses)
    assert not torch.equal(pgd(goal, inputs, 2.0, generator=_generator(1)).losses, single.losses)


@pytest.mark.parametrize("attack", [pgd, apgd])
def test_a_start_is_projected_and_never_lost(case, attack) -> None:
    model, inputs, labels = case
    goal = misclassify(model, labels, margin)
    warm = attack(goal, inputs, 0.1, steps=5)
    again = attack(goal, inputs, 0.2, steps=1, start=warm.inputs)
    assert bool((again.losses >= warm.losses - 1e-12).all())
    assert torch.allclose(again.losses_per_step[0], warm.losses, rtol=1e-12)
    far = attack(goal, inputs, 0.1, steps=1, start=inputs + 5)
    assert float(far.distances.max()) <= 0.1 + 1e-15


def test_losses_per_step_are_the_run_that_was_kept(case) -> None:
    model, inputs, labels = case
    goal = misclassify(model, labels, margin)
    clean = margin(model(inputs), labels)
    found = pgd(goal, inputs, 0.3, steps=7)
    assert found.losses_per_step.shape == (8, 30)
    assert torch.allclose(found.losses_per_step[0], clean, rtol=1e-12)
    assert torch.equal(found.losses_per_step.amax(0), found.losses)
    several = apgd(goal, inputs, 0.3, steps=7, restarts=3, generator=_generator())
    assert torch.equal(torch.maximum(several.losses_per_step.amax(0), clean.detach()), several.losses)


def test_gradients_are_counted(case) -> None:
    model, inputs, labels = case
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return model(x)

    goal = misclassify(counted, labels)
    for attack, expected in (
        (lambda: fgsm(goal, inputs, 0.1), 1),
        (lambda: pgd(goal, inputs, 0.1, steps=6, restarts=2, generator=_generator()), 12),
        (lambda: apgd(goal, inputs, 0.1, steps=9), 9),
        (lambda: random_noise(goal, inputs, 0.1, generator=_generator()), 0),
    ):
        calls.clear()
        assert attack().gradient_evaluations == expected
        assert sum(calls) == expected


def test_attacks_may_stop_once_all_is_broken(case) -> None:
    model, inputs, labels = case
    goal = misclassify(model, labels)
    patient, hasty = (pgd(goal, inputs, 3.0, steps=50, until_broken=stop) for stop in (False, True))
    assert bool(hasty.success.all())
    assert bool(patient.success.all())
    assert hasty.gradient_evaluations < patient.gradient_evaluations == 50
    assert hasty.losses_per_step.shape == (51, 30)
    assert bool((hasty.losses <= patient.losses).all())


def test_success_comes_before_a_higher_loss() -> None:
    # At -1 the prediction is wrong at a cross-entropy of about 1.1; at +1 it is right at a higher one.
    def logits(x: Tensor) -> Tensor:
        x = x[:, 0]
        right = torch.where(x < 0, 0 * x, 3 * x)
        return torch.stack(
            [right, torch.where(x < 0, -0.1 * x, 2.9 * x), torch.where(x < 0, 0 * x, 2.95 * x)], 1
        )

    goal = misclassify(logits, torch.tensor([0]))
    inputs = torch.tensor([[0.5]])
    there, here = torch.tensor([[-1.0]]), torch.tensor([[1.0]])
    assert goal.success(logits(there)).item()
    assert not goal.success(logits(here)).item()
    losing = pgd(goal, inputs, 2.0, steps=1, start=here, step_size=0.0)
    winning = pgd(goal, inputs, 2.0, steps=1, start=there, step_size=0.0)
    assert winning.success.item()
    assert strongest(losing, winning).inputs.item() == -1.0
    assert strongest(winning, losing).inputs.item() == -1.0


def test_the_best_of_several_is_taken_per_example() -> None:
    def result(losses, success, away) -> AttackResult:
        rows = torch.tensor(losses, dtype=torch.float64)
        return AttackResult(rows[:, None], rows, torch.tensor(success), torch.tensor(away), rows[None], 3)

    first = result([1.0, 2.0, 3.0, 4.0], [True, True, False, False], [1.0, 2.0, math.inf, math.inf])
    second = result([5.0, 1.0, 1.0, 6.0], [True, False, True, False], [2.0, math.inf, 3.0, math.inf])
    best = strongest(first, second)
    assert best.losses.tolist() == [5.0, 2.0, 1.0, 6.0]
    assert best.success.tolist() == [True, True, True, False]
    assert best.gradient_evaluations == 6
    closest = nearest(first, second)
    assert closest.distances.tolist() == [1.0, 2.0, 3.0, math.inf]
    assert closest.inputs[:, 0].tolist() == [1.0, 2.0, 1.0, 4.0]


def test_batch_statistics_in_eval_mode_do_not_move() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Flatten()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pgd(misclassify(model, torch.zeros(3, dtype=torch.long)), torch.rand(3, 4, generator=_generator()), 0.1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"restarts": 0}, "restarts must be at least 1; got 0"),
        ({"restarts": 3}, "Several restarts need a generator"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"eps": math.inf}, "needs a finite eps"),
    ],
)
@pytest.mark.parametrize("attack", [pgd, apgd])
def test_settings_are_checked(attack, options, words: str) -> None:
    goal = raise_loss(lambda x: x.sum(1))
    with pytest.raises(SettingError, match=words):
        attack(goal, torch.zeros(2, 3), **({"eps": 0.1} | options))


def test_other_settings_are_checked() -> None:
    goal = raise_loss(lambda x: x.sum(1))
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(SettingError, match="step_size must be a number >= 0"):
        pgd(goal, x, 0.1, step_size=-1.0)
    with pytest.raises(SettingError, match=r"momentum must lie in \[0, 1\)"):
        apgd(goal, x, 0.1, momentum=1.0)
    with pytest.raises(SettingError, match="targets must be at least 1; got 0"):
        targeted_apgd(lambda x: x, y, x, 0.1, targets=0)
    with pytest.raises(SettingError, match="targeted_dlr needs at least 4 classes; got 3"):
        targeted_apgd(lambda x: x, y, x, 0.1)
    with pytest.raises(SettingError, match="steps and candidates must be at least 1"):
        deepfool(lambda x: x, y, x, candidates=0)
    with pytest.raises(SettingError, match=r"shrink in \(0, 1\)"):
        fast_minimum_norm(lambda x: x, y, x, shrink=1.0)
    with pytest.raises(SettingError, match="bisections must be at least 0"):
        minimal_norm(goal, x, 1.0, bisections=-1)
    with pytest.raises(SettingError, match="draws must be at least 1"):
        random_noise(goal, x, 0.1, draws=0, generator=_generator())
    with pytest.raises(SettingError, match="needs a finite eps"):
        random_noise(goal, x, math.inf, generator=_generator())
