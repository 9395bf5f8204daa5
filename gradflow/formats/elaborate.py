"""`copy(net) as (f() on P | float32)`: which leaves a format keeps, and for each the regions that encode and decode it.

A format's body is read twice. To encode, `value` is the leaf, split as the format's pattern says, and what its states hold at the end is stored.
To decode, the states are given and only what it returns is computed. States of reals are trained (they are leaves of the model, `NAME.state`);
states of whole numbers, with a domain that says how many bits they need, are frozen.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, Mistake, mistake
from gradflow.library.catalogue import ModelSpec
from gradflow.passes import values as v
from gradflow.passes.axes import declared_axes
from gradflow.passes.bodies import Body
from gradflow.passes.expressions import NUMBERS, Elaborator
from gradflow.passes.patterns import match
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import listed
from gradflow.plan.program import LeafStorage, stored_spec

PLAIN = ("float32", "nothing")


class FormatBody(Body):
    """A format's body for one leaf. `value` is what is to be stored, or None where it is to be made from what was stored."""

    holds = "holds states, formulas and what it returns"

    def __init__(self, e: Elaborator, scope: Scope, name: str, value: Node | None):
        super().__init__(e, scope, f"the format `{name}`")
        self.value = value
        self.states: dict[str, tuple[Type, tuple[int, int] | None]] = {}
        scope.names["value"] = value if value is not None else v.Broken(self.gone(scope.names["#definition"]))

    def gone(self, definition: s.Definition) -> Diagnostic:
        place = next((one for one in definition.body or () if isinstance(one, s.Return)), definition)
        return Diagnostic(
            "E0205", f"what `{definition.name}` returns needs `value`, which is gone by then", place.span,
            why="a format is read twice: states are made of `value`; later the value is made of the states alone",
            fix="keep what is needed in a state",
        )  # fmt: skip

    def do_state(self, statement: s.State, scope: Scope) -> None:
        option = statement.type.options[0] if statement.type is not None else None
        axes = declared_axes(self.e, option.axes, scope)[0] if option is not None and option.axes is not None else tuple(scope.axes.values())
        whole = option is not None and option.base == "int"
        bounds = self.domain(option.bound, statement) if whole and option is not None else None
        for name in statement.names:
            type_ = Type("int" if whole else "real", axes)
            self.states[name] = (type_, bounds)
            start = self.e.tensor(self.e.evaluate(statement.init, scope), statement.init)
            given = self.e.ops.source(Type("real", axes), "input", name)  # whole numbers too: they are unpacked into reals, which hold them exactly
            scope.names[name] = self.e.ops.expand(start, axes) if self.value is not None else given

    def domain(self, bound: s.Bound | None, statement: s.State) -> tuple[int, int]:
        if bound is not None and bound.op == "in" and bound.high is not None:
            low, high = (self.e.evaluate(end, self.scope) for end in (bound.low, bound.high))
            if all(isinstance(end, NUMBERS) and end == int(end) for end in (low, high)) and 0 <= high - low < 256:
                return int(low), int(high)
        raise mistake(
            "E0402", statement.span, "a stored whole number needs a domain that is known when the spec is compiled",
            why="it says how many bits each number takes, a byte at the most", fix="`state q : int in [-7, 7] = 0`",
        )  # fmt: skip

    def do_bind(self, statement: s.Bind, scope: Scope) -> None:
        if self.value is not None:
            super().do_bind(statement, scope)
        elif statement.op == "=":  # read only if the result needs it
            try:
                super().do_bind(statement, scope)
            except Mistake as error:
                for target in statement.targets:
                    scope.names[target.name] = v.Broken(error.diagnostic)

    def assignable(self, statement: s.Bind, scope: Scope) -> None:
        for target in statement.targets:
            if target.name not in self.states:
                raise mistake(
                    "E0506", target.span, f"`{target.name}` is no state of this format", why=f"its states are {listed(self.states) or 'none'}",
                    fix=f"declare it: `state {target.name} : [block] = 0`",
                )  # fmt: skip


def stored(e: Elaborator, spec: ModelSpec, tree: s.Expr, scope: Scope) -> tuple[ModelSpec, tuple[LeafStorage, ...]]:
    """The model with its leaves stored as `tree` says: trained states as leaves, and how each leaf is encoded and decoded. Raises Mistake."""
    options = _options(e, tree, scope)
    kept: list[LeafStorage] = []
    known: dict[Any, LeafStorage] = {}
    for leaf in spec.leaves:
        axes = tuple(Axis(f"dim{i}", size) for i, size in enumerate(leaf.shape))
        for format_, pattern in options:
            if pattern is not None and match(e, pattern, leaf.name, axes, scope, {}) is None:
                continue
            if format_ is None:
                break
            blocks = split_axes(e, format_, leaf.shape)
            if blocks is not None:
                key = (id(format_), blocks)
                known[key] = known.get(key) or _storage(e, format_, blocks)
                kept.append(replace(known[key], leaf=leaf.name, shape=leaf.shape))
                break
    if not kept:
        raise mistake(
            "E0513", tree.span, f"no leaf of `{spec.name}` is stored in this format", why="its pattern, or the size of its blocks, fits none of them",
            fix="choose a size of blocks that divides the last axis, or another pattern",
        )  # fmt: skip
    return stored_spec(spec, kept), tuple(kept)


def _options(e: Elaborator, tree: s.Expr, scope: Scope) -> list[tuple[v.Stage | None, s.Pattern | None]]:
    """(format, pattern) in the order in which they are tried; a format of None keeps the leaf as it is."""
    while isinstance(tree, s.Group) and len(tree.items) == 1:
        tree = tree.items[0].value
    if isinstance(tree, s.Alternatives):
        return [one for option in tree.options for one in _options(e, option, scope)]
    if isinstance(tree, s.Guarded):
        return [(_format(e, tree.stage, scope), tree.pattern)]
    return [(_format(e, tree, scope), None)]


def _format(e: Elaborator, tree: s.Expr, scope: Scope) -> v.Stage | None:
    if isinstance(tree, s.Name) and tree.id in PLAIN:
        return None
    value = e.evaluate(tree, scope)
    if isinstance(value, v.Stage) and value.kind == "format":
        return value
    raise mistake(
        "E0301", tree.span, f"a format is needed here, this is {v.kind_name(value)}", why="`as` says how tensors are stored",
        fix="`copy(net) as (symmetric(bits: 4, group: 64) on [row, col] | float32)`",
    )  # fmt: skip


def split_axes(e: Elaborator, format_: v.Stage, shape: tuple[int, ...]) -> tuple[Axis, ...] | None:
    """The leaf as the format's pattern sees it: `[block, element: n]` is the last axis in groups of n; None where it does not divide."""
    pattern = format_.definition.pattern
    if pattern is None:
        return tuple(Axis(f"dim{i}", size) for i, size in enumerate(shape))
    if not isinstance(pattern, s.ShapePattern) or len(pattern.axes.items) != 2 or pattern.axes.items[1].size is None:
        raise mistake(
            "E0511", pattern.span, "a format ranges over blocks", why="it says how many entries in a row are stored together",
            fix="`format f(group: int >= 1 = 64) on [block, element: group]`",
        )  # fmt: skip
    scope = format_.scope.child(format_.name)
    scope.names.update(format_.bound)
    count = e.evaluate(pattern.axes.items[1].size, scope)
    if not shape or not isinstance(count, int) or shape[-1] % count:
        return None
    return Axis(pattern.axes.items[0].name, math.prod(shape) // count), Axis(pattern.axes.items[1].name, count)


def _storage(e: Elaborator, format_: v.Stage, axes: tuple[Axis, ...]) -> LeafStorage:
    encode = _body(e, format_, axes, e.ops.source(Type("real", axes), "input", "value"))
    decode = _body(e, format_, axes, None)
    if decode.returned is None or isinstance(decode.returned, v.Broken):
        raise mistake(
            "E0509", format_.definition.name_span, f"the format `{format_.name}` returns nothing", why="`return` makes the value of what is stored",
            fix="end it with `return q * scale`, say",
        )  # fmt: skip
    states = {name: (type_.axes, bounds) for name, (type_, bounds) in encode.states.items()}
    found = encode.scope.names
    results = tuple((name, e.ops.expand(e.ops.constant(e.tensor(found[name])), type_.axes)) for name, (type_, _) in encode.states.items())
    value = e.ops.expand(e.ops.constant(e.tensor(decode.returned)), axes)
    pull = _pulled_back(e, value, {name: type_ for name, (type_, bounds) in decode.states.items() if bounds is None})
    return LeafStorage("", (), axes, states, Region(results, (), "encode"), Region((("value", value),), (), "decode"), pull)


def _pulled_back(e: Elaborator, value: Node, trained: dict[str, Type]) -> Region:
    from gradflow.passes.differentiate import gradient

    cotangent = e.ops.source(value.type, "input", "cotangent")
    total = e.ops.constant(e.ops.reduce("sum", e.ops.elementwise("mul", value, cotangent), value.type.names))
    sources = [e.ops.source(type_, "input", name) for name, type_ in trained.items()]
    slopes = gradient(e.ops, total, sources)
    return Region(tuple((name, e.ops.expand(slope, type_.axes)) for (name, type_), slope in zip(trained.items(), slopes, strict=True)), (), "pull")


def _body(e: Elaborator, format_: v.Stage, axes: tuple[Axis, ...], value: Node | None) -> FormatBody:
    scope = format_.scope.inside(format_.definition, format_.bound)
    scope.axes = {axis.name: axis for axis in axes}
    body = FormatBody(e, scope, format_.name, value)
    body.run(format_.definition.body or ())
    return body


def check_format(e: Elaborator, format_: v.Stage) -> None:
    """Both readings of a format's body on blocks of stand-in sizes. Raises Mistake."""
    for group in (8, 4, 2, 1):
        axes = split_axes(e, format_, (4, 8 * group))
        if axes is not None:
            _storage(e, format_, axes)
            return
