"""Examinations to draw: one as a real network would give, one made of everything that could break a page."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from torchstone.details import (
    Axis,
    Bars,
    Curve,
    Detail,
    Histogram,
    Images,
    Line,
    Marker,
    Picture,
    Scalar,
    Scalars,
    Scatter,
    Spectrum,
    Surface,
    Table,
)
from torchstone.examination import Environment, Examination, SpecimenCard
from torchstone.plan import Plan
from torchstone.reading import Cost, Level, Question, Reading, Remedy, Uncertainty, Verdict

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "<b>bold</b> & <a href='javascript:alert(1)'>link</a>",
    "{{ 7 * 7 }} {% raw %}",
    "%{x} $\\alpha$ <!-- <![CDATA[",
    "a|b *c* _d_ `e` [f](g) # h",
    "\x1b[2J\x1b]0;title\x07 bell\x08\x00",
    "\u202eright to left\u202c \u2028line\u2029paragraph",
    "lone \ud800 surrogate",
    "two\nlines\r\nand\ttabs",
    "名前の長いクラス 🧪 é́́ ไทย العربية",
    "https://example.invalid/tracker.png",
    "![x](https://example.invalid/t.png)",
)


def card(**changes: object) -> SpecimenCard:
    plain = SpecimenCard(
        name="digits", model="MLP", task="classification", parameters=50_890, trainable=50_890, layers=5,
        train_examples=1_437, test_examples=360, class_names=tuple(str(i) for i in range(10)), device="cpu",
        dtype="torch.float32", recipe={"optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "epochs": 30},
    )  # fmt: skip
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


def examination(*readings: Reading, **changes: object) -> Examination:
    environment = Environment("0.1.0", "2.13.0", "3.11.2", "Linux-6.1-x86_64", "x86-64, 2 cores", 2)
    made = Examination(
        specimen=card(), plan=Plan.named("standard"), seed=0, started="2026-11-21T05:49:10+00:00", seconds=83.2,
        complete=True, command="torchstone examine digits --plan standard --seed 0", environment=environment,
        findings=("The training loader shuffles; its batches were read once, in one order, and kept.",),
        readings={reading.id: reading for reading in readings},
    )  # fmt: skip
    return replace(made, **changes)  # pyright: ignore[reportArgumentType]


def reading(name: str = "measure", level: Level = Level.GOOD, **changes: object) -> Reading:
    plain = Reading(
        id=name, question=Question.FIT, title=name.replace("_", " ").capitalize(), asks="How much is it?",
        unit="ratio", source="Author 2020, equation 3", value=1.25, verdict=Verdict(level, "Well within.", "below 2"),
        headline="All is as it should be.", explanation="It was measured.", cost=Cost(0.42, 2, 1, 3 * 2**20),
    )  # fmt: skip
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


def each_kind() -> dict[str, Detail]:
    """One well-behaved detail of each kind, and the variants that are drawn differently."""
    rng = np.random.default_rng(0)
    steps = np.arange(1.0, 61.0)
    loss, gap = 2.2 * np.exp(-steps / 14) + 0.03, 0.05 + 0.2 * (1 - np.exp(-steps / 20))
    lines = (
        Line("training loss", tuple(steps), tuple(loss)),
        Line(
            "test loss", tuple(steps), tuple(loss + gap), tuple(loss + gap - 0.04), tuple(loss + gap + 0.05)
        ),
    )
    counts = [np.histogram(rng.normal(shift, 1, 400), np.linspace(-4, 7, 45))[0] for shift in (0.4, 2.6)]
    eigenvalues = np.sort(np.r_[rng.exponential(0.4, 52), 9.0, 14.0, 21.5, 33.0, 41.7, -0.3, -0.02])[::-1]
    grid = np.linspace(-1, 1, 31)
    bowl = 0.2 + grid[None, :] ** 2 + 3 * grid[:, None] ** 2 + 0.3 * np.sin(5 * grid[None, :])
    xs = rng.uniform(0, 1, 180)
    group = tuple(("clean", "suspicious", "mislabelled")[int(k)] for k in rng.integers(0, 3, 180))
    face = tuple(float(v) for v in rng.uniform(0, 1, 64))
    return {
        "budget": Scalars(
            "Parts of the test error",
            (
                Scalar("label noise", 0.021, "error rate", 0.015, 0.028),
                Scalar("approximation", 0.009, "error rate", 0.004, 0.016),
                Scalar("estimation", 0.044, "error rate", 0.029, 0.060),
                Scalar("optimisation", 0.006, "error rate", 0.001, 0.012),
            ),
            stacked=True,
            caption="Parts add up to the test error; whiskers are 95% intervals over examples.",
        ),
        "scalars": Scalars(
            "Error by split",
            (Scalar("training", 0.004, "", 0.002, 0.009), Scalar("test", 0.08, "", 0.055, 0.113)),
            caption="Bars are 95% intervals.",
        ),
        "curve": Curve(
            "Loss while training", Axis("epoch"), Axis("cross-entropy", "nats", log=True), lines,
            (Marker("chance", math.log(10)),), caption="A widening gap means that estimation error grows.",
        ),
        "layers": Curve(
            "Gradient norm by layer", Axis("layer"), Axis("gradient norm", log=True),
            (Line("at start", (0, 1, 2, 3), (1.1, 0.8, 0.5, 0.31)), Line("now", (0, 1, 2, 3), (0.3, 0.25, 0.2, 0.19))),
            ticks=("features.0", "features.2", "features.4", "classifier"),
        ),
        "family": Curve(
            "Feature spectra", Axis("rank", log=True), Axis("eigenvalue", log=True),
            tuple(Line(f"layer {k}", tuple(steps), tuple(steps ** (-0.5 - 0.1 * k))) for k in range(12)),
        ),
        "histogram": Histogram(
            "Margins", Axis("margin", "logits"), tuple(np.linspace(-4, 7, 45)),
            (Bars("test", tuple(counts[0])), Bars("training", tuple(counts[1]))), (Marker("decision boundary", 0.0, "x"),),
            "Examples left of the boundary are misclassified.",
        ),
        "spectrum": Spectrum(
            "Hessian eigenvalues", tuple(eigenvalues), tuple(0.02 * abs(eigenvalues)), "1/step²", True,
            (Marker("stability limit 2(1 + β)/lr", 38.0),), "Values above the line make gradient descent unstable.",
        ),
        "table": Table(
            "Most confused classes", ("true", "predicted", "count", "share of errors"),
            (("8", "1", 4, 0.1429), ("3", "9", 3, 0.10714), ("5", "9", 1, None)),
        ),
        "surface": Surface(
            "Loss around the solution", Axis("first eigenvector"), Axis("second eigenvector"), Axis("loss", "nats"),
            tuple(grid), tuple(grid), tuple(tuple(row) for row in bowl),
        ),
        "cells": Surface(
            "Confusion", Axis("predicted"), Axis("true"), Axis("count"), (0, 1, 2), (0, 1, 2),
            ((50, 2, 1), (0, 47, 3), (4, 0, 44)),
        ),
        "named rows": Surface(
            "Gradient norm by layer", Axis("step"), Axis("layer"), Axis("norm", log=True), tuple(range(1, 41)),
            tuple(range(14)), tuple(tuple(10.0**-k / (j + 1) for j in range(40)) for k in range(14)),
            rows=tuple(f"{k}.weight" for k in range(14)),
        ),
        "scatter": Scatter(
            "Self-influence against loss", Axis("loss", "nats"), Axis("self-influence"), tuple(xs),
            tuple(xs**2 + rng.normal(0, 0.05, 180)), group, tuple(f"example {i}" for i in range(180)),
        ),
        "images": Images(
            "Most suspicious training examples",
            tuple(Picture(f"#{i}: labelled 3, looks like 8", 8, 8, face[i:] + face[:i]) for i in range(7)),
            "The label and the network's opinion.",
        ),
    }  # fmt: skip


def rich() -> Examination:
    """What a network with a few weaknesses would give."""
    kinds = each_kind()
    bar = lambda value, half: Uncertainty.from_standard_error(value, half / 1.96, "examples")
    remedy = lambda text, block="", claim="": Remedy(text, block, claim)
    return examination(
        reading(
            "error_budget", Level.INFORMATIVE, title="Error budget", unit="error rate", value=0.0803,
            uncertainty=Uncertainty(0.055, 0.1131, "examples", "Clopper-Pearson"), details=(kinds["budget"], kinds["scalars"]),
            headline="More than half of the 8% test error is estimation error: more or better-used data helps most.",
            verdict=Verdict(Level.INFORMATIVE, "Estimation is the largest part."), asks="Which part of the error can be reduced, and by what?",
        ),
        reading(
            "calibration", Level.ATTENTION, title="Calibration", unit="", value=0.061, uncertainty=bar(0.061, 0.012),
            verdict=Verdict(Level.ATTENTION, "Confidence exceeds accuracy by 6 points.", "expected calibration error below 0.05", "Guo et al. 2017, table 1"),
            headline="It is more confident than it is right.", details=(kinds["table"],),
            remedies=(remedy("Fit one temperature on held-out data", "torchstone.losses.TemperatureScaling", "temperature_keeps_accuracy"),),
            settings={"bins": 15, "norm": "l1"},
        ),
        reading(
            "stability_edge", Level.POOR, question=Question.TRAINABILITY, title="Edge of stability", value=1.097, unit="of the limit",
            uncertainty=Uncertainty(1.090, 1.104, "residual", "Lanczos", 1.0), details=(kinds["spectrum"], kinds["surface"]),
            verdict=Verdict(Level.POOR, "Past the edge by 10%.", "below 1", "Cohen et al. 2021, section 2", 0.9),
            headline="The step size exceeds what the sharpest direction allows.",
            remedies=(remedy("Lower the learning rate to 0.08 or less", "", "edge_of_stability"), remedy("Or warm it up over 5 epochs", "torchstone.optim.warmup")),
            notes=("Measured on 1,437 of 1,437 training examples.",), settings={"steps": 40, "tolerance": 0.01, "which": ("largest", "smallest")},
            explanation="Block Lanczos on exact Hessian-vector products.\n\nThe limit of momentum is 2(1 + β)/lr.",
        ),
        reading("gradient_flow", question=Question.TRAINABILITY, title="Gradient flow", value=0.63, details=(kinds["layers"], kinds["curve"])),
        reading("dead_units", question=Question.TRAINABILITY, title="Dead units", value=0.0, unit="%", uncertainty=Uncertainty(0, 0.4, "examples", "Clopper-Pearson")),
        reading("margins", Level.ATTENTION, question=Question.GENERALIZATION, title="Margin distribution", value=1.9, unit="logits",
                uncertainty=bar(1.9, 0.21), details=(kinds["histogram"],), headline="Test margins are much smaller than training margins.",
                remedies=(remedy("Regularise the spectral norm of the layers", "torchstone.layers.SpectralNorm"),)),
        reading("pac_bayes", Level.INFORMATIVE, question=Question.GENERALIZATION, title="PAC-Bayes bound", value=0.41, unit="error rate",
                uncertainty=Uncertainty(-math.inf, 0.41, "examples", "McAllester", 0.95)),
        reading("memorisation", Level.INFORMATIVE, question=Question.MEMORY, title="Memorised examples", value=12.0, unit="examples", details=(kinds["scatter"], kinds["images"])),
        reading("feature_rank", question=Question.REPRESENTATION, title="Effective rank of features", value=38.2, unit="dimensions", uncertainty=bar(38.2, 1.4), details=(kinds["family"], kinds["cells"])),
        reading("certified_radius", Level.NOT_APPLICABLE, question=Question.ROBUSTNESS, title="Certified radius", value=None,
                verdict=Verdict(Level.NOT_APPLICABLE, "needs continuous inputs (integers such as token ids cannot be perturbed)"),
                headline="Not applicable"),
        reading("fgsm", Level.ERROR, question=Question.ROBUSTNESS, title="Adversarial accuracy", value=None,
                verdict=Verdict(Level.ERROR, "out of memory: 3.2 GiB asked for, 1 GiB allowed"), headline="Not measured"),
    )  # fmt: skip


def _hostile_details(text: str) -> tuple[Detail, ...]:
    x = Axis(text, text)
    return (
        Scalars(text, (Scalar(text, math.nan, text, -math.inf, math.inf), Scalar(text, -1e300, text)), caption=text),
        Scalars(text, (Scalar(text, 1e308, "", 0.0, math.inf), Scalar(text, -1e308), Scalar(text, math.nan)), True, text),
        Curve(text, x, x, (Line(text, (0, 1), (math.nan, math.inf)),), (Marker(text, 0.5), Marker(text, math.nan)), (text, text), text),
        Histogram(text, x, (0, 1, 10), (Bars(text, (3, math.nan)),), (Marker(text, 1, "x"),), text),
        Spectrum(text, (1e300, -1e-300, math.inf), (math.nan, 0, 1), text, True, (Marker(text, 1),), text),
        Table(text, (text, text), ((text, math.nan), (True, None), (10**30, 1e-30)), text),
        Surface(text, x, x, x, (0, 1), (0, 1), ((math.nan, 1), (-math.inf, 1e200)), text),
        Scatter(text, x, x, (0, 1, 2), (1, 2, math.nan), (text, text, "b"), (text, text, text), (Marker(text, 1),), text),
        Images(text, (Picture(text, 1, 1, (math.nan,)), Picture(text, 1, 1, (2.0, -1.0, 0.5))), text),
    )  # fmt: skip


def hostile() -> Examination:
    """Every text field hostile, every number awkward."""
    readings, levels = [], list(Level)
    for i, text in enumerate(HOSTILE):
        level = levels[i % len(levels)]
        value = (math.nan, math.inf, -1e300, 5e-324, 1e15, 0.0)[i % 6]
        measured = level not in (Level.NOT_APPLICABLE, Level.ERROR)
        readings.append(
            Reading(
                id=f"hostile_{i}", question=list(Question)[i % 6], title=text, asks=text, unit=text, source=text,
                value=value if measured else None, verdict=Verdict(level, text, text, text), headline=text,
                uncertainty=Uncertainty(-math.inf, math.nan, text, text), explanation=text,
                remedies=(Remedy(text, text, text),), details=_hostile_details(text) if measured else (),
                notes=(text,), settings={text: text, "deep": ((text,), None, 1.5)}, cost=Cost(math.inf, 1e9, 0.5, 2**60),
            )
        )  # fmt: skip
    everything = "".join(HOSTILE)
    made = Environment(everything, everything, everything, everything, everything, 1, everything)
    named = card(
        name=everything, model=everything, task=everything, class_names=HOSTILE, device=everything, dtype=everything,
        recipe={everything: everything}, test_examples=None, trainable=3,
    )  # fmt: skip
    return examination(
        *readings, specimen=named, environment=made, findings=HOSTILE, command=everything, started=everything,
        seconds=math.nan, complete=False,
    )  # fmt: skip


def empties() -> tuple[Detail, ...]:
    """Details with nothing in them."""
    axis = Axis("")
    return (
        Scalars("", ()), Scalars("", (), stacked=True), Scalars("", (Scalar("zero", 0.0),), stacked=True),
        Curve("", axis, axis, ()), Curve("", axis, Axis("", log=True), (Line("", (), ()),)),
        Curve("", axis, axis, (Line("one", (1.0,), (2.0,)),)), Histogram("", axis, (0.0,), ()),
        Histogram("", axis, (0.0, 1.0), (Bars("", (0.0,)),)), Spectrum("", ()), Spectrum("", (0.0, 0.0), log=True),
        Table("", (), ()), Table("", ("a",), ()), Surface("", axis, axis, axis, (), (), ()), Scatter("", axis, axis, (), ()),
        Scatter("", axis, axis, (math.nan,), (1.0,)), Images("", ()),
    )  # fmt: skip


@pytest.fixture(scope="session", name="rich")
def _rich() -> Examination:
    return rich()


@pytest.fixture(scope="session", name="hostile")
def _hostile() -> Examination:
    return hostile()


@pytest.fixture(scope="session", name="kinds")
def _kinds() -> dict[str, Detail]:
    return each_kind()


@pytest.fixture(scope="session", name="empties")
def _empties() -> tuple[Detail, ...]:
    return empties()


@pytest.fixture(scope="session", name="hostile_details")
def _hostile_details_of_all() -> tuple[Detail, ...]:
    return tuple(detail for text in HOSTILE for detail in _hostile_details(text))


@pytest.fixture(scope="session", name="hostile_texts")
def _hostile_texts() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture(scope="session", name="examined")
def _examined() -> Callable[..., Examination]:
    """Makes an examination of some readings."""
    return examination


@pytest.fixture(scope="session", name="read")
def _read() -> Callable[..., Reading]:
    """Makes a reading with some fields changed."""
    return reading
