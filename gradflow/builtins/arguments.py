"""Arguments of a built-in call: checked against its signature, evaluated when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.axes import axis_names
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head, listed, suggestion
from gradflow.procedures.acting import whole


@dataclass(frozen=True)
class BuiltinFunction:
    """`signature` is what `explain` prints; `names` the options that a call may name."""

    name: str
    signature: str
    doc: str
    names: tuple[str, ...]
    handler: Callable[[Elaborator, s.Call, Scope], Any]
    family: str


class Arguments:
    """The arguments of one call of a built-in."""

    def __init__(self, e: Elaborator, call: s.Call, scope: Scope, function: BuiltinFunction, least: int, most: int | None):
        self.e, self.call, self.scope, self.function = e, call, scope, function
        self.places = [arg for arg in call.args if arg.name is None]
        self.named = {arg.name: arg for arg in call.args if arg.name is not None}
        free = "*" in function.names
        for name, arg in self.named.items():
            if not free and name not in function.names:
                place = head(arg.span, name)
                raise mistake(
                    "E0404", place, f"`{function.name}` has no option `{name}`", why=f"it is `{function.signature}`",
                    **suggestion(place, name, function.names, "remove it" if not function.names else f"its options are {listed(function.names)}"),
                )  # fmt: skip
        if len(self.places) < least or (most is not None and len(self.places) > most):
            wanted = str(least) if least == most else f"{least} to {most}" if most is not None else f"at least {least}"
            raise mistake(
                "E0401", call.span, f"`{function.name}` takes {wanted} value{'s' * (wanted != '1')}, {len(self.places)} given",
                why=f"it is `{function.signature}`",
                fix="add what is missing" if len(self.places) < least else "remove what is too much, or name the option that it is",
            )  # fmt: skip

    def raw(self, place: int) -> Any:
        return self.e.evaluate(self.places[place].value, self.scope)

    def tensor(self, place: int) -> Any:
        arg = self.places[place]
        return self.e.tensor(self.e.evaluate(arg.value, self.scope), arg.value)

    def of_kind(self, place: int, kinds: Any, noun: str, why: str, fix: str) -> Any:
        """The value there, which must be one of these kinds of value."""
        value = self.raw(place)
        if isinstance(value, kinds):
            return value
        what = f"`{self.function.name}` needs {noun}, this is {v.kind_name(value)}"
        raise mistake("E0301", self.places[place].span, what, why=why, fix=fix)

    def node(self, place: int) -> Node:
        return self.e.ops.constant(self.tensor(place))

    def has(self, name: str) -> bool:
        return name in self.named

    def option(self, name: str, default: Any = None) -> Any:
        if name not in self.named:
            return default
        arg = self.named[name]
        if isinstance(arg.value, s.Name) and not self.scope.local(arg.value.id)[0] and arg.value.id in ("last", "missing"):
            return arg.value.id
        return self.e.evaluate(arg.value, self.scope)

    def quantity(self, name: str, default: Any = None) -> Any:
        """An option that is a number or a tensor."""
        return self.e.tensor(self.option(name), self.named[name].value) if name in self.named else default

    def needed(self, name: str) -> s.Arg:
        if name not in self.named:
            raise mistake(
                "E0401", self.call.span, f"`{self.function.name}` needs `{name}:`", why=f"it is `{self.function.signature}`", fix=f"add `{name}: ..`"
            )
        return self.named[name]

    def axis(self, name: str, value: Node) -> Axis:
        """The axis of a value that an option names."""
        arg = self.needed(name)
        axis = axis_names(arg.value)[0]
        if not value.type.has(axis):
            raise mistake(
                "E0303", arg.value.span, f"{v.kind_name(value)} has no axis `{axis}`", why=f"its axes are {listed(value.type.names) or 'none'}",
                **suggestion(arg.value.span, axis, value.type.names, "name one of them"),
            )  # fmt: skip
        return value.type.axis(axis)

    def count(self, name: str) -> int | None:
        """A whole number, at least 1, that says how many; None where the option is not there."""
        value = self.number(name, None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise mistake(
                "E0402", self.named[name].value.span, f"`{name}` must be a whole number, at least 1", why=f"this is {v.kind_name(value)}",
                fix="say how many to keep",
            )  # fmt: skip
        return value

    def number(self, name: str, default: Any) -> Any:
        value = self.quantity(name, default)
        if isinstance(value, Node):
            raise mistake(
                "E0311", self.named[name].span, f"`{name}` must be known when the spec is compiled",
                why=f"this is {v.kind_name(value)}, which is known only when it runs",
                fix="give a number, or a parameter",
            )  # fmt: skip
        return value

    def condition(self) -> Any:
        """`where: mask`, a tensor, or None."""
        if "where" not in self.named:
            return None
        arg = self.named["where"]
        value = self.e.tensor(self.e.evaluate(arg.value, self.scope), arg.value)
        if isinstance(value, Node) and value.type.base != "bool":
            value = self.e.ops.elementwise("ne", value, 0)
        return None if value is True else value

    def over(self, *values: Any) -> tuple[str, ...]:
        """The axes of a reduction: those named; else those that the body names and the values have; all but `node` in a pipeline, and in a function
        that acts and has no inputs with axes.
        """
        present = list(dict.fromkeys(name for value in values if isinstance(value, Node) for name in value.type.names))
        if "over" in self.named:
            arg = self.named["over"]
            names = self.expanded(axis_names(arg.value))
            for name in names:
                if name not in present and name not in self.scope.axes:
                    place = next((part.span for part in s.walk(arg.value) if isinstance(part, s.Name) and part.id == name), arg.value.span)
                    raise mistake(
                        "E0303", place, f"there is no axis `{name}` to reduce here",
                        why=f"the axes are {listed(present)}" if present else "the value is a single number",
                        **suggestion(place, name, present, "name one of them" if present else "leave the reduction out"),
                    )  # fmt: skip
            return names
        if not self.scope.axes or self.e.keeping is not None and whole(self.scope):
            return tuple(name for name in present if name != "node")
        return tuple(name for name in present if name in self.scope.axes)

    def expanded(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """`param` inside a body that sees one tensor means all of that tensor's axes."""
        frame = self.scope.frame
        if "param" in names and frame is not None and frame.leaf_axes is not None:
            return (*[n for n in names if n != "param"], *[a.name for a in frame.leaf_axes])
        return names

    def aligned(self, *values: Any) -> list[Any]:
        return self.e.aligned(list(values), self.scope, self.call)

    def axis_of(self, name: str, *values: Any) -> Axis:
        for value in values:
            if isinstance(value, Node) and value.type.has(name):
                return value.type.axis(name)
        if name in self.scope.axes:
            return self.scope.axes[name]
        return Axis(name, None)

    def axis_list(self, arg: s.Arg) -> tuple[Axis, ...]:
        """`[row: n, col]` or a bare axis name, as axes with sizes."""
        from gradflow.passes.axes import declared_axes

        if isinstance(arg.value, s.ListOf):
            items = tuple(
                s.AxisItem(item.span, item.name, item.value) if item.name else s.AxisItem(item.span, _dotted(item.value)) for item in arg.value.items
            )
            return declared_axes(self.e, s.Axes(arg.span, items), self.scope)[0]
        if isinstance(arg.value, s.Name):
            if arg.value.id in self.scope.axes:
                return (self.scope.axes[arg.value.id],)
            frame = self.scope.frame
            if frame is not None and arg.value.id == "param" and frame.leaf_axes is not None:
                return frame.leaf_axes
        value = self.e.evaluate(arg.value, self.scope)
        if isinstance(value, int) and not isinstance(value, bool):
            return (Axis("item", value),)
        tensor = self.e.tensor(value, arg.value)
        return tensor.type.axes if isinstance(tensor, Node) else ()


def _dotted(tree: s.Expr) -> str:
    if isinstance(tree, s.Name):
        return tree.id
    if isinstance(tree, s.Field):
        return f"{_dotted(tree.value)}.{tree.name}"
    raise mistake(
        "E0306", tree.span, "an axis name is needed here", why="an axis list is `[row, col]`, or with sizes `[row: 4, col: n]`", fix="name the axis",
    )  # fmt: skip


def is_axis(tree: s.Expr, scope: Scope) -> str | None:
    """The axis that a bare name means, if it is no local value."""
    if isinstance(tree, s.Name) and tree.id == "param" and scope.frame is not None:
        return "param"
    if isinstance(tree, s.Name) and not scope.local(tree.id)[0] and (tree.id in scope.axes or tree.id == "param" or tree.id == "node"):
        return tree.id
    return None


__all__ = ["Arguments", "BuiltinFunction", "is_axis", "v"]
