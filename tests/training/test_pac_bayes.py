"""Stochastic networks: their law, their losses against closed forms, their training and their certificates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from torchstone.bounds import PriorGrid, gaussian_kl, kl_inverse_upper, pac_bayes_kl
from torchstone.errors import NumericalError, ObjectiveError, SettingError
from torchstone.specimens.networks import mlp
from torchstone.training.certificate import certify
from torchstone.training.certified import CertifiedNetwork, train_certified
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.gaussian_weights import GaussianWeights, stochastic_losses
from torchstone.training.pac_bayes import PacBayesFit, bounded, fit_pac_bayes

LOSS = bounded(cross_entropy)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


X = drawn(200, 4, seed=1)
Y = (X[:, 0] - X[:, 1] > 0).long()


def network(seed: int = 0, widths: tuple[int, ...] = (4, 12, 2)) -> nn.Module:
    return mlp(widths, generator=generator(seed))


def adam(lr: float) -> Any:
    return lambda groups: torch.optim.Adam(groups, lr=lr)


def trained(model: nn.Module | None = None, **settings: Any) -> PacBayesFit:
    settings = {"batch_size": 50, "epochs": 3, "generator": generator(), "optimizer": adam(0.02), **settings}
    return fit_pac_bayes(network() if model is None else model, LOSS, X, Y, **settings)


def bits(law: GaussianWeights) -> list[bytes]:
    return [t.numpy().tobytes() for part in (law.means, law.stds) for t in part.values()]


# -- the law -------------------------------------------------------------------------------------------------------


def test_divergence_and_spread_of_a_law() -> None:
    means, stds = (
        {"a": drawn(3, 2), "b": drawn(5, seed=1)},
        {"a": drawn(3, 2, seed=2).exp(), "b": torch.full((5,), 0.3)},
    )
    centre = {"a": drawn(3, 2, seed=3), "b": drawn(5, seed=4)}
    law, variance = GaussianWeights(means, stds), 0.49
    flat = lambda part: torch.cat([part["a"].flatten(), part["b"]]).double()
    exact = kl_divergence(
        Independent(Normal(flat(means), flat(stds)), 1),
        Independent(Normal(flat(centre), torch.tensor(0.7).double()), 1),
    )
    assert law.divergence(centre, variance) == pytest.approx(float(exact), rel=1e-6)
    assert law.distance(centre) == pytest.approx(float((flat(means) - flat(centre)).norm()), rel=1e-12)
    sampled = [law.drawn(generator(k)) for k in range(4000)]
    squares = torch.stack([(flat(one) - flat(centre)).square().sum() for one in sampled])
    assert abs(float(squares.mean()) - law.spread(centre)) < 4 * float(squares.std()) / 4000**0.5
    assert law.coordinates == 11


def test_draws_have_the_means_and_widths() -> None:
    law = GaussianWeights({"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([0.1, 3.0])})
    source = generator()
    values = torch.stack([law.drawn(source)["w"] for _ in range(20_000)])
    assert torch.allclose(values.mean(0), law.means["w"], atol=4 * 3 / 20_000**0.5)
    assert torch.allclose(values.std(0), law.stds["w"], rtol=0.03)


def test_laws_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(SettingError, match="one standard deviation for every mean"):
        GaussianWeights({"w": torch.zeros(2)}, {"w": torch.ones(3)})
    with pytest.raises(SettingError, match="at least one weight"):
        GaussianWeights({}, {})
    with pytest.raises(SettingError, match="std must be positive"):
        GaussianWeights.around({"w": torch.zeros(2)}, 0.0)


# -- losses of stochastic networks ---------------------------------------------------------------------------------


def linear(weight: Tensor) -> nn.Linear:
    """Scores (0, w'x), as two rows."""
    model = nn.Linear(len(weight), 2, bias=False, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
    return model


def test_stochastic_error_of_a_linear_classifier_has_a_closed_form() -> None:
    """Scores differ by N(w'x, 2 s^2 |x|^2), so an example is wrong with probability Phi(-y w'x / (sqrt 2 s |x|))."""
    weight, std = torch.tensor([1.0, -1.0, 0.0, 0.5]), 0.4
    model = linear(weight)
    law = GaussianWeights.around(dict(model.named_parameters()), std)
    law = GaussianWeights({n: m.detach() for n, m in law.means.items()}, law.stds)
    signs = (2 * Y - 1).double()
    exact = torch.special.ndtr(
        -signs * (X @ weight).double() / (math.sqrt(2) * std * X.double().norm(dim=1))
    ).mean()
    found = stochastic_losses(model, law, misclassified, X, Y, draws=4000, minibatch=8, generator=generator())
    assert found.shape == (4000,)
    assert abs(float(found.mean() - exact)) < 4 * float(found.std()) / 4000**0.5
    assert float(found.std()) / 4000**0.5 < 0.005


def test_nothing_else_is_touched() -> None:
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
    ).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    run = fit_pac_bayes(model, LOSS, X, Y, batch_size=50, epochs=2, generator=generator())
    stochastic_losses(model, run.posterior, misclassified, X, Y, draws=5, minibatch=8, generator=generator())
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_and_so_each_draw_is_one_function() -> None:
    torch_free = nn.Sequential(network(), nn.Dropout(0.9))
    law = GaussianWeights.around({n: p.detach() for n, p in torch_free.named_parameters()}, 1e-12)
    args = {"draws": 3, "minibatch": 50, "generator": generator()}
    found = stochastic_losses(torch_free, law, cross_entropy, X[:1].expand(50, -1), Y[:1].expand(50), **args)
    assert torch.equal(found, found[:1].expand(3))


# -- training ------------------------------------------------------------------------------------------------------


def test_bounded_cross_entropy() -> None:
    at = lambda value: float(bounded(lambda *_: torch.full((1,), value), 1e-3)(nn.Identity(), X, Y))
    assert at(0.0) == pytest.approx(0, abs=1e-6)
    assert at(math.inf) == pytest.approx(1, rel=1e-6)
    assert at(2.0) == pytest.approx(-math.log(0.999 * math.exp(-2) + 1e-3) / math.log(1e3), rel=1e-5)
    for floor in (0.0, 1.0, math.nan):
        with pytest.raises(SettingError, match="floor must lie strictly between"):
            bounded(cross_entropy, floor)


def test_the_objective_is_the_quadratic_bound_with_the_best_prior() -> None:
    """With a rate of 0 the law stays where it starts, and everything can be written out."""
    model, std = network(), 0.2
    centre = {name: p.detach() + 0.1 for name, p in model.named_parameters()}
    frozen = lambda groups: torch.optim.SGD(groups, lr=0.0)
    run = trained(
        model, centre=centre, std=std, optimizer=frozen, epochs=2, batch_size=200, price=0.7, delta=0.1
    )
    d = sum(p.numel() for p in model.parameters())
    best = 0.1**2 + std**2
    divergences = [
        float(gaussian_kl(torch.full((d,), 0.1), torch.tensor(std), torch.tensor(0.0), torch.tensor(v**0.5)))
        for v in (best, 0.9 * best, 1.1 * best)
    ]
    assert run.series["divergence"][0] == pytest.approx(divergences[0], rel=1e-5)
    assert divergences[0] == min(divergences)
    half = (0.7 * divergences[0] + math.log(2 * math.sqrt(200) / 0.1)) / 400
    expected = (math.sqrt(run.series["risk"][0] + half) + math.sqrt(half)) ** 2
    assert run.series["objective"][0] == pytest.approx(expected, rel=1e-5)
    assert run.posterior.divergence(centre, best) == pytest.approx(divergences[0], rel=1e-5)


def test_a_variance_above_the_largest_is_paid_for() -> None:
    grid, frozen = PriorGrid(0.01), lambda groups: torch.optim.SGD(groups, lr=0.0)
    run = trained(std=0.5, optimizer=frozen, epochs=1, largest_variance=grid.variance(1))
    exact = run.posterior.divergence(run.centre, grid.variance(1))
    assert run.series["divergence"][0] == pytest.approx(exact, rel=1e-5)


def test_price_trades_divergence_for_fit() -> None:
    free, dear = (trained(price=price, epochs=30) for price in (0.0, 30.0))
    assert free.series["risk"][-1] < 0.5 * dear.series["risk"][-1]
    assert dear.series["divergence"][-1] < 0.5
    assert free.series["divergence"][-1] > 20


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again, other = (trained(generator=generator(seed)) for seed in (3, 3, 4))
    assert bits(first.posterior) == bits(again.posterior) != bits(other.posterior)
    assert first.series == again.series


def test_frozen_and_tied_weights() -> None:
    model = network()
    first = next(model.parameters())
    first.requires_grad_(False)
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    tied[2].weight = tied[0].weight
    assert trained(model).posterior.coordinates == sum(p.numel() for p in model.parameters()) - first.numel()
    assert trained(tied).posterior.coordinates == 16


def test_half_precision_keeps_its_law_in_single_precision() -> None:
    model = network().bfloat16()
    run = fit_pac_bayes(model, LOSS, X.bfloat16(), Y, batch_size=50, epochs=2, generator=generator())
    assert {mean.dtype for mean in run.posterior.means.values()} == {torch.float32}
    assert run.series["objective"][-1] < 3


def test_trees_of_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: list[Tensor]) -> Tensor:
            return self.inner(x[0] + x[1])

    whole = trained(Sum().inner)
    halves = fit_pac_bayes(
        Sum(), LOSS, [X / 2, X / 2], Y, batch_size=50, epochs=3, generator=generator(), optimizer=adam(0.02)
    )
    assert halves.series["risk"] == pytest.approx(whole.series["risk"], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"epochs": 0}, "epochs must be a whole number"),
        ({"price": -1.0}, "price must be finite"),
        ({"delta": 1.0}, "delta, the probability of failure"),
        ({"std": math.nan}, "std must be positive"),
        ({"centre": {}}, "prior's centre must hold"),
        ({"largest_variance": 0.0}, "largest_variance must be positive"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        trained(**settings)


def test_wrong_networks_losses_and_data_are_refused() -> None:
    with pytest.raises(SettingError, match="at least one trainable parameter"):
        trained(network().requires_grad_(False))
    args = {"batch_size": 50, "epochs": 1, "generator": generator()}
    with pytest.raises(ObjectiveError, match="one number per example"):
        fit_pac_bayes(network(), lambda model, x, _: model(x).mean(), X, Y, **args)
    with pytest.raises(SettingError, match="same number of examples"):
        fit_pac_bayes(network(), LOSS, X, Y[:-1], **args)
    with pytest.raises(NumericalError, match="did not in epoch 1"):
        fit_pac_bayes(network(), lambda model, x, _: model(x)[:, 0] * math.nan, X, Y, **args)


# -- certificates --------------------------------------------------------------------------------------------------


def test_a_certificate_is_its_three_parts() -> None:
    run = trained(epochs=30)
    model = network()
    found = certify(
        model, run.posterior, run.centre, misclassified, X, Y, delta=0.1, draws=500, generator=generator(9)
    )
    assert found.risk_upper == kl_inverse_upper(found.risk, math.log(1 / 0.02) / 500)
    left = 6 * 0.08 / (math.pi * found.prior_index) ** 2
    divergence = run.posterior.divergence(run.centre, found.prior_variance)
    assert found.value == pytest.approx(
        pac_bayes_kl(found.risk_upper, divergence, 200, left).value, rel=1e-12
    )
    assert found.prior_variance == PriorGrid(1.0).variance(found.prior_index)
    assert 0 < found.risk < found.value < 1


def test_certificates_are_checked() -> None:
    run = trained(epochs=1)
    args = (network(), run.posterior, run.centre)
    with pytest.raises(SettingError, match=r"losses in \[0, 1\]"):
        certify(*args, lambda model, x, y: 1.5 * misclassified(model, x, y), X, Y, generator=generator())
    with pytest.raises(SettingError, match="draws_share must lie"):
        certify(*args, misclassified, X, Y, generator=generator(), draws_share=1.0)
    with pytest.raises(SettingError, match="draws must be a whole number"):
        certify(*args, misclassified, X, Y, generator=generator(), draws=0)
    with pytest.raises(SettingError, match="minibatch must be a whole number"):
        certify(*args, misclassified, X, Y, generator=generator(), minibatch=0)
    with pytest.raises(SettingError, match="delta, the probability of failure"):
        certify(*args, misclassified, X, Y, generator=generator(), delta=0.0)


def certified(labels: Tensor = Y, share: float = 0.5, **settings: Any) -> CertifiedNetwork:
    settings = {"epochs": 3, "prior_epochs": 10, "draws": 300, **settings}
    return train_certified(network(), X, labels, generator=generator(5), prior_share=share, **settings)


def test_the_prior_does_not_know_the_examples_of_the_bound() -> None:
    """Wrong labels there change the posterior and not the prior; wrong labels on the prior's part change the prior."""
    right = certified()
    spoiled = Y.clone()
    spoiled[right.prior_rows] = 1 - spoiled[right.prior_rows]
    elsewhere = 1 - Y
    elsewhere[right.prior_rows] = Y[right.prior_rows]
    same = lambda a, b: all(torch.equal(a[name], b[name]) for name in a)
    assert len(right.prior_rows) == 100
    assert same(certified(elsewhere).centre, right.centre)
    assert bits(certified(elsewhere).posterior) != bits(right.posterior)
    assert not same(certified(spoiled).centre, right.centre)
    assert right.certificate.bound.n == 100


def test_a_prior_from_data_is_worth_it_and_random_labels_get_no_certificate() -> None:
    from_data, from_start = certified(), certified(share=0.0, optimizer=adam(0.02), epochs=30)
    assert from_data.certificate.value < 0.35
    assert from_start.certificate.bound.n == 200
    assert len(from_start.prior_rows) == 0
    assert all(torch.equal(from_start.centre[name], p) for name, p in network().named_parameters())
    random = torch.randint(2, (200,), generator=generator(8))
    assert certified(random).certificate.value > 0.5


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.001, 0.999])
def test_shares_that_leave_nothing_are_refused(share: float) -> None:
    with pytest.raises(SettingError, match="prior_share must lie"):
        certified(share=share)
