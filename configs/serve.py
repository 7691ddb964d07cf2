"""A server of any model by the OpenAI protocol, with Star Attention or exact.

    python -m star_jax.serve --config=configs/serve.py --config.model.path=DIR

On several devices also --config.mesh.context=8. A prompt of up to a block is encoded exactly.
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
        attention=AttentionConfig(kind="star", block_size="4096", anchor_size="b"),
        mesh=MeshConfig(),
        data=DataConfig(),  # of evaluations
        generation=GenerationConfig(),  # requests say it
        output_dir="",
    )
