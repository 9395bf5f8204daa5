"""Text for calls of models: forward passes, and their transposes on the same tape.

Nodes that ask for different outputs of one call share it; options that only add outputs (`ADDING`) are united, so that a loss that reads two
fields of a score still costs one forward pass. The forward call says what will be asked backward (`tape`), the last backward call says that
the tape may go (`last`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradflow.backends.torch.emit import Writer, permuted
from gradflow.graph.graph import Node

CALL = "call"
ADDING = {"entropy"}  # options that add an output and change no other

Key = tuple[Any, ...]


def call_key(node: Node) -> Key:
    """What two nodes share that belong to one forward call."""
    fields = node["fields"]
    options = tuple((k, repr(v)) for k, v in node.get("options", ()) if k not in ADDING)
    return node["model"], node["method"], fields, tuple(b.id for b in node.inputs[: 1 + len(fields)]), options


@dataclass
class ModelCalls:
    """What is known about the calls of one region. `outputs`: how many axes each model's call adds, by name."""

    runners: Mapping[str, Any]
    options: dict[Key, dict[str, Any]] = field(default_factory=dict)
    tape: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    layouts: dict[tuple[Key, str], tuple[str, ...]] = field(default_factory=dict)

    def key(self, node: Node) -> Key:
        return call_key(node)

    def collect(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.op not in ("model", "model_vjp"):
                continue
            if node["model"] not in self.runners:
                raise ValueError(f"no model `{node['model']}` was given (from {node.span})")
            key = call_key(node)
            self.options.setdefault(key, {}).update(node.get("options", ()))
            if node.op == "model_vjp":
                self.tape[key] = tuple(dict.fromkeys((*self.tape.get(key, ()), node["wrt"])))
            else:
                self.layouts[key, node["output"]] = self.layout(node, node.type.names)

    def layout(self, node: Node, names: tuple[str, ...]) -> tuple[str, ...]:
        """The axes of an output (or of its cotangent) in the order in which the runner has them."""
        lifted = tuple(n for n in node.inputs[0].type.names if n != "param")
        if node["method"] != CALL:
            return (*lifted, *(n for n in names if n not in lifted))
        spec = self.runners[node["model"]].spec
        own = tuple(name for name, _ in spec.outputs)
        axes = node.inputs[1].type.names
        batch = tuple(n for n in axes[: len(axes) - len(spec.inputs)] if n not in lifted)
        return (*lifted, *batch, *own)

    # ---- text

    def call(self, w: Writer, node: Node, verb: str, *more: str) -> str:
        """`models['net'].forward('call', params, {..}, .., options, axes)`."""
        key, fields = call_key(node), node["fields"]
        params, *values = node.inputs[: 1 + len(fields)]
        args = ", ".join(f"{name!r}: ({w.tensor(v)}, {v.type.names!r})" for name, v in zip(fields, values, strict=True))
        options = ", ".join(f"{k!r}: {w.constant(v, k)}" for k, v in self.options[key].items())
        given = [repr(node["method"]), w.ref(params), f"{{{args}}}", *more, f"{{{options}}}", repr(params.type.names)]
        return f"models[{node['model']!r}].{verb}({', '.join(given)}"

    def forward(self, w: Writer, node: Node) -> str:
        tape = self.tape.get(call_key(node), ())
        return f"{self.call(w, node, 'forward')}, tape={tape!r})"

    def output(self, node: Node, called: str) -> str:
        """One output out of the dictionary that a forward call returns."""
        return permuted(f"{called}[{node['output']!r}]", self.layouts[call_key(node), node["output"]], node.type.names)

    def vjp(self, w: Writer, node: Node, last: bool) -> str:
        key, fields = call_key(node), node["fields"]
        cotangents = []
        for name, value in zip(node["outputs"], node.inputs[1 + len(fields) :], strict=True):
            layout = self.layouts.get((key, name)) or self.layout(node, value.type.names)
            text = w.tensor(value) if w.is_host(value) else w.align(value, layout)
            cotangents.append(f"{name!r}: {text}")
        tape = self.tape[key]
        wrt = node.inputs[0] if node["wrt"] == "params" else node.inputs[1 + fields.index(node["wrt"])]
        text = self.call(w, node, "vjp", f"{{{', '.join(cotangents)}}}", repr(node["wrt"]))
        text += f", tape={tape!r}" if len(tape) > 1 else ""
        text += ", summed=True" if node.get("summed") else ""
        return permuted(f"{text}{', last=True' if last else ''})", wrt.type.names, node.type.names)
