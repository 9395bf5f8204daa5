"""Placed regions: every operation of the graph, spread along every axis that it has over two and three ranks, against the same region whole."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from gradflow.backends.reference import lower
from gradflow.graph.graph import Graph, Region
from gradflow.graph.operations import Operations
from gradflow.graph.spec import verify
from gradflow.graph.types import Axis
from gradflow.placement.partition import Placement, blocks
from gradflow.placement.sparse import Mixing
from gradflow.placement.spread import Spreader
from gradflow.runtime.regions import sources_of
from tests.backends.operation_cases import CASES, Inputs
from tests.backends.operation_extra import CASES as EXTRA
from tests.placement.threads import ThreadCommunicator, at_once

ALL = {**CASES, **EXTRA}
ROOTS = {"param", "state", "data", "held"}


def axes_of(region: Region) -> set[Axis]:
    """Axes of known size that a source has."""
    return {axis for source in sources_of(region) for axis in source.type.axes if axis.size is not None and axis.size >= 2}


def on_ranks(region: Region, inputs: Inputs, placement: Placement, exact: bool) -> list[dict[str, Any]]:
    def body(communicator: ThreadCommunicator) -> dict[str, Any]:
        own, ops = communicator.placement, Operations(Graph(count=10_000))
        plain = Region(tuple((f"report/{name}", node) for name, node in region.results), region.parameters, region.name)
        placed = Spreader(ops, own, exact, Mixing(ops)).region(plain)
        verify(placed, "place")
        local = {}
        for source in sources_of(region):
            key = (source["kind"], *source["path"])
            value, whole = numpy.asarray(inputs[key]), Axis(own.axis, own.size)
            if whole in source.type.axes:
                value = value.take(own.own, axis=source.type.axes.index(whole))
            local[key] = value
        return dict(lower(placed)(local))

    return at_once(placement, body)


@pytest.mark.parametrize("exact", [False, True], ids=["summed by rank", "exact"])
@pytest.mark.parametrize("name", sorted(ALL))
def test_a_spread_region_gives_what_the_whole_one_does(name: str, exact: bool) -> None:
    region, inputs = ALL[name]()
    expected = lower(region)(inputs)
    for axis, size in sorted(axes_of(region)):
        assert size is not None
        for ranks in {2, min(3, size)}:
            order = range(size) if ranks == 2 else [*range(1, size, 2), *range(0, size, 2)]  # neighbors apart, too
            parts = tuple(tuple(sorted(part)) for part in blocks(order, ranks))
            for found in on_ranks(region, inputs, Placement(parts, 0, axis), exact):
                for key, value in expected.items():
                    numpy.testing.assert_allclose(found[f"report/{key}"], value, rtol=1e-12, atol=1e-12, err_msg=f"{key} over {axis} on {ranks}")


def test_results_that_are_kept_stay_split() -> None:
    ops = Operations(Graph())
    node = Axis("node", 5)
    from gradflow.graph.types import Type

    x = ops.source(Type("real", (node,)), "param", "x")
    spreader = Spreader(ops, Placement(((0, 1), (2, 3, 4)), 1))
    placed = spreader.region(Region((("param/x", ops.elementwise("mul", x, 2.0)), ("loss", ops.reduce("sum", x, ["node"])), ("report/x", x))))  # type: ignore[arg-type]
    sizes = {name: [axis.size for axis in result.type.axes] for name, result in placed.results}
    assert sizes == {"param/x": [3], "loss": [], "report/x": [5]}
    forms = [one["form"] for one in placed.nodes() if one.op == "transfer"]
    assert sorted(forms) == ["gather", "sum"]
