"""Every test runs on eight simulated CPU devices, set here before anything uses JAX."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

# Also as many threads of XLA's: Pallas's GPU interpreter runs each warpgroup in one, and with
# fewer of them they would wait for each other forever.
DEVICES = 8
MOSAIC = (0, 11)  # the first JAX that has what the Hopper kernels use

# Read when JAX starts. The platform also keeps the compile-only CUDA plugin from looking for
# a GPU. XLA aborts the process when a simulated device waits 40 s for the others at a
# collective, which few cores may need. Most of a run is compiling: LLVM's level 0 takes a third
# less of it, and XLA's own passes are the same.
os.environ["JAX_PLATFORMS"] = "cpu"
XLA_FLAGS = ["--xla_cpu_collective_call_terminate_timeout_seconds=1200"]
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Where each operation was traced costs 3% of a run, and nobody reads it.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# What one process of the run compiles serves its other processes, and the commands that tests
# start: half of the programs are met more than once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="star_jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# PyTorch's threads wait for each other busily, on cores that other processes of the run need.
os.environ["OMP_NUM_THREADS"] = "1"
# No test may reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"

# A run in the background of a shell ignores these, and so would the commands that tests end.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import chex  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

if jax.version.__version_info__[:2] < MOSAIC:
    # The older emitters of fusions, in one piece of code, compile in a quarter less time. A
    # library's matrix products are built anew for each program: without it a run takes 5% less.
    XLA_FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    XLA_FLAGS += ["--xla_cpu_experimental_ynn_fusion_type="]
os.environ["XLA_FLAGS"] = " ".join(XLA_FLAGS)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", DEVICES)


# On an older JAX these run in an environment of their own: `make test-mosaic`.
collect_ignore = [] if jax.version.__version_info__[:2] >= MOSAIC else ["mosaic", "large/mosaic"]


@pytest.fixture(scope="module", autouse=True)
def _programs_go_with_their_module() -> Iterator[None]:
    """Those of all modules took 8 GB at the end; what two of them share is read from files."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _compiled_as_for_users(request: pytest.FixtureRequest) -> None:
    """What is compiled for GPUs, and what runs for an hour, is optimized as it is for users."""
    for_users = {"aot", "Kernels"} & vars(request.module).keys() or "large" in request.path.parts
    jax.config.update("jax_disable_most_optimizations", not for_users)
    # What is compiled for a GPU that is not there can be kept, and not be read again.
    seconds = float("inf") if for_users else 0.0
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fails the run, rather than skipping tests, if the devices are not there."""
    del session
    chex.assert_devices_available(DEVICES, "cpu")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What tests import stays: to look for garbage in it took 0.6 s, once a module and more."""
    del session
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says loudly, at the end of the run, what could not be tested on this machine."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {report.longrepr[2].removeprefix("Skipped: ") for report in skipped}
    for reason in sorted(r for r in reasons if r.startswith("NOT TESTED")):
        terminalreporter.write_sep("*", red=True)
        terminalreporter.write_line(reason, red=True)
        terminalreporter.write_sep("*", red=True)
