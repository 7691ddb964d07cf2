"""PyTorch's attention on the same arrays: what its SDPA calls, by backend, with the LSE.

`torch.nn.functional.scaled_dot_product_attention` keeps the LSE to itself, without which two
calls cannot be merged. So the operators are called that it dispatches to.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.dlpack
import torch

from benchmarks.clock import Pass
from benchmarks.problems import Arrays, Problem
from star_jax.attention import Partial

Result = tuple[torch.Tensor, torch.Tensor]  # out [1, N, T, H], lse [1, N, T]
Segment = Callable[..., Result]  # (q, k, v, causal=..., scale=...)
_aten = torch.ops.aten


def contenders(problem: Problem) -> tuple[str, ...]:
    """On a GPU SDPA's flash and cuDNN backends; elsewhere, for tests, the one of CPUs."""
    if not torch.cuda.is_available():
        return ("torch cpu",)
    # FlashAttention aligns its causal mask at the bottom right: with the anchor's keys in front
    # of the local ones, one call is enough. cuDNN aligns it at the top left.
    joined = ("torch flash joined",) if problem.anchor else ()
    return ("torch flash", "torch cudnn", *joined)


def to_time(name: str, problem: Problem, sets: list[Arrays]) -> Pass:
    """One call on each set of inputs; on a GPU as one CUDA graph.

    Inputs share memory with JAX's arrays: tokens before heads, which is the same to PyTorch's
    operators as the other way round.
    """
    inputs = [
        {n: torch.from_dlpack(x).transpose(1, 2) for n, x in arrays.items() if x.ndim == 4}
        for arrays in sets
    ]
    if name.endswith("joined"):  # beforehand, which is not timed
        inputs = [_join(one) for one in inputs]

    def calls() -> list[Result]:
        return [_attend(SEGMENTS[name], one, problem) for one in inputs]

    if not torch.cuda.is_available():
        return Pass(calls, lambda results: None, len(sets), lambda results, i: _partial(results[i]))
    calls()  # what is done once is done before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = calls()  # a replay fills them in
    return Pass(
        graph.replay,
        lambda _: torch.cuda.synchronize(),
        len(sets),
        lambda _, i: _partial(results[i]),
    )


def release() -> None:
    """Gives memory that PyTorch keeps for later back to JAX."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _attend(segment: Segment, x: dict[str, torch.Tensor], problem: Problem) -> Result:
    scale = problem.scale
    local = segment(x["q"], x["k"], x["v"], causal=problem.causal, scale=scale)
    if "anchor_k" not in x:
        return local
    anchor = segment(x["q"], x["anchor_k"], x["anchor_v"], causal=False, scale=scale)
    return _merge(anchor, local)


def _merge(a: Result, b: Result) -> Result:
    """In as few passes over the outputs as PyTorch has: one."""
    weight = torch.sigmoid(b[1] - a[1])[..., None]
    return torch.lerp(a[0], b[0], weight.to(a[0].dtype)), torch.logaddexp(a[1], b[1])


def _flash(q: Any, k: Any, v: Any, *, causal: bool, scale: float) -> Result:
    found = _aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return found[0], found[1]


def _cudnn(q: Any, k: Any, v: Any, *, causal: bool, scale: float) -> Result:
    found = _aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, scale=scale)
    return found[0], found[1].reshape(q.shape[:3])


def _cpu(q: Any, k: Any, v: Any, *, causal: bool, scale: float) -> Result:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    found = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    return found[0], found[1]


SEGMENTS: dict[str, Segment] = {
    "torch flash": _flash,
    "torch flash joined": _flash,
    "torch cudnn": _cudnn,
    "torch cpu": _cpu,
}


def _join(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The anchor's keys in front of the local ones, in memory as they were."""

    def both(name: str) -> torch.Tensor:
        segments = (x[f"anchor_{name}"], x[name])
        return torch.cat([s.transpose(1, 2) for s in segments], dim=1).transpose(1, 2)

    return {"q": x["q"], "k": both("k"), "v": both("v")}


def _partial(result: Result) -> Partial:
    def to_jax(x: torch.Tensor) -> jax.Array:
        return jax.dlpack.from_dlpack(x.transpose(1, 2).contiguous())

    return Partial(*map(to_jax, result))
