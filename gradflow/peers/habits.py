"""Names that people bring from Python, NumPy and PyTorch, and how the same is said here. Only what is wrong already asks this table."""

from __future__ import annotations

MODULE = "functions stand alone, without a module before them: `mean(x)`, `exp(x)`"
BY_NAME = "values meet by the names of their axes, so there is nothing to align; `rename(x, axis: new)` gives an axis another name"
OVER = "the axes that go are named: `over: token`"
SAYS = {
    "True": "truth values are written small: `true`",
    "False": "truth values are written small: `false`",
    "None": "it is written small: `none`",
    **dict.fromkeys(("torch", "np", "numpy", "jnp", "nn", "math", "F"), MODULE),
    **dict.fromkeys(("detach", "no_grad", "stop_grad"), "`stop(x)` is x without its gradient"),
    "clamp": "`clip(x, low, high)` holds it between two bounds",
    **dict.fromkeys(("pow", "square"), "a power is written `x^2`"),
    "log1p": "write `log(1 + x)`",
    "expm1": "write `exp(x) - 1`",
    **dict.fromkeys(("logsumexp", "log_sum_exp"), "write `log(sum(exp(x), over: axis))`; what is divided by it has `log_softmax(x, over: axis)`"),
    **dict.fromkeys(("masked_mean", "masked_sum", "nanmean"), "a condition is an option: `mean(x, where: mask)`, `sum(x, where: mask)`"),
    "masked_whiten": "write `whiten(x, mask)`",
    **dict.fromkeys(("cat", "concatenate", "stack", "hstack", "vstack"), "write `concat(x, y, along: axis)`"),
    "gather": "an index map in brackets reads through it: `x[map]`",
    "scatter": "`sum(x, by: map)` adds by an index map",
    **dict.fromkeys(("view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "expand", "repeat_interleave", "broadcast_to"), BY_NAME),
    **dict.fromkeys(("zeros", "ones", "zeros_like", "ones_like", "full"), "a number stands wherever a tensor can: `0`, `1`"),
    "arange": "write `range([row: n])`, or `position(axis)` along one that is there",
    "randn": "write `x ~ normal(axes)`",
    "rand": "write `x ~ uniform(0, 1, axes)`",
    "multinomial": "write `x ~ categorical(p, over: axis)`",
    "len": "`size(axis)` is how long an axis is, `count(x, where: condition)` how many entries there are",
    **dict.fromkeys(("argsort", "topk"), "`rank(x, over: axis)` is the place of each entry, `sort(x, over: axis)` has them in order"),
    **dict.fromkeys(("median", "quantile"), "`rank(x, over: axis)` says which entry stands in the middle: `mean(x, where: rank(x, ..) == n)`"),
    **dict.fromkeys(("isnan", "isinf"), "write `not isfinite(x)`"),
    "print": "`report name = value` shows a value",
    **dict.fromkeys(("dim", "axis", "axes", "dims"), OVER),
    **dict.fromkeys(("keepdim", "keepdims"), "it is not needed: " + BY_NAME.partition(",")[0]),
}


def habit(name: str) -> str:
    """What to write for a name that a spec does not know, in one sentence, or nothing."""
    return SAYS.get(name, "")


__all__ = ["habit"]
