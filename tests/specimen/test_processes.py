"""Two processes share a specimen's batches and find what one finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from torchstone.errors import ProcessError, SettingError
from torchstone.examination import Examination
from torchstone.examining import examine
from torchstone.linalg import top_eigenpairs
from torchstone.objectives import Classification
from torchstone.operators import (
    BlockDiagonal,
    Fisher,
    GaussNewton,
    GradientCovariance,
    Hessian,
    InputJacobian,
    ParameterJacobian,
    dual_eigenpairs,
    gradient_gram,
    gradient_norms,
    hessian_trace,
    ntk,
    ntk_plan,
)
from torchstone.specimen import Processes, Specimen

RAGGED = (7, 3, 5, 1, 6)  # five batches for two processes


def make(
    sizes: tuple[int, ...], processes: Any = None, seed: int = 0, dtype: Any = torch.float64
) -> Specimen:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) / 2)
    data = [
        (torch.randn(n, 4, generator=generator, dtype=dtype), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]
    return Specimen(model, Classification(), data, data[:1], processes=processes)


def measured(sizes: tuple[int, ...], processes: Any) -> dict[str, Any]:
    """Everything that goes through the specimen's loops."""
    specimen = make(sizes, processes)
    hessian, gauss_newton = Hessian(specimen), GaussNewton(specimen)
    generator = lambda: torch.Generator().manual_seed(1)
    x = torch.randn(hessian.shape[0], 2, generator=generator(), dtype=torch.float64)
    parameters, inputs = ParameterJacobian(specimen), InputJacobian(specimen)
    trace = hessian_trace(specimen, generator=generator())
    return {
        "risk": specimen.risk(),
        "losses": specimen.example_losses(),
        "gradient": torch.cat([part.flatten() for part in specimen.gradient().values()]),
        "one sum": specimen.sum_over(lambda batch: batch[0].sum(0)),
        "two sums": torch.cat(specimen.sum_over(lambda batch: (batch[0].sum(0), batch[0].square().sum(0)))),
        "rows": specimen.map_over(lambda batch: batch[0]),
        "hessian": hessian.matmat(x),
        "hessian again": hessian.matmat(x),
        "gauss-newton": gauss_newton.matmat(x),
        "trace": trace.value,
        "trace of examples": trace.example_traces,
        "largest": top_eigenpairs(hessian, 2, generator=generator()).values,
        "empirical fisher": Fisher(specimen, "empirical").matmat(x),
        "sampled fisher": Fisher(specimen, "sampled", generator=generator()).matmat(x),
        "covariance": GradientCovariance(specimen).matmat(x),
        "blocks": BlockDiagonal(hessian).matmat(x),
        "jacobian": parameters.matmat(x),
        "jacobian transposed": parameters.T.matmat(parameters.matmat(x)),
        "input jacobian": inputs.matmat(inputs.T.matmat(parameters.matmat(x))),
        "some inputs": InputJacobian(specimen, rows=torch.tensor([0, 3])).to_dense(),
        "norms": gradient_norms(specimen).squared,
        "gram": gradient_gram(specimen).matrix,
        "gram in blocks": gradient_gram(specimen, memory_bytes=1).matrix,
        "gram of two splits": gradient_gram(specimen, "train", "test").matrix,
        "tangent kernel": ntk(specimen).values,
        "in blocks": ntk(specimen, memory_bytes=ntk_plan(specimen).least_bytes + 2000).values,
        "of two splits": ntk(specimen, "train", "test").values,
        "by layer": ntk(specimen, outputs="trace", per_layer=True).by_parameter["0.bias"],
        "dual": dual_eigenpairs(specimen, k=2).vectors.square(),
    }


def failing(specimen: Specimen, rank: int) -> str:
    """What each process sees when the second one fails."""

    def function(batch: Any) -> Tensor:
        if rank == 1:
            raise ValueError("only here")
        return batch[0].sum()

    try:
        specimen.sum_over(function)
    except (ProcessError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except (ProcessError, SettingError) as error:
        return str(error)
    return "nothing"


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    specimen = make(RAGGED, "all")
    found: dict[str, Any] = {
        "ragged": measured(RAGGED, "all"),
        "one batch": measured((9,), dist.group.WORLD),
        "failing": failing(specimen, rank),
        "usable after": specimen.risk(),
        "different": refused(lambda: make(RAGGED, "all", seed=rank).prepared()),
        "shorter": refused(lambda: make(RAGGED[: 5 - rank], "all").prepared()),
        "passes": specimen.passes.forward,
    }
    single = make(RAGGED, "all", dtype=torch.float32)
    report = f"{folder}/report"
    first = examine(single, "quick", output=report, progress=False)
    again = examine(single, "quick", output=report, progress=False)
    found["values"] = {name: reading.value for name, reading in first.readings.items()}
    found["resumed"] = first.readings == again.readings
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("processes")
    spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)], folder


@pytest.mark.parametrize(("name", "sizes"), [("ragged", RAGGED), ("one batch", (9,))])
def test_two_processes_find_what_one_finds(results: Any, name: str, sizes: tuple[int, ...]) -> None:
    alone = measured(sizes, None)
    for rank in range(2):
        shared = results[0][rank][name]
        assert list(shared) == list(alone)
        for key, expected in alone.items():
            torch.testing.assert_close(
                torch.as_tensor(shared[key]), torch.as_tensor(expected), rtol=1e-10, atol=1e-12, msg=key
            )


def test_both_processes_hold_the_same_bits(results: Any) -> None:
    first, second = (result["ragged"] for result in results[0])
    for key in first:
        assert torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])), key


def test_work_is_shared(results: Any) -> None:
    # 22 examples in batches of 7, 3, 5, 1, 6: the first process takes 18 of them, the second 4. Each measures the
    # risk once, and the sums that fail do not go through the network.
    assert [result["passes"] for result in results[0]] == [18, 4]


def test_where_one_process_fails_all_raise(results: Any) -> None:
    first, second = (result["failing"] for result in results[0])
    assert first.startswith(
        "ProcessError: All processes must measure their share; got an error in another one"
    )
    assert second == "ValueError: only here"
    assert results[0][0]["usable after"] == pytest.approx(make(RAGGED).risk())


def test_processes_with_different_models_or_data_are_refused(results: Any) -> None:
    for result in results[0]:
        for case in ("different", "shorter"):
            assert "Every process must be given the same model and data" in result[case]
            assert "another one in process 1 than in process 0" in result[case]


def test_an_examination_is_that_of_one_process_and_is_written_once(results: Any) -> None:
    shared, folder = results
    alone = examine(make(RAGGED, dtype=torch.float32), "quick", progress=False)
    assert shared[0]["resumed"]  # the second process holds the first one's readings then, with their cost
    for result in shared:
        assert result["values"] == {
            name: pytest.approx(reading.value, rel=1e-5, abs=1e-6) if reading.value is not None else None
            for name, reading in alone.readings.items()
        }
    saved = Examination.load(folder / "report" / "examination.json")
    assert saved.complete
    lines = (folder / "report" / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(alone.readings)
    assert all(json.loads(line) for line in lines)


def test_processes_without_a_group_are_refused() -> None:
    with pytest.raises(SettingError, match="needs a process group; got none initialised"):
        make(RAGGED, "all")


def test_alone_nothing_is_shared() -> None:
    processes = Processes()
    assert (processes.rank, processes.count, processes.alone, processes.first) == (0, 1, True, True)
    assert list(processes.share("abc")) == ["a", "b", "c"]
    assert processes.told(3) == 3
    assert processes.gathered([torch.ones(1)]) == [torch.ones(1)]
    processes.require_same("anything", 1)
