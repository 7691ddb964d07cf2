"""More processes than one: JAX's own service joins their devices, and watches over them.

Every process runs the same program on the same input, and holds its part of every array. What
only one can know, or do, is done by the first: it tells the others what it found.
"""

import faulthandler
import functools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from star_jax.json_files import shown
from star_jax.sizes import MOST, whole

T = TypeVar("T")

FOUND = "auto"  # the coordinator and the rest are what the cluster says
TIMEOUT = 100  # seconds
_GRACE = 30  # seconds that JAX waits longer than we do: it would abort with a stack trace
_TO_END = 1  # seconds: those who still read as the first ends would speak of a lost connection
_LOST = ("Gloo", "NCCL", "Connection", "Socket")  # words of errors for which another is to blame


def start(
    coordinator: str,
    *,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = TIMEOUT,
) -> None:
    """Joins the devices of several processes. Call it before anything uses JAX.

    Args:
      coordinator: HOST:PORT of process 0, where the others find it; or "auto": JAX finds all of
        these out from Slurm, Open MPI 4 or Kubernetes, one process a GPU.
      num_processes, process_id: how many there are, and which this is, from 0 on; None: found out.
      timeout: seconds that processes wait for each other to come, and after which one that gives
        no sign of life ends all the others.

    Raises:
      ValueError: the arguments contradict each other, or nothing can be found out.
    """
    timeout = whole("timeout", timeout)
    if num_processes is not None:
        num_processes = whole("num_processes", num_processes)
    if process_id is not None:
        most = MOST if num_processes is None else num_processes - 1
        process_id = whole("process_id", process_id, least=0, most=most)
    if coordinator != FOUND and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"{coordinator=} must be HOST:PORT of process 0, or {FOUND!r}")
    logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)  # it tells every step
    # Its service against preemption would keep SIGTERM from ending a run.
    jax.config.update("jax_enable_preemption_service", False)
    is_told = coordinator != FOUND and None not in (num_processes, process_id)
    join = functools.partial(
        jax.distributed.initialize,
        None if coordinator == FOUND else coordinator,
        num_processes,
        process_id,
        # A cluster's step would leave each process one GPU, whatever it has been told here.
        cluster_detection_method="deactivate" if is_told else None,
        initialization_timeout=timeout + _GRACE,
        heartbeat_timeout_seconds=timeout,
        shutdown_timeout_seconds=timeout,
    )
    try:
        _within(timeout, join, coordinator, num_processes)
    except (RuntimeError, ValueError) as e:
        if coordinator != FOUND:
            raise ValueError(f"{coordinator=}: {e}") from e
        clusters = "no Slurm, Open MPI 4 or Kubernetes says how processes meet"
        raise ValueError(f"{coordinator=}: {clusters}: {e}") from e
    faulthandler.disable()  # JAX aborts where a process is lost; stacks would bury what it says


def _within(
    timeout: int, join: Callable[[], None], coordinator: str, num_processes: int | None
) -> None:
    """Joins in a thread, so that signals end the wait; ends the process where it takes too long."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            join()
        except Exception as e:
            failed.append(e)

    thread, end = threading.Thread(target=run, daemon=True), time.monotonic() + timeout
    thread.start()
    while thread.is_alive() and time.monotonic() < end:
        thread.join(0.1)
    if thread.is_alive():
        many = "all" if num_processes is None else f"all {num_processes}"
        told = f"error: not {many} processes came to {coordinator} within {timeout} s\n"
        os.write(2, told.encode())
        os._exit(1)  # JAX cannot be asked to stop waiting
    if failed:
        raise failed[0]


def count() -> int:
    """How many processes there are; asking does not start JAX."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this is, from 0 on; asking does not start JAX."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes, locks and prints."""
    return index() == 0


def end(message: str) -> NoReturn:
    """Ends this process because something failed; the others notice, and end too.

    As Python ends on its own accord, JAX would first wait for the others.
    """
    if count() == 1:
        sys.exit(message)
    sys.stdout.flush()
    print(f"process {index()}: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def lost(error: Exception) -> str:
    """What an error says of a connection to another process; nothing if it is of this one."""
    text = " ".join(str(error).split())
    at = [text.rfind(word) for word in _LOST if word in text]
    return text[min(at) :] if at else ""


def of_first(make: Callable[[], T], mesh: Mesh) -> T:
    """What the first process of a mesh makes, on all of them; where there are several, as JSON.

    All processes of the mesh must call it at the same point. Where it raises, all end; the first
    says why.
    """
    here, first = jax.process_index(), mesh.devices.flat[0].process_index
    if {device.process_index for device in mesh.devices.flat} == {here}:
        return make()
    if here != first:
        said = json.loads(_shared(b"", mesh))
        if "made" not in said:
            os._exit(1)
        return said["made"]
    try:
        made = make()
    except BaseException:
        _shared(b"{}", mesh)
        time.sleep(_TO_END)
        raise
    return json.loads(_shared(json.dumps({"made": made}).encode(), mesh))["made"]


def check_same(what: Mapping[str, Any], mesh: Mesh) -> None:
    """Raises ValueError where a process does not find what the first does: another file, say."""
    mine = json.loads(json.dumps(what))
    first = of_first(lambda: mine, mesh)
    names = sorted(mine.keys() | first.keys())
    differ = [name for name in names if mine.get(name) != first.get(name)]
    if differ:
        told = "; ".join(
            f"{name} is {shown(mine.get(name))}, and {shown(first.get(name))} in process 0"
            for name in differ
        )
        raise ValueError(f"process {index()} is not given what the others are: {told}")


def _shared(text: bytes, mesh: Mesh) -> bytes:
    """The text of the process that has a mesh's first device, on all: two collectives."""
    size = int.from_bytes(_of_first_device(len(text).to_bytes(8, "little"), 8, mesh), "little")
    room = 1 << max(size - 1, 0).bit_length()  # few sizes, few programs
    return _of_first_device(text, room, mesh)[:size]


def _of_first_device(text: bytes, size: int, mesh: Mesh) -> bytes:
    """What is put on the first device, `size` bytes at most; the others add zeros to it."""
    mine = np.zeros((1, size), np.uint8)
    mine[0, : len(text)] = np.frombuffer(text, np.uint8)

    def row(index: tuple[slice, ...] | None) -> np.ndarray:
        return mine if not index or not index[0].start else np.zeros_like(mine)

    flat = Mesh(mesh.devices.reshape(-1), ("all",))
    rows = jax.make_array_from_callback((flat.size, size), NamedSharding(flat, P("all")), row)
    return np.asarray(_sum(flat)(rows)).tobytes()


@functools.cache
def _sum(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(
        lambda rows: jnp.sum(rows, axis=0, dtype=rows.dtype),
        out_shardings=NamedSharding(mesh, P()),
    )
