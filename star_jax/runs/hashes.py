"""What a result depends on, made small enough to be compared: hashes of files."""

import glob
import hashlib
import os

from star_jax import checkpoint

_PIECE = 2**16  # bytes
_MOST = 2**29  # bytes of weights that are read, in half a second where they are cached


def of_file(path: str) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_checkpoint(directory: str) -> str:
    """One SHA-256 over configuration, tokenizer and weights: all files that are read, by name.

    Weights of up to 512 MiB are read whole. Of more, 8192 pieces of 64 KiB count, evenly spread,
    and the size, beginning and end of each file: reading 140 GB would take longer than many a
    run. What changes all weights is seen, as training does, or any stretch of a file that is
    longer than the distance of two pieces (2 MiB in 16 GB); a shorter one may be missed. Links are
    followed.
    """
    directory = os.path.normpath(directory)
    digest = hashlib.sha256()
    for path in _small_files(directory):
        digest.update(_name(path, directory) + _whole(path))
    paths = checkpoint.weight_files(directory)
    stride = _PIECE * max(1, -(-sum(map(os.path.getsize, paths)) // _MOST))
    for path in paths:
        # An index, or a list of files, counts whole.
        content = _whole(path) if path.endswith(".json") else _sample(path, stride)
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


def _sample(path: str, stride: int) -> bytes:
    """A hash of a file's size, of a piece at each multiple of `stride`, and of its end."""
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb", buffering=0) as file:
        for start in [*range(0, size, stride), max(0, size - _PIECE)]:
            file.seek(start)
            digest.update(file.read(_PIECE))
    return digest.digest()
