"""Many trainings as one beside the loop over them, and `fit` beside a loop written by hand.

    python benchmarks/training.py [mlp] [cnn] [digits] [fit] [--threads 1] [--write]

All ways train the same networks on the same data in one process, in turns. Goals: 32 dense networks 64-64-64-10 at batch
size 32 at least 20 times as fast as the loop with a DataLoader, 64 small convolutional networks at least 4 times; `fit` at
most 3% over a loop written by hand. On a GPU, where there is one, 256 networks. What compiling takes is told apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from shared.dense_by_hand import DenseByHand
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchstone.data.digits import digits
from torchstone.specimens.networks import digits_cnn, mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.training.fit_many import fit_many

RESULTS = Path(__file__).parent / "results" / "training.md"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADER = [
    "| networks | way | seconds a network and epoch | over fit_many | over compiled | runs |",
    "|---|---|---|---|---|---|",
]


def dense(generator: torch.Generator) -> nn.Module:
    """64-64-64-10."""
    return nn.Sequential(nn.Flatten(), mlp([64, 64, 64, 10], generator=generator))


def small_cnn(generator: torch.Generator) -> nn.Module:
    """Two 3x3 convolutions of 8 and 16 channels on 8x8 images; 2,570 parameters or so."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64, 10)),
        )


def sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """The same for every way."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


EPOCHS = 4
COMPILED = "fit_many(compiled=True)"
AT_BEST = "as one, written by hand for this network alone, no autograd"


def by_hand(model: nn.Module, x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator) -> None:
    """A careful loop over tensors with the running loss that everybody logs."""
    optimizer, total = sgd(list(model.parameters())), 0.0
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)


def with_loader(model: nn.Module, x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator) -> None:
    """The loop of the tutorials: a DataLoader over a TensorDataset."""
    optimizer, total = sgd(list(model.parameters())), 0.0
    model.train()
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True, generator=generator)
    for _ in range(EPOCHS):
        for some_x, some_y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(some_x), some_y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(some_x)


def with_fit(model: nn.Module, x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator) -> None:
    """One call of ours."""
    fit(model, cross_entropy, x, y, optimizer=sgd, batch_size=batch_size, epochs=EPOCHS, generator=generator)


def clock() -> float:
    """Seconds: of the processor on one thread, so that what else the machine does is left out, else by the clock."""
    return time.process_time() if DEVICE == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = clock()
    function()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def compare(
    name: str,
    make: Callable[[torch.Generator], nn.Module],
    members: int,
    batch_size: int,
    rounds: int,
    sizes: tuple[int, ...] = (),
) -> list[str]:
    """Rows of the table for one kind of network; the loops train four of them a round, which is enough to time."""
    data = digits()
    x, y = (part.to(DEVICE) for part in data.train)
    models = [make(torch.Generator().manual_seed(k)).to(DEVICE) for k in range(members)]
    loops = {"loop with a DataLoader": with_loader, "loop by hand": by_hand, "loop of fit": with_fit}
    best_case = DenseByHand(members, sizes, batch_size, x, y, torch.Generator()) if sizes else None

    def together(compiled: bool) -> tuple[float, float]:
        """Seconds of EPOCHS epochs of all members; and of everything before the second epoch, compiling among it."""
        start, marks = clock(), []
        run = fit_many(
            models,
            cross_entropy,
            x,
            y,
            optimizer=sgd,
            batch_size=batch_size,
            epochs=EPOCHS + 1,
            generators=[torch.Generator().manual_seed(k) for k in range(members)],
            on_progress=lambda *_: marks.append(clock()),
            compiled=compiled,
        )
        assert run.way == ("batched, compiled" if compiled else "batched"), run.reason
        whole = marks[-1] - start
        # The members train in chunks, one after the other.
        epochs = sum(marks[k + EPOCHS] - marks[k] for k in range(0, len(marks), EPOCHS + 1))
        return epochs, whole - epochs

    def in_turns(loop: Callable[..., None]) -> None:
        for k in range(min(4, members)):
            loop(make(torch.Generator().manual_seed(k)).to(DEVICE), x, y, batch_size, torch.Generator())

    seconds: dict[str, list[float]] = {}
    preparations: list[float] = []
    for turn in range(rounds + 1):
        found = {"fit_many": together(False)[0] / members}
        epochs, before = together(compiled=True)
        found[COMPILED] = epochs / members
        preparations.append(before)
        found |= {
            way: timed(lambda loop=loop: in_turns(loop)) / min(4, members) for way, loop in loops.items()
        }
        if best_case is not None:
            found[AT_BEST] = timed(lambda: best_case.train(EPOCHS)) / members
        if turn:  # the first warms up
            for way, value in found.items():
                seconds.setdefault(way, []).append(value)
    # The quickest round: what else runs on the machine only ever adds.
    best = {way: min(values) / EPOCHS for way, values in seconds.items()}
    told = f"{COMPILED} after {preparations[0]:.1f} s, later runs {min(preparations):.1f} s"
    over = lambda value, way: f"{value / best[way]:.1f}x"
    return [
        f"| {members} {name} | {told if way == COMPILED else way} | {value:.4f} | {over(value, 'fit_many')} | {over(value, COMPILED)} | {rounds} |"
        for way, value in best.items()
    ]


def overhead(rounds: int) -> list[str]:
    """`fit` over the loop by hand, one after the other, median of the ratios."""
    x, y = (part.to(DEVICE) for part in digits().train)
    lines = []
    for name, make in (("dense 64-64-64-10", dense), ("digits CNN", lambda g: digits_cnn(generator=g))):
        ratios = []
        for turn in range(rounds * 3 + 1):
            one = [make(torch.Generator().manual_seed(turn)).to(DEVICE) for _ in range(2)]
            mine = timed(lambda one=one: with_fit(one[0], x, y, 64, torch.Generator()))
            plain = timed(lambda one=one: by_hand(one[1], x, y, 64, torch.Generator()))
            if turn:
                ratios.append(mine / plain)
        lines.append(
            f"| {name} | fit over the loop by hand | {statistics.median(ratios):.3f} | | | {len(ratios)} |"
        )
    return lines


def main() -> None:
    """Print the table, and write it with --write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("only", nargs="*", default=[], choices=["mlp", "cnn", "digits", "fit", []])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = options.only or ["mlp", "cnn", "digits", "fit"]
    many = 256 if DEVICE == "cuda" else None
    lines = [
        f"# Many trainings as one: {DEVICE}, {options.threads} threads, PyTorch {torch.__version__}",
        "",
        *HEADER,
    ]
    if "mlp" in wanted:
        lines += compare(
            "dense 64-64-64-10, batch 32", dense, many or 32, 32, options.rounds, (64, 64, 64, 10)
        )
    if "cnn" in wanted:
        lines += compare("small CNNs, batch 32", small_cnn, many or 64, 32, options.rounds)
    if "digits" in wanted:
        lines += compare(
            "digits CNNs (151,250 parameters), batch 64", lambda g: digits_cnn(generator=g), many or 16, 64, 2
        )
    if "fit" in wanted:
        lines += overhead(options.rounds)
    print("\n".join(lines))
    if options.write:
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
