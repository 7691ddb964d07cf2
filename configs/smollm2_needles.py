"""SmolLM2-135M-Instruct on needles in noise and in prose: what the anchor is worth.

    python -m tools.smollm2
    for n in 1024 2048 4096 8192; do
        python -m star_jax.eval --config=configs/smollm2_needles.py --config.data.lengths=$n \\
            --config.output_dir=results/smollm2_needles/noise/$n
        python -m tools.prose_needles --output=results/smollm2_prose/$n/prose.jsonl \\
            --length=$n --num_samples=100 --asked=4
        python -m star_jax.eval --config=configs/smollm2_needles.py:prose \\
            --config.data.lengths=$n --config.output_dir=results/smollm2_needles/prose/$n
    done

Scores: `benchmarks/results/smollm2_needles.csv`, the runs' `summary.csv` one after the other.
Noise, in float32: 20 questions up to 2048, 10 at 4096, 5 at 8192 (`--config.data.num_samples=5`);
those from 2048 on took 76 minutes of two CPU cores, beside other work. Prose, on JAX 0.12: 100
questions, four of each text, in an hour of one core up to 4096, and in 70 minutes of a busy one at
8192.
niah_multikey_2 is not asked: at 1024 tokens the model finds none of four by exact attention.
"""

from star_jax.eval.config import (
    AttentionConfig,
    DataConfig,
    EvalConfig,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
)

DATA = {
    "noise": DataConfig(suite="ruler", tasks="niah_single_1", lengths="1024,2048,4096,8192"),
    "prose": DataConfig(
        suite="jsonl",
        path="results/smollm2_prose/{length}/prose.jsonl",
        lengths="1024,2048,4096,8192",
    ),
}


def get_config(haystack: str = "noise") -> EvalConfig:
    if haystack not in DATA:
        raise ValueError(f"{haystack=} is none of {', '.join(DATA)}")
    data = DATA[haystack]
    data.template = "chat"
    if haystack == "noise":
        dtype, kinds, data.num_samples, data.batch_size = "float32", "dense,star", 20, 5
    else:
        dtype, kinds, data.num_samples, data.batch_size = "bfloat16", "dense,star,streaming", 100, 4
    return EvalConfig(
        model=ModelConfig(path="checkpoints/smollm2", dtype=dtype),
        attention=AttentionConfig(
            kind=kinds, block_size="L/4", anchor_size="b,0", sinks="16", window="L/4"
        ),
        mesh=MeshConfig(),
        data=data,
        generation=GenerationConfig(max_new_tokens=12),
        output_dir={"noise": "results/smollm2_needles", "prose": "results/smollm2_prose"}[haystack],
    )
