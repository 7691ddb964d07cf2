"""Llama-3.1-8B-Instruct on RULER's needle tasks, with the paper's blocks, on eight GPUs.

    python -m star_jax.eval --config=configs/llama31_8b_ruler.py

The paper (arXiv 2411.17116), 500 samples, block = anchor = L/4, in points of 100:

                        16K     32K     64K    128K
    single_1    dense  100.0   100.0   100.0   100.0
                star   100.0   100.0   100.0   100.0
    multikey_2  dense  100.0    99.8    99.2    87.2
                star    98.8    99.4    98.0    84.8

Not run here yet. At the paper's seconds per sample on eight A100s (exact ring attention 10, 12,
22 and 53; star 9, 10, 12 and 20) all of it would take 41 hours, and with
--config.data.num_samples=100 a fifth of that. More samples can be added to a run later.
"""

from star_jax.eval.config import (
    AttentionConfig,
    DataConfig,
    EvalConfig,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
)


def get_config() -> EvalConfig:
    return EvalConfig(
        model=ModelConfig(path="meta-llama/Llama-3.1-8B-Instruct", dtype="bfloat16"),
        attention=AttentionConfig(kind="dense,star", block_size="L/4", anchor_size="b"),
        mesh=MeshConfig(context=8),
        data=DataConfig(
            suite="ruler",
            tasks="niah_single_1,niah_multikey_2",
            lengths="16384,32768,65536,131072",
            num_samples=500,
            template="llama3",
        ),
        generation=GenerationConfig(),
        output_dir="results/llama31_8b_ruler",
    )
