"""A dialogue about a document, or questions from a script: any model, Star Attention or exact.

    python -m star_jax.chat --config=configs/chat.py --config.model.path=DIR --context=book.txt

On several devices also --config.mesh.context=8; L is the length of the document.
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
        model=ModelConfig(),
        attention=AttentionConfig(kind="star", block_size="L/4", anchor_size="b"),
        mesh=MeshConfig(),
        data=DataConfig(),  # of evaluations
        generation=GenerationConfig(max_new_tokens=512),
        output_dir="",
    )
