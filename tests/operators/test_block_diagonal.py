"""Blocks of curvature matrices against slices of the dense ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg import DenseMap, top_eigenpairs
from torchstone.operators import (
    BlockDiagonal,
    Fisher,
    GaussNewton,
    GradientCovariance,
    Hessian,
    PrincipalBlock,
    per_layer,
)
from torchstone.testing import zoo

KINDS = (Hessian, GaussNewton, Fisher, GradientCovariance)


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def masked(dense: Tensor, groups: list[Tensor]) -> Tensor:
    kept = torch.zeros_like(dense)
    for places in groups:
        kept[places[:, None], places] = dense[places[:, None], places]
    return kept


@pytest.mark.parametrize("name", ["tanh mlp", "batch norm cnn", "tied", "unused and frozen", "lstm"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_slices(kind: Any, name: str, awkward: Any) -> None:
    A = kind(awkward(name).specimen)
    dense = A.to_dense()
    X = torch.randn(len(dense), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for by in ("module", "parameter"):
        blocks = per_layer(A, by)
        places = [A.space.indices(block.space.names) for block in blocks.values()]
        assert sorted(torch.cat(places).tolist()) == list(range(len(dense)))
        for block, own in zip(blocks.values(), places, strict=True):
            exact = dense[own[:, None], own] @ X[own]
            assert float((block @ X[own] - exact).norm()) < 1e-12 * float(
                dense.norm()
            )  # some blocks are zero
        assert error(BlockDiagonal(A, by) @ X, masked(dense, places) @ X) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_without_memory_for_graphs(kind: Any, awkward: Any) -> None:
    case = awkward("transformer")
    X = torch.randn(
        kind(case.specimen).shape[0], 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    kept, rebuilt = (BlockDiagonal(kind(case.specimen, memory_bytes=size)) @ X for size in (2**29, 0))
    assert error(rebuilt, kept) < 1e-12


def test_modules_give_their_names(awkward: Any) -> None:
    H = Hessian(awkward("transformer").specimen)
    assert list(per_layer(H)) == [
        "layer.self_attn",
        "layer.self_attn.out_proj",
        "layer.linear1",
        "layer.linear2",
        "layer.norm1",
        "layer.norm2",
        "read",
    ]
    assert "layer.linear1.bias" in per_layer(H, "parameter")


def test_groups_of_ones_own_need_not_be_contiguous(awkward: Any) -> None:
    case = awkward("tanh mlp")
    G = GaussNewton(case.specimen)
    dense = G.to_dense()
    groups = {"ends": ["2.bias", "0.weight"], "rest": ["2.weight", "0.bias"]}
    B = BlockDiagonal(G, groups)
    ends = torch.tensor([*range(20), *range(36, 39)])
    assert error(B.to_dense(), masked(dense, [ends, torch.arange(20, 36)])) < 1e-12
    assert B.blocks["ends"].space.names == ("0.weight", "2.bias")  # in the model's order


def test_spectrum_is_that_of_the_blocks_together(awkward: Any) -> None:
    B = BlockDiagonal(GaussNewton(awkward("tanh mlp").specimen))
    top = top_eigenpairs(B, 3, tolerance=1e-8, generator=torch.Generator().manual_seed(0))
    each = torch.cat([torch.linalg.eigvalsh(block.to_dense()) for block in B.blocks.values()])
    assert error(top.values, each.sort(descending=True).values[:3]) < 1e-8


def test_a_positive_matrix_is_at_most_so_many_times_its_blocks(awkward: Any) -> None:
    G = GaussNewton(awkward("batch norm cnn").specimen)
    B = BlockDiagonal(G)
    difference = len(B.blocks) * B.to_dense() - G.to_dense()
    values = torch.linalg.eigvalsh(difference)
    assert float(values.min()) > -1e-10 * float(values.max())


def test_one_set_of_graphs_and_fewer_passes(awkward: Any) -> None:
    """A block's product asks for its own parameters only, in one pass, on graphs that are built once."""
    case = awkward("tanh mlp")
    H = Hessian(case.specimen)
    B = BlockDiagonal(H)
    x = torch.ones(H.shape[0], dtype=torch.float64)
    B.matvec(x)
    before = case.specimen.passes.forward, case.specimen.passes.backward
    B.matvec(x)
    B.blocks["2"].matvec(x[:15])
    assert case.specimen.passes.forward == before[0]
    assert case.specimen.passes.backward == before[1] + 3 * 11


def test_without_second_derivatives(awkward: Any, make_case: Any) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return gradient * (1 - ctx.saved_tensors[0].tanh() ** 2)

    class Custom(torch.nn.Module):
        def forward(self, x: Tensor) -> Any:
            return Once.apply(x)

    plain = awkward("tanh mlp")
    case = make_case(torch.nn.Sequential(plain.model[0], Custom(), plain.model[2]), (5,))
    for kind in (Hessian, GaussNewton, GradientCovariance):
        exact = BlockDiagonal(kind(plain.specimen)).to_dense()
        A = kind(case.specimen)
        assert error(BlockDiagonal(A).to_dense(), exact) < 1e-7
        assert "central differences" in A.how


def test_mistakes_are_explained(awkward: Any) -> None:
    H = Hessian(awkward("tanh mlp").specimen)
    with pytest.raises(SettingError, match=r"one block; got 2 missing: 2.bias, 2.weight"):
        BlockDiagonal(H, {"first": ["0.weight", "0.bias"]})
    with pytest.raises(SettingError, match=r"one block; got 1 listed twice: 0.bias"):
        BlockDiagonal(H, {"a": ["0.weight", "0.bias"], "b": ["2.weight", "0.bias", "2.bias"]})
    with pytest.raises(SettingError, match="got 'layer'"):
        per_layer(H, "layer")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match="whole matrix; got other"):
        PrincipalBlock(H, ["other"])
    with pytest.raises(SettingError, match="whole matrix; got no name"):
        BlockDiagonal(H, {"a": H.space.names, "b": []})
    with pytest.raises(SettingError, match="network's parameters; got DenseMap"):
        per_layer(DenseMap(torch.eye(3)))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("case", zoo(hugging_face=False), ids=lambda case: case.name)
def test_the_zoo(case: Any) -> None:
    """A block's product is the whole's, of a vector that is zero elsewhere."""
    specimen = None if case.refused else case.specimen().prepared()
    if specimen is None or not specimen.trainable:
        pytest.skip("nothing to differentiate")
    G = GaussNewton(specimen)
    block = list(per_layer(G).values())[-1]
    places = G.space.indices(block.space.names)
    x = torch.randn(len(places), generator=torch.Generator().manual_seed(0), dtype=G.dtype)
    whole = torch.zeros(G.shape[0], dtype=G.dtype).index_copy_(0, places, x)
    expected = (G @ whole)[places]
    assert float((block @ x - expected).norm()) <= 1e-5 * float(expected.norm())
