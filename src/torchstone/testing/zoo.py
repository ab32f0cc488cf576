"""A zoo of awkward networks: each breaks an assumption that measuring code tends to make.

`zoo()` lists the cases; `case.specimen(seed)` makes a fresh, small specimen, the same for the same seed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.objectives import CausalLM, Classification, HuggingFace, Objective, Regression
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.testing import networks
from torchstone.testing.networks import CLASSES, WIDTH

SIZES = (24, 16)
Draw = Callable[[torch.Generator, int], Any]


@dataclass
class Pairs:
    """A batch as a dataclass."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Case:
    """One awkward network.

    Args:
        name: What it is called.
        why: What is awkward about it.
        build: Makes the network.
        draw: Draws a data set of some size.
        objective: What it is trained for.
        mode: "eval" or "as_is", as in `Specimen`.
        freeze_noise: As in `Specimen`.
        refused: Name of the error with which it cannot be examined at all, or "" where it can.
        sizes: Numbers of training and test examples.
        scale: Factor on the weights, which are of the usual size otherwise.
    """

    name: str
    why: str
    build: Callable[[], nn.Module]
    draw: Draw
    objective: Callable[[], Objective] = Classification
    mode: Any = "eval"
    freeze_noise: bool = False
    refused: str = ""
    sizes: tuple[int, int] = SIZES
    scale: float = 1.0

    def specimen(self, seed: int = 0) -> Specimen:
        """A fresh specimen with a recipe that says the learning rate; the global random state is left alone."""
        return self.around(self._drawn(torch.Generator().manual_seed(seed)), seed)

    def retrainable(self, seed: int = 0) -> Specimen:
        """The same with a recipe that says how to train it again: two epochs in batches of 8."""

        def build(*, generator: torch.Generator) -> nn.Module:
            return self._drawn(generator)

        specimen = self.specimen(seed)
        specimen.recipe = Recipe(lr=0.05, batch_size=8, epochs=2, build=build, seed=seed)
        return specimen

    def _drawn(self, generator: torch.Generator) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            model = self.build()
            # Modules initialise themselves from the global state, so every parameter is drawn again.
            for parameter in model.parameters():
                fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
                with torch.no_grad():
                    parameter.copy_(
                        torch.randn(parameter.shape, generator=generator) * self.scale / fan_in**0.5
                    )
        return model

    def around(self, model: nn.Module, seed: int = 0) -> Specimen:
        """A specimen of a given network with the case's data."""
        generator = torch.Generator().manual_seed(seed + 1)
        train, test = (self.draw(generator, size) for size in self.sizes)
        return Specimen(
            model,
            self.objective(),
            train,
            test,
            Recipe(lr=0.1),
            name=self.name,
            mode=self.mode,
            freeze_noise=self.freeze_noise,
        )


def zoo(*, hugging_face: bool = True) -> list[Case]:
    """All cases; those of Hugging Face only where transformers is installed."""
    cases = [*_modes(), *_structures(), *_types(), *_tasks(), *_values(), *_troubles()]
    if hugging_face and importlib.util.find_spec("transformers") is not None:
        cases += _hugging_face()
    return cases


def vectors(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Vectors (N, 5) and labels that depend on them."""
    x = torch.randn(count, WIDTH, generator=generator)
    return x, x[:, :CLASSES].argmax(1)


def images(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 6, 6) and labels that depend on them."""
    x = torch.randn(count, 1, 6, 6, generator=generator)
    return x, x.flatten(1)[:, :CLASSES].argmax(1)


def sequences(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Sequences (N, 6, 5) and labels that depend on them."""
    x = torch.randn(count, 6, WIDTH, generator=generator)
    return x, x.mean(1)[:, :CLASSES].argmax(1)


def _convolutional() -> nn.Module:
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))
    return nn.Sequential(*layers)


def _dense(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), *middle, nn.Linear(8, CLASSES))


def _weight_normalised() -> nn.Module:
    model = _dense(nn.ReLU())
    nn.utils.parametrizations.weight_norm(next(iter(model.children())))
    return model


def _frozen() -> nn.Module:
    model = _dense(nn.ReLU())
    next(iter(model.children())).requires_grad_(False)
    return model


def _modes() -> list[Case]:
    dropout = lambda: _dense(nn.ReLU(), nn.Dropout(0.5))
    return [
        Case("batch_norm_in_train_mode", "handed over in train mode; eval mode must be used and undone", _convolutional, images),
        Case("batch_norm_as_is", "examples influence each other through batch statistics", _convolutional, images, mode="as_is"),
        Case("dropout_in_train_mode", "random unless put into eval mode", dropout, vectors),
        Case("live_dropout", "random by wish", dropout, vectors, mode="as_is", refused="DeterminismError"),
        Case("frozen_noise", "random, with its noise fixed", dropout, vectors, mode="as_is", freeze_noise=True),
    ]  # fmt: skip


def _structures() -> list[Case]:
    named = lambda generator, count: dict(
        zip(("left", "labels"), vectors(generator, count), strict=True), right=torch.ones(count, 2)
    )
    return [
        Case("tied_weights", "one weight in two layers", networks.Tied, vectors),
        Case("frozen_parameters", "the first layer is not trained", _frozen, vectors),
        Case("reused_submodule", "one layer called three times", networks.Reused, vectors),
        Case("lstm", "recurrent", networks.Recurrent, sequences),
        Case("attention", "fused attention kernel", networks.Attending, sequences),
        Case("encoder_batch_first", "fast path in eval mode", lambda: networks.Encoder(True), sequences),
        Case("encoder_sequence_first", "features have the time axis first", lambda: networks.Encoder(False), sequences),
        Case("dict_batches", "named inputs, dict output", networks.TwoInputs, named),
        Case("dataclass_batches", "batches are dataclasses", lambda: _dense(nn.ReLU()), lambda g, n: Pairs(*vectors(g, n))),
        Case("returns_tuple", "returns more than scores", networks.ReturnsTuple, vectors),
        Case("returns_dataclass", "scores are one of two fields", networks.ReturnsDataclass, vectors),
        Case("single_parameter", "a parameter without dimensions", networks.SingleParameter, vectors),
        Case("no_parameters", "nothing to train", networks.NoParameters, vectors),
        Case("unused_parameter", "a layer that is never called", networks.UnusedParameter, vectors),
        Case("in_place", "activations overwrite their input", lambda: _dense(nn.ReLU(inplace=True)), vectors),
        Case("weight_normalised", "weights are computed from other parameters", _weight_normalised, vectors),
        Case("counts_calls", "a buffer changes with every call, also in eval mode", networks.Counting, vectors),
    ]  # fmt: skip


def _types() -> list[Case]:
    return [
        Case("channels_last", "strides that are not contiguous", lambda: _convolutional().to(memory_format=torch.channels_last), images),  # pyright: ignore[reportCallIssue]
        Case("float64", "data are of another type", lambda: _dense(nn.Tanh()).double(), vectors),
        Case("bfloat16", "three significant digits", lambda: _dense(nn.ReLU()).bfloat16(), vectors),
    ]  # fmt: skip


def _tasks() -> list[Case]:
    def binary(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        x, _ = vectors(generator, count)
        return x, (x[:, 0] > 0).float()

    def numbers(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        x, _ = vectors(generator, count)
        return x, x[:, 0] + 0.1 * torch.randn(count, generator=generator)

    def pixels(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        return images(generator, count)[0], torch.randint(0, CLASSES, (count, 6, 6), generator=generator)

    tokens = lambda generator, count: torch.randint(0, 11, (count, 7), generator=generator)
    regressor = lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 1))
    return [
        Case(
            "single_logit", "one score for two classes, labels as floats", lambda: nn.Linear(WIDTH, 1), binary
        ),
        Case("regression", "targets (N,) against outputs (N, 1)", regressor, numbers, Regression),
        Case("segmentation", "a label a pixel", lambda: nn.Conv2d(1, CLASSES, 3, padding=1), pixels),
        Case("language_model", "integer inputs, a loss a sequence", networks.LanguageModel, tokens, CausalLM),
        Case(
            "padded_batches",
            "sequences of another length in each batch",
            networks.LanguageModel,
            _padded,
            CausalLM,
        ),
        Case("autoencoder", "inputs and targets are one tensor", _autoencoder, _reconstructing, Regression),
    ]


def _values() -> list[Case]:
    """Numbers at the edges."""

    def twins(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        x, y = vectors(generator, count // 2)
        return x.repeat(2, 1), y.repeat(2)

    def still(_: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        return torch.ones(count, WIDTH), torch.arange(count) % CLASSES

    def large(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        x, y = vectors(generator, count)
        return 1e6 * x, y

    def many(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        return vectors(generator, count)[0], torch.arange(count)

    def rare(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        return vectors(generator, count)[0], (torch.arange(count) == 20).long()  # none of 16 test examples

    dense, shallow = lambda: _dense(nn.ReLU()), lambda: nn.Linear(WIDTH, SIZES[0])
    return [
        Case("two_examples", "as few as can be", dense, lambda g, n: (vectors(g, n)[0], torch.arange(n)), sizes=(2, 1)),
        Case("duplicates", "every example twice", dense, twins),
        Case("constant_outputs", "all weights 0: every class scores the same", dense, vectors, scale=0.0),
        Case("constant_inputs", "all inputs equal: no variance anywhere", dense, still),
        Case("huge_scores", "softmax saturates: gradients of 0, losses of 10^4", dense, vectors, scale=100.0),
        Case("huge_inputs", "inputs of 10^6", dense, large),
        Case("a_class_an_example", "as many classes as examples", shallow, many),
        Case("rare_class", "one example of a class, none in the test set", dense, rare),
    ]  # fmt: skip


def _padded(generator: torch.Generator, count: int) -> list[Tensor]:
    sizes = ((count // 2, 7), (count - count // 2, 4))
    return [torch.randint(0, 11, size, generator=generator) for size in sizes]


def _reconstructing(generator: torch.Generator, count: int) -> list[tuple[Tensor, Tensor]]:
    x, _ = vectors(generator, count)
    return [(x, x)]


def _autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 2), nn.Tanh(), nn.Linear(2, WIDTH))


def _troubles() -> list[Case]:
    return [
        Case("prints", "writes to standard output", lambda: networks.Misbehaving("prints"), vectors),
        Case(
            "raises",
            "fails on its data",
            lambda: networks.Misbehaving("raises"),
            vectors,
            refused="SpecimenError",
        ),
        Case(
            "writes_into_its_input",
            "would spoil the user's data",
            lambda: networks.Misbehaving("writes"),
            vectors,
            refused="SpecimenError",
        ),
        Case(
            "returns_nan",
            "NaN outputs",
            lambda: networks.Misbehaving("nan"),
            vectors,
            refused="SpecimenError",
        ),
    ]


VOCABULARY = 16  # of the small language models


def _hugging_face() -> list[Case]:
    def ids(generator: torch.Generator, count: int, length: int) -> dict[str, Tensor]:
        tokens = torch.randint(1, VOCABULARY, (count, length), generator=generator)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def ragged(generator: torch.Generator, count: int) -> list[dict[str, Tensor]]:
        sizes = ((count // 2, 9), (count - count // 2, 6))
        return [
            {
                **ids(generator, some, length),
                "labels": torch.randint(1, VOCABULARY, (some, length - 2), generator=generator),
            }
            for some, length in sizes
        ]

    def labelled(generator: torch.Generator, count: int) -> dict[str, Tensor]:
        return {**ids(generator, count, 8), "labels": torch.randint(0, 3, (count,), generator=generator)}

    def t5() -> nn.Module:
        from transformers import T5Config, T5ForConditionalGeneration

        make: Any = T5Config  # its fields are not all in its signature
        config: Any = make(
            vocab_size=VOCABULARY,
            d_model=8,
            d_ff=8,
            num_layers=1,
            num_heads=2,
            d_kv=4,
            decoder_start_token_id=0,
        )
        return T5ForConditionalGeneration(config)

    def bert() -> nn.Module:
        from transformers import BertConfig, BertForSequenceClassification

        make: Any = BertConfig
        config: Any = make(
            vocab_size=VOCABULARY,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            num_labels=3,
        )
        return BertForSequenceClassification(config)

    return [
        Case("encoder_decoder", "dict batches of two lengths, tied embeddings", t5, ragged, HuggingFace),
        Case("sequence_classifier", "dict batches, .logits", bert, labelled, HuggingFace),
    ]
