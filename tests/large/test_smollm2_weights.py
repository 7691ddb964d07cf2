"""The language model's weights are those that `transformers` reads from the GGUF file."""

import chex
import torch
import transformers
from safetensors.numpy import load_file

from tools import smollm2


def test_weights_are_those_of_the_file() -> None:
    directory = smollm2.make()
    ours = load_file(directory / "model.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=smollm2.GGUF, dtype=torch.float32
    )
    theirs = model.state_dict()
    assert set(theirs) - set(ours) == {"lm_head.weight"}  # it is tied
    for name, values in ours.items():
        chex.assert_trees_all_equal(values, theirs[name].numpy())
