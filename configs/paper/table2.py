"""Table 2 of the paper: RULER by other ways to save attention, on the same model.

    python -m star_jax.eval --config=configs/paper/table2.py
    python -m star_jax.eval --config=configs/paper/table2.py:smollm2

StreamingLLM, with 1000 sinks and a window of 8000, beside star and exact attention. Its published
means (arXiv 2411.17116) are 74.8, 48.6, 26.2 and 30.8 at 16K to 128K, star's 91.3, 88.7, 83.4 and
74.4. MInference is not here. Not run here yet at these lengths. `:smollm2` has 16 sinks and a
window of L/4. On JAX 0.12 it took half an hour on two busy CPU cores: needles among keys 82
exactly, 63 by star, 10 by StreamingLLM; frequent words 43, 47 and 20.
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
            kind=f"{exact},star,streaming",
            block_size="L/4",
            anchor_size="b",
            sinks="1000" if where == "published" else "16",
            window="8000" if where == "published" else "L/4",
        ),
        mesh=mesh,
        data=data,
        generation=GenerationConfig(max_new_tokens=0 if where == "published" else 50),
        output_dir=f"results/paper/table2/{where}",
    )
