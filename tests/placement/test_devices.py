"""One model over devices: every rank takes its rows, and what comes out is what one process computes; ranks are threads here."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch

from gradflow.backends.distributed.devices import Buckets, part
from gradflow.backends.reference import lower
from gradflow.graph.graph import Graph, Region
from gradflow.graph.operations import Operations
from gradflow.graph.spec import verify
from gradflow.graph.types import Axis
from gradflow.placement.devices import (
    DEVICE,
    READ,
    Rows,
    RowSpreader,
    Shards,
    ShardSpreader,
    on_devices,
    placement_on_devices,
    shards_of,
)
from gradflow.placement.programs import Unplaced, placement_of
from gradflow.plan.artifact import decode, encode
from gradflow.plan.program import Program, Update
from gradflow.plan.rewriting import all_nodes, optimized
from gradflow.runtime.events import RunFailed
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.regions import sources_of
from gradflow.runtime.snapshots import tensors_of
from tests.placement.test_spread import ALL, axes_of
from tests.placement.threads import ThreadCommunicator, at_once, on_ranks
from tests.runtime.harness import LOCK, written

DIGITS = """
pipeline p() {{
  data train, test = digits(batch: {batch})
  model net = {model}
  loss = {loss}
  flow net{over}: loss -> backprop -> {chain}
  train 6 steps (seed: 3) {{ every 2 steps {{ report accuracy = accuracy(net(test.x), test.y) }} }}
}}
"""
LOSS = "cross_entropy(net(train.x), train.y)"
MASKED = "mean(0 - log_softmax(net(train.x), over: class), over: [sample, class], where: train.y < 3)"
MEASURED = "tokens_per_second"
ADAM = "clip_norm(1.0) -> adam(0.01)"


def program(batch: object = 33, loss: str = LOSS, chain: str = ADAM, over: str = " over devices()", model: str = "mlp(64, 16, 10)") -> Program:
    found: Program = written(DIGITS.format(batch=batch, loss=loss, chain=chain, over=over, model=model))
    return found


def state(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tensors_of(run).items() if not name.startswith("random/") and MEASURED not in name}


def alone(one: Program, **options: Any) -> tuple[list[Any], dict[str, torch.Tensor]]:
    run = Run(one, Options(precision="float64", **options))
    events = list(run.events())
    return events, state(run)


def same(one: Program, count: int, **options: Any) -> None:
    _, wanted = alone(one, **options)
    for _, found in on_ranks(one, count, Options(precision="float64", **options), watch=state):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


def update_of(one: Program) -> Update:
    (update,) = (action for phase in one.phases for action in phase.actions if isinstance(action, Update))
    return update


def forms(one: Program, count: int = 2) -> list[tuple[str, str]]:
    """What crosses between the ranks in the flow's region."""
    update = update_of(on_devices(optimized(one), placement_on_devices(count)))
    nodes = update.region.nodes()
    verify(update.region, "place")
    return sorted((node["form"] if node.op == "transfer" else "gradient") for node in nodes if node.op == "transfer" or node.get("summed"))


# ---- runs


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_ranks_compute_what_one_process_does(count: int, backend: str) -> None:
    same(program(), count, backend=backend)


def test_rows_that_do_not_divide_and_counts_of_masks() -> None:
    same(program(batch=5, loss=MASKED), 3)


def test_micro_batches_of_parts() -> None:
    same(program(batch=10), 3, micro=2)


def test_one_row_each() -> None:
    same(program(batch=3), 3)


def test_rollouts_in_minibatches() -> None:
    same(written(LOCK.replace("flow policy:", "flow policy over devices():")), 3)


def test_all_rows_at_once() -> None:
    text = DIGITS.replace("(batch: {batch})", "()").format(model="mlp(64, 16, 10)", loss=LOSS, over=" over devices()", chain="sgd(0.5)")
    same(written(text), 2)


def test_a_gradient_at_another_point_and_on_another_batch() -> None:
    """Each call has a sum over the ranks of its own."""
    ahead = """
projection ahead() {
  return grad(at: param - 0.1 * grad) + 0.5 * grad(at: param, fresh: 1)
}
"""
    text = ahead + DIGITS.format(batch=33, model="mlp(64, 16, 10)", loss=LOSS, over=" over devices()", chain="ahead() -> sgd(0.5)")
    same(written(text), 2)


def test_alone_it_is_the_program_without_devices() -> None:
    events, found = alone(program())
    others, wanted = alone(program(over=""))
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], value) for name, value in wanted.items())
    assert len(events) == len(others)


def test_only_the_gradient_and_the_loss_cross() -> None:
    assert forms(program()) == ["gradient", "part", "part", "sum"]


# ---- regions: every operation, spread by rows along every axis


def regions_on_ranks(region: Region, inputs: Any, axis: str, count: int) -> list[dict[str, Any]]:
    def body(communicator: ThreadCommunicator) -> dict[str, Any]:
        placed = RowSpreader(Operations(Graph(count=10_000)), communicator.placement, axis).region(region)
        verify(placed, "place")
        return dict(lower(placed)({(s["kind"], *s["path"]): inputs[s["kind"], *s["path"]] for s in sources_of(region)}))

    return at_once(placement_on_devices(count), body)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_region_spread_by_rows_gives_what_the_whole_one_does(name: str) -> None:
    region, inputs = ALL[name]()
    expected = lower(region)(inputs)
    names = {axis for axis, _ in axes_of(region)} | {a.name for s in sources_of(region) for a in s.type.axes if a.size is None and s["kind"] in READ}
    for axis in sorted(names):
        for found in regions_on_ranks(region, inputs, axis, 2):
            for key, value in expected.items():
                numpy.testing.assert_allclose(found[key], value, rtol=1e-12, atol=1e-12, err_msg=f"{key} over {axis}")


# ---- rows and buckets


def test_rows_are_shared_as_equally_as_can_be() -> None:
    for size in range(3, 12):
        parts = [Rows(rank, 3).stretches(rank, size)[0] for rank in range(3)]
        assert parts[0][0] == 0 and parts[-1][1] == size
        assert all(one[1] == other[0] for one, other in zip(parts, parts[1:]))
        assert max(b - a for a, b in parts) - min(b - a for a, b in parts) <= 1


def test_a_part_is_a_view() -> None:
    value = torch.arange(10.0).reshape(5, 2)
    mine = part(value, Rows(1, 2), 0)
    assert mine.tolist() == value[2:].tolist() and mine.data_ptr() == value[2:].data_ptr()
    with pytest.raises(ValueError, match="1 rows cannot be shared by 2 processes"):
        part(value[:1], Rows(0, 2), 0)


class Recorder:
    """Stands for a communicator: what is summed, in order."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended = 0

    def begin_sum(self, value: torch.Tensor) -> Any:
        self.begun.append(value.clone())

        def end() -> None:
            self.ended += 1
            value.mul_(2)

        return end


def test_buckets_are_sent_from_the_last_leaf_on_whatever_comes_first() -> None:
    flat = torch.full((10,), -1.0)
    leaves = list(flat.split([4, 3, 2, 1]))
    recorder = Recorder()
    sums = Buckets(recorder, flat, leaves, size=12)  # type: ignore[arg-type]
    assert sums.stretches == [(7, 10), (4, 7), (0, 4)]
    sums.put(1, torch.ones(3))
    assert not recorder.begun  # the bucket before it is not complete
    sums.put(3, torch.ones(1))
    sums.put(2, torch.ones(2))
    assert [len(one) for one in recorder.begun] == [3, 3]
    sums.finish()
    assert [len(one) for one in recorder.begun] == [3, 3, 4] and recorder.ended == 3
    assert flat.tolist() == [0.0] * 4 + [2.0] * 6


def test_hooks_see_gradients_that_are_whole() -> None:
    weight = torch.ones(3, requires_grad=True)
    flat = torch.empty(3)
    sums = Buckets(Recorder(), flat, [flat])  # type: ignore[arg-type]
    hooks = sums.watch([weight])
    (found,) = torch.autograd.grad((weight * 2).sum() + (weight * 3).sum(), [weight])
    assert len(hooks) == 1 and found.tolist() == [5.0] * 3
    sums.finish()
    assert flat.tolist() == [10.0] * 3


# ---- what is refused


def test_fewer_rows_than_ranks() -> None:
    with pytest.raises(Unplaced, match="`train` gives 2 rows to an update, which 3 processes cannot share"):
        placement_of(program(batch=2), 3)


def test_fewer_rows_than_ranks_known_only_in_the_run() -> None:
    few = written(LOCK.replace("flow policy:", "flow policy over devices():").replace("minibatches: 3", "minibatches: 64"))
    with pytest.raises(RunFailed, match="1 rows cannot be shared by 2 processes"):
        on_ranks(few, 2, Options(precision="float64"))


def test_nodes_and_devices_do_not_go_together() -> None:
    text = """
pipeline p() {
  data train, test = digits(split: by_label)
  data rows = digits(batch: 8)
  model net = softmax_regression(64, 10)
  model other = softmax_regression(64, 10)
  flow net over ring(8): cross_entropy(net(train.x), train.y) -> backprop -> gossip() -> sgd(lr: 0.1)
  flow other over devices(): cross_entropy(other(rows.x), rows.y) -> backprop -> sgd(lr: 0.1)
  train 2 steps (seed: 0)
}
"""
    with pytest.raises(Unplaced, match="flows over devices and flows over a topology"):
        placement_of(written(text), 2)


# ---- artifacts


def test_an_artifact_keeps_what_is_spread() -> None:
    one = program(over=" over devices(shard: parameters)")
    again = decode(encode(one))
    (update,) = (a for a in again.phases[0].actions if isinstance(a, Update))
    assert update.spread == "parameters" and encode(again) == encode(one)
    assert placement_of(again, 2).axis == DEVICE
    assert not any(node.get("summed") for node in all_nodes(again))


def test_rows_that_are_not_independent_are_refused() -> None:
    dropping = program(model="mlp(64, 16, 10, dropout: 0.5)")
    with pytest.raises(RunFailed, match="`net` drops units at random"):
        on_ranks(dropping, 2, Options(precision="float64"))


# ---- sharded parameters: what a rank keeps, and regions over it


LEAVES = ((5, 3), (4,), (1, 5))  # 24 coordinates, which no number of ranks divides


def test_shards_cover_every_leaf_as_fully_shard_does() -> None:
    for ranks in (1, 2, 3, 7):
        layouts = [Shards(rank, ranks, LEAVES) for rank in range(ranks)]
        held = sorted(i for one in layouts for start, stop in one.stretches(one.rank, one.size) for i in range(start, stop))
        assert held == list(range(24))
        for one in layouts:
            chunks = [torch.empty(leaf).chunk(ranks) for leaf in LEAVES]
            assert one.counts(one.rank) == [chunk[one.rank].numel() if one.rank < len(chunk) else 0 for chunk in chunks]


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_region_over_shards_gives_what_the_whole_one_does(name: str) -> None:
    """Parameters and states come in parts; what is shown is whole."""
    region, inputs = ALL[name]()
    if not any(Axis("param", 24) in source.type.axes for source in sources_of(region)):
        return
    expected = lower(region)(inputs)

    def body(communicator: ThreadCommunicator) -> Any:
        placement = communicator.placement
        layout = Shards(placement.rank, 3, LEAVES)
        shown = Region(tuple((f"report/{key}", node) for key, node in region.results), region.parameters, region.name)
        placed = ShardSpreader(Operations(Graph(count=10_000)), placement, layout, ()).region(shown)
        verify(placed, "place")
        given = {}
        for source in sources_of(region):
            value = numpy.asarray(inputs[source["kind"], *source["path"]])
            if source["kind"] in ("param", "state", "held", "rollout") and Axis("param", 24) in source.type.axes:
                value = part(torch.tensor(value), layout, source.type.names.index("param")).numpy()
            given[source["kind"], *source["path"]] = value
        return lower(placed)(given)

    found = at_once(placement_on_devices(3, 0), body)
    for one in found:
        for key, value in expected.items():
            numpy.testing.assert_allclose(one[f"report/{key}"], value, rtol=1e-12, atol=1e-12)


SHARDED = " over devices(shard: parameters)"


def test_elementwise_updates_send_only_norms() -> None:
    """No coordinates are gathered: FSDP2 alone moves those, around a call of the model."""
    assert forms(program(over=SHARDED)) == ["gradient", "part", "part", "sum", "sum"]  # of the loss, and of the gradient's norm


@pytest.mark.parametrize("count", [2, 4])
def test_a_rank_keeps_its_share(count: int) -> None:
    """Bytes of parameters and states: a part, and no more than one row of each leaf above it."""
    one = optimized(program(over=SHARDED))
    whole = sum(state.type.axes[0].size or 0 for state in update_of(one).states) + one.models["net"].spec.size
    rows = sum(math.prod(leaf.shape[1:]) for leaf in one.models["net"].spec.leaves)
    for rank in range(count):
        placement = placement_on_devices(count, rank)
        layout = shards_of(one, placement)["net"]
        kept = sum(state.type.axes[0].size or 0 for state in update_of(on_devices(one, placement)).states) + sum(layout.counts(rank))
        assert kept <= whole / count + 3 * rows


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("model other = mlp(64, 16, 10)\n  flow net, other over devices(shard: parameters): cross_entropy(net(train.x) + other(train.x), train.y)",
         "parameters of one model can be sharded, not of net, other"),
        ("model odd = linear(1209)\n  flow odd: norm(odd) -> backprop -> sgd(0.1)"
         "\n  flow net over devices(shard: parameters): cross_entropy(net(train.x), train.y)", "`odd` has as many parameters as `net`, and other"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_sharded(lines: str, said: str) -> None:
    text = f"""
pipeline p() {{
  data train, test = digits(batch: 8)
  model net = mlp(64, 16, 10)
  {lines} -> backprop -> sgd(lr: 0.1)
  train 2 steps (seed: 0)
}}
"""
    with pytest.raises(Unplaced, match=said):
        placement_of(written(text), 2)
