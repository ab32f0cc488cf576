"""The likeliest secrets of a format, by shortest path: what an attacker with the model's probabilities can read out."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.memory.canaries import CanaryFormat
from torchstone.memory.exposure import Scores


@dataclass(frozen=True)
class Extraction:
    """What a search has found.

    Args:
        sequences: The likeliest sequences of the format, likeliest first, (found, T).
        log_perplexities: Theirs, in bits, (found,).
        expansions: Prefixes that were sent through the model.
        complete: Whether all that were asked for are found, which proves that no others are likelier.
    """

    sequences: Tensor
    log_perplexities: Tensor
    expansions: int
    complete: bool


def extract(
    scores: Scores, form: CanaryFormat, *, best: int = 1, batch_size: int = 64, expansions: int = 20_000
) -> Extraction:
    """The sequences of smallest log-perplexity, by Dijkstra's algorithm on the tree of prefixes.

    An edge adds a secret token and costs its -log2 probability, and that of the fixed tokens on the way. Costs are never
    negative, so that the first complete sequence taken off the queue is the likeliest: exact, and far from enumerating
    where the model is sure of itself.

    Cost: one forward pass for each prefix expanded, `batch_size` at a time; at most `expansions`.

    Args:
        scores: The language model.
        form: The format.
        best: How many sequences.
        batch_size: Prefixes at a time; more do not change what is found.
        expansions: Budget.

    Raises:
        SettingError: A count that is not positive.

    Source: Carlini et al. 2019 (extraction by shortest paths); Dijkstra 1959.
    """
    if min(best, batch_size, expansions) < 1:
        raise SettingError(
            "extract() needs best, batch_size and expansions of at least 1",
            f"{best}, {batch_size}, {expansions}",
            "Use the defaults.",
        )
    search = _Search(scores, form)
    found: list[tuple[float, tuple[int, ...]]] = []
    while search.queue and len(found) < min(best, form.size):
        nodes = search.cheapest(batch_size)
        if not nodes:
            found.append(search.take())
        elif search.expanded + len(nodes) > expansions:
            break
        else:
            search.expand(nodes)
    choices = torch.tensor([one for _, one in found], dtype=torch.long).reshape(len(found), len(form.places))
    return Extraction(
        form.filled(choices),
        torch.tensor([cost for cost, _ in found], dtype=torch.float64),
        search.expanded,
        len(found) == min(best, form.size),
    )


class _Search:
    """The queue of partial sequences by a lower bound of their cost; a whole sequence's cost is exact."""

    def __init__(self, scores: Scores, form: CanaryFormat) -> None:
        self.scores, self.form, self.expanded = scores, form, 0
        self._count = itertools.count()
        self.queue: list[tuple[float, int, bool, tuple[int, ...]]] = [(0.0, next(self._count), False, ())]

    def cheapest(self, most: int) -> list[tuple[int, ...]]:
        """Up to `most` partial sequences of one length off the front; none where a whole one is in front."""
        nodes: list[tuple[int, ...]] = []
        while self.queue and len(nodes) < most:
            _, _, whole, choices = self.queue[0]
            if whole or (nodes and len(choices) != len(nodes[0])):
                break
            heapq.heappop(self.queue)
            nodes.append(choices)
        return nodes

    def take(self) -> tuple[float, tuple[int, ...]]:
        """The whole sequence in front."""
        cost, _, _, choices = heapq.heappop(self.queue)
        return cost, choices

    def expand(self, nodes: list[tuple[int, ...]]) -> None:
        """Put the children of partial sequences with one number of secret tokens into the queue."""
        depth, places = len(nodes[0]), self.form.places
        self.expanded += len(nodes)
        padded = torch.tensor([node + (0,) * (len(places) - depth) for node in nodes])
        end = places[depth] if depth < len(places) else len(self.form.template)
        prefix = self.form.filled(padded)[:, :end]
        with torch.no_grad():
            logs = self.scores(prefix).double().log_softmax(dim=2).cpu() / -math.log(2)
        spent = logs[:, :-1].gather(2, prefix[:, 1:, None])[:, :, 0].sum(1)
        if depth == len(places):  # only fixed tokens were left
            self._push(spent.tolist(), nodes, whole=True)
            return
        whole = end + 1 == len(self.form.template)
        for token, letter in enumerate(self.form.alphabet):
            self._push((spent + logs[:, -1, letter]).tolist(), [(*node, token) for node in nodes], whole)

    def _push(self, costs: list[float], nodes: list[tuple[int, ...]], whole: bool) -> None:
        for cost, node in zip(costs, nodes, strict=True):
            if math.isfinite(cost):
                heapq.heappush(self.queue, (cost, next(self._count), whole, node))
