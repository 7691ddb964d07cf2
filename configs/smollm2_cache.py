"""How likely SmolLM2-135M-Instruct finds prose after contexts that are kept in 8 bits.

    python -m tools.smollm2
    python -m tools.prose_documents --output=results/prose.jsonl --length=2048
    python -m star_jax.eval --config=configs/smollm2_cache.py

It is 20 times 1000 tokens, each after a context of 2048; some ten minutes a row on two cores, and
as much once to compile. Perplexity: 18.06 with the plain cache, 18.05 with int8, 18.06 with fp8.
`benchmarks.fewer_keys` asks for needles.
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


def get_config() -> EvalConfig:
    return EvalConfig(
        model=ModelConfig(path="checkpoints/smollm2", dtype="bfloat16"),
        attention=AttentionConfig(kind="star", block_size="L/4", anchor_size="b"),
        mesh=MeshConfig(),
        data=DataConfig(suite="jsonl", path="results/prose.jsonl", metric="perplexity"),
        generation=GenerationConfig(),
        output_dir="results/smollm2_cache",
        cache=CacheConfig(dtype="model,int8,fp8"),
    )
