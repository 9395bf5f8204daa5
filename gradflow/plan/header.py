"""How a compiled artifact begins, and the one error of reading and writing it. Importing this costs nothing.

    magic        b"GFLOWPLAN\\n"
    version      2 bytes, the format version
    length       8 bytes, of the payload
    hash         32 bytes, SHA-256 of the payload

All numbers are big-endian. Bumping `FORMAT` is a decision: an older artifact is read or refused with a sentence.
"""

from __future__ import annotations

import struct
from pathlib import Path

FORMAT = 2
MAGIC = b"GFLOWPLAN\n"
HEADER = struct.Struct(">HQ32s")


class ArtifactError(Exception):
    """An artifact cannot be written or read; `str(error)` is the sentence that a user sees: which file, and what is wrong with it."""


def is_artifact(path: Path) -> bool:
    """Whether a file begins like an artifact."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
