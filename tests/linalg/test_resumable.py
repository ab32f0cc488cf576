"""Maps that remember their products: any routine on them goes on after a kill."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone.errors import FormatError, OutputError, SettingError
from torchstone.linalg import (
    FunctionMap,
    LinearMap,
    ResumableMap,
    condition_number,
    extreme_eigenpairs,
    frobenius_norm,
    golub_kahan,
    hutchinson_diagonal,
    lanczos,
    log_determinant,
    randomised_svd,
    restricted,
    singular_triplets,
    singular_values,
    solve_cg,
    solve_minres,
    xdiag,
)


class Killed(Exception):
    """Stands for a process that dies in the middle of a product."""


class Mortal:
    """The map of a matrix that dies after so many products with it and its transpose; counts them."""

    def __init__(self, matrix: Tensor, products: int, *, symmetric: bool) -> None:
        self.matrix, self.left, self.spent, self.symmetric = matrix, products, 0, symmetric

    def product(self, matrix: Tensor, X: Tensor) -> Tensor:
        self.left -= X.shape[1]
        if self.left < 0:
            raise Killed
        self.spent += X.shape[1]
        return matrix @ X

    @property
    def map(self) -> FunctionMap:
        return FunctionMap(
            lambda X: self.product(self.matrix, X),
            (self.matrix.shape[0], self.matrix.shape[1]),
            self.matrix.dtype,
            block=True,
            symmetric=self.symmetric,
            transpose=lambda X: self.product(self.matrix.T, X),
        )


Routine = Callable[[LinearMap, torch.Generator], Any]
SYMMETRIC: dict[str, Routine] = {
    "conjugate gradients": lambda A, g: solve_cg(A, torch.randn(60, 3, generator=g).to(A.dtype)),
    "minres": lambda A, g: solve_minres(A - 0.5 * A, torch.randn(60, generator=g).to(A.dtype)),
    "condition number": lambda A, g: condition_number(A, generator=g),
    "log determinant": lambda A, g: log_determinant(A, probes=4, steps=12, generator=g),
    "diagonal": lambda A, g: hutchinson_diagonal(A, probes=55, generator=g),
    "both ends": lambda A, g: extreme_eigenpairs(A, largest=2, smallest=1, generator=g),
    "lanczos": lambda A, g: lanczos(A, 40, generator=g),
}
ANY: dict[str, Routine] = {
    "svd of random products": lambda A, g: randomised_svd(A, 5, generator=g),
    "svd of a transpose": lambda A, g: randomised_svd(A.T, 5, generator=g),
    "bidiagonalisation": lambda A, g: golub_kahan(A, 25, generator=g),
    "singular triplets": lambda A, g: singular_triplets(A, 3, generator=g),
    "singular values": lambda A, _: singular_values(A.T),
    "Frobenius norm": lambda A, g: frobenius_norm(A, probes=40, generator=g),
    "a sum of lazy maps": lambda A, g: golub_kahan(2.0 * A + A.T.T, 25, generator=g),
}


def parts(result: Any) -> list[Any]:
    """The fields of a result, tensors as bits."""
    if isinstance(result, Tensor):
        return [result.shape, result.dtype, result.tolist()]
    if dataclasses.is_dataclass(result):
        return [parts(getattr(result, field.name)) for field in dataclasses.fields(result)]
    if isinstance(result, tuple):
        return [parts(one) for one in result]
    return [repr(result)]


@pytest.fixture
def matrix(with_spectrum: Callable[[Tensor], Tensor]) -> Tensor:
    return with_spectrum(torch.linspace(0.5, 8, 60))


def require_resumption(routine: Routine, matrix: Tensor, seeded: Any, path: Path, symmetric: bool) -> None:
    first = Mortal(matrix, 10**6, symmetric=symmetric)
    with ResumableMap(first.map, path) as kept:
        whole = routine(kept, seeded(0))
    assert not path.exists(), "a finished run leaves no file"
    assert first.spent > 24
    for deadly in (first.spent // 2, first.spent // 4):
        mortal = Mortal(matrix, deadly, symmetric=symmetric)
        with pytest.raises(Killed), ResumableMap(mortal.map, path) as kept:
            routine(kept, seeded(0))
        assert path.exists()
    rest = Mortal(matrix, 10**6, symmetric=symmetric)
    with ResumableMap(rest.map, path) as kept:
        resumed = routine(kept, seeded(0))
    assert parts(resumed) == parts(whole)
    # Each kill loses less than a block; one column tells the map, in the second and the third run.
    assert rest.spent <= first.spent - first.spent // 2 - first.spent // 4 + 2 * 9 + 2
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_killed_routine_goes_on_to_the_same_bits(
    name: str, matrix: Tensor, seeded: Any, tmp_path: Path
) -> None:
    require_resumption(SYMMETRIC[name], matrix, seeded, tmp_path / "run", symmetric=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ANY)
def test_a_killed_routine_on_a_rectangular_map_goes_on(
    name: str, dtype: torch.dtype, matrix: Tensor, seeded: Any, tmp_path: Path
) -> None:
    tall = torch.cat([matrix, matrix.flip(1)])[:90, :50].to(dtype)
    if name == "svd of a transpose":
        tall = tall.T
    require_resumption(ANY[name], tall, seeded, tmp_path / "run", symmetric=False)


def test_a_killed_diagonal_without_symmetry_goes_on(matrix: Tensor, seeded: Any, tmp_path: Path) -> None:
    routine: Routine = lambda A, g: xdiag(A, products=50, generator=g)
    require_resumption(routine, matrix.triu(), seeded, tmp_path / "run", symmetric=False)


def test_results_are_those_without_a_file_to_the_bit(matrix: Tensor, seeded: Any, tmp_path: Path) -> None:
    # No product has more than ten columns here, and single vectors go through as such.
    for name in ("conjugate gradients", "minres", "log determinant", "diagonal", "both ends", "lanczos"):
        with ResumableMap(matrix, tmp_path / "run") as kept:
            found = SYMMETRIC[name](kept, seeded(0))
        plain = SYMMETRIC[name](ResumableMap(matrix, tmp_path / "other").A, seeded(0))
        assert parts(found) == parts(plain), name


@pytest.mark.parametrize("layout", ["rows", "columns", "every other"])
@pytest.mark.parametrize("count", [1, 3, 10, 23])
def test_products_come_back_with_bits_and_strides(
    layout: str, count: int, seeded: Any, tmp_path: Path
) -> None:
    def arranged(product: Tensor) -> Tensor:
        if layout == "rows":
            return product.contiguous()
        if layout == "columns":
            return product.T.contiguous().T
        return product.repeat_interleave(2, dim=0)[::2]

    M = torch.randn(7, 5, generator=seeded(0))
    A = FunctionMap(lambda X: arranged(M @ X), (7, 5), block=True, transpose=lambda X: arranged(M.T @ X))
    X, Y = torch.randn(5, count, generator=seeded(1)), torch.randn(7, count, generator=seeded(2))
    ask = lambda kept: [kept.matmat(X), kept.T.matmat(Y), kept.T.T.matmat(X), kept.T.matvec(Y[:, 0])]
    fresh = ask(ResumableMap(A, tmp_path / "run"))
    again = ask(ResumableMap(A, tmp_path / "run"))
    for one, other in zip(fresh, again, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
    for one, exact in zip(fresh, [M @ X, M.T @ Y, M @ X, M.T @ Y[:, 0]], strict=True):
        torch.testing.assert_close(one, exact)


def test_what_it_is_stays(matrix: Tensor, tmp_path: Path) -> None:
    kept = ResumableMap(matrix, tmp_path / "run")
    assert kept.symmetric
    assert kept.T is kept
    assert (kept.shape, kept.dtype) == ((60, 60), torch.float64)
    torch.testing.assert_close(kept.to_dense(), matrix)
    wide = ResumableMap(matrix[:4], tmp_path / "wide")
    assert (wide.T.shape, wide.T.T.shape) == ((60, 4), (4, 60))
    assert wide.T.T.A.shape == (4, 60)  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(restricted(kept, torch.arange(3)).to_dense(), matrix[:3, :3])
    blind = ResumableMap(FunctionMap(lambda x: x, (3, 3)), tmp_path / "blind")
    with pytest.raises(SettingError, match="must know its transpose"):
        _ = blind.T


def killed(matrix: Tensor, path: Path, seeded: Any, **settings: Any) -> None:
    mortal = Mortal(matrix, 35, symmetric=True)
    with pytest.raises(Killed), ResumableMap(mortal.map, path, **settings) as kept:
        randomised_svd(kept, 5, generator=seeded(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"must be of this run; got one that differs from product 1 on\. Start it with the arg"),
        ({"rank": 6}, r"must be of this run; got one that differs from product 2 on"),
        ({"factor": 1.0001}, r"must be of this map; got a first product that differs by"),
        ({"settings": {"name": "b"}}, r"must be of this run \(name=b\); got one of another \(name=a\)"),
        ({"settings": {}}, r"must be of this run \(name=absent\); got one of another \(name=a\)"),
        ({"block": 5}, r"must be of this run \(block=5\); got one of another \(block=10\)"),
        ({"rows": 59}, r"must be of this run \(rows=59\); got one of another \(rows=60\)"),
        ({"dtype": torch.float32}, r"must be of this run \(dtype=torch\.float32\)"),
    ],
)
def test_files_of_others_are_refused_and_stay(
    change: dict[str, Any], message: str, matrix: Tensor, seeded: Any, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    killed(matrix, path, seeded, settings={"name": "a"})
    before = path.read_bytes()
    now = {"settings": {"name": "a"}, "block": 10} | change
    other = matrix[: now.get("rows", 60)].to(now.get("dtype", torch.float64)) * now.get("factor", 1.0)
    with (
        pytest.raises(SettingError, match=message),
        ResumableMap(other, path, now["settings"], block=now["block"]) as kept,
    ):
        randomised_svd(kept, now.get("rank", 5), generator=seeded(now.get("seed", 0)))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b[:-5000],
        lambda b: b + b"\0" * 300,
        lambda b: b + b'{"question": "',
        lambda b: b[:9000] + bytes([b[9000] ^ 1]) + b[9001:],
        lambda b: b.replace(b'"shape": [60, 5]', b'"shape": [-5, 6]'),
        lambda b: b.replace(b'"shape": [60, 5]', b'"shape": [9999999999999, 60]'),
    ],
)
def test_what_is_not_whole_is_computed_again(
    damage: Any, matrix: Tensor, seeded: Any, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    with ResumableMap(matrix, path) as kept:
        whole = randomised_svd(kept, 5, generator=seeded(0))
    killed(matrix, path, seeded)
    contents = path.read_bytes()
    assert len(contents) > 14_000
    assert damage(contents) != contents
    path.write_bytes(damage(contents))
    with pytest.raises(Killed), ResumableMap(Mortal(matrix, 20, symmetric=True).map, path) as kept:
        randomised_svd(kept, 5, generator=seeded(0))
    with ResumableMap(matrix, path) as kept:
        assert parts(randomised_svd(kept, 5, generator=seeded(0))) == parts(whole)


def test_a_network_that_rounds_single_columns_otherwise_is_known_again(seeded: Any, tmp_path: Path) -> None:
    M = torch.randn(6, 6, generator=seeded(0))
    rough = lambda X: (M @ X).bfloat16().float() if X.shape[1] == 1 else M @ X
    A = FunctionMap(rough, (6, 6), block=True)
    X = torch.randn(6, 4, generator=seeded(1))
    assert float((A.matmat(X[:, :1]) - A.matmat(X)[:, :1]).abs().max()) > 1e-3
    fresh = ResumableMap(A, tmp_path / "run").matmat(X)
    assert torch.equal(ResumableMap(A, tmp_path / "run").matmat(X), fresh)
    with pytest.raises(SettingError, match="must be of this map"):
        ResumableMap(1.001 * M, tmp_path / "run").matmat(X)


@pytest.mark.parametrize("contents", [b"\0" * 50, b"no checkpoint\n", b"[1]\n", b"{}\n", b'{"torchst'])
def test_other_files_are_refused_and_stay(contents: bytes, matrix: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(contents)
    with pytest.raises(FormatError, match=r"must be a whole checkpoint; got .*Delete it to start again"):
        ResumableMap(matrix, path)
    assert path.read_bytes() == contents


def test_a_file_without_products_is_no_ones(matrix: Tensor, seeded: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.touch()  # as `tempfile` makes it
    with pytest.raises(SettingError, match="rank must be"), ResumableMap(matrix, path) as kept:
        randomised_svd(kept, 0, generator=seeded(0))
    assert path.exists()
    with ResumableMap(matrix.float(), path, {"name": "b"}) as kept:
        randomised_svd(kept, 2, generator=seeded(0))


def test_places_that_cannot_be_written_are_named_at_once(matrix: Tensor, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="must be writable; got No such file or directory"):
        ResumableMap(matrix, tmp_path / "none" / "run")
    with pytest.raises(OutputError, match="must be writable; got Is a directory"):
        ResumableMap(matrix, tmp_path)


def test_two_processes_share_a_file(matrix: Tensor, seeded: Any, tmp_path: Path) -> None:
    # All processes make each product together, and write the same bytes; the first that ends deletes the file.
    path = tmp_path / "run"
    vectors = torch.randn(8, 60, generator=seeded(0)).double()
    for start in (0, 5):
        pair = [ResumableMap(matrix, path) for _ in range(2)]
        for x in vectors[:5] if start == 0 else vectors:
            one, other = (kept.matvec(x) for kept in pair)
            assert torch.equal(one, matrix @ x)
            assert torch.equal(other, one)
    assert path.stat().st_size < 8 * (60 * 8 + 150) + 200
    rest = Mortal(matrix, 10**6, symmetric=True)
    first, second = ResumableMap(rest.map, path), ResumableMap(rest.map, path)
    for x in vectors:
        torch.testing.assert_close(first.matvec(x), matrix @ x, rtol=1e-12, atol=1e-12)
    first.remove()
    for x in vectors:
        assert torch.equal(second.matvec(x), first.A.matvec(x))
    second.matvec(vectors[0] + 1)
    second.remove()
    assert rest.spent == 2 + 8 + 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_is_whole(
    matrix: Tensor, seeded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    killed(matrix, path, seeded)
    before = path.read_bytes()
    sync: Any = os.fsync

    def full(number: int) -> None:
        sync(number)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchstone.linalg.finished_work.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"), ResumableMap(matrix, path) as kept:
        randomised_svd(kept, 5, generator=seeded(0))
    assert path.read_bytes() == before


def test_bad_settings_are_refused(matrix: Tensor, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="block must be at least 1; got 0"):
        ResumableMap(matrix, tmp_path / "run", block=0)
    settings: Any = {"start": matrix}
    with pytest.raises(SettingError, match=r"settings are numbers, texts .*; got start of type Tensor"):
        ResumableMap(matrix, tmp_path / "run", settings)
    assert list(tmp_path.iterdir()) == []


def test_each_product_is_written_once(matrix: Tensor, seeded: Any, tmp_path: Path) -> None:
    kept = ResumableMap(matrix, tmp_path / "run")
    for count in range(1, 30):
        kept.matvec(torch.randn(60, generator=seeded(count)).double())
        assert (tmp_path / "run").stat().st_size <= 300 + count * (60 * 8 + 150)
    kept.remove()
    kept.remove()
    assert list(tmp_path.iterdir()) == []
