"""Properties: what stages and topologies give, what others require, and the check that they meet.

One vocabulary: exact, unbiased(omega), contractive(delta), biased; dense, sparse(k), lowrank(r), scalar(n), local; bounded, private,
bits, stored_bits; of topologies connected, central, doubly_stochastic; of objectives strongly_convex, smooth, convex.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Label, Mistake, mistake
from gradflow.language.source import NOWHERE
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import listed, suggestion
from gradflow.passes.words import expression_text

GRADIENT = {
    "exact": (), "unbiased": ("omega",), "contractive": ("delta",), "biased": (), "dense": (), "sparse": ("k",), "lowrank": ("r",), "scalar": ("n",),
    "local": (), "bounded": ("c",), "private": ("epsilon", "delta"), "bits": ("b",), "stored_bits": ("b",),
}  # fmt: skip
GRAPH = ("connected", "central", "doubly_stochastic")
OBJECTIVE = {"strongly_convex": ("mu",), "smooth": ("L",), "convex": ()}
UNCHECKED = ("reversible", "certified")


@dataclass(frozen=True)
class Property:
    """`values` by name: numbers where known, None where they depend on what is not known yet."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        inner = ", ".join(f"{k}: {x:.3g}" if isinstance(x, float) else f"{k}: {x}" for k, x in self.values.items() if x is not None)
        return f"{self.name}({inner})" if inner else self.name


def given(e: Elaborator, stage: Any, frame: Any) -> list[Property]:
    """What a stage says it gives, its `gives` lines evaluated for the bundle that flows here (or one of unknown size)."""
    found: list[Property] = []
    for one in _stages(stage):
        if isinstance(one, v.Stage):
            found.extend(_of_body(e, one, frame))
    return found


def _stages(stage: Any) -> list[Any]:
    from gradflow.passes.stages import flatten

    return [stage] if not isinstance(stage, v.ChainOf) else flatten(stage)


class _Dry:
    """Stands in for a stage's frame while its `gives` lines are read: the size of what flows, and nothing that can be computed."""

    def __init__(self, frame: Any):
        self.frame = frame
        self.leaf_axes = None
        self.flow = getattr(frame, "flow", None)

    def coordinates(self) -> Any:
        return self.frame.coordinates() if self.frame is not None else None

    def special(self, name: str, node: s.Node) -> Any:
        return None

    def call_special(self, node: s.Call, scope: Scope) -> tuple[bool, Any]:
        return False, None

    def call_stage(self, stage: Any, node: s.Call, scope: Scope) -> Any:
        raise mistake("E0521", node.span, "nothing flows while properties are read")  # caught where the formula is skipped


def _of_body(e: Elaborator, stage: v.Stage, frame: Any) -> list[Property]:
    from gradflow.graph.types import Axis

    scope = stage.scope.inside(stage.definition, stage.bound, _Dry(frame))
    size = frame.coordinates() if frame is not None else None
    scope.axes = {"param": Axis("param", size)}
    if stage.definition.pattern is not None and isinstance(stage.definition.pattern, s.ShapePattern):
        scope.axes.update({item.name: Axis(item.name) for item in stage.definition.pattern.axes.items})
    found = []
    for statement in stage.definition.body or ():
        if isinstance(statement, s.Bind) and statement.op == "=":
            try:
                scope.names[statement.targets[0].name] = e.evaluate(statement.value, scope)
            except Mistake:
                continue
        elif isinstance(statement, s.Gives):
            found.append(_property(e, statement.value, scope))
    return found


def check_given(e: Elaborator, statement: s.Gives, scope: Scope) -> None:
    """A `gives` line where its body is checked: a property that there is, of names that there are."""
    tree = statement.value
    name, args = (tree.callee, tree.args) if isinstance(tree, s.Call) else (tree, ())
    if isinstance(name, s.Name) and name.id in (*GRAPH, *OBJECTIVE, *UNCHECKED):
        return
    _property(e, tree, scope)
    for arg in args:
        if arg.name != "index":
            e.evaluate(arg.value, scope)


def _property(e: Elaborator, tree: s.Expr, scope: Scope) -> Property:
    name, args = (tree.callee, tree.args) if isinstance(tree, s.Call) else (tree, ())
    if not isinstance(name, s.Name) or name.id not in GRADIENT:
        place, word = (name.span, name.id) if isinstance(name, s.Name) else (tree.span, "")
        raise mistake(
            "E0601", place, f"`{word}` is no property of a gradient" if word else "a property of a gradient is needed here",
            why=f"properties are {listed(GRADIENT, 20)}",
            **suggestion(place, word, GRADIENT, "use one of these"),
        )  # fmt: skip
    values: dict[str, Any] = {}
    for number, arg in enumerate(args):
        key = arg.name or (GRADIENT[name.id][number] if number < len(GRADIENT[name.id]) else f"value{number}")
        if key == "index":
            continue
        try:
            value = e.evaluate(arg.value, scope)
        except Mistake:
            value = None
        values[key] = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    return Property(name.id, values)


def property_fields(e: Elaborator, stage: Any, frame: Any) -> dict[str, Any]:
    """`compress.delta`, `inner.omega`: the numbers of what a stage gives."""
    fields: dict[str, Any] = {"omega": 0.0, "delta": 1.0} if _is_nothing(stage) else {}
    for one in given(e, stage, frame):
        fields.update({k: x for k, x in one.values.items() if x is not None})
    return fields


# ---- requirements


def check_requirement(e: Elaborator, statement: s.Require, scope: Scope) -> None:
    """`require` is an error where it is known to fail, `prefer` a warning; what is not known yet is left to the plan."""
    tree = statement.value
    if isinstance(tree, s.Call) and isinstance(tree.callee, s.Name) and tree.callee.id in (*GRADIENT, *OBJECTIVE, *GRAPH, *UNCHECKED):
        _check_property(e, statement, tree, scope)
        return
    if isinstance(tree, s.Name) and tree.id in GRAPH and not scope.local(tree.id)[0]:
        from gradflow.topologies.needs import check_graph

        return check_graph(e, statement, tree, scope, tree.id)
    if isinstance(tree, s.Compare) and isinstance(tree.operands[0], s.Name) and tree.operands[0].id in ("memory", "privacy"):
        return
    try:
        value = e.evaluate(tree, scope)
    except Mistake as error:
        if statement.kind == "prefer" and error.diagnostic.code == "E0202":  # a number that the stage does not state
            return
        raise
    if isinstance(value, Node):
        from gradflow.passes.constants import known

        value = known(value)
    if value is None or value is True or (isinstance(value, int | float) and value):
        return
    text = expression_text(tree)
    message = statement.message or f"`{text}` does not hold"
    why = f"`{scope.owner}` {'asks for' if statement.kind == 'require' else 'prefers'} `{text}`{_worth(e, tree, scope)}"
    fix = "change the arguments so that it holds"
    _unmet(e, statement, tree.span, message, why, fix)


def _worth(e: Elaborator, tree: s.Expr, scope: Scope) -> str:
    """What the sides of a comparison are worth that are calls of functions: the number that fails."""
    from gradflow.passes.constants import known

    sides = [side for side in tree.operands if isinstance(side, s.Call)] if isinstance(tree, s.Compare) else []
    values = [(expression_text(side), e.evaluate(side, scope)) for side in sides]
    worth = [(text, known(value) if isinstance(value, Node) else value) for text, value in values]
    return "".join(f"; `{text}` is {value:.3g}" for text, value in worth if isinstance(value, int | float))


def _unmet(e: Elaborator, statement: s.Require, span: Any, message: str, why: str, fix: str) -> None:
    where, secondary = (e.anchors[-1], (Label(span, "asked for here"),)) if e.anchors else (span, ())
    if statement.kind == "prefer":
        e.warn("W0301", where, message, why=why, fix=fix, secondary=secondary)
        return
    raise mistake("E0602", where, message, why=why, fix=fix, secondary=secondary)


def _check_property(e: Elaborator, statement: s.Require, tree: s.Call, scope: Scope) -> None:
    name = tree.callee.id  # type: ignore[union-attr]
    from gradflow.topologies.needs import check_graph, check_reversible

    if name == "reversible":
        check_reversible(e, statement, tree, scope)
    if name in UNCHECKED:
        return
    if name in OBJECTIVE:
        from gradflow.analyses.convexity import check_objective

        return check_objective(e, statement, tree, scope)
    frame = scope.frame
    stage = frame.stage if frame is not None else None
    if name in GRAPH:
        check_graph(e, statement, tree, scope, name)
        return
    if not tree.args:
        raise mistake("E0401", tree.span, f"`{name}` is asked of something", why="the value comes first", fix=f"`require {name}(compress)`")
    value = e.evaluate(tree.args[0].value, scope)
    if isinstance(value, v.Missing) or not isinstance(value, v.STAGES):
        return
    gives = given(e, value, frame)
    if name in {p.name for p in gives} or _is_nothing(value):
        return
    shown = ", ".join(str(p) for p in gives) or "nothing that is stated"
    whys = {"contractive": "the error feedback loop is only stable when |C(x) - x|^2 <= (1 - delta) |x|^2", "unbiased": "the mean of C(x) must be x"}
    unbiased = name == "contractive" and any(p.name == "unbiased" for p in gives)
    fix = f"use a stage that gives `{name}`, or state it there: `gives {name}(..)`"
    if unbiased:
        fix = "`scaled(..)` makes an unbiased compressor contractive; or use `topk(10%)`"
    place = getattr(value, "span", NOWHERE)
    where = stage.span if stage is not None and place.file != stage.span.file else place if stage is not None else tree.span
    owner = stage.name if stage is not None else scope.owner
    raise mistake(
        "E0312", where, f"`{owner}` needs {'an' if name[0] in 'aeiou' else 'a'} {name} `{_text(tree)}`", label=f"gives {shown}",
        why=whys.get(name, "what it does is only right for such a one"), fix=fix,
    )  # fmt: skip


def _is_nothing(value: Any) -> bool:
    return isinstance(value, v.BuiltinStage) and value.name == "nothing"


def _text(tree: s.Call) -> str:
    value = tree.args[0].value
    return value.id if isinstance(value, s.Name) else "argument"
