"""Some samples of a record, as a micro-batch has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

WITHOUT_SAMPLES = ("prompt_id", "tokens_per_second")  # the fields of a record that have no axis `sample`


def take_rows(samples: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """By a slice, a mask or indices along `sample`; fields without that axis stay as they are."""
    index = torch.arange(len(samples["text"]), device=samples["mask"].device)[rows]
    taken = {name: value if name in WITHOUT_SAMPLES or name == "text" else value[index] for name, value in samples.items()}
    return taken | {"text": [samples["text"][row] for row in index.tolist()]}
