"""Models at run time: a module whose parameters live outside, in one flat tensor, called and differentiated with them.

`ModelRunner` is what the operations `model` and `model_vjp` of the graph become. It takes the leaves as views of the flat tensor, puts them
in the module's place for one call, maps the call over lifted axes, keeps the autograd tape from the forward call for the backward call of
the same region run, and cuts a batch into micro-batches without moving its gradient. Gradients are taken for leaf views and written into
one flat buffer: slicing the flat tensor under autograd would make a zero-padded copy of it for every leaf.

Axes: lifted (any that stand before `param`, `node` say), param (all coordinates, leaves side by side in `spec.leaves` order, row-major),
batch (those of the argument that are neither lifted nor consumed by the module). A call's result has [lifted.., batch.., the module's own].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gradflow.library.catalogue import ModelSpec, catalogue

if TYPE_CHECKING:
    from gradflow.backends.distributed.devices import Buckets

Axes = tuple[str, ...]
Arguments = Mapping[str, tuple[Any, Axes]]
Chosen = slice | Tensor
Pieces = list[tuple[Arguments, Chosen]]  # of a batch, each with the rows that it holds
CALL = "call"
OUTPUT = "value"  # the name of the one output that a plain call has
CUT = "sample"  # the axis along which a batch is cut


class _Method(nn.Module):
    """A library primitive as the forward of a module, so that `functional_call` can swap the policy's parameters."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]):
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.function(self.module, *arguments, **options)


@dataclass
class _Tape:
    """What a forward call leaves for its backward call. `held` keeps the keys' objects alive, so that their identities stay theirs."""

    outputs: dict[str, Tensor]
    leaves: dict[str, list[Tensor | None]]
    held: tuple[Any, ...]
    gradients: dict[tuple[Any, ...], tuple[dict[str, Tensor], tuple[Any, ...]]] = field(default_factory=dict)


class ModelRunner:
    """One model. `micro` cuts the `sample` axis into that many pieces, which bounds memory and changes nothing else."""

    def __init__(
        self, spec: ModelSpec, module: nn.Module, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, micro: int | None = None,
        names: Mapping[str, str] | None = None,
    ):  # fmt: skip
        self.spec = spec
        self.names = {leaf.name: (names or {}).get(leaf.name, leaf.name) for leaf in spec.leaves}  # of the leaves in the module
        self.module = module.to(device=device, dtype=dtype)
        self.device = torch.device(device)
        self.dtype = dtype
        self.micro = micro
        self.rows: Any = None  # of gradflow/schedules/rows.py: packs the samples of a call, and keeps groups whole
        self._tapes: dict[tuple[Any, ...], _Tape] = {}
        self._attached: Tensor | None = None

    # ---- parameters

    def flat(self) -> Tensor:
        """The module's parameters side by side: a fresh tensor [param]."""
        named = dict(self.module.named_parameters())
        return torch.cat([named[self.names[leaf.name]].detach().reshape(-1) for leaf in self.spec.leaves]).to(self.device, self.dtype)

    def attach(self, flat: Tensor) -> None:
        """Makes the module's parameters views of `flat` [param]; calls with this very tensor then need no swapping."""
        named = dict(self.module.named_parameters())
        for leaf, view in zip(self.spec.leaves, self.views(flat), strict=True):
            named[self.names[leaf.name]].data = view
        self._attached = flat

    def views(self, flat: Tensor) -> list[Tensor]:
        """The leaves as views of a flat tensor [lifted.., param]: [lifted.., *shape] each."""
        flat = flat.detach()
        pieces = flat.split([leaf.size for leaf in self.spec.leaves], dim=-1)
        return [piece.unflatten(-1, leaf.shape) if leaf.shape else piece.squeeze(-1) for leaf, piece in zip(self.spec.leaves, pieces, strict=True)]

    # ---- what the graph asks for

    def forward(
        self, method: str, params: Tensor, args: Arguments, options: Mapping[str, Any], params_axes: Axes, tape: Sequence[str] = ("params",)
    ) -> dict[str, Tensor]:
        """All outputs of a method at the given parameters, without gradient.

        `tape`: what a `vjp` of the same call is going to be asked for ("params" or names of arguments); empty where there will be none,
        which saves the memory of the tape. Cut into micro-batches, no tape is kept in any case.
        """
        pieces = list(self._pieces(args, params_axes))
        if len(pieces) == 1 and tape:
            return {name: value.detach() for name, value in self._record(method, params, args, options, params_axes, tuple(tape)).outputs.items()}
        found = []
        leaves, _ = self._leaves(params, track=False)
        for piece, _ in pieces:
            with torch.no_grad():
                found.append(self._evaluate(method, leaves, piece, options, params_axes))
        return found[0] if len(found) == 1 else {name: self._join(name, found, method, args, params_axes, pieces) for name in found[0]}

    def vjp(
        self,
        method: str,
        params: Tensor,
        args: Arguments,
        cotangents: Mapping[str, Tensor],
        wrt: str,
        options: Mapping[str, Any],
        params_axes: Axes,
        last: bool = False,
        tape: Sequence[str] = (),
        summed: bool = False,
    ) -> Tensor:
        """The cotangents pulled back to the parameters (axes as `params`) or to one argument (axes as given).

        `last`: nothing else will be asked of this call, so that the tape may be freed on the way. `tape`: what else will be, beside `wrt`.
        `summed`: over the ranks of the run, each of which has some of the rows.
        """
        pieces = list(self._pieces(args, params_axes))
        if len(pieces) == 1:
            known = self._tapes.get(self._key(method, params, args, options, params_axes))
            if known is None or wrt not in known.leaves:
                known = self._record(method, params, args, options, params_axes, (wrt, *tape))
            found = self._pull(known, cotangents, wrt, params, args, last, summed)
            if last:
                self._forget(known)
            return found
        found = self._pull_pieces(method, params, args, cotangents, wrt, options, params_axes, pieces)
        return over_ranks(found) if summed else found

    def release(self) -> None:
        """Drops every tape: the end of a region's run."""
        self._tapes.clear()

    # ---- one call

    def _evaluate(self, method: str, leaves: list[Tensor], args: Arguments, options: Mapping[str, Any], params_axes: Axes) -> dict[str, Tensor]:
        lifted = params_axes[:-1]
        if method != CALL:
            return self._library(method, leaves, args, options, lifted)
        (x, axes), *others = args.values()
        if others:
            raise ValueError(f"a call of `{self.spec.name}` takes one argument, {len(args)} were given")
        mapped = tuple(name for name in lifted if name in axes)
        x = x.movedim([axes.index(name) for name in mapped], list(range(len(mapped)))) if mapped else x
        function = self._single
        for name in reversed(lifted):
            function = vmap(function, in_dims=([0] * len(leaves), 0 if name in mapped else None), randomness="different")
        return {OUTPUT: function(leaves, x)}

    def _single(self, leaves: list[Tensor], x: Tensor) -> Tensor:
        """The module on [batch.., consumed..]; one that consumes several axes (images, sequences) sees exactly one batch axis."""
        consumed = len(self.spec.inputs)
        batch = x.shape[: x.dim() - consumed]
        if consumed < 2:
            return self._swapped(self.module, "", leaves, (x,), {})
        y = self._swapped(self.module, "", leaves, (x.reshape(-1, *x.shape[x.dim() - consumed :]),), {})
        return y.reshape(*batch, *y.shape[1:])

    def _library(self, method: str, leaves: list[Tensor], args: Arguments, options: Mapping[str, Any], lifted: Axes) -> dict[str, Tensor]:
        """A primitive of the library that takes a policy and a record. Lifted axes are looped over: these methods choose their own shapes."""
        if lifted:
            name, rest = lifted[0], lifted[1:]
            rows = [self._library(method, [leaf[i] for leaf in leaves], _select(args, name, i), options, rest) for i in range(leaves[0].shape[0])]
            return {key: torch.stack([row[key] for row in rows]) for key in rows[0] if isinstance(rows[0][key], Tensor)}
        record = {name: value for name, (value, _) in args.items()}
        record = self.rows.packed(record) if self.rows is not None and method == "score" else record
        wrapped = _Method(self.module, catalogue()[method])
        found = self._swapped(wrapped, "module.", leaves, (record,), dict(options))
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def _swapped(self, module: nn.Module, prefix: str, leaves: list[Tensor], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The module with the leaves in place of its parameters; called as it is where they already stand there."""
        if not leaves or isinstance(leaves[0], nn.Parameter):
            return module(*arguments, **options)
        return functional_call(
            module, {prefix + self.names[leaf.name]: view for leaf, view in zip(self.spec.leaves, leaves, strict=True)}, arguments, options
        )

    # ---- the tape

    def _record(self, method: str, params: Tensor, args: Arguments, options: Mapping[str, Any], params_axes: Axes, wrt: Axes) -> _Tape:
        key = self._key(method, params, args, options, params_axes)
        known = self._tapes.get(key)
        if known is not None and set(wrt) <= set(known.leaves):
            return known
        wrt = tuple(dict.fromkeys((*wrt, *(known.leaves if known else ()))))
        leaves, tracked = self._leaves(params, "params" in wrt)
        inner = {name: (_tracked(value) if name in wrt else value, axes) for name, (value, axes) in args.items()}
        with torch.enable_grad():
            outputs = self._evaluate(method, leaves, inner, options, params_axes)
        roots: dict[str, list[Tensor | None]] = {name: [inner[name][0]] for name in wrt if name != "params"}
        if "params" in wrt:
            roots["params"] = tracked
        tape = _Tape(outputs, roots, (params, *(value for value, _ in args.values())))
        self._tapes[key] = tape
        return tape

    def _leaves(self, params: Tensor, track: bool) -> tuple[list[Tensor], list[Tensor | None]]:
        """The leaves to call with, and those of them that are trained, each with its own place on the tape."""
        trained = [leaf.trained for leaf in self.spec.leaves]
        if self._is_attached(params):
            named = dict(self.module.named_parameters())
            own: list[Tensor] = [named[self.names[leaf.name]] for leaf in self.spec.leaves]
            if track:  # else they stay as they are: the tape of an earlier call may hold them
                own = [leaf.requires_grad_(on) for leaf, on in zip(own, trained, strict=True)]
            return own, [leaf if on else None for leaf, on in zip(own, trained, strict=True)]
        views = self.views(params)
        if track:
            views = [_tracked(view) if on else view for view, on in zip(views, trained, strict=True)]
        return views, [view if on else None for view, on in zip(views, trained, strict=True)]

    def _is_attached(self, params: Tensor) -> bool:
        own = self._attached
        return own is not None and (
            own is params or (own.data_ptr() == params.data_ptr() and own.shape == params.shape and own.stride() == params.stride())
        )

    def _pull(
        self, tape: _Tape, cotangents: Mapping[str, Tensor], wrt: str, params: Tensor, args: Arguments, last: bool, summed: bool = False
    ) -> Tensor:
        """One backward pass for everything that the tape was recorded for; the parts not asked for now are kept for the next call."""
        key = (summed, *((name, id(value)) for name, value in cotangents.items()))
        if key not in tape.gradients:
            live = [(tape.outputs[name], value) for name, value in cotangents.items() if tape.outputs[name].requires_grad]
            roots = [leaf for leaves in tape.leaves.values() for leaf in leaves if leaf is not None]
            found: Iterator[Tensor | None] = iter([None] * len(roots))
            sums = self._sums(params) if summed else None
            hooks = sums.watch(tape.leaves["params"]) if sums is not None else []
            if live and roots:
                outputs, pulled = [y for y, _ in live], [value.to(y.dtype).expand_as(y) for y, value in live]
                found = iter(torch.autograd.grad(outputs, roots, pulled, retain_graph=not last, allow_unused=True))
            for hook in hooks:
                hook.remove()
            gradients = {}
            for name, leaves in tape.leaves.items():
                parts = [next(found) if leaf is not None else None for leaf in leaves]
                if name == "params" and sums is not None:
                    sums.finish()
                    gradients[name] = sums.flat
                else:
                    gradients[name] = self._assemble(params, parts) if name == "params" else _or_zero(parts[0], args[name][0])
            tape.gradients[key] = gradients, tuple(cotangents.values())
        return tape.gradients[key][0][wrt]

    def _sums(self, params: Tensor) -> Buckets:
        from gradflow.backends.distributed import connected
        from gradflow.backends.distributed.devices import Buckets

        flat = torch.empty(params.shape, dtype=params.dtype, device=params.device)
        return Buckets(connected(), flat, self.views(flat))

    def _assemble(self, params: Tensor, parts: list[Tensor | None]) -> Tensor:
        """The leaves' gradients in one flat buffer like `params`; 0 where a leaf is not trained or not used."""
        flat = torch.empty(params.shape, dtype=params.dtype, device=params.device)
        for place, part in zip(self.views(flat), parts, strict=True):
            if part is None:
                place.zero_()
            else:
                place.copy_(part)
        return flat

    def _key(self, method: str, params: Tensor, args: Arguments, options: Mapping[str, Any], params_axes: Axes) -> tuple[Any, ...]:
        given = tuple((name, id(value), axes) for name, (value, axes) in args.items())
        return method, id(params), params._version, given, tuple(sorted((k, repr(v)) for k, v in options.items())), params_axes

    def _forget(self, tape: _Tape) -> None:
        self._tapes = {key: kept for key, kept in self._tapes.items() if kept is not tape}

    # ---- micro-batches

    def _pieces(self, args: Arguments, params_axes: Axes) -> Iterator[tuple[Arguments, Chosen]]:
        """The arguments cut along `sample`, each with the rows that it holds; whole where nothing is to be cut, or every sample has parameters."""
        size = next((value.shape[axes.index(CUT)] for value, axes in args.values() if CUT in axes), 0)
        count = min(self.micro or 1, size) if CUT not in params_axes else 1
        if count <= 1:
            yield args, slice(0, size)
            return
        whole = args.get(self.rows.whole) if self.rows is not None else None
        evenly = [slice(i * size // count, (i + 1) * size // count) for i in range(count)]
        for rows in evenly if whole is None else self.rows.cut(whole[0], count):
            yield {name: (_rows(value, axes, rows), axes) for name, (value, axes) in args.items()}, rows

    def _place(self, method: str, args: Arguments, params_axes: Axes) -> int:
        """Where `sample` stands in an output: [lifted.., batch..] of a call; first after lifted axes in a record's live fields."""
        lifted = params_axes[:-1]
        if method != CALL:
            return len(lifted)
        _, axes = next(iter(args.values()))
        rest = [name for name in axes if name not in lifted]
        return len(lifted) + rest.index(CUT)

    def _join(self, name: str, found: list[dict[str, Tensor]], method: str, args: Arguments, params_axes: Axes, pieces: Pieces) -> Tensor:
        if name in args:  # passed through; may lack the axis
            return args[name][0]
        return _side_by_side([piece[name] for piece in found], self._place(method, args, params_axes), pieces)

    def _pull_pieces(
        self, method: str, params: Tensor, args: Arguments, cotangents: Mapping[str, Tensor], wrt: str, options: Mapping[str, Any],
        params_axes: Axes, pieces: Pieces,
    ) -> Tensor:  # fmt: skip
        """Each piece again with its tape, its rows of the cotangents pulled back, summed (params, uncut arguments) or laid side by side."""
        place = self._place(method, args, params_axes)
        parts: list[Tensor] = []
        for piece, rows in pieces:
            tape = self._record(method, params, piece, options, params_axes, (wrt,))
            cut = {name: value if value.shape[place] == 1 else _taken(value, place, rows) for name, value in cotangents.items()}
            part = self._pull(tape, cut, wrt, params, piece, last=True)
            self._forget(tape)
            parts = [parts[0].add_(part)] if parts and not self._is_cut(wrt, args) else [*parts, part]
        return _side_by_side(parts, args[wrt][1].index(CUT), pieces) if self._is_cut(wrt, args) else parts[0]

    def _is_cut(self, wrt: str, args: Arguments) -> bool:
        return wrt != "params" and CUT in args[wrt][1]


def over_ranks(flat: Tensor) -> Tensor:
    """A flat gradient, summed in place over the ranks of the run."""
    from gradflow.backends.distributed import connected
    from gradflow.backends.distributed.devices import summed

    return summed(connected(), flat)


def _tracked(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _or_zero(value: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if value is None else value


def _rows(value: Any, axes: Axes, rows: Chosen) -> Any:
    if CUT not in axes:
        return value
    if isinstance(value, Tensor):
        return _taken(value, axes.index(CUT), rows)
    return value[rows] if isinstance(rows, slice) else [value[row] for row in rows.tolist()]


def _taken(value: Tensor, place: int, rows: Chosen) -> Tensor:
    return value.narrow(place, rows.start, rows.stop - rows.start) if isinstance(rows, slice) else value.index_select(place, rows)


def _side_by_side(parts: list[Tensor], place: int, pieces: Pieces) -> Tensor:
    """What pieces gave, in the order of the rows before the cut."""
    whole, chosen = torch.cat(parts, dim=place), [rows for _, rows in pieces if isinstance(rows, Tensor)]
    return whole.index_select(place, torch.cat(chosen).argsort()) if chosen else whole


def _select(args: Arguments, name: str, index: int) -> Arguments:
    """One entry of a lifted axis out of every argument that has it."""
    return {
        key: (value.select(axes.index(name), index), tuple(a for a in axes if a != name)) if name in axes else (value, axes)
        for key, (value, axes) in args.items()
    }
