"""The Triton kernel over keys in 8 bits at every head dim, as it compiles for absent GPUs."""

import itertools

import pytest
from test_aot_compressed import SOME, check_kernel

from star_jax.attention.compressed import DTYPES
from star_jax.attention.triton import decode

RUNS = itertools.product(("a100", "l40s", "h200"), DTYPES, decode.FEW_IN_8_BITS, (1, 8, 64))


@pytest.mark.parametrize(
    ("kind", "small", "head_dim", "queries"), [run for run in RUNS if run not in SOME]
)
def test_the_kernel_compiles_without_spills(kind, small, head_dim, queries, tmp_path, capsys):
    check_kernel(kind, small, head_dim, queries, tmp_path, capsys)
