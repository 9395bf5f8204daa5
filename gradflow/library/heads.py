"""Heads: a language model that also reads numbers off its hidden states: the worth of a text so far (a critic), or what kind of text it is (a
classifier, a reward model). The trunk stays what it was: it samples and scores as before, its leaves keep their names, and the head's follow.

Axes: sample, token (a place in the response), class. W: the width of what the trunk's own head reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradflow.library.catalogue import FieldSpec, LeafSpec, ModelSpec, primitive
from gradflow.library.scoring import class_logits, token_values

if TYPE_CHECKING:
    from torch import Tensor, nn

HEADS = {"value": "value_head", "logit": "classifier"}  # the field that `score` adds, and the head that gives it


@primitive("model", of="model")
def value_head(of: ModelSpec) -> ModelSpec:
    """A critic: the language model `of` with one number read off what stands before each token, V(prompt, tokens so far).

    `of` is a model's declaration, `value_head(transformer(..))`, or a copy of a model of the pipeline, `value_head(copy(policy))`. `score` gives
    `value` [sample, token], and what it was when the unit began, `value_old`. Leaves: those of `of`, then `value_head.weight` [1, width] and
    `value_head.bias` [1], which start uniform within 1 / sqrt(width). The model still samples: one may be policy and critic.
    """
    return with_head(of, "value", 1)


@primitive("model", of="model", classes="int >= 1")
def classifier(of: ModelSpec, classes: int = 1) -> ModelSpec:
    """A reward model: the language model `of` with scores read off the last token of the response, having read prompt and response.

    `of` is a model's declaration, or a copy of a model of the pipeline, `classifier(copy(writer))`. `score` gives `logit`, [sample] for one class
    (the log-odds of it), else [sample, class]. Leaves: those of `of`, then `classifier.weight` [classes, width] and `classifier.bias` [classes],
    which start uniform within 1 / sqrt(width).
    """
    return with_head(of, "logit", classes)


def with_head(of: ModelSpec, field: str, outputs: int) -> ModelSpec:
    """Raises ValueError where there are no hidden states to read, or such a head is there already."""
    name, width = HEADS[field], of.facts.get("width")
    if not isinstance(width, int) or "score" not in of.methods:
        raise ValueError(f"`{of.name}` is no language model: `{name}` reads the hidden states of one")
    if not of.leaves:
        raise ValueError(f"the parameters of `{of.name}` are known only when it is built; `{name}` has to know them before")
    if field in of.methods:
        raise ValueError(f"`{of.name}` has a `{name}` already")

    def dress(module: Any, seed: int) -> nn.Module:
        from gradflow.library import networks

        head = networks.build(lambda: networks.Affine(width, outputs), seed, networks.like_torch)
        module.add_module(name, head.to(module.head.device))
        return module

    return replace(
        of,
        name=f"{name}({of.name})",
        leaves=(*of.leaves, LeafSpec(f"{name}.weight", (outputs, width)), LeafSpec(f"{name}.bias", (outputs,))),
        build=lambda seed: dress(of.build(seed), seed),
        dress=dress,
        methods=(*of.methods, field),
        facts={**of.facts, **({"classes": outputs} if field == "logit" else {})},
        flops_per_row=of.flops_per_row + 2.0 * width * outputs,
    )


def head_axes(model: ModelSpec) -> dict[str, tuple[tuple[str, ...], tuple[tuple[str, int], ...]]]:
    """The fields that the heads of a model add: of each the axes of the record's `mask` that it has, and those of its own."""
    found: dict[str, Any] = {}
    if "value" in model.methods:
        found["value"] = (("sample", "token"), ())
    if "logit" in model.methods:
        classes = model.facts["classes"]
        found["logit"] = (("sample",), (("class", classes),) if classes != 1 else ())
    return found


def head_fields(model: ModelSpec, samples: Mapping[str, FieldSpec]) -> dict[str, FieldSpec]:
    """The same as fields of a record."""
    found = {}
    for name, (kept, own) in head_axes(model).items():
        axes = tuple(axis for axis in samples["mask"].axes if axis[0] in kept)
        found[name] = FieldSpec("real", (*axes, *own), padded="token" in kept, live=True)
    if "value" in found:
        found["value_old"] = replace(found["value"], live=False)
    return found


def read_head(model: Any, samples: Mapping[str, Any], field: str) -> Tensor:
    """One field of `head_axes`, with gradient."""
    head = getattr(model, HEADS[field])
    return token_values(model, head, samples) if field == "value" else class_logits(model, head, samples)
