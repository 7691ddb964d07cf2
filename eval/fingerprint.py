"""What a result depends on, made small enough to be compared: hashes of files."""

import glob
import hashlib
import os

# By name: a run may well write JSON files of its own beside the checkpoint.
_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.safetensors",
    "*.safetensors.index.json",
)
_WEIGHTS = "weights"  # an Orbax checkpoint: of some files per tensor
_PIECES, _PIECE = 16, 2**20  # bytes, of a safetensors file
_ORBAX_PIECES, _ORBAX_PIECE = 2, 2**16


def of_file(path: str) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_checkpoint(directory: str) -> str:
    """One SHA-256 over configuration, tokenizer and weights.

    Of a weight file count its size and sixteen pieces of 1 MiB, evenly spread: reading 140 GB
    would take longer than many a run, and training changes weights everywhere. Of a converted
    checkpoint, whose files are many, two pieces of 64 KiB each, and their names.
    """
    digest = hashlib.sha256()
    for pattern in _FILES:
        for path in sorted(glob.glob(os.path.join(glob.escape(directory), pattern))):
            digest.update(os.path.basename(path).encode() + b"\0")
            is_weights = path.endswith(".safetensors")
            digest.update(_sample(path, _PIECES, _PIECE) if is_weights else _whole(path))
    for folder, folders, names in os.walk(os.path.join(directory, _WEIGHTS)):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            digest.update(os.path.relpath(path, directory).encode() + b"\0")
            digest.update(_sample(path, _ORBAX_PIECES, _ORBAX_PIECE))
    return digest.hexdigest()


def _whole(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _sample(path: str, pieces: int, piece: int) -> bytes:
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for i in range(pieces):
            file.seek(max(0, size - piece) * i // (pieces - 1))
            digest.update(file.read(piece))
    return digest.digest()
