"""What a device is, and the refusal of kernels on devices that cannot run them."""

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from star_jax.array_typing import Array


def capability(device: jax.Device) -> tuple[int, int] | None:
    """The compute capability of an NVIDIA GPU, present or compile-only; None of other devices."""
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def name(device: jax.Device) -> str:
    """For messages: `NVIDIA H200 (sm_90)`, or the platform."""
    found = capability(device)
    return f"{device.device_kind} (sm_{found[0]}{found[1]})" if found else device.platform


def only_on_cuda(x: Array, *, implementation: str) -> Array:
    """x itself; a program with it raises NotImplementedError when lowered for anything but CUDA.

    A kernel is traced before it is known for which devices. Without this, each kind of kernel
    fails in its own words, none of which name the implementation.
    """
    return _only_on_cuda_p.bind(x, implementation=implementation)


_only_on_cuda_p = Primitive("only_on_cuda")


@_only_on_cuda_p.def_abstract_eval
def _same(x: jax.core.ShapedArray, *, implementation: str) -> jax.core.ShapedArray:
    return x


@_only_on_cuda_p.def_impl
def _run(x: Array, *, implementation: str) -> Array:
    return _jitted(x, implementation=implementation)


_jitted = jax.jit(_only_on_cuda_p.bind, static_argnames="implementation")


def _keep(ctx: mlir.LoweringRuleContext, x: mlir.ir.Value, *, implementation: str) -> list:
    return [x]


def _refuse(ctx: mlir.LoweringRuleContext, x: mlir.ir.Value, *, implementation: str) -> list:
    platforms = "/".join(ctx.module_context.platforms)
    raise NotImplementedError(f"{implementation=} runs on NVIDIA GPUs; this is {platforms}")


mlir.register_lowering(_only_on_cuda_p, _refuse)
mlir.register_lowering(_only_on_cuda_p, _keep, platform="cuda")
