"""Figure 5 of the paper: what larger blocks and larger anchors are worth.

    python -m star_jax.eval --config=configs/paper/figure5.py
    python -m star_jax.eval --config=configs/paper/figure5.py:smollm2
    python -m star_jax.report results/paper/figure5/smollm2

RULER at 128K: blocks of 4K to 32K, with anchors of b/8 to b. The paper varies blocks with anchors
as large, and anchors for blocks of 32K; it prints no numbers, and finds both to help, best where
the anchor is as large as the block. Not run here yet at this length. `:smollm2` has blocks of L/16
to L/4 at 1024 tokens. On JAX 0.12 it took an hour on two busy CPU cores: exact 82, blocks of L/4 63
to 44 (anchors b to b/8), of L/8 46 to 29, of L/16 37 to 24.
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
            lengths="131072",
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
            tasks="niah_multikey_1",
            lengths="1024",
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
        attention=AttentionConfig(
            kind=f"{exact},star",
            block_size="L/4,L/8,L/16,L/32" if where == "published" else "L/4,L/8,L/16",
            anchor_size="b,b/2,b/4,b/8",
        ),
        mesh=mesh,
        data=data,
        generation=GenerationConfig(max_new_tokens=0 if where == "published" else 50),
        output_dir=f"results/paper/figure5/{where}",
    )
