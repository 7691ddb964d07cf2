"""The helper that compiles for absent GPUs finds what small programs are known to contain."""

from collections.abc import Callable
from typing import Any

import aot
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

N = 256 * 256  # elements of the operands below, on one device


def shard_map(f: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return aot.gpu_mesh("h200")


@pytest.mark.parametrize("kind", ["a100", "h200", "b200"])
def test_a_mesh_of_gpus_that_are_not_there(kind: str) -> None:
    mesh = aot.gpu_mesh(kind, data=2, context=2, tensor=2)
    assert dict(mesh.shape) == {"data": 2, "context": 2, "tensor": 2}
    assert kind.upper() in mesh.devices.flat[0].device_kind
    assert mesh.devices.flat[0].platform == "gpu"
    assert jax.default_backend() == "cpu"
    compiled = aot.compile(lambda x: x + 1, aot.abstract((8,), "float32", mesh, P("context")))
    assert not aot.Program(compiled).collectives()


def test_collectives_are_counted_once_each(mesh: Mesh) -> None:
    def f(x):
        total = jax.lax.psum(x, "context")
        sent = jax.lax.pbroadcast(x * 2, ("context",), 0)
        every = jax.lax.all_gather(x * 3, "context", axis=0)
        return total, sent, every

    sharded = shard_map(f, mesh, P("context"), (P(), P("context"), P()))
    compiled = aot.compile(sharded, aot.abstract((8 * 256, 256), "bfloat16", mesh, P("context")))
    assert aot.Program(compiled).collectives() == {
        "all-reduce": 1,
        "all-gather": 1,
        "collective-broadcast": 1,
    }


def test_collectives_inside_a_loop_are_found_there(mesh: Mesh) -> None:
    def f(x):
        loop = jax.lax.fori_loop(0, x[0, 0].astype(int), lambda _, y: jax.lax.psum(y, "context"), x)
        return jax.lax.all_gather(loop, "context", axis=0)

    compiled = aot.compile(
        shard_map(f, mesh, P("context"), P()), aot.abstract((64, 8), "float32", mesh, P("context"))
    )
    program = aot.Program(compiled)
    (body,) = program.while_bodies()
    assert program.collectives(body) == {"all-reduce": 1}
    assert program.collectives() == {"all-reduce": 1, "all-gather": 1}


def test_a_copy_made_on_purpose_is_found(mesh: Mesh) -> None:
    def transposes(x):
        return x.T

    def slices(x, i):
        return jax.lax.dynamic_slice_in_dim(x, i, 256)

    def converts(x):
        return x.astype(jnp.float32)

    x = aot.abstract((256, 256), "bfloat16", mesh)
    tall = aot.abstract((512, 256), "bfloat16", mesh)
    i = aot.abstract((), "int32", mesh)
    for f, args in ((transposes, (x,)), (slices, (tall, i)), (converts, (x,))):
        program = aot.Program(aot.compile(f, *args))
        assert program.moves(N), f.__name__
        assert not program.moves(2 * N), f.__name__


def test_a_scan_over_stacked_weights_copies_each_and_separate_ones_are_not(mesh: Mesh) -> None:
    """The reason why layers are a Python loop over per-layer arrays."""

    def scanned(x, stack):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

    def unrolled(x, *weights):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x

    D = 1024
    x = aot.abstract((16, D), "bfloat16", mesh)
    weights = [aot.abstract((D, D), "bfloat16", mesh)] * 4
    stack = aot.abstract((4, D, D), "bfloat16", mesh)
    assert aot.Program(aot.compile(scanned, x, stack)).moves(D * D)
    program = aot.Program(aot.compile(unrolled, x, *weights))
    assert not program.moves(D * D)
    assert not program.writes(D * D)


def test_an_update_of_a_donated_buffer_writes_only_the_update(mesh: Mesh) -> None:
    def update(cache, new, i):
        return jax.lax.dynamic_update_slice(cache, new, (i, 0))

    args = (
        aot.abstract((256, 256), "bfloat16", mesh),
        aot.abstract((1, 256), "bfloat16", mesh),
        aot.abstract((), "int32", mesh),
    )
    in_place = aot.Program(aot.compile(jax.jit(update, donate_argnums=0), *args))
    assert not in_place.writes(N)
    copied = aot.Program(aot.compile(update, *args))
    assert copied.moves(N)


def test_arithmetic_is_a_write_and_no_move(mesh: Mesh) -> None:
    x = aot.abstract((256, 256), "float32", mesh)
    program = aot.Program(aot.compile(lambda x: jnp.sin(x.T) + x, x))
    assert program.writes(N)
    assert not program.moves(N)
