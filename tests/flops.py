"""Matmul FLOPs of a traced program: loops multiplied out, no skip that depends on data taken."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


def matmul_flops(traced: jax.stages.Traced) -> int:
    """FLOPs of all matmuls that one device runs."""
    return _count(traced.jaxpr.jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [_count(j) for j in _inner(equation.params)]
        if name == "dot_general":
            total += _dot(equation)
        elif name == "scan":
            total += equation.params["length"] * sum(inner)
        elif name == "cond":
            total += max(inner)
        elif name == "while" and any(inner):
            raise NotImplementedError("a loop with matmuls and no static length")
        else:
            total += sum(inner)
    return total


def _dot(equation: core.JaxprEqn) -> int:
    lhs, rhs = (getattr(v.aval, "shape") for v in equation.invars)  # noqa: B009
    (contract, _), (batch, _) = equation.params["dimension_numbers"]
    shared = math.prod(lhs[i] for i in (*contract, *batch))
    batches = math.prod(lhs[i] for i in batch)
    inner = math.prod(lhs[i] for i in contract)
    return 2 * (math.prod(lhs) // shared) * (math.prod(rhs) // (batches * inner)) * shared


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
