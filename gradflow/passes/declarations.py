"""What a pipeline declares: inputs, data sets, and models (of the library, copies, free tensors, models with a head)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradflow.builtins.heads import is_head, with_head
from gradflow.graph.graph import Region
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.language.source import Source
from gradflow.passes import values as v
from gradflow.passes.axes import declared_axes
from gradflow.passes.expressions import Elaborator
from gradflow.passes.formulas import force
from gradflow.passes.models import declare_primitive
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import listed
from gradflow.plan import program as p


def fresh_name(name: str, scope: Scope, span: Any) -> None:
    """Raises Mistake for a name that is bound already."""
    if name in scope.names:
        raise mistake("E0504", span, f"`{name}` is bound twice", why="in a pipeline every name is bound once", fix="use another name")


class Declarations:
    """The declarations of one pipeline. `bound`: what the caller gives, types of inputs under `#name` among it."""

    def __init__(self, e: Elaborator, definition: s.Definition, source: Source, bound: Mapping[str, Any]):
        self.e, self.definition, self.source, self.bound = e, definition, source, bound
        self.models: dict[str, p.ModelPlan] = {}
        self.data: dict[str, p.DataPlan] = {}
        self.inputs: dict[str, Type] = {}

    def laid_out(self) -> dict[str, p.ModelPlan]:
        """The models, with the axes along which each stands several times."""
        return {name: replace(plan, lifted=self.e.model_axes.get(name, ())) for name, plan in self.models.items()}

    def input(self, statement: s.Input, scope: Scope) -> None:
        """Inputs of a pipeline are what the caller binds: tensors, when the pipeline is driven from outside."""
        option = statement.type.options[0]
        axes, target = declared_axes(self.e, option.axes, scope) if option.axes is not None else ((), None)
        for axis in axes:
            scope.axes.setdefault(axis.name, axis)
        for name in statement.names:
            known = self.bound.get(f"#{name}")
            if known is None and statement.default is not None:  # nobody gives it
                scope.names[name] = self.e.evaluate(statement.default, scope)
                continue
            type_ = known if isinstance(known, Type) else Type("int" if target else option.base or "real", axes, target)
            if isinstance(known, Type):
                type_ = Type(known.base, tuple(Axis(a.name, b.size) for a, b in zip(axes, known.axes, strict=False)), target)
                scope.axes.update({a.name: a for a in type_.axes})
            self.inputs[name] = type_
            scope.names[name] = self.e.ops.source(type_, "input", name)

    def declare(self, statement: s.Declare, scope: Scope) -> None:
        for name in statement.names:
            fresh_name(name, scope, self.source.find(name, statement.span))
        if statement.kind == "data":
            self.declare_data(statement, scope)
            return
        for name in statement.names:
            model = self.model(name, statement, scope)
            scope.names[name] = model

    def declare_data(self, statement: s.Declare, scope: Scope) -> None:
        from gradflow.privacy.program import unwrapped

        spec, declaration = declare_primitive(self.e, "data", unwrapped(statement.value), scope)
        if len(statement.names) > len(spec.splits):
            raise mistake(
                "E0502", statement.span, f"{len(statement.names)} names for {len(spec.splits)} splits", why=f"it has {listed(spec.splits)}",
                fix="give as many names as there are splits, or one for all of them",
            )  # fmt: skip
        key = statement.names[0]
        self.data[key] = p.DataPlan(key, spec, None, statement.span, declaration)
        splits = spec.splits if len(statement.names) > 1 else ("*",)
        for name, split in zip(statement.names, splits, strict=False):
            scope.names[name] = v.Data(key, split, spec, statement.value.span)

    def model(self, name: str, statement: s.Declare, scope: Scope) -> v.Model:
        tree = statement.value
        head = tree.callee.id if isinstance(tree, s.Call) and isinstance(tree.callee, s.Name) else ""
        if head == "free":
            return self.free_model(name, tree, scope, statement)  # type: ignore[arg-type]
        if head == "copy":
            first = tree.args[0].value if tree.args else None  # type: ignore[union-attr]
            found, other = scope.local(first.id) if isinstance(first, s.Name) else (False, None)
            other = force(other)
            if not found or not isinstance(other, v.Model):
                raise mistake(
                    "E0301", tree.span, "`copy` takes a model", why="the copy starts with its parameters", fix="`model average = copy(net)`",
                )  # fmt: skip
            return self.copied(name, other, statement, scope)
        if isinstance(tree, s.Call) and is_head(head):
            return with_head(self, name, tree, statement, scope)
        spec, declaration = declare_primitive(self.e, "model", tree, scope)
        spec, kept = self.in_storage(spec, statement, scope)
        self.models[name] = p.ModelPlan(name, spec, (), None, None, False, statement.span, declaration, kept)
        return v.Model(name, spec, statement.span)

    def in_storage(self, spec: Any, statement: s.Declare, scope: Scope) -> tuple[Any, tuple[p.LeafStorage, ...]]:
        """`as format`: the model with its leaves kept so."""
        if statement.storage is None:
            return spec, ()
        from gradflow.formats.elaborate import stored

        return stored(self.e, spec, statement.storage, scope)

    def copied(self, name: str, other: v.Model, statement: s.Declare, scope: Scope) -> v.Model:
        """A copy starts with the other's parameters: the first ones, or behind a `train` line those that it has by then."""
        spec, kept = self.in_storage(other.spec, statement, scope)
        born = sum(isinstance(one, s.Train) and one.span.offset < statement.span.offset for one in self.definition.body or ())
        self.models[name] = p.ModelPlan(name, spec, (), other.name, None, other.free is not None, statement.span, None, kept, born)
        return v.Model(name, spec, statement.span, other.free, None, other.name)

    def free_model(self, name: str, tree: s.Call, scope: Scope, statement: s.Declare) -> v.Model:
        """`free(value)`: a trainable tensor with that start; `free([axes])`: zeros."""
        from gradflow.library.catalogue import LeafSpec, ModelSpec

        argument = tree.args[0].value if len(tree.args) == 1 else None
        if argument is None:
            raise mistake(
                "E0401", tree.span, f"`free` takes one value, {len(tree.args)} given", why="a start value, or an axis list for zeros",
                fix="`free(0.5)`, or `free([row: 4, col: 3])`",
            )  # fmt: skip
        if isinstance(argument, s.ListOf):
            items = tuple(s.AxisItem(i.span, i.name or str(getattr(i.value, "id", "")), i.value if i.name else None) for i in argument.items)
            axes, start = declared_axes(self.e, s.Axes(argument.span, items), scope)[0], self.e.ops.constant(0.0)
        else:
            start = self.e.ops.constant(self.e.tensor(self.e.evaluate(argument, scope), argument))
            axes = start.type.without(["node"])
            if start.type.has("node"):
                self.e.model_axes[name] = (start.type.axis("node"),)
        if any(a.size is None for a in axes):
            raise mistake(
                "E0303", tree.span, f"the sizes of `{name}` must be known when the spec is compiled",
                why="the parameters of a model are laid out before anything runs", fix="give sizes: `free([row: 4, col: 3])`",
            )  # fmt: skip
        shape = tuple(a.size or 0 for a in axes)
        spec = ModelSpec("free", (LeafSpec("value", shape),), _no_module)
        lifted = tuple(a for a in start.type.axes if a.name == "node")
        flat = self.e.ops.pack([self.e.ops.expand(start, (*lifted, *axes))], [axes])
        self.models[name] = p.ModelPlan(name, spec, (), None, Region((("start", flat),)), True, statement.span)
        return v.Model(name, spec, statement.span, axes, start)


def _no_module(seed: int) -> Any:
    raise RuntimeError("a free tensor has no module")
