"""Curvature by torchstone and by its peers, in turns in one process: seconds, memory, accuracy, ratios.

    python benchmarks/curvature.py [digits] [resnet18] [resnet18-64] [transformer] [--only trace,eigenpairs,product]

Peers are used where they are installed: `pip install -c constraints.txt pyhessian curvlinops-for-pytorch
hessian-eigenthings`. The table is printed, and written to benchmarks/results/ with --write.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shared import resnet, transformer
from shared.side_by_side import HEADER, Way, compare
from torch import Tensor, nn

from torchstone.linalg import top_eigenpairs
from torchstone.operators import GaussNewton, Hessian, hessian_trace
from torchstone.specimen import Specimen
from torchstone.specimens import digits

PEER_BYTES = 12 * 2**30  # more is not asked of a machine with 24 GiB
RESULTS = Path(__file__).parent / "results"
NETWORKS: dict[str, Callable[[], Specimen]] = {
    "digits": digits.build,
    "resnet18": resnet.build,
    "resnet18-64": lambda: resnet.build(
        images=64
    ),  # for products, whose fixed costs 16 images do not outweigh
    "transformer": transformer.build,
}


PEERS = {"pyhessian", "curvlinops", "hessian_eigenthings"}


def has(module: str) -> bool:
    """Whether a peer is installed and asked for."""
    return module in PEERS and importlib.util.find_spec(module) is not None


def generator() -> torch.Generator:
    """The same one each time."""
    return torch.Generator().manual_seed(0)


class Problem:
    """A specimen, and the same model, loss and batches as the peers take them."""

    def __init__(self, specimen: Specimen) -> None:
        # Equal batches, because not every peer weighs a ragged last one by its size.
        for split in specimen.splits.values():
            split.batch_size = next((n for n in (280, 256) if split.size % n == 0), split.size)
        self.specimen = specimen.prepared()
        self.model = specimen.model.eval()
        self.batches = list(self.specimen.batches())
        self.parameters = list(self.model.parameters())
        self.criterion = nn.CrossEntropyLoss()

    def gradient(self) -> None:
        """One gradient by plain PyTorch."""
        for x, y in self.batches:
            torch.autograd.grad(self.criterion(self.model(x), y), self.parameters)

    def curvlinops(self) -> Any:
        """Their Hessian."""
        from curvlinops import HessianLinearOperator

        return HessianLinearOperator(
            self.model, self.criterion, self.parameters, self.batches, check_deterministic=False
        )

    def pyhessian(self) -> Any:
        """Their Hessian; it keeps the graph where there is a single batch."""
        from pyhessian import hessian

        single = {"data": self.batches[0]} if len(self.batches) == 1 else {"dataloader": self.batches}
        return hessian(self.model, self.criterion, cuda=False, **single)

    def eigenthings(self) -> Any:
        """Their Hessian."""
        from hessian_eigenthings import HessianOperator, supervised_loss

        return HessianOperator(self.model, self.batches, supervised_loss(self.criterion))

    def func_product(self, x: Tensor) -> list[dict[str, Tensor]]:
        """A Hessian product by torch.func, forward over reverse."""
        parameters = dict(self.model.named_parameters())
        pieces = torch.split(x, [p.numel() for p in parameters.values()])
        tangents = {
            name: piece.view_as(p) for (name, p), piece in zip(parameters.items(), pieces, strict=True)
        }
        products = []
        for inputs, labels in self.batches:

            def loss(values: Any, inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
                return self.criterion(torch.func.functional_call(self.model, values, (inputs,)), labels)

            products.append(torch.func.jvp(torch.func.grad(loss), (parameters,), (tangents,))[1])
        return products


def trace(problem: Problem, runs: int) -> list[str]:
    """The trace to 1%: exact, by PyHessian, and by XTrace with as many products as it takes."""
    exact = hessian_trace(problem.specimen, generator=generator()).value

    def off(values: list[float]) -> str:
        error = (sum((value / exact - 1) ** 2 for value in values) / len(values)) ** 0.5
        return f"{values[-1]:.5g}; root mean squared error {error:.2%}"

    ours = Way("torchstone, exact", lambda: hessian_trace(problem.specimen, generator=generator()).value, off)
    peers = []
    if has("pyhessian"):
        import numpy as np

        def probes() -> float:
            return float(np.mean(problem.pyhessian().trace(maxIter=100, tol=0.0)))

        peers.append(Way("PyHessian, 100 probes", probes, off))
    if has("curvlinops"):
        import curvlinops.trace.epperly2024xtrace as theirs

        for products in (32, 64, 128):
            # It holds two matrices with a column a product, and their factorisations.
            if 4 * 4 * products * len(torch.nn.utils.parameters_to_vector(problem.parameters)) > PEER_BYTES:
                continue

            def xtrace(products: int = products) -> float:
                return float(theirs.xtrace(problem.curvlinops(), products))

            peers.append(Way(f"curvlinops, XTrace, {products} products", xtrace, off))
    return compare("trace", ours, peers, runs, warm=False)


class Judge:
    """Residuals of eigenpairs, whoever found them, with one and the same Hessian."""

    def __init__(self, problem: Problem) -> None:
        self.hessian = Hessian(problem.specimen)

    def residual(self, values: Any, vectors: Any) -> float:
        """The largest residual relative to the largest eigenvalue."""
        values, vectors = (torch.as_tensor(part, dtype=torch.float32) for part in (values, vectors))
        return float((self.hessian.matmat(vectors) - vectors * values).norm(dim=0).max() / values.abs().max())

    def words(self, values: Any, vectors: Any, products: int | None = None) -> str:
        """What to say of them."""
        values = torch.as_tensor(values)
        spent = f"{products} products, " if products is not None else ""
        ends = f"largest {float(values.max()):.5g}, tenth {float(values.min()):.4g}"
        return f"{spent}residual {self.residual(values, vectors):.1e}, {ends}"


def eigenpairs(problem: Problem, runs: int) -> list[str]:
    """The ten largest eigenvalues with residuals below 1e-3 of the largest."""
    judge, k, tolerance = Judge(problem), 10, 1e-3

    def search() -> Any:
        return top_eigenpairs(Hessian(problem.specimen), k, tolerance=tolerance, generator=generator())

    ours = Way(
        "torchstone", search, lambda all_: judge.words(all_[-1].values, all_[-1].vectors, all_[-1].products)
    )
    peers = [*arpack(problem, judge, k, tolerance), *eigenthings(problem, judge, k, tolerance)]
    rows = compare("10 eigenpairs", ours, peers, runs, warm=False)
    slow = deflated(problem, judge)
    return rows + (
        compare("10 eigenpairs, beside the slowest", Way("torchstone", search), slow, 1, warm=False)
        if slow
        else []
    )


def arpack(problem: Problem, judge: Judge, k: int, tolerance: float) -> list[Way]:
    """The products of curvlinops in SciPy's ARPACK."""
    if not has("curvlinops"):
        return []
    from scipy.sparse.linalg import eigsh

    def theirs() -> Any:
        return eigsh(problem.curvlinops().to_scipy(), k=k, which="LA", tol=tolerance)

    return [Way("curvlinops and SciPy's eigsh", theirs, lambda found: judge.words(*found[-1]))]


def eigenthings(problem: Problem, judge: Judge, k: int, tolerance: float) -> list[Way]:
    """Lanczos of hessian-eigenthings, which runs a given number of steps: the fewest of 40, 80, 160 that reach it."""
    if not has("hessian_eigenthings"):
        return []
    from hessian_eigenthings import lanczos

    def theirs(steps: int) -> Any:
        found = lanczos(problem.eigenthings(), k=k, which="LA", max_iter=steps, reorthogonalize=True, seed=0)
        vectors = found.eigenvectors
        return found.eigenvalues, vectors.T if vectors.shape[0] == k else vectors, steps

    steps = next((n for n in (40, 80, 160) if judge.residual(*theirs(n)[:2]) <= tolerance), 160)
    name = "hessian-eigenthings, Lanczos"
    return [Way(name, lambda: theirs(steps), lambda found: judge.words(*found[-1]))]


def deflated(problem: Problem, judge: Judge) -> list[Way]:
    """PyHessian's deflated power iteration, as it comes, and as long as its residual takes. It takes minutes."""
    if not has("pyhessian"):
        return []

    def theirs(tolerance: float, most: int) -> Any:
        values, vectors = problem.pyhessian().eigenvalues(maxIter=most, tol=tolerance, top_n=10)
        return values, torch.stack([torch.cat([part.flatten() for part in vector]) for vector in vectors], 1)

    # Their tolerance is of the eigenvalue, which settles like the square of the residual.
    settings = {"as it comes": (1e-3, 100), "its tolerance 1e-6": (1e-6, 1000)}
    return [
        Way(
            f"PyHessian, deflated power iteration, {name}",
            lambda at=at: theirs(*at),
            lambda found: judge.words(*found[-1]),
        )
        for name, at in settings.items()
    ]


def product(problem: Problem, runs: int) -> list[str]:
    """One product, in a row of them as loops make it, over one gradient."""
    hessian = Hessian(problem.specimen, memory_bytes=2**32)
    gauss_newton = GaussNewton(problem.specimen, memory_bytes=2**32)
    rebuilt = Hessian(problem.specimen, memory_bytes=0)
    x = torch.randn(hessian.shape[0], generator=generator())
    gradient = Way("one gradient, plain PyTorch", problem.gradient)
    ways = [
        Way("torchstone, Hessian, graph kept", lambda: hessian.matvec(x)),
        Way("torchstone, Hessian, graph rebuilt", lambda: rebuilt.matvec(x)),
        Way("torchstone, Gauss-Newton, graph kept", lambda: gauss_newton.matvec(x)),
        Way("torch.func, forward over reverse", lambda: problem.func_product(x)),
    ]
    if has("curvlinops"):
        theirs = problem.curvlinops()
        ways.append(Way("curvlinops, Hessian", lambda: theirs @ x))
    if has("hessian_eigenthings"):
        other = problem.eigenthings()
        ways.append(Way("hessian-eigenthings, Hessian", lambda: other.matvec(x)))
    if has("pyhessian"):
        third = problem.pyhessian()
        shaped = [
            part.view_as(p)
            for part, p in zip(
                torch.split(x, [p.numel() for p in problem.parameters]), problem.parameters, strict=True
            )
        ]
        if third.full_dataset:
            ways.append(Way("PyHessian, Hessian", lambda: third.dataloader_hv_product(shaped)))
    return compare("Hessian product (over one gradient)", gradient, ways, runs, calls=3)


PARTS = {"product": (product, 5), "trace": (trace, 6), "eigenpairs": (eigenpairs, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="*", default=["digits"], help="digits, resnet18, resnet18-64, transformer"
    )
    parser.add_argument("--only", default="product,trace,eigenpairs", help="parts, separated by commas")
    parser.add_argument(
        "--peers", default=",".join(sorted(PEERS)), help="peers, separated by commas; some take an hour"
    )
    parser.add_argument("--runs", type=int, help="runs of each way")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results/")
    arguments = parser.parse_args()
    PEERS.intersection_update(arguments.peers.split(","))
    for name in arguments.networks:
        problem = Problem(NETWORKS[name]())
        count = sum(p.numel() for p in problem.parameters)
        examples = problem.specimen.size()
        about = (
            f"{name}: {count:,} parameters, {examples:,} examples, float32, {torch.get_num_threads()} threads, "
            f"PyTorch {torch.__version__}, {platform.machine()}"
        )
        print(about, *HEADER, sep="\n", flush=True)
        rows = []
        for part in arguments.only.split(","):
            measure, runs = PARTS[part]
            rows += measure(problem, arguments.runs or runs)
            if arguments.write:  # part by part: the later ones take long
                RESULTS.mkdir(exist_ok=True)
                text = "\n".join([f"# Curvature, {about}", "", *HEADER, *rows, ""])
                (RESULTS / f"curvature_{name}.md").write_text(text)


if __name__ == "__main__":
    main()
