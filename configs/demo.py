"""The model that ships, on RULER's needle tasks, on eight simulated devices.

    python -m star_jax.eval --config=configs/demo.py

Shows what Star Attention keeps of dense attention's scores with four and with eight blocks, with
the anchor and without it: needles inside one block are found as before, all but a few, and what
is lost are needles that a block edge cuts. Uuids (multikey_3) are what the model has learnt least.
Took 3.5 minutes on two CPU cores, a fifth of it compiling.
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
        model=ModelConfig(path="checkpoints/needle", dtype="float32"),
        attention=AttentionConfig(kind="dense,star", block_size="L/4,L/8", anchor_size="b,0"),
        mesh=MeshConfig(data=2, context=4, cpu_devices=8),
        data=DataConfig(
            suite="ruler",
            tasks="niah_single_1,niah_multikey_2,niah_multikey_3",
            lengths="512,1024,2048",
            num_samples=32,
            batch_size=8,
            keys="checkpoints/needle/keys.txt",
        ),
        generation=GenerationConfig(max_new_tokens=20),
        output_dir="results/demo",
    )
