"""Table 1 of the paper: RULER by Star Attention with blocks of L/4, beside exact attention.

    python -m star_jax.prepare --download=ruler --sources=data/ruler
    python -m star_jax.eval --config=configs/paper/table1.py
    python -m star_jax.eval --config=configs/paper/table1.py:smollm2
    python -m star_jax.report results/paper/table1/published

All 13 tasks for Llama-3.1-8B-Instruct on eight GPUs; `--config.model.path` takes another model, and
Table 5's are in table5.py. Means that NVIDIA published (arXiv 2411.17116), exact and star: 92.2 and
91.3 at 16K, 87.5 and 88.7 at 32K, 84.8 and 83.4 at 64K, 76.3 and 74.4 at 128K. Not run here yet.
`:smollm2` asks the real model that the tests use, at its own scale, in 77 minutes of a busy CPU
core: needles among keys 82 and 61 at 1024 tokens, 66 and 53 at 2048; words 43 and 45, 39 and 39.
"""

from star_jax.eval.config import (
    AttentionConfig,
    DataConfig,
    EvalConfig,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
)

# The model, the questions, and the mesh: as the paper had them, and what two CPU cores can do.
WHERE = {
    "published": (
        ModelConfig(path="meta-llama/Llama-3.1-8B-Instruct", dtype="bfloat16"),
        DataConfig(
            tasks="",
            lengths="16384,32768,65536,131072",
            num_samples=500,
            template="llama3",
            compat="star",
            sources="data/ruler",
        ),
        MeshConfig(context=8),
    ),
    "smollm2": (
        ModelConfig(path="checkpoints/smollm2", dtype="bfloat16"),
        DataConfig(
            tasks="niah_multikey_1,fwe",
            lengths="1024,2048",
            num_samples=100,
            batch_size=10,
            template="chat",
            haystack="substitute",
        ),
        MeshConfig(),
    ),
}


def get_config(where: str = "published") -> EvalConfig:
    if where not in WHERE:
        raise ValueError(f"{where=} is none of {', '.join(WHERE)}")
    model, data, mesh = WHERE[where]
    exact = "ring" if where == "published" else "dense"
    return EvalConfig(
        model=model,
        attention=AttentionConfig(kind=f"{exact},star", block_size="L/4", anchor_size="b"),
        mesh=mesh,
        data=data,
        generation=GenerationConfig(max_new_tokens=0 if where == "published" else 50),
        output_dir=f"results/paper/table1/{where}",
    )
