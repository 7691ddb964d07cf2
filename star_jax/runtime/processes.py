"""More processes than one: JAX's own service joins their devices, and watches over them.

Every process runs the same program on the same input, and holds its part of every array. What
only one can know, or do, is done by the first: it tells the others what it found.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from star_jax.json_files import shown
from star_jax.sizes import MOST, whole

T = TypeVar("T")

FOUND = "auto"  # the coordinator and the rest are what Slurm, MPI or Kubernetes say
TIMEOUT = 100  # seconds
_GRACE = 30  # seconds that JAX waits longer than we do: it would abort with a stack trace


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
        these out from Slurm, Open MPI, mpi4py or Kubernetes.
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
    late = threading.Timer(timeout, _late, (coordinator, num_processes, timeout))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            None if coordinator == FOUND else coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout + _GRACE,
            heartbeat_timeout_seconds=timeout,
            shutdown_timeout_seconds=timeout,
        )
    except (RuntimeError, ValueError) as e:
        raise ValueError(f"{coordinator=}: {e}") from e
    finally:
        late.cancel()


def _late(coordinator: str, num_processes: int | None, timeout: int) -> None:
    many = "all" if num_processes is None else f"all {num_processes}"
    told = f"error: not {many} processes came to {coordinator} within {timeout} s\n"
    os.write(2, told.encode())
    os._exit(1)


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


def of_first(make: Callable[[], T]) -> T:
    """What the first process makes, on all of them. It goes through JSON where there are several.

    All processes must call it at the same point. Where it raises, all end; the first says why.
    """
    if count() == 1:
        return make()
    if not is_first():
        said = json.loads(_shared(b""))
        if "made" not in said:
            os._exit(1)
        return said["made"]
    try:
        made = make()
    except BaseException:
        _shared(b"{}")
        raise
    return json.loads(_shared(json.dumps({"made": made}).encode()))["made"]


def check_same(what: Mapping[str, Any]) -> None:
    """Raises ValueError where a process does not find what the first does: another file, say."""
    mine = json.loads(json.dumps(what))
    first = of_first(lambda: mine)
    names = sorted(mine.keys() | first.keys())
    differ = [name for name in names if mine.get(name) != first.get(name)]
    if differ:
        told = "; ".join(
            f"{name} is {shown(mine.get(name))}, and {shown(first.get(name))} in process 0"
            for name in differ
        )
        raise ValueError(f"process {index()} is not given what the others are: {told}")


def _shared(text: bytes) -> bytes:
    """The first process's text, on all: two collectives over all devices."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    buffer = np.zeros(1 << max(size - 1, 0).bit_length(), np.uint8)  # few sizes, few programs
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8)[:size].tobytes()
