"""neural-tangents' structured derivatives on given weights and inputs; run by its own interpreter.

    python neural_tangents_worker.py problem.npz answer.npz

neural-tangents works with jax up to 0.4.30 only, so it lives in an environment of its own:
`pip install "jax[cpu]==0.4.30" neural-tangents "numpy<2.1"`.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import sys
import time
from typing import Any


def main(problem: str, answer: str) -> None:
    """Times the kernel, compiled, as the shortest of five runs, and writes it with the seconds."""
    import jax
    import jax.numpy as jnp
    import neural_tangents as nt
    import numpy as np

    # neural-tangents 0.6.5 looks for two modules where jax no longer keeps them.
    from jax._src import source_info_util
    from jax.interpreters import ad

    if not hasattr(ad, "source_info_util"):
        ad.source_info_util, ad.config = source_info_util, jax.config
    given = np.load(problem)
    layers = len([name for name in given.files if name.startswith("weight")])
    parameters = [(given[f"weight{k}"], given[f"bias{k}"]) for k in range(layers)]

    def network(values: list[Any], x: Any) -> Any:
        for k, (weight, bias) in enumerate(values):
            x = x @ weight.T + bias
            x = jnp.maximum(x, 0) if k < layers - 1 else x
        return x

    kernel = nt.empirical_ntk_fn(
        network,
        trace_axes=(),
        vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )
    compiled = jax.jit(lambda values, x: kernel(x, None, values))
    x = jnp.asarray(given["x"])
    found = compiled(parameters, x).block_until_ready()
    taken, used = [], []
    for _ in range(5):
        start, cpu = time.perf_counter(), time.process_time()
        compiled(parameters, x).block_until_ready()
        taken.append(time.perf_counter() - start)
        used.append(time.process_time() - cpu)
    np.savez(answer, kernel=np.asarray(found), seconds=min(taken), cpu_seconds=min(used))


if __name__ == "__main__":
    main(*sys.argv[1:3])
