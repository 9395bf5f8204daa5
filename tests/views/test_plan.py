"""The view of a program: what it says, and that it fits its width."""

from __future__ import annotations

import json

import pytest

from gradflow.graph.types import Axis, Type
from gradflow.plan.artifact import decode, encode
from gradflow.views.normalizers import terms_of
from gradflow.views.plan import bytes_of, render, summary
from tests.plan.programs import looped, of, shipped


@pytest.mark.parametrize("name", sorted(shipped()))
@pytest.mark.parametrize("width", [80, 200])
def test_every_pipeline_fits(name: str, width: int) -> None:
    text = render(shipped()[name], width)
    assert text and max(map(len, text.splitlines())) <= width and "\x1b" not in text
    for flow in (flow for phase in summary(shipped()[name])["phases"] for flow in phase["flows"]):
        assert all(stage["stage"].split(" ")[0].split("(")[0] in text for stage in flow["stages"])


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_program_read_back_looks_the_same(name: str) -> None:
    program = shipped()[name]
    assert render(decode(encode(program)), 120) == render(program, 120)
    assert json.loads(json.dumps(summary(program)))["version"] == 1


def test_econtrol_tells_types_graph_and_bytes() -> None:
    text = render(shipped()["14_econtrol:compressed_digits"], 100)
    for part in (
        "--[node: 16, param: 650]--> econtrol --[param: 650]--> sgd --> net", "spectral gap 0.0625", "16 nodes, 15 links, diameter 2",
        "econtrol.error", "41.6 kB", "compress: contractive(delta: 0.1), sparse(k: 65)", "train 1,000 rounds (seed: 0)", "every 50 rounds: accuracy",
    ):  # fmt: skip
        assert part in text, part


def test_a_narrow_view_draws_the_chain_downward() -> None:
    lines = [line.strip() for line in render(shipped()["14_econtrol:compressed_digits"], 60).splitlines()]
    places = [
        lines.index(text)
        for text in (
            "loss  (objective)",
            "| [node: 16, param: 650]  exact, dense, local",
            "econtrol  (exchange)",
            "| [param: 650]  dense",
            "sgd  (update)",
        )
    ]
    assert places == sorted(places)


def test_phases_copies_and_parameters() -> None:
    text = render(looped(), 100)
    assert "phase 2: train 2 steps (precision: float64)" in text and "copy of w" in text and "then slow <- .." in text
    assert "rate = 0.1, rule = the update sgd, none_here = none" in text


def test_color_only_where_asked() -> None:
    assert "\x1b[" in render(looped(), 100, color=True)


def test_bytes_follow_the_precision() -> None:
    type_ = Type("real", (Axis("a", 3), Axis("b", 5)))
    assert [bytes_of(type_, p) for p in ("float64", "float32", "bfloat16")] == [120, 60, 30]
    assert bytes_of(Type("bool", (Axis("a", 3),)), "float32") == 3 and bytes_of(Type("real", (Axis("a"),)), "float32") is None


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mean(w^2)", ["mean over token (5)"]),
        ("sum(w^2)", ["sum over token"]),
        ("0.5 * mean(w^2) - 2 * sum(w)", ["0.5 * mean over token (5)", "2 * sum over token"]),
        ("mean(w^2, where: w > 0)", ["sum over token / entries of w over token"]),
        ("sum(w^2) / 7", ["sum over token / 7"]),
        ("mean(w^2, weight: w^4)", ["sum over token / the sum of w over token"]),
        ("log(sum(w^2))", ["a value"]),
    ],
)
def test_normalizers(loss: str, expected: list[str]) -> None:
    program = of(f"pipeline p {{\n  model w = free([token: 5])\n  loss = {loss}\n  flow w: loss -> backprop -> sgd(lr: 0.1)\n  train 1 steps\n}}\n")
    action = program.phases[0].actions[0]
    assert terms_of(dict(action.region.results)["loss"]) == expected  # type: ignore[union-attr]


def test_a_mean_over_nodes_of_several_terms_shows_all_of_them() -> None:
    from gradflow import compiler
    from gradflow.language.source import Source
    from gradflow.passes.scope import Module

    text = """
pipeline p {
  data  train, test = digits(split: by_label)
  model net = mlp(64, 10)
  loss = cross_entropy(net(train.x), train.y) + 0.5 * mean(net^2)
  flow net over star(4): loss -> backprop -> average() -> sgd(lr: 0.1)
  train 2 rounds
}
"""
    program, _ = compiler.build(Module.of(Source("p.gflow", text)))
    assert program is not None
    (term,) = summary(program)["phases"][0]["flows"][0]["loss"]
    assert term.startswith("mean over node (4) of (mean over sample") and " + 0.5 * mean over param" in term
