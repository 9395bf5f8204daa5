"""Data sets: what is promised without reading them is what is loaded; splits and divisions are disjoint, equal and always the same."""

import numpy
import pytest

from gradflow.library import splits, synthetic_data, tabular_data

ROWS = "a,b,kind\n" + "".join(f"{i},{i * i / 7},{'cat' if i % 3 else 'dog'}\n" for i in range(50))
TABLES = {
    "digits": lambda: tabular_data.digits(batch=64),
    "digits images": lambda: tabular_data.digits(images=True, test_share=0.3),
    "digits one": lambda: tabular_data.digits(size=1, images=True),
    "breast_cancer": lambda: tabular_data.breast_cancer(),
    "breast_cancer class": lambda: tabular_data.breast_cancer(features=10, labels="class", test_share=0.0),
    "wine": lambda: tabular_data.wine(),
    "iris": lambda: tabular_data.iris(),
    "diabetes": lambda: tabular_data.diabetes(),
}
SYNTHETIC = {
    "random_least_squares": lambda: synthetic_data.random_least_squares(nodes=4, dim=6, condition=100.0),
    "random_least_squares rows": lambda: synthetic_data.random_least_squares(nodes=4, dim=6, condition=100.0, rows=15, basis="own"),
    "heterogeneous_quadratics": lambda: synthetic_data.heterogeneous_quadratics(),
    "logistic_labels": lambda: synthetic_data.logistic_labels(rows=50),
}
KINDS = {"real": numpy.float64, "int": numpy.int64, "bool": numpy.bool_}


@pytest.fixture
def table_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return str(path)


def check_spec(spec):
    data = spec.load()
    assert tuple(data) == spec.splits == tuple(spec.fields)
    for split, fields in spec.fields.items():
        assert set(data[split]) == set(fields)
        sizes: dict[str, int] = {}
        for name, field in fields.items():
            values = data[split][name]
            assert values.dtype == KINDS[field.base] and values.ndim == len(field.axes), name
            for (axis, size), extent in zip(field.axes, values.shape):
                assert size in (None, extent) and sizes.setdefault(axis, extent) == extent, (name, axis)
            if field.target is None:
                assert numpy.isfinite(values).all() and values.std() > 0 or values.size == 1, name
            elif field.target[1] is not None:
                assert values.min() >= 0 and values.max() < field.target[1]
    return data


@pytest.mark.parametrize("name", [*TABLES, *SYNTHETIC])
def test_what_is_loaded_is_what_was_promised(name):
    spec = (TABLES | SYNTHETIC)[name]()
    data, again = check_spec(spec), spec.load()
    for split in data:
        for field in data[split]:
            assert numpy.array_equal(data[split][field], again[split][field])


def test_digits():
    data = check_spec(tabular_data.digits())
    (x, y), (x_test, y_test) = ((data[split]["x"], data[split]["y"]) for split in ("train", "test"))
    assert x.shape == (1438, 64) and x_test.shape == (359, 64) and x.min() >= 0 and x.max() == 1
    assert numpy.abs(numpy.bincount(y) / 1438 - numpy.bincount(y_test) / 359).max() < 2e-3  # the same share of each class
    rows = {row.tobytes() for row in numpy.concatenate((x, x_test))}
    assert len(rows) == len({row.tobytes() for row in tabular_data.DIGITS.read()[0] / 16})  # nothing lost
    images = tabular_data.digits(images=True).load()["train"]["x"]
    assert numpy.array_equal(images.reshape(-1, 64), x)
    assert tabular_data.digits(batch=64).batch == 64 and tabular_data.digits().batch is None


def test_tables_are_standardized_by_their_training_rows():
    for name in ("breast_cancer", "wine", "iris", "diabetes"):
        data = TABLES[name]().load()
        x = data["train"]["x"]
        assert numpy.abs(x.mean(0)).max() < 1e-9 and numpy.abs(x.std(0) - 1).max() < 1e-9
        assert 0.01 < numpy.abs(data["test"]["x"].mean(0)).max() < 0.6
    y = tabular_data.breast_cancer(test_share=0.0).load()["train"]["y"]
    assert set(y) == {-1.0, 1.0} and (y == 1).sum() == 357
    constant = numpy.ones((4, 1))
    assert numpy.array_equal(splits.standardized(constant, constant)[0], numpy.zeros((4, 1)))


@pytest.mark.parametrize("nodes", [1, 5, 16])
@pytest.mark.parametrize("how", ["iid", "by_label", "dirichlet"])
def test_nodes_own_equal_disjoint_rows(how, nodes):
    spec = tabular_data.digits(split=how, alpha=0.1)
    owned, again = spec.divide(nodes), spec.divide(nodes)
    assert [len(rows) for rows in owned] == [1438 // nodes] * nodes
    every = numpy.concatenate(owned)
    assert len(set(every.tolist())) == len(every) and every.min() >= 0 and every.max() < 1438 and every.dtype == numpy.int64
    assert all(numpy.array_equal(a, b) for a, b in zip(owned, again))


def test_how_nodes_differ():
    """The largest share of one class at a node: near 10 % for iid, high for the others; dirichlet goes from one to the other with alpha."""
    y = tabular_data.digits().load()["train"]["y"]

    def largest(how, alpha=1.0):
        return numpy.mean([numpy.bincount(y[rows]).max() / len(rows) for rows in splits.divide_rows(16, y, how, alpha)])

    assert largest("iid") < 0.22 and largest("by_label") > 0.7
    assert largest("dirichlet", 0.1) > 0.5 > 0.3 > largest("dirichlet", 100.0)
    present = {label for rows in splits.divide_rows(16, y, "by_label") for label in y[rows]}
    assert present == set(range(10))


def test_a_node_can_keep_few_rows():
    owned = tabular_data.breast_cancer(per_node=1).divide(34)
    assert [len(rows) for rows in owned] == [1] * 34 and len({int(rows[0]) for rows in owned}) == 34
    with pytest.raises(ValueError, match="do not give each of 34 nodes 20"):
        tabular_data.breast_cancer(per_node=20).divide(34)


def test_csv(table_file):
    spec = tabular_data.csv(table_file, "kind", labels="class", batch=8, standardize=True)
    assert spec.facts == {"features": 2} and spec.batch == 8
    data = check_spec(spec)
    assert len(data["train"]["y"]) == 40 and len(data["test"]["y"]) == 10
    assert (numpy.concatenate([data[s]["y"] for s in data]) == 0).sum() == 33  # cats come first
    assert [len(rows) for rows in spec.divide(3)] == [13] * 3
    plain = tabular_data.csv(table_file, "kind", labels="class", test_share=0.0)
    assert plain.splits == ("train",) and numpy.array_equal(plain.load()["train"]["x"][:, 0], numpy.arange(50))


def test_csv_says_what_is_wrong(table_file, tmp_path):
    with pytest.raises(ValueError, match="no column `c`; it has a, b, kind"):
        tabular_data.csv(table_file, "c")
    with pytest.raises(OSError):
        tabular_data.csv(str(tmp_path / "none.csv"), "a")
    with pytest.raises(ValueError, match="column `kind`, row 1: .*dog.* is not a finite number"):
        tabular_data.csv(table_file, "b").load()
    for text, sentence in [("a,b\n1,2\n3\n", "row 2: not as many"), ("a,b\n1,2,3\n", "row 1: not as many"), ("a,b\n1,nan\n", "row 1")]:
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match=sentence):
            tabular_data.csv(str(tmp_path / "bad.csv"), "a").load()


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = str(tmp_path / "rows.parquet")
    columns = {"a": list(range(50)), "b": [i / 7 for i in range(50)], "kind": ["cat" if i % 3 else "dog" for i in range(50)]}
    parquet.write_table(pyarrow.table(columns), path)
    spec = tabular_data.parquet(path, "kind", labels="class")
    assert spec.fields["train"]["x"].axes == (("sample", 40), ("feature", 2))
    check_spec(spec)


def test_least_squares_has_its_condition_number_and_optimum():
    for name in ("random_least_squares", "random_least_squares rows"):
        spec = SYNTHETIC[name]()
        a, b, best = (spec.load()["train"][field] for field in ("a", "b", "best"))
        for node in a:
            values = numpy.linalg.eigvalsh(node.T @ node)
            assert values[0] == pytest.approx(spec.facts["strong"]) == 0.01 and values[-1] == pytest.approx(spec.facts["smooth"]) == 1
        slope = numpy.einsum("nrc,nr->c", a, a @ best - b)
        assert numpy.abs(slope).max() < 1e-10 and numpy.abs(best).max() > 1e-3
        assert (name == "random_least_squares") == numpy.allclose(a[0], a[1])
    other = synthetic_data.random_least_squares(nodes=4, dim=6, condition=100.0, seed=1).load()["train"]["b"]
    assert not numpy.allclose(other, SYNTHETIC["random_least_squares"]().load()["train"]["b"])
    with pytest.raises(ValueError, match="3 rows do not determine"):
        synthetic_data.random_least_squares(dim=6, rows=3)


def test_heterogeneous_quadratics():
    spec = synthetic_data.heterogeneous_quadratics(nodes=10, dim=2000)
    a, b, best = (spec.load()["train"][field] for field in ("a", "b", "best"))
    assert a[-1] == pytest.approx(10**0.5) and numpy.abs((a[:, None] * (a[:, None] * best - b)).sum(0)).max() < 1e-9
    assert b.std(1) == pytest.approx(10 / numpy.arange(1, 11), rel=0.06)
    assert spec.facts["noise"] == pytest.approx(5 / 2000**0.5) and spec.facts["smooth"] == pytest.approx((a**2).mean())
    assert spec.divide is None and synthetic_data.random_least_squares().divide is None
