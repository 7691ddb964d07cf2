"""SmolLM2-135M-Instruct with its contexts in 8 bits: needles, and how likely prose goes on.

    python -m tools.smollm2
    python -m star_jax.eval --config=configs/smollm2_cache.py
    python -m tools.prose_documents --output=results/prose.jsonl --length=2048
    python -m star_jax.eval --config=configs/smollm2_cache.py:prose

Needles are 200 questions; of prose it is 20 times 1000 tokens, each after a context of 2048.
"""

from star_jax.eval.config import (
    AttentionConfig,
    CacheConfig,
    DataConfig,
    EvalConfig,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
)

DATA = {
    "needles": DataConfig(
        suite="ruler", tasks="niah_single_1", lengths="2048", num_samples=200, template="chat"
    ),
    "prose": DataConfig(suite="jsonl", path="results/prose.jsonl", metric="perplexity"),
}


def get_config(what: str = "needles") -> EvalConfig:
    if what not in DATA:
        raise ValueError(f"{what=} is none of {', '.join(DATA)}")
    return EvalConfig(
        model=ModelConfig(path="checkpoints/smollm2", dtype="bfloat16"),
        attention=AttentionConfig(kind="dense,star", block_size="L/4", anchor_size="b"),
        mesh=MeshConfig(),
        data=DATA[what],
        generation=GenerationConfig(max_new_tokens=12),
        output_dir="results/smollm2_cache" + "_prose" * (what == "prose"),
        cache=CacheConfig(dtype="model,int8,fp8"),
    )
