"""How each elementwise operation is written: as Python arithmetic, as a torch expression, and as a torch call with `out=`.

Three tables, one line an operation. `{0}`, `{1}` are the operands' texts. `EXPRESSIONS` has a second form where one operand is a Python
number and torch would refuse it. `CALLS` belong to the one-pass kernels of `kernels.py`: a template there is a list of calls, each of which
writes `{out}`; the first may use the operands, every later one reads what the one before left there. `@0` asks for operand 0 as a 0-d tensor
where it is a number, `None` as a table entry says that the operation cannot be written that way.
"""

from __future__ import annotations

from collections.abc import Mapping

# ---- Python numbers: what can neither raise nor overflow is written as an operator, the rest goes through the folding functions

NUMBERS: Mapping[str, str] = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "neg": "-{0}", "abs": "abs({0})",
    "lt": "{0} < {1}", "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}", "eq": "{0} == {1}", "ne": "{0} != {1}",
    "and": "{0} and {1}", "or": "{0} or {1}", "not": "not {0}", "minimum": "min({0}, {1})", "maximum": "max({0}, {1})",
    "isfinite": "math.isfinite({0})", "tanh": "math.tanh({0})", "stop": "{0}",
}  # fmt: skip

# ---- torch expressions

EXPRESSIONS: Mapping[str, str] = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "pow": "torch.pow({0}, {1})", "mod": "torch.remainder({0}, {1})",
    "minimum": "torch.minimum({0}, {1})", "maximum": "torch.maximum({0}, {1})", "neg": "-{0}", "abs": "{0}.abs()", "sign": "{0}.sign()",
    "exp": "{0}.exp()", "log": "{0}.log()", "log2": "{0}.log2()", "log1mexp": "log1mexp({0})", "sqrt": "{0}.sqrt()", "sin": "{0}.sin()",
    "cos": "{0}.cos()", "tanh": "{0}.tanh()", "sigmoid": "{0}.sigmoid()", "softplus": "softplus({0})", "floor": "{0}.floor()",
    "ceil": "{0}.ceil()", "truncate": "{0}.trunc()", "round": "({0} + 0.5).floor()", "isfinite": "torch.isfinite({0})", "lt": "{0} < {1}",
    "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}", "eq": "{0} == {1}", "ne": "{0} != {1}", "and": "{0} & {1}", "or": "{0} | {1}",
    "not": "~{0}", "stop": "{0}",
}  # fmt: skip
# (operation, which operand is a number): the form then
WITH_NUMBER: Mapping[tuple[str, int], str] = {
    ("minimum", 0): "{1}.clamp(max={0})", ("minimum", 1): "{0}.clamp(max={1})", ("maximum", 0): "{1}.clamp(min={0})",
    ("maximum", 1): "{0}.clamp(min={1})",
}  # fmt: skip

TO_WHOLE = frozenset({"floor", "ceil", "truncate", "round"})  # give an int out of a real
LOGIC = frozenset({"and", "or", "not"})  # take bools
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})

# ---- calls with out=

CALLS: Mapping[str, tuple[str, ...] | None] = {
    "add": ("torch.add(@0, {1}, out={out})",),
    "sub": ("torch.sub(@0, {1}, out={out})",),
    "mul": ("torch.mul(@0, {1}, out={out})",),
    "div": ("torch.div(@0, {1}, out={out})",),
    "pow": ("torch.pow({0}, {1}, out={out})",),
    "mod": ("torch.remainder(@0, {1}, out={out})",),
    "minimum": ("torch.minimum(@0, @1, out={out})",),
    "maximum": ("torch.maximum(@0, @1, out={out})",),
    "neg": ("torch.neg({0}, out={out})",),
    "abs": ("torch.abs({0}, out={out})",),
    "sign": ("torch.sign({0}, out={out})",),
    "exp": ("torch.exp({0}, out={out})",),
    "log": ("torch.log({0}, out={out})",),
    "log2": ("torch.log2({0}, out={out})",),
    "log1mexp": None,
    "sqrt": ("torch.sqrt({0}, out={out})",),
    "sin": ("torch.sin({0}, out={out})",),
    "cos": ("torch.cos({0}, out={out})",),
    "tanh": ("torch.tanh({0}, out={out})",),
    "sigmoid": ("torch.sigmoid({0}, out={out})",),
    "softplus": ("torch.logaddexp({0}, @zero, out={out})",),
    "floor": ("torch.floor({0}, out={out})",),
    "ceil": ("torch.ceil({0}, out={out})",),
    "truncate": ("torch.trunc({0}, out={out})",),
    "round": ("torch.add({0}, 0.5, out={out})", "torch.floor({out}, out={out})"),
    "isfinite": None,
    "lt": ("torch.lt({0}, {1}, out={out})",),
    "le": ("torch.le({0}, {1}, out={out})",),
    "gt": ("torch.gt({0}, {1}, out={out})",),
    "ge": ("torch.ge({0}, {1}, out={out})",),
    "eq": ("torch.eq({0}, {1}, out={out})",),
    "ne": ("torch.ne({0}, {1}, out={out})",),
    "and": ("torch.logical_and(@0, @1, out={out})",),
    "or": ("torch.logical_or(@0, @1, out={out})",),
    "not": ("torch.logical_not({0}, out={out})",),
    "where": ("torch.where(@0, @1, @2, out={out})",),
    "copy": ("{out}.copy_({0})",),
}
SWAPPED: Mapping[str, str] = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne", "add": "add", "mul": "mul"}  # number first
