"""Networks as they are described: by name (`networks.toml`) or in a TOML file of one's own, checked key by key.

A description knows no number of nodes; `over(n)` makes the links of n nodes of it, for `clock.py`.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gradflow.network.clock import Links

SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0}
BITS = {"": 1.0, "bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9, "Tbit": 1e12, "B": 8.0, "kB": 8e3, "MB": 8e6, "GB": 8e9}
LARGEST = 1 << 20


class BadNetwork(Exception):
    """A network that cannot be used; `str(error)` is the sentence that a user sees, and names the key."""


def _quantity(units: Mapping[str, float], what: str, example: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*)(?:/s|ps)?\s*", value) if isinstance(value, str) else None
    if found is None or found[2] not in units or not re.search("[0-9]", found[1]) or found[1].count(".") > 1:
        raise ValueError(f'must be {what}, a number or a text like "{example}", not {json.dumps(value, default=str)}')
    return float(found[1]) * units[found[2]]


def _seconds(value: Any) -> float:
    found = _quantity(SECONDS, "a time", "20ms", value)
    if not 0 <= found < math.inf:
        raise ValueError(f"must be 0 seconds or more, not {value}")
    return found


def _rate(value: Any) -> float:
    """In bytes a second."""
    found = _quantity(BITS, "a bandwidth", "100Mbit", value)
    if not 0 < found < math.inf:
        raise ValueError(f"must be above 0 bits a second, not {value}")
    return found / 8


def _work(value: Any) -> Any:
    return tuple(map(_seconds, value)) if isinstance(value, list | tuple) else _seconds(value)


def _names(value: Any) -> Any:
    return {str(key): one for key, one in value.items()} if isinstance(value, Mapping) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
Rate = Annotated[float, BeforeValidator(_rate)]
Work = Annotated[float | tuple[float, ...], BeforeValidator(_work)]
STRICT = ConfigDict(extra="forbid", frozen=True)


class LinkDescription(BaseModel):
    model_config = STRICT
    latency: Seconds | None = None
    bandwidth: Rate | None = None


class NodeDescription(BaseModel):
    model_config = STRICT
    upload: Rate | None = None
    download: Rate | None = None
    compute: Seconds | None = None
    gradient: Seconds | None = None


class Description(BaseModel):
    """Times in seconds, rates in bytes a second; the keys are explained in `networks.toml`."""

    model_config = STRICT
    name: str = ""
    title: str = ""
    latency: Seconds
    bandwidth: Rate
    upload: Rate | None = None
    download: Rate | None = None
    compute: Work = 0.0
    gradient: Work = 0.0
    links: Annotated[dict[str, LinkDescription], BeforeValidator(_names)] = Field(default_factory=dict)
    nodes: Annotated[dict[str, NodeDescription], BeforeValidator(_names)] = Field(default_factory=dict)

    def text(self) -> str:
        """One line from which `read` makes the same description: what a run keeps of its network."""
        return json.dumps({"name": self.name, **_plain(self)}, separators=(",", ":"), ensure_ascii=False)

    def over(self, n: int) -> Links:
        """The links of n nodes. Raises BadNetwork where the description speaks of others."""
        import numpy

        def by_node(key: str, value: float | tuple[float, ...] | None) -> Any:
            if isinstance(value, tuple) and len(value) != n:
                raise BadNetwork(f"the network `{self.name}`: `{key}` has {len(value)} entries, and there are {n} nodes")
            return numpy.full(n, math.inf) if value is None else numpy.broadcast_to(numpy.array(value, dtype=float), (n,)).copy()

        latency, bandwidth = numpy.full((n, n), self.latency), numpy.full((n, n), self.bandwidth)
        own = {key: by_node(key, getattr(self, key)) for key in ("upload", "download", "compute", "gradient")}
        for key, link in self.links.items():
            for i, j in self._ways(key, n):
                latency[j, i] = latency[j, i] if link.latency is None else link.latency
                bandwidth[j, i] = bandwidth[j, i] if link.bandwidth is None else link.bandwidth
        for key, node in self.nodes.items():
            if not key.isdecimal() or int(key) >= n:
                raise BadNetwork(f"the network `{self.name}`: `nodes.{key}` is no node; there are {n}, numbered from 0")
            for name, values in own.items():
                if getattr(node, name) is not None:
                    values[int(key)] = getattr(node, name)
        return Links(latency, bandwidth, own["upload"], own["download"], own["compute"], own["gradient"])

    def _ways(self, key: str, n: int) -> list[tuple[int, int]]:
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*([->])\s*([0-9]{1,9})\s*", key)
        if found is None or int(found[1]) == int(found[3]):
            raise BadNetwork(f'the network `{self.name}`: `links."{key}"` is no pair of nodes, like "2-5" (both ways) or "2>5" (from 2 to 5)')
        i, j = int(found[1]), int(found[3])
        if max(i, j) >= n:
            raise BadNetwork(f'the network `{self.name}`: `links."{key}"` names the node {max(i, j)}, and there are {n}, numbered from 0')
        return [(i, j)] if found[2] == ">" else [(i, j), (j, i)]


def _plain(one: Description) -> dict[str, Any]:
    """As a file would say it: seconds, and bits a second."""

    def bits(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: x * 8 if k in ("bandwidth", "upload", "download") and isinstance(x, float) else bits(x) for k, x in value.items()}
        return value

    found: dict[str, Any] = bits(one.model_dump(mode="json", exclude_defaults=True, exclude={"name"}))
    return found


# ---- reading


def named() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("networks.toml").read_text(encoding="utf-8"))


def network_of(reference: str) -> Description:
    """By name, the path of a TOML file, or what `text` wrote. Raises BadNetwork."""
    if reference.startswith("{"):
        return read(reference)
    if reference.endswith(".toml") or Path(reference).is_file():
        try:
            if Path(reference).stat().st_size > LARGEST:
                raise BadNetwork(f"the network `{reference}` cannot be read: it is larger than {LARGEST >> 20} MiB")
            table = tomllib.loads(Path(reference).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadNetwork(f"the network `{reference}` cannot be read: {error}") from None
        return described(Path(reference).stem, table)
    tables = named()
    if reference not in tables:
        raise BadNetwork(f"there is no network `{reference}`; there are {', '.join(tables)}, and any .toml file that describes one")
    return described(reference, tables[reference])


def read(text: str) -> Description:
    """What `Description.text` wrote. Raises BadNetwork."""
    try:
        table = json.loads(text)
        return described(str(table.pop("name", "")), table)
    except (ValueError, AttributeError) as error:
        raise BadNetwork(f"a network that was kept cannot be read: {error}") from None


def described(name: str, table: Mapping[str, Any]) -> Description:
    """Raises BadNetwork for what is missing, unknown or no such quantity; the sentence names the key."""
    try:
        return Description(**{**table, "name": name})
    except ValidationError as error:
        raise BadNetwork(f"the network `{name}`: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and part.startswith(("function-", "tuple[", "float"))))
    if first["type"] == "extra_forbidden":
        owners: dict[str, type[BaseModel]] = {"links": LinkDescription, "nodes": NodeDescription}
        owner = owners.get(str(first["loc"][0]) if len(first["loc"]) > 1 else "", Description)
        known = [name for name in owner.model_fields if name != "name"]
        return f"there is no key `{key}`; keys here are {', '.join(known)}"
    if first["type"] == "missing":
        return f"the key `{key}` is missing"
    said = first["msg"].removeprefix("Value error, ")
    return f"`{key}` {said}" if first["type"] == "value_error" else f"`{key}`: {said[:1].lower()}{said[1:]}"


__all__ = ["BadNetwork", "Description", "described", "named", "network_of", "read"]
