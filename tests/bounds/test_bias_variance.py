"""Bias and variance: adding up, against closed forms and enumeration, unbiased, with error bars that cover."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.bias_variance import (
    BiasVariance,
    cross_entropy_bias_variance,
    squared_bias_variance,
    zero_one_bias_variance,
)
from torchstone.errors import NumericalError, SettingError


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def least_squares(draws: int, n: int, p: int, noise: float, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Predictions (D, 1, N) of least squares fitted to D fresh Gaussian designs, and the noiseless targets."""
    beta, test = gaussian(source, p), gaussian(source, 400, p)
    x = gaussian(source, draws, n, p)
    y = x @ beta + noise * gaussian(source, draws, n)
    fits = torch.linalg.lstsq(x, y[..., None]).solution[..., 0]
    return (fits @ test.T)[:, None], test @ beta


def test_least_squares_has_no_bias_and_the_variance_of_the_inverse_wishart_law() -> None:
    n, p, noise = 40, 8, 1.5
    found = squared_bias_variance(*least_squares(300, n, p, noise, generator(0)))
    exact = noise**2 * p / (n - p - 1)
    assert abs(found.bias.value) <= 3 * found.bias.error.total
    assert abs(found.variance.value - exact) <= 3 * found.variance.error.total
    assert found.variance.value == pytest.approx(exact, rel=0.1)
    assert found.variance.error.total < 0.05 * exact


def nested(
    source: torch.Generator, draws: int, seeds: int, count: int, sizes: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Predictions around a biased mean: effects of the training set and of the seed, correlated over the examples."""
    bias, data, initialisation = sizes
    truth = gaussian(source, count)
    loading = [torch.stack([torch.ones(count).double(), gaussian(source, count)]) for _ in range(2)]
    of_set = data / 2**0.5 * gaussian(source, draws, 1, 2) @ loading[0]
    of_seed = initialisation / 2**0.5 * gaussian(source, draws, seeds, 2) @ loading[1]
    return truth + bias * gaussian(source, count) + of_set + of_seed, truth


@pytest.mark.parametrize(("draws", "seeds"), [(2, 1), (2, 2), (5, 3), (3, 1)])
def test_parts_add_up_to_the_mean_squared_error(draws: int, seeds: int) -> None:
    predictions, targets = nested(generator(1), draws, seeds, 30, (1.0, 2.0, 0.5))
    found = squared_bias_variance(predictions, targets)
    exact = float((predictions - targets).square().mean())
    assert found.risk.value == pytest.approx(exact, abs=1e-10)
    assert sum(part.value for part in found.parts.values()) == pytest.approx(exact, abs=1e-10)
    assert set(found.parts) == ({"bias", "variance"} if seeds == 1 else {"bias", "data", "initialisation"})
    assert found.bias.value == pytest.approx(float(found.per_example["bias"].mean()), abs=1e-12)


def averages(
    sizes: tuple[float, ...], repeats: int, **design: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Estimates and their standard errors over fresh data."""
    values: dict[str, list[float]] = {}
    inside: dict[str, list[bool]] = {}
    truths = {"bias": sizes[0] ** 2, "data": sizes[1] ** 2, "initialisation": sizes[2] ** 2}
    source = generator(2)
    for _ in range(repeats):
        found = squared_bias_variance(*nested(source, sizes=sizes, **design))
        for name, part in found.parts.items():
            values.setdefault(name, []).append(part.value - truths[name])
            interval = part.error.interval(part.value)
            inside.setdefault(name, []).append(truths[name] in interval)
    return {k: torch.tensor(v) for k, v in values.items()}, {k: torch.tensor(v) for k, v in inside.items()}


def test_components_are_unbiased_and_their_intervals_cover() -> None:
    # The usual plug-in would be off by 22% (data) and far more (bias): 5 standard errors of this simulation and more.
    off, inside = averages((0.7, 1.0, 1.0), 500, draws=6, seeds=2, count=60)
    for name, deviations in off.items():
        error = float(deviations.std()) / math.sqrt(len(deviations))
        assert abs(float(deviations.mean())) < 3.5 * error, name
    # Variance components of six groups are skewed: Student's intervals cover a little less than they say.
    assert float(inside["bias"].double().mean()) > 0.93
    assert float(inside["data"].double().mean()) > 0.85
    assert float(inside["initialisation"].double().mean()) > 0.85


def test_with_many_training_sets_the_intervals_cover_as_often_as_they_say() -> None:
    _, inside = averages((0.7, 1.0, 1.0), 300, draws=16, seeds=2, count=40)
    for name, hits in inside.items():
        assert 0.9 <= float(hits.double().mean()) <= 0.99, name


def test_seeds_only_and_training_sets_only_are_told_apart() -> None:
    only_seeds = squared_bias_variance(*nested(generator(3), 40, 4, 200, (0.0, 0.0, 1.0)))
    only_data = squared_bias_variance(*nested(generator(3), 40, 4, 200, (0.0, 1.0, 0.0)))
    for found, name, other in ((only_seeds, "initialisation", "data"), (only_data, "data", "initialisation")):
        assert found.parts[name].value > 0.7
        assert abs(found.parts[other].value) <= 3 * found.parts[other].error.total + 1e-12


def test_several_outputs_are_averaged() -> None:
    source = generator(4)
    predictions, targets = gaussian(source, 4, 3, 10, 2), gaussian(source, 10, 2)
    both = squared_bias_variance(predictions, targets)
    each = [squared_bias_variance(predictions[..., c], targets[:, c]) for c in range(2)]
    for name, part in both.parts.items():
        assert part.value == pytest.approx(sum(one.parts[name].value for one in each) / 2, abs=1e-12)


def test_the_share_of_the_variance_is_covered() -> None:
    source, sizes = generator(14), (0.7, 1.0, 1.0)
    truth = 2 / (0.49 + 2)
    hits = []
    for _ in range(300):
        share = squared_bias_variance(*nested(source, 12, 2, 50, sizes)).share
        hits.append(truth in share.error.interval(share.value))
    assert 0.88 <= sum(hits) / len(hits) <= 0.99


def test_no_risk_has_no_share() -> None:
    found = squared_bias_variance(torch.zeros(3, 2, 4), torch.zeros(4))
    assert math.isnan(found.share.value)
    assert found.variance.value == 0


# -- 0-1 loss ----------------------------------------------------------------------------------------------------------


def votes(draws: int, seeds: int, count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    source = generator(seed)
    labels = torch.randint(classes, (count,), generator=source)
    liking = torch.randn(count, classes, generator=source)
    of_set = torch.randn(draws, 1, count, classes, generator=source)
    noise = torch.randn(draws, seeds, count, classes, generator=source)
    return (liking + of_set + noise).argmax(-1), labels


def test_zero_one_parts_add_up_and_agree_with_domingos_formula() -> None:
    predictions, labels = votes(5, 4, 50, 4, 5)
    found = zero_one_bias_variance(predictions, labels)
    wrong = (predictions != labels).double()
    assert found.risk.value == pytest.approx(float(wrong.mean()), abs=1e-10)
    assert sum(part.value for part in found.parts.values()) == pytest.approx(float(wrong.mean()), abs=1e-10)
    checked = 0
    for i in range(50):
        counts = torch.bincount(predictions[..., i].flatten(), minlength=4)
        if int((counts == counts.max()).sum()) > 1:
            continue  # Domingos leaves ties open
        checked += 1
        main, label = int(counts.argmax()), int(labels[i])
        bias, variance = float(main != label), float((predictions[..., i] != main).double().mean())
        deviating = predictions[..., i][predictions[..., i] != main]
        hits = float((deviating == label).double().mean()) if len(deviating) else 0.0
        c2 = 1.0 if not bias else -hits
        assert float(found.per_example["bias"][i]) == bias
        assert float(found.per_example["variance"][i]) == pytest.approx(c2 * variance, abs=1e-12)
        name = "biased variance" if bias else "unbiased variance"
        assert float(found.per_example[name][i]) == pytest.approx(variance, abs=1e-12)
    assert checked > 30


def test_two_seeds_are_too_few_for_a_most_frequent_prediction() -> None:
    predictions, labels = votes(5, 2, 30, 3, 15)
    found = zero_one_bias_variance(predictions, labels)
    assert set(found.parts) == {"bias", "variance"}
    assert found.bias.value + found.variance.value == pytest.approx(found.risk.value, abs=1e-12)


def test_variance_helps_where_the_main_prediction_is_wrong() -> None:
    predictions = torch.zeros(5, 1, 2, dtype=torch.long)
    predictions[0] = 1
    found = zero_one_bias_variance(predictions, torch.tensor([1, 1]))
    assert found.bias.value == 1
    assert found.variance.value == pytest.approx(-0.2)


def test_seeds_that_agree_within_a_training_set_leave_nothing_to_initialisation() -> None:
    predictions, labels = votes(5, 1, 40, 3, 6)
    found = zero_one_bias_variance(predictions.expand(5, 3, 40), labels)
    assert found.initialisation is not None
    assert found.initialisation.value == pytest.approx(0, abs=1e-12)


# -- cross-entropy -----------------------------------------------------------------------------------------------------


def scores(draws: int, seeds: int, count: int, classes: int, seed: int, size: float = 1.0) -> Tensor:
    source = generator(seed)
    liking = gaussian(source, 1, 1, count, classes)
    return liking + size * (
        gaussian(source, draws, 1, count, classes) + gaussian(source, draws, seeds, count, classes)
    )


def test_cross_entropy_parts_add_up_whatever_is_added_to_the_scores() -> None:
    z, labels = scores(4, 3, 20, 5, 7), torch.arange(20) % 5
    found = cross_entropy_bias_variance(z, labels)
    exact = -float(z.log_softmax(-1).gather(-1, labels.expand(4, 3, 20)[..., None]).mean())
    assert found.risk.value == pytest.approx(exact, abs=1e-10)
    assert sum(part.value for part in found.parts.values()) == pytest.approx(exact, abs=1e-10)
    shifted = cross_entropy_bias_variance(z + gaussian(generator(8), 4, 3, 20, 1), labels)
    for name, part in found.parts.items():
        assert shifted.parts[name].value == pytest.approx(part.value, abs=1e-10)


def test_cross_entropy_parts_are_divergences_from_the_geometric_mean() -> None:
    # Two training sets are the whole law here, so that nothing is estimated: the correction is undone by hand.
    z = scores(2, 1, 6, 3, 9)
    log_p = z.log_softmax(-1)[:, 0]
    mean = log_p.mean(0).log_softmax(-1)
    divergence = (mean.exp() * (mean - log_p)).sum(-1).mean()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    found = cross_entropy_bias_variance(z, labels)
    # 2 A(mean) - mean of A(single) with A(single) = 0: twice the plug-in.
    assert found.variance.value == pytest.approx(2 * float(divergence), abs=1e-10)
    plug_in_bias = -float(mean.gather(1, labels[:, None]).mean())
    assert found.bias.value == pytest.approx(plug_in_bias - float(divergence), abs=1e-10)


def test_the_correction_leaves_a_fifth_of_the_plug_ins_bias() -> None:
    # The truth by 200,000 draws; eight training sets of four seeds for each of 16,000 examples.
    size, classes = 0.8, 3
    source = generator(10)
    centre = torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)
    lse = lambda t: torch.logsumexp(t, -1)
    data = size * gaussian(source, 200_000, classes)
    seeds = size * gaussian(source, 200_000, classes)
    # A(E_m z | set) = A(centre + data) holds only for raw scores: the average of log-softmax differs by a constant.
    single, middle = float(lse(centre + data + seeds).mean()), float(lse(centre + data).mean())
    truths = {"initialisation": single - middle, "data": middle - float(lse(centre))}
    z = centre + size * (gaussian(source, 8, 1, 16_000, classes) + gaussian(source, 8, 4, 16_000, classes))
    found = cross_entropy_bias_variance(z, torch.zeros(16_000, dtype=torch.long))
    log_p = z.log_softmax(-1)
    within = float(-lse(log_p.mean(1)).mean())
    between = float(lse(log_p.mean(1)).mean() - lse(log_p.mean((0, 1))).mean())
    for name, plug_in in (("initialisation", within), ("data", between)):
        assert abs(found.parts[name].value - truths[name]) < 0.2 * abs(plug_in - truths[name]), name


def test_soft_labels_put_their_entropy_into_the_bias() -> None:
    z = gaussian(generator(11), 1, 1, 8, 4).expand(3, 2, 8, 4)
    shares = z[0, 0].softmax(-1)
    found = cross_entropy_bias_variance(z, shares)
    assert found.variance.value == pytest.approx(0, abs=1e-12)
    assert found.bias.value == pytest.approx(float(-(shares * shares.log()).sum(1).mean()), abs=1e-12)


def test_confident_scores_do_not_overflow() -> None:
    z = 1e4 * scores(3, 2, 6, 4, 12)
    found = cross_entropy_bias_variance(z, torch.zeros(6, dtype=torch.long))
    assert all(math.isfinite(part.value) for part in found.parts.values())
    assert sum(part.value for part in found.parts.values()) == pytest.approx(found.risk.value, rel=1e-12)


# -- misuse ------------------------------------------------------------------------------------------------------------


def test_two_training_sets_give_parts_without_an_error_over_training_sets() -> None:
    found: BiasVariance = squared_bias_variance(*nested(generator(13), 2, 2, 10, (1.0, 1.0, 1.0)))
    assert math.isnan(found.bias.error.groups)
    assert math.isfinite(found.bias.error.examples)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: squared_bias_variance(torch.zeros(1, 2, 3), torch.zeros(3)), "at least 2 training sets"),
        (lambda: squared_bias_variance(torch.zeros(3, 2, 3), torch.zeros(4)), r"\(D, M, N, C\) and targets"),
        (lambda: squared_bias_variance(torch.zeros(3, 3), torch.zeros(3)), r"\(D, M, N, C\) and targets"),
        (lambda: zero_one_bias_variance(torch.zeros(3, 2, 3), torch.zeros(3)), "must be classes"),
        (lambda: zero_one_bias_variance(torch.full((3, 2, 3), -1), torch.zeros(3).long()), "must be classes"),
        (
            lambda: cross_entropy_bias_variance(torch.zeros(3, 2, 3), torch.zeros(3).long()),
            "scores must have",
        ),
        (
            lambda: cross_entropy_bias_variance(torch.zeros(3, 1, 3, 2), torch.tensor([0, 1, 2])),
            "classes below 2",
        ),
        (lambda: cross_entropy_bias_variance(torch.zeros(3, 1, 3, 2), torch.ones(3, 2)), "classes below 2"),
    ],
)
def test_misuse_is_named(call: object, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        call()  # pyright: ignore[reportCallIssue]


def test_networks_that_diverged_are_named() -> None:
    with pytest.raises(NumericalError, match="diverged"):
        squared_bias_variance(torch.full((3, 2, 4), math.nan), torch.zeros(4))


def test_enumerated_draws_make_the_estimates_exactly_unbiased() -> None:
    # Every sample of two from a law of three equally likely predictors: the mean of the estimates is the truth exactly.
    predictors, targets = (
        torch.tensor([[0.0, 2.0], [1.0, -1.0], [5.0, 0.5]]).double(),
        torch.tensor([1.0, 0.0]),
    )
    found = [
        squared_bias_variance(predictors[list(pair)][:, None], targets)
        for pair in itertools.product(range(3), repeat=2)
    ]
    mean = predictors.mean(0)
    assert sum(f.bias.value for f in found) / 9 == pytest.approx(float((mean - targets).square().mean()))
    assert sum(f.variance.value for f in found) / 9 == pytest.approx(
        float(predictors.var(0, correction=0).mean())
    )
