"""Checks and times attention on one GPU: our kernels, cuDNN, XLA and PyTorch, side by side.

    python -m benchmarks.attention --out=benchmarks/results/attention_h200.json

For the heads of Llama 8B and 70B: causal, full, and anchor + local attention, in TFLOP/s, and
decoding, as a share of the bandwidth at which the machine copies. Every program is checked
against the float32 reference, on fresh inputs, before it is timed; if one is wrong, the run
fails and leaves no results. benchmarks/README.md says what exactly is compared.
"""

from collections.abc import Sequence

from absl import flags

import star_jax
from benchmarks import attention_table, machine, measure, options, oracle
from benchmarks.problems import HEADS, problems
from star_jax.runs import cli

_LENGTHS = flags.DEFINE_list("lengths", ["2048", "8192", "32768"], "Of prefill.")
_KEYS = flags.DEFINE_list("keys", ["8192", "32768", "131072", "1048576"], "Of decoding.")
_HEAD_DIMS = flags.DEFINE_list("head_dims", ["128", "64"], "Of both.")
_MODELS = flags.DEFINE_multi_enum("models", ["8B", "70B"], list(HEADS), "Whose heads.")
_OUT = flags.DEFINE_string("out", None, "A JSON file for the results.")


def main(argv: Sequence[str]) -> None:
    del argv
    machine.share_memory()
    out = options.out_path(_OUT.value)
    lengths, keys, head_dims = (
        options.integers(f.name, f.value) for f in (_LENGTHS, _KEYS, _HEAD_DIMS)
    )
    asked = problems(lengths, keys, head_dims, _MODELS.value)
    records = measure.run(asked, star_jax.make_mesh())
    record = options.last_written(records, out, void=oracle.Wrong)
    print(attention_table.of(record))


if __name__ == "__main__":
    cli.run(main)
