from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import (
    DenseMap,
    FunctionMap,
    LinearMap,
    as_linear_map,
    require_square,
    require_symmetric,
)


def random(seeded, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


class OnlyVectors(LinearMap):
    """A map that supplies nothing but the product with one vector."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__((matrix.shape[0], matrix.shape[1]), matrix.dtype, matrix.device)
        self.matrix = matrix

    def _matvec(self, x: Tensor) -> Tensor:
        return self.matrix @ x


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_default_matmat_and_to_dense_equal_the_matrix(seeded, m, n, k):
    matrix, X = random(seeded, m, n), random(seeded, n, k, seed=1)
    A = OnlyVectors(matrix)
    assert A.matmat(X).shape == (m, k)
    torch.testing.assert_close(A.matmat(X), matrix @ X)
    torch.testing.assert_close(A.to_dense(block=2), matrix)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_algebra_equals_that_of_the_matrices(seeded, m, n, p, factor):
    a, b, c = random(seeded, m, n), random(seeded, m, n, seed=1), random(seeded, n, p, seed=2)
    A, B, C = DenseMap(a), DenseMap(b), DenseMap(c)
    expected = (factor * a - b / 2 + -a) @ c
    composed = (factor * A - B / 2 + -A) @ C
    torch.testing.assert_close(composed.to_dense(), expected)
    torch.testing.assert_close(composed.T.to_dense(), expected.T)
    torch.testing.assert_close(composed @ torch.ones(p, dtype=torch.float64), expected.sum(dim=1))
    torch.testing.assert_close(composed @ torch.eye(p, dtype=torch.float64), expected)
    torch.testing.assert_close((A * factor).matvec(c[:, 0]), factor * a @ c[:, 0])


def test_function_maps_by_vector_and_by_block_agree_with_their_matrix(seeded):
    matrix, X = random(seeded, 4, 3), random(seeded, 3, 5, seed=1)
    by_vector = FunctionMap(lambda x: matrix @ x, (4, 3), torch.float64, transpose=lambda y: matrix.T @ y)
    by_block = FunctionMap(
        lambda X: matrix @ X, (4, 3), torch.float64, block=True, transpose=lambda Y: matrix.T @ Y
    )
    for A in (by_vector, by_block):
        torch.testing.assert_close(A.matmat(X), matrix @ X)
        torch.testing.assert_close(A.matvec(X[:, 0]), matrix @ X[:, 0])
        torch.testing.assert_close(A.T.to_dense(), matrix.T)
        torch.testing.assert_close(A.T.T.to_dense(), matrix)


def test_symmetry_is_declared_looked_for_and_inherited(seeded):
    square = random(seeded, 4, 4)
    S, A = DenseMap(square + square.T), DenseMap(square)
    assert S.symmetric
    assert not A.symmetric
    assert S.T is S
    assert (2 * S + S).symmetric
    assert not (S + A).symmetric
    gram = A.T @ A
    assert not gram.symmetric
    assert gram.as_symmetric().symmetric
    assert not gram.symmetric, "as_symmetric() must not change the map it is called on"
    torch.testing.assert_close(gram.as_symmetric().to_dense(), square.T @ square)
    slightly_off = square + square.T + 1e-12 * square
    assert DenseMap(slightly_off).symmetric
    assert not DenseMap(square + square.T + 1e-3 * square).symmetric
    assert DenseMap(square, symmetric=True).symmetric


def test_products_are_differentiable(seeded):
    matrix = random(seeded, 3, 3).requires_grad_()
    x = random(seeded, 3, seed=1)
    (2 * DenseMap(matrix)).matvec(x).sum().backward()
    assert matrix.grad is not None
    torch.testing.assert_close(matrix.grad, 2 * x.expand(3, 3))


def test_to_scipy_has_the_same_products_in_both_directions(seeded):
    matrix = random(seeded, 4, 3)
    operator = DenseMap(matrix).to_scipy()
    X, y = random(seeded, 3, 2, seed=1).numpy(), random(seeded, 4, seed=2).numpy()
    assert operator.dtype == np.float64
    np.testing.assert_allclose(operator @ X, matrix.numpy() @ X)
    np.testing.assert_allclose(operator @ X[:, 0], matrix.numpy() @ X[:, 0])
    np.testing.assert_allclose(operator.rmatvec(y), matrix.numpy().T @ y)
    np.testing.assert_allclose(operator.matvec(X[:, :1]), matrix.numpy() @ X[:, :1])
    assert DenseMap(matrix.float()).to_scipy().dtype == np.float32


@pytest.mark.parametrize("form", ["dense", "csr", "csc", "coo", "sparse array", "operator", "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_linear_map_takes_every_form(seeded, form, dtype):
    from scipy import sparse
    from scipy.sparse.linalg import aslinearoperator

    matrix = random(seeded, 4, 3).numpy().astype(dtype)
    makers = {
        "dense": torch.from_numpy,
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "coo": sparse.coo_matrix,
        "sparse array": sparse.csr_array,
        "operator": aslinearoperator,
        "numpy": lambda array: array,
    }
    A = as_linear_map(makers[form](matrix))
    assert A.dtype == (torch.float32 if dtype == np.float32 else torch.float64)
    np.testing.assert_array_equal(A.to_dense().numpy(), matrix)
    np.testing.assert_allclose(A.T.to_dense().numpy(), matrix.T)
    assert not A.symmetric
    assert as_linear_map(A) is A


def test_as_linear_map_finds_symmetry_only_where_entries_are_at_hand(seeded):
    from scipy import sparse
    from scipy.sparse.linalg import aslinearoperator

    square = random(seeded, 4, 4)
    symmetric = (square + square.T).numpy()
    assert as_linear_map(sparse.csr_matrix(symmetric)).symmetric
    assert as_linear_map(sparse.csr_array(np.array([[0, 1], [1, 0]]))).symmetric
    assert not as_linear_map(sparse.csr_matrix(square.numpy())).symmetric
    assert as_linear_map(sparse.csr_array((3, 3))).symmetric, "a zero matrix"
    assert not as_linear_map(aslinearoperator(symmetric)).symmetric
    assert as_linear_map(aslinearoperator(symmetric), symmetric=True).symmetric
    assert as_linear_map(DenseMap(square), symmetric=True).symmetric


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DenseMap(torch.ones(3)), "strided matrix"),
        (lambda: DenseMap(torch.ones(3, 3).to_sparse()), "strided matrix"),
        (lambda: DenseMap(torch.ones(3, 3, dtype=torch.int64)), "float32 or float64"),
        (lambda: DenseMap(torch.ones(3, 3, dtype=torch.bfloat16)), "float32 or float64"),
        (lambda: DenseMap(torch.ones(3, 3, dtype=torch.complex64)), "float32 or float64"),
        (lambda: DenseMap(torch.ones(0, 0)), "both at least 1"),
        (lambda: DenseMap(torch.ones(2, 3), symmetric=True), "symmetric map is square"),
        (lambda: DenseMap(torch.ones(2, 3)) + DenseMap(torch.ones(3, 2)), "A sum of maps needs matching"),
        (lambda: DenseMap(torch.ones(2, 3)) @ DenseMap(torch.ones(2, 3)), "A product of maps needs matching"),
        (lambda: DenseMap(torch.eye(2)) + DenseMap(torch.eye(2).double()), "one dtype"),
        (lambda: math.nan * DenseMap(torch.eye(2)), "A factor is a finite number"),
        (lambda: DenseMap(torch.ones(2, 3)).as_symmetric(), "as_symmetric.. needs a square map"),
        (lambda: require_square(DenseMap(torch.ones(2, 3)), "it"), "it needs a square map"),
        (lambda: require_symmetric(DenseMap(torch.ones(2, 3)), "it"), "it needs a square map"),
        (
            lambda: require_symmetric(DenseMap(torch.tensor([[0.0, 1.0], [2.0, 0.0]])), "it"),
            "not declared symmetric",
        ),
        (lambda: FunctionMap(lambda x: x, (2, 2)).T, "must know its transpose"),
        (lambda: as_linear_map([[1.0]]), "A linear map is a matrix"),
        (lambda: as_linear_map(np.eye(2, dtype=complex)), "float32 or float64"),
    ],
)
def test_maps_that_cannot_be_built_are_refused(build, message):
    with pytest.raises(SettingError, match=message):
        build()


def test_complex_scipy_matrices_are_refused():
    from scipy import sparse

    with pytest.raises(SettingError, match="A linear map is real"):
        as_linear_map(sparse.csr_matrix(np.eye(2, dtype=complex)))


@pytest.mark.parametrize(
    "x",
    [torch.ones(4), torch.ones(3, 1), torch.ones(3).double(), torch.ones(3, device="meta"), torch.ones(())],
)
def test_vectors_of_another_shape_dtype_or_device_are_refused(x):
    with pytest.raises(SettingError, match=r"DenseMap\(2x3, torch.float32, cpu\) takes shape \(3,\)"):
        DenseMap(torch.ones(2, 3)).matvec(x)


@pytest.mark.parametrize("X", [torch.ones(4, 2), torch.ones(3), torch.ones(3, 2).double()])
def test_columns_of_another_shape_or_dtype_are_refused(X):
    with pytest.raises(SettingError, match="takes shape"):
        DenseMap(torch.ones(2, 3)).matmat(X)


@pytest.mark.parametrize(
    "wrong", [lambda x: x.sum(), lambda x: x[:, None], lambda x: x.double(), lambda x: x[:1], lambda _: 0.0]
)
@pytest.mark.parametrize("columns", [False, True])
def test_a_function_that_returns_something_else_is_refused(wrong, columns):
    A = FunctionMap(wrong, (3, 3))
    with pytest.raises(SettingError, match="A product of FunctionMap"):
        A.matmat(torch.ones(3, 2)) if columns else A.matvec(torch.ones(3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_products_with_nan_or_inf_are_refused_and_counted(bad):
    A = FunctionMap(lambda x: torch.where(x > 0, bad, x), (3, 3))
    with pytest.raises(NumericalError, match=r"Products of FunctionMap.*1 NaN or Inf among 3"):
        A.matvec(torch.tensor([1.0, -1.0, -1.0]))
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        (2 * A + A).matmat(torch.ones(3, 2))


def test_a_matrix_with_nan_is_refused():
    with pytest.raises(NumericalError, match="1 NaN or Inf entries"):
        DenseMap(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))
