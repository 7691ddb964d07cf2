"""Checks and times attention: everything that can run on a device, on every problem."""

import concurrent.futures
import functools
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks import attention_table, clock, machine, oracle, ours
from benchmarks.clock import Pass, say
from benchmarks.problems import Problem, draw
from star_jax.attention import Partial
from star_jax.attention import device as device_lib

# Plain XLA is there to compare with, not to wait for: problems whose calls on all sets of inputs
# take more FLOPs than this are not its. At 20 TFLOP/s the others then take it less than a minute.
XLA_FLOPS = 4e12
# Once so many seconds have passed, what is left is measured of these alone.
PEERS_UNTIL = 420.0
ALWAYS = ("mosaic", "triton", "cudnn")

Program = jax.stages.Compiled | str  # a string says why there is none


def run(asked: Sequence[Problem], mesh: Mesh) -> Iterator[dict[str, Any]]:
    """Checks and times all that can run on the first device of the mesh.

    Yields:
      The record of all results so far, once there are any, after each problem. The last one's
      "complete" is true.

    Raises:
      oracle.Wrong: something disagrees with the reference.
      ValueError: nothing could be timed.
    """
    device, seed = mesh.devices.flat[0], secrets.randbits(31)
    absent = ours.absent(mesh) | _absent_torch(device)
    say(f"{device_lib.name(device)}; cannot run: {absent}")
    record = machine.circumstances(device, "benchmarks.attention")
    record |= {"seed": seed, "absent": absent, "ceilings": machine.ceilings(device)}
    names = [name for name in ours.IMPLEMENTATIONS if name not in absent]
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        # All of them first: while something is timed, nothing else runs.
        futures = {(p, n): pool.submit(_build, p, n, mesh) for p in asked for n in ("", *names)}
        programs = {key: future.result() for key, future in futures.items()}
    say(f"compiled {len(programs)} programs")
    results: list[dict[str, Any]] = []
    for number, problem in enumerate(asked, 1):
        mine = {name: programs.pop((problem, name)) for name in ("", *names)}
        if clock.elapsed() > PEERS_UNTIL:
            mine |= {name: _late() for name in names if name not in ALWAYS}
        rows = _measure(problem, mine, seed=seed + number, torch="torch" not in absent)
        results += rows
        say(f"{number}/{len(asked)} {problem}: {attention_table.line(rows)}")
        if any("seconds" in row for row in results):
            so_far = {"complete": number == len(asked), "wall_seconds": clock.elapsed()}
            yield {**record, **so_far, "results": results}
    if not any("seconds" in row for row in results):
        raise ValueError(f"nothing could be timed: {[row['reason'] for row in results][:3]}")


def _late() -> str:
    return f"left out: {PEERS_UNTIL / 60:.0f} minutes had passed"


def _absent_torch(device: jax.Device) -> dict[str, str]:
    try:
        import torch
    except ImportError as e:
        return {"torch": str(e)}
    if machine.is_gpu(device) and not torch.cuda.is_available():
        return {"torch": f"torch {torch.__version__} sees no GPU"}
    return {}


def _build(problem: Problem, name: str, mesh: Mesh) -> Program:
    """The program of an implementation, or of the reference for ""."""
    if not name:
        return oracle.compiled(problem, mesh)
    if name == "xla" and problem.flops * problem.sets > XLA_FLOPS:
        return f"left out: a pass takes more than {XLA_FLOPS:.0e} FLOPs"
    try:
        return ours.compiled(problem, name, mesh)
    except Exception as e:  # one that cannot be built does not keep others from being timed
        return clock.reason(e)


def _measure(
    problem: Problem, programs: Mapping[str, Program], *, seed: int, torch: bool
) -> list[dict[str, Any]]:
    """A row for each contender: what was measured, or why nothing was."""
    sets = draw(problem, seed)
    reasons = {name: p for name, p in programs.items() if isinstance(p, str)}
    makers = {
        name: functools.partial(ours.to_time, p, sets)
        for name, p in programs.items()
        if name and not isinstance(p, str)
    }
    theirs: tuple[str, ...] = ()
    if torch:
        from benchmarks import torch_attention

        late = clock.elapsed() > PEERS_UNTIL
        theirs = torch_attention.contenders(problem)
        reasons |= {name: _late() for name in theirs if late}
        for name in theirs if not late else ():
            makers[name] = functools.partial(torch_attention.to_time, name, problem, sets)

    starts = oracle.starts(problem, np.random.default_rng(seed))
    some = (0, len(sets) - 1)
    reference = programs[""]
    assert not isinstance(reference, str)
    expected = [reference(sets[i], starts) for i in some]
    passes: dict[str, Pass] = {}
    differences: dict[str, list[dict[str, float]]] = {}
    for name, make in makers.items():
        try:
            timed = make()
            partials = _first(timed, some)
        except Exception as e:
            reasons[name] = clock.reason(e)
            continue
        try:
            differences[name] = [
                oracle.check(*pair, starts, who=name, problem=problem)
                for pair in zip(partials, expected, strict=True)
            ]
        except oracle.Wrong as e:
            if name in ours.IMPLEMENTATIONS:
                raise
            reasons[name] = str(e)  # PyTorch's own affair
            continue
        passes[name] = timed
    found, failed = clock.time_in_turns(passes)
    reasons |= failed
    passes.clear()
    if torch:
        torch_attention.release()
    return [
        _row(problem, name)
        | (
            {"reason": reasons[name]}
            if name in reasons
            else {**found[name], "differences": differences[name]}
        )
        for name in dict.fromkeys([*filter(None, programs), *theirs])
    ]


def _first(timed: Pass, some: Sequence[int]) -> list[Partial]:
    """Runs it once; the partials of some of its calls."""
    assert timed.partial is not None
    done = timed.launch()
    timed.wait(done)
    return [timed.partial(done, i) for i in some]


def _row(problem: Problem, name: str) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "model": problem.model,
        "heads": problem.heads,
        "kv_heads": problem.kv_heads,
        "head_dim": problem.head_dim,
        "queries": problem.queries,
        "keys": problem.keys,
        "anchor": problem.anchor,
        "sets": problem.sets,
        "flops": problem.flops,
        "kv_bytes": problem.kv_bytes,
        "contender": name,
    }
