"""Reads a GGUF file: its metadata and its tensors, dequantized by the package `gguf` one by one. The package's own reader spends three
seconds on the vocabulary alone, because it makes an array of every word; here the header is walked once with `struct`.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 2 and 3, little endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


@dataclass
class Cursor:
    data: mmap.mmap
    at: int = 0

    def unpack(self, code: str, count: int = 1) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{count}{code}")
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def scalar(self, code: str) -> Any:
        return self.unpack(code)[0]

    def text(self) -> str:
        size = self.scalar("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.scalar(SCALARS[kind])
        item, count = self.unpack("I")[0], self.scalar("Q")
        return list(self.unpack(SCALARS[item], count)) if item in SCALARS else [self.value(item) for _ in range(count)]


class GGUFFile:
    """`metadata` by key; `tensors`: name -> (shape as torch writes it, kind of quantization, offset); `tensor(name)`: float32 array."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            cursor = Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        magic, version = cursor.unpack("I", 2)
        if magic != int.from_bytes(b"GGUF", "little") or version not in (2, 3):
            raise ValueError(f"{path} is not a GGUF file of version 2 or 3")
        tensor_count, key_count = cursor.unpack("Q", 2)
        self.metadata = {cursor.text(): cursor.value(cursor.scalar("I")) for _ in range(key_count)}
        self.tensors: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensor_count):
            name = cursor.text()
            shape = cursor.unpack("Q", cursor.scalar("I"))[::-1]  # fastest axis first in the file
            self.tensors[name] = (shape, cursor.scalar("I"), cursor.scalar("Q"))
        alignment = self.metadata.get("general.alignment", 32)
        self._start = -(-cursor.at // alignment) * alignment
        self._data = cursor.data

    def tensor(self, name: str) -> Any:
        import numpy
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        shape, kind, offset = self.tensors[name]
        quantization = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[quantization]
        row_bytes = shape[-1] // block * size
        rows = 1
        for n in shape[:-1]:
            rows *= n
        raw = numpy.frombuffer(self._data, numpy.uint8, rows * row_bytes, self._start + offset).reshape(rows, row_bytes)
        values = dequantize(raw, quantization).reshape(shape)
        return values if values.flags.writeable else values.copy()  # plain floats come back as a view of the file
