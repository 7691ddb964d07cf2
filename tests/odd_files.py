"""What may stand where a file is looked for, and is none."""

import os
import pathlib
from collections.abc import Callable

ODD: dict[str, Callable[[pathlib.Path], None]] = {
    "directory": pathlib.Path.mkdir,
    "pipe": os.mkfifo,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
}
