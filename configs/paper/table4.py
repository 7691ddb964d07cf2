"""Table 4 of the paper: what the content of an anchor is worth, and what its positions are.

    python -m star_jax.eval --config=configs/paper/table4.py
    python -m star_jax.eval --config=configs/paper/table4.py:smollm2

RULER's needles with blocks of L/4. Published means (arXiv 2411.17116) at 64K and 128K: exact 99.5
and 98.5; no anchor 60.1 and 73.8; the first block 97.6 and 97.5; at random positions 96.8 and 97.2;
at the previous block's 97.4 and 96.8; a constant token 0 and 0; random tokens 90.6 and 82.6;
shuffled 93.0 and 90.8; the previous block as anchor 94.2 and 96.1. Two rows are ours: a block drawn
at random, and the query before the first tokens, for which every question encodes its context anew.
Not run here yet at these lengths.

`:smollm2`, on JAX 0.12, took two hours on two CPU cores, beside other processes: exact 82,
the first block 61, at random positions 67, the previous block 67, shuffled 57, random tokens 45, a
constant token 27, no anchor 23.
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
            tasks=(
                "niah_single_1,niah_single_2,niah_single_3,niah_multikey_1,niah_multikey_2,"
                "niah_multikey_3,niah_multivalue,niah_multiquery"
            ),
            lengths="65536,131072",
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
            block_size="L/4",
            anchor_size="b,0",
            anchor_content=(
                "first,first@random,first@previous,constant,random,shuffled,previous@previous,"
                "earlier,query"
            ),
        ),
        mesh=mesh,
        data=data,
        generation=GenerationConfig(max_new_tokens=0 if where == "published" else 50),
        output_dir=f"results/paper/table4/{where}",
    )
