"""Canaries: sequences with secret places, planted among training data to measure what a language model gives away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class CanaryFormat:
    """A sequence of token ids of which some places are secret: the randomness space R of Carlini et al.

    Args:
        template: Token ids, None where a place is secret; the first token is fixed.
        alphabet: Token ids that can stand at a secret place, each as likely.

    Raises:
        SettingError: No secret place, a secret first place, or an alphabet of fewer than two different tokens.

    Example:
        >>> pin = CanaryFormat(template=(7, None, None), alphabet=(0, 1, 2))
        >>> pin.size, pin.sequences().tolist()[4]
        (9, [7, 1, 1])

    Source: Carlini, Liu, Erlingsson, Kos & Song 2019.
    """

    template: tuple[int | None, ...]
    alphabet: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.template or self.template[0] is None or not self.places:
            raise SettingError(
                "A canary needs a fixed first token and at least one secret place (None)",
                repr(self.template),
                "Begin with the text around the secret, e.g. (5, 3, None, None).",
            )
        if len(set(self.alphabet)) < 2 or len(set(self.alphabet)) != len(self.alphabet):
            raise SettingError(
                "A canary's alphabet needs at least two tokens, each once",
                repr(self.alphabet[:12]),
                "Pass the ids of the digits, say.",
            )

    @classmethod
    def of(cls, canary: tuple[int, ...], secret: tuple[int, ...], alphabet: tuple[int, ...]) -> CanaryFormat:
        """The format of a canary whose tokens at the positions `secret` could be any of the alphabet.

        Raises:
            SettingError: A position outside the canary, or a token there that is not of the alphabet.
        """
        wrong = [p for p in secret if not 0 <= p < len(canary) or canary[p] not in alphabet]
        if wrong:
            raise SettingError(
                "The secret places of a canary hold tokens of the alphabet",
                f"place {wrong[0]} of {len(canary)}",
                "Count places from 0 and list all tokens that could stand there.",
            )
        return cls(tuple(None if p in secret else token for p, token in enumerate(canary)), alphabet)

    @property
    def places(self) -> tuple[int, ...]:
        """Positions of the secret tokens."""
        return tuple(p for p, token in enumerate(self.template) if token is None)

    @property
    def size(self) -> int:
        """Number of sequences in the format, |R|."""
        return len(self.alphabet) ** len(self.places)

    def filled(self, choices: Tensor) -> Tensor:
        """Sequences (N, T) with the alphabet's entries `choices` (N, places) at the secret places."""
        filled = torch.tensor([0 if token is None else token for token in self.template])
        sequences = filled.expand(len(choices), -1).clone()
        sequences[:, list(self.places)] = torch.tensor(self.alphabet)[choices]
        return sequences

    def numbered(self, numbers: Tensor) -> Tensor:
        """The sequences of these numbers (N,) in [0, |R|), (N, T); the last secret place counts fastest."""
        base, places = len(self.alphabet), len(self.places)
        digits, rest = [], numbers.clone()
        for _ in range(places):
            digits.append(rest % base)
            rest = rest // base
        return self.filled(torch.stack(digits[::-1], dim=1))

    def numbers_of(self, sequences: Tensor) -> Tensor:
        """The numbers (N,) of sequences (N, T) of the format.

        Raises:
            SettingError: One that is not of the format.
        """
        letters, order = torch.tensor(self.alphabet).sort()
        secret = sequences.cpu()[:, list(self.places)].contiguous()
        found = torch.searchsorted(letters, secret).clamp(max=len(letters) - 1)
        weights = len(self.alphabet) ** torch.arange(len(self.places) - 1, -1, -1)
        numbers = (order[found] * weights).sum(1)
        if not torch.equal(self.numbered(numbers), sequences.cpu().long()):
            raise SettingError(
                "Canaries must have their format's fixed tokens, and tokens of its alphabet at the secret places",
                "a sequence that differs",
                "Make the format of the canary with CanaryFormat.of.",
            )
        return numbers

    def sequences(self) -> Tensor:
        """All of them, (|R|, T)."""
        return torch.cat(list(self.chunks(self.size)))

    def chunks(self, size: int) -> Iterator[Tensor]:
        """All of them, at most `size` at a time."""
        for start in range(0, self.size, size):
            yield self.numbered(torch.arange(start, min(self.size, start + size)))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent uniform sequences of the format, (count, T)."""
        choices = torch.randint(len(self.alphabet), (count, len(self.places)), generator=generator)
        return self.filled(choices)


def planted(data: Tensor, canaries: Tensor, times: int, generator: torch.Generator) -> Tensor:
    """Training sequences with each canary put among them a number of times, at random rows.

    Args:
        data: Token ids (N, T).
        canaries: (M, T).
        times: Copies of each.
        generator: Where the rows come from.

    Returns:
        (N + times * M, T).

    Raises:
        SettingError: Sequences of different lengths, or a negative number of copies.
    """
    if data.ndim != 2 or canaries.ndim != 2 or data.shape[1] != canaries.shape[1] or times < 0:
        raise SettingError(
            "Canaries are planted among sequences of their length, 0 times or more",
            f"shapes {tuple(data.shape)} and {tuple(canaries.shape)}, times={times}",
            "Pad them to one length.",
        )
    both = torch.cat([data, canaries.to(data).repeat(times, 1)])
    return both[torch.randperm(len(both), generator=generator)]
