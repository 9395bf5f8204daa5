"""Which rows an update sees: epochs without replacement, orders by key, fresh batches, nodes with rows of their own."""

import numpy
import pytest
import torch

from gradflow.library.tabular_data import breast_cancer, digits
from gradflow.plan.program import DataPlan, Program
from gradflow.runtime.batches import Batches
from gradflow.runtime.events import RunFailed

ROWS = 1438


def batches_of(spec, nodes=None, real=torch.float32):
    program = Program("test", "", {}, {"train": DataPlan("train", spec, nodes)}, (), {})
    return Batches(program, torch.device("cpu"), real)


def rows_seen(found, visits, mode="batch", fresh=0, seed=0):
    plan = found.plans["train"]
    seen = []
    for visit in visits:
        found.at(seed, visit)
        seen.append(found.rows(plan, mode, fresh).numpy())
    return numpy.stack(seen)


def test_an_epoch_draws_no_row_twice_and_the_next_has_another_order():
    found = batches_of(digits(batch=64))
    updates = ROWS // 64
    first, second = rows_seen(found, range(updates)), rows_seen(found, range(updates, 2 * updates))
    assert first.shape == (updates, 64)
    for epoch in (first, second):
        assert len(numpy.unique(epoch)) == epoch.size and epoch.min() >= 0 and epoch.max() < ROWS
    assert (first[0] != second[0]).any()


def test_rows_depend_on_seed_and_visit_alone():
    one, two = batches_of(digits(batch=64)), batches_of(digits(batch=64))
    ahead = rows_seen(one, range(40))
    assert (rows_seen(two, [37, 3, 22])[[1, 2, 0]] == ahead[[3, 22, 37]]).all(), "in any order"
    assert (rows_seen(two, [3], seed=1) != ahead[3]).any()


def test_fresh_batches_are_others_of_the_same_update():
    found = batches_of(digits(batch=64))
    found.at(0, 5)
    plan = found.plans["train"]
    drawn = [found.rows(plan, "batch", fresh).tolist() for fresh in (0, 1, 2)]
    assert len({tuple(rows) for rows in drawn}) == 3
    path = ("train", "train", "x", "batch")
    assert torch.equal(found.read((*path, "1")), found.whole("train", "train", "x")[drawn[1]])


def test_fields_of_one_update_belong_together():
    found = batches_of(digits(batch=16))
    found.at(0, 2)
    x, y = (found.read(("train", "train", field, "batch")) for field in ("x", "y"))
    rows = found.rows(found.plans["train"], "batch")
    assert x.shape == (16, 64) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert torch.equal(x, found.whole("train", "train", "x")[rows]) and torch.equal(y, found.whole("train", "train", "y")[rows])
    assert found.read(("train", "train", "x", "batch")) is x, "read again it is the same tensor"
    found.at(0, 3)
    assert not torch.equal(found.read(("train", "train", "x", "batch")), x)


def test_nodes_see_all_of_their_own_rows_where_there_is_no_batch():
    found = batches_of(digits(split="by_label"), nodes=16)
    x, y = (found.read(("train", "train", field, "node")) for field in ("x", "y"))
    assert x.shape == (16, ROWS // 16, 64) and y.shape == (16, ROWS // 16)
    assert max(len(row.unique()) for row in y) <= 3, "sorted by label, a node sees few classes"
    assert len(y.unique()) == 10
    found.at(0, 9)
    assert found.read(("train", "train", "x", "node")) is x


def test_nodes_draw_batches_from_their_own_rows():
    found = batches_of(digits(split="by_label", batch=8), nodes=16)
    owned = found.owned(found.plans["train"])
    seen = rows_seen(found, range(owned.shape[1] // 8), "node")
    assert seen.shape == (11, 16, 8)
    for node in range(16):
        own = seen[:, node].ravel()
        assert len(numpy.unique(own)) == own.size and set(own) <= set(owned[node])
    places = [[list(owned[node]).index(row) for row in seen[0, node]] for node in (0, 1)]
    assert places[0] != places[1], "every node has an order of its own"
    assert found.read(("train", "train", "x", "node")).shape == (16, 8, 64)


def test_precision_and_whole_splits():
    found = batches_of(digits(), real=torch.float64)
    assert found.read(("train", "test", "x", "full")).dtype == torch.float64
    assert found.read(("train", "test", "x", "full")).shape == (359, 64)


def test_what_cannot_be_drawn_is_said():
    found = batches_of(breast_cancer(batch=40), nodes=16)
    with pytest.raises(RunFailed, match="draws 40 rows for an update, there are 28 a node owns"):
        found.read(("train", "train", "x", "node"))
    with pytest.raises(RunFailed, match="are not divided among nodes"):
        batches_of(breast_cancer()).read(("train", "train", "x", "node"))
    with pytest.raises(RunFailed, match="cannot be divided among 999 nodes"):
        batches_of(breast_cancer(), nodes=999).read(("train", "train", "x", "node"))
