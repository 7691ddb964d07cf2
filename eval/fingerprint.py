"""What a result depends on, made small enough to be compared: hashes of files."""

import glob
import hashlib
import os

from star_jax import checkpoint

_PIECES, _PIECE = 16, 2**20  # bytes, of a safetensors file
_ORBAX_PIECES, _ORBAX_PIECE = 2, 2**16


def of_file(path: str) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_checkpoint(directory: str) -> str:
    """One SHA-256 over configuration, tokenizer and weights: all files that are read, by name.

    Of a weight file count its size and sixteen pieces of 1 MiB, evenly spread: reading 140 GB
    would take longer than many a run, and training changes weights everywhere. Of a converted
    checkpoint, whose files are many, two pieces of 64 KiB each. Links are followed.
    """
    directory = os.path.normpath(directory)
    digest = hashlib.sha256()
    for path in _small_files(directory):
        digest.update(_name(path, directory) + _whole(path))
    for path in checkpoint.weight_files(directory):
        if path.endswith(".json"):  # an index, or a list of files
            content = _whole(path)
        elif os.path.dirname(path) == directory:
            content = _sample(path, _PIECES, _PIECE)
        else:
            content = _sample(path, _ORBAX_PIECES, _ORBAX_PIECE)
        digest.update(_name(path, directory) + content)
    return digest.hexdigest()


def _small_files(directory: str) -> list[str]:
    """Configuration and tokenizer, without what a run may have written beside them."""
    patterns = [os.path.join(glob.escape(directory), name) for name in checkpoint.SMALL_FILES]
    return [p for pattern in patterns for p in sorted(glob.glob(pattern)) if os.path.isfile(p)]


def _name(path: str, directory: str) -> bytes:
    return os.fsencode(os.path.relpath(path, directory)) + b"\0"


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
