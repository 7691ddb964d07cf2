"""What a program on several processes sees of the library, written down by each.

    python -m library_run COORDINATOR NUM_PROCESSES PROCESS_ID DEVICES AXES OUT

It is also called in one process, with which the others are compared.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh
from test_generate import Letters

import star_jax
from star_jax import Engine, Star
from star_jax.runtime import processes

QUERY = [5, 6, 7, 8, 9]
NEW = 12
MENDED = Star(block_size=16, anchor_size=4, halo=12, correction="both", stride=4)


def found(mesh: Mesh, folder: str) -> dict[str, Any]:
    """What the engine gives, for contexts side by side and of different lengths.

    folder: has a context that one process has saved, and gets one that all save.
    """
    e = Engine(tiny.model(), mesh=mesh, attention=MENDED, tokenizer=Letters())
    contexts = e.prefill([tiny.ids(150), tiny.ids(70, seed=1), tiny.ids(33, seed=2)])
    context = e.prefill(tiny.ids(90))
    longer = e.extend(context, tiny.ids(40, seed=3))
    generation = e.start(context, QUERY, max_new_tokens=NEW, ignore_eos=True)
    generation.finish()
    alone = Engine(tiny.model(), mesh=local(), attention=Star(block_size=16))
    own = alone.prefill(tiny.ids(20 + jax.process_index()))  # which the others know nothing of
    if processes.count() > 1:
        with pytest.raises(NotImplementedError, match="some processes"):
            own.save(f"{folder}/own")
    for _ in range(1 + jax.process_index()):
        assert alone.generate(own, QUERY, max_new_tokens=2, sampling={"temperature": 1.0}).tokens
    context.save(f"{folder}/by_all")
    saved: list[Any] = [e.load_context(f"{folder}/{by}") for by in ("by_one", "by_all")]
    drawn = e.generate(contexts, QUERY, max_new_tokens=NEW, sampling={"temperature": 1.0})
    return {
        "logits": [np.asarray(x).tolist() for x in e.score(contexts, QUERY)],
        "likelihood": [np.asarray(x.logprobs).tolist() for x in e.likelihood(contexts, QUERY)],
        "tokens": [answer.tokens for answer in e.generate(contexts, QUERY, max_new_tokens=NEW)],
        "questions": [
            answer.tokens for answer in e.generate(context, [QUERY, [1, 2]], max_new_tokens=NEW)
        ],
        "text": "".join(e.stream(context, QUERY, max_new_tokens=NEW, stop=["zz"])),
        "next turn": e.generate(generation.context, [3, 4], max_new_tokens=NEW).tokens,
        "saved": [e.generate(one, QUERY, max_new_tokens=NEW).tokens for one in saved],
        "extended": e.generate(longer, QUERY, max_new_tokens=NEW).tokens,
        "drawn": [[answer.seed, answer.tokens] for answer in drawn],
        "fingerprint": context.fingerprint.weights,
    }


def local() -> Mesh:
    """The mesh of one device, of this process alone."""
    return star_jax.make_mesh(devices=jax.local_devices()[:1])


def main(coordinator: str, count: str, index: str, devices: str, axes: str, out: str) -> None:
    star_jax.simulate_cpu_devices(int(devices))
    processes.start(coordinator, num_processes=int(count), process_id=int(index))
    data, context, tensor = map(int, axes.split("x"))
    mesh = star_jax.make_mesh(data=data, context=context, tensor=tensor)
    path = pathlib.Path(f"{out}.{index}").absolute()
    path.write_text(json.dumps(found(mesh, str(path.parent))))


if __name__ == "__main__":
    main(*sys.argv[1:])
