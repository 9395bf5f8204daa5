"""Tables as data sets: scikit-learn's bundled sets, and a user's own CSV and Parquet files.

Names, axes and sizes are known without opening a bundled set (the sizes are constants here); a file's header is read when the spec is
checked, its rows when they are needed. Which rows test, and which nodes own the others (`split`, `alpha`), is decided in `splits.py`: the
same rows for everybody. Where there are classes, the test split holds the same share of each.

Fields: x real[sample, feature] (or [sample, row, column] for images), y [sample -> class] as int64, or real[sample]. `batch` is how many
rows a step draws; `all` takes the whole split (or all of a node's rows).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradflow.library.catalogue import DataSpec, FieldSpec, MissingExtra, primitive
from gradflow.library.deferred import numpy
from gradflow.library.splits import divide_rows, held_out, keep_some, standardized, train_and_test

COUNT = "int >= 1 | all"
SHARE = "real in [0, 1)"
DIVISION = "iid | by_label | dirichlet"


@dataclass(frozen=True)
class Bundled:
    """One of scikit-learn's sets: how many rows each class has (for regression: one entry, all rows), in the order of its labels."""

    name: str
    features: int
    class_rows: tuple[int, ...]

    def read(self) -> tuple[Any, Any]:
        """x float64 [rows, features], y [rows]."""
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{self.name}")()
        return bunch.data.astype(numpy.float64), bunch.target


DIGITS = Bundled("digits", 64, (178, 182, 177, 183, 181, 182, 181, 179, 174, 180))
BREAST_CANCER = Bundled("breast_cancer", 30, (212, 357))
WINE = Bundled("wine", 13, (59, 71, 48))
IRIS = Bundled("iris", 4, (50, 50, 50))
DIABETES = Bundled("diabetes", 10, (442,))


# ---- scikit-learn's sets


def batch_size(batch: int | str) -> int | None:
    return None if batch == "all" else int(batch)


def bundled_spec(
    table: Bundled,
    y_field: Callable[[int], FieldSpec],
    prepare: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]],
    *,
    batch: int | str,
    share: float,
    split: str,
    alpha: float = 1.0,
    per_node: int | None = None,
    size: int | None = None,
    axes: tuple[tuple[str, int], ...] = (),
    classes: int = 0,
) -> DataSpec:
    """`prepare` takes and gives x and y of the training rows, then of the test rows; `size` keeps so many training rows, drawn at random."""
    tests = sum(held_out(rows, share) for rows in table.class_rows)
    trains = sum(table.class_rows) - tests
    if size is not None and size > trains:
        raise ValueError(f"{table.name} has {trains} training rows, {size} were asked for")
    kept = trains if size is None else size
    axes = axes or (("feature", table.features),)
    counts = {"train": kept, "test": tests} if tests else {"train": kept}

    def load() -> Mapping[str, Mapping[str, Any]]:
        x, y = table.read()
        train, test = train_and_test(table.name, y if len(table.class_rows) > 1 else numpy.zeros(len(y), int), share)
        if size is not None:
            train = keep_some(train, size)
        x_train, y_train, x_test, y_test = prepare(x[train], y[train], x[test], y[test])
        found = {"train": {"x": x_train, "y": y_train}, "test": {"x": x_test, "y": y_test}}
        return {name: found[name] for name in counts}

    def divide(nodes: int) -> list[Any]:
        return divide_rows(nodes, load()["train"]["y"], split, alpha, per_node)

    fields = {name: {"x": FieldSpec("real", (("sample", rows), *axes)), "y": y_field(rows)} for name, rows in counts.items()}
    features = 1
    for _, extent in axes:
        features *= extent
    facts = {"features": features, "classes": classes} if classes else {"features": features}
    if per_node is not None:
        facts["per_node"] = per_node
    return DataSpec(table.name, tuple(counts), fields, load, batch_size(batch), divide, facts)


def class_labels(classes: int) -> Callable[[int], FieldSpec]:
    return lambda rows: FieldSpec("int", (("sample", rows),), target=("class", classes))


def reals(rows: int) -> FieldSpec:
    return FieldSpec("real", (("sample", rows),))


@primitive("data", batch=COUNT, split=DIVISION, alpha="real > 0", test_share=SHARE, images="bool", size=COUNT, turned="real in [0, 1]")
def digits(
    batch: int | str = "all",
    split: str = "iid",
    alpha: float = 0.5,
    test_share: float = 0.2,
    images: bool = False,
    size: int | str = "all",
    turned: float = 0.0,
) -> DataSpec:
    """Handwritten digits, 8 x 8 pixels in [0, 1] (scikit-learn's, divided by 16): 1438 to train on and 359 to test on.

    x real[sample, feature: 64], or real[sample, row: 8, column: 8] with `images`; y [sample -> class], 10 classes. `split` and `alpha` say
    how nodes divide the training rows; `size` keeps fewer of them; `turned` mixes in that share of the image turned left by a right angle, so
    that a network trained on others meets what it does not know.
    """

    def pixels(x: Any) -> Any:
        x = (x / 16).reshape(-1, 8, 8)
        x = (1 - turned) * x + turned * numpy.rot90(x, axes=(1, 2)) if turned else x
        return x if images else x.reshape(-1, 64)

    def prepare(x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[Any, Any, Any, Any]:
        return pixels(x), y.astype(numpy.int64), pixels(x_test), y_test.astype(numpy.int64)

    axes = (("row", 8), ("column", 8)) if images else (("feature", 64),)
    return bundled_spec(
        DIGITS, class_labels(10), prepare, batch=batch, share=test_share, split=split, alpha=alpha, size=batch_size(size), axes=axes, classes=10
    )


@primitive(
    "data",
    batch=COUNT,
    features="int in [1, 30]",
    per_node=COUNT,
    labels="sign | class",
    split=DIVISION,
    alpha="real > 0",
    test_share=SHARE,
)
def breast_cancer(
    batch: int | str = "all",
    features: int = 30,
    per_node: int | str = "all",
    labels: str = "sign",
    split: str = "iid",
    alpha: float = 0.5,
    test_share: float = 0.2,
) -> DataSpec:
    """Breast cancer in Wisconsin: 569 tumors, the first `features` of 30 measurements, standardized with the training rows.

    x real[sample, feature]; y real[sample], -1 malignant and +1 benign, or [sample -> class] (0, 1) with `labels: class`. `per_node` lets a
    node keep so many of its rows.
    """

    def prepare(x: Any, target: Any, x_test: Any, target_test: Any) -> tuple[Any, Any, Any, Any]:
        x, x_test = standardized(x[:, :features], x_test[:, :features])
        if labels == "class":
            return x, target.astype(numpy.int64), x_test, target_test.astype(numpy.int64)
        return x, 2.0 * target - 1, x_test, 2.0 * target_test - 1

    return bundled_spec(
        BREAST_CANCER,
        class_labels(2) if labels == "class" else reals,
        prepare,
        batch=batch,
        share=test_share,
        split=split,
        alpha=alpha,
        per_node=batch_size(per_node),
        axes=(("feature", features),),
        classes=2,
    )


def standardized_classes(x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[Any, Any, Any, Any]:
    x, x_test = standardized(x, x_test)
    return x, y.astype(numpy.int64), x_test, y_test.astype(numpy.int64)


@primitive("data", batch=COUNT, split=DIVISION, alpha="real > 0", test_share=SHARE)
def wine(batch: int | str = "all", split: str = "iid", alpha: float = 0.5, test_share: float = 0.2) -> DataSpec:
    """Wines of three growers: 178 rows of 13 measurements, standardized. x real[sample, feature: 13], y [sample -> class], 3 classes."""
    return bundled_spec(WINE, class_labels(3), standardized_classes, batch=batch, share=test_share, split=split, alpha=alpha, classes=3)


@primitive("data", batch=COUNT, split=DIVISION, alpha="real > 0", test_share=SHARE)
def iris(batch: int | str = "all", split: str = "iid", alpha: float = 0.5, test_share: float = 0.2) -> DataSpec:
    """Three kinds of iris: 150 rows of 4 measurements, standardized. x real[sample, feature: 4], y [sample -> class], 3 classes."""
    return bundled_spec(IRIS, class_labels(3), standardized_classes, batch=batch, share=test_share, split=split, alpha=alpha, classes=3)


@primitive("data", batch=COUNT, split="iid | by_label", test_share=SHARE)
def diabetes(batch: int | str = "all", split: str = "iid", test_share: float = 0.2) -> DataSpec:
    """Progression of diabetes after a year: 442 rows of 10 measurements. x real[sample, feature: 10], y real[sample], both standardized."""

    def prepare(x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[Any, Any, Any, Any]:
        (x, x_test), (y, y_test) = standardized(x, x_test), standardized(y, y_test)
        return x, y, x_test, y_test

    return bundled_spec(DIABETES, reals, prepare, batch=batch, share=test_share, split=split)


# ---- a user's own tables


def table_spec(
    name: str,
    columns: list[str],
    rows: int | None,
    read: Callable[[], Mapping[str, Any]],
    *,
    target: str,
    labels: str,
    batch: int | str,
    split: str,
    share: float,
    standardize: bool,
) -> DataSpec:
    """The data set of a table with these columns; `read` gives each column as an array. `rows` None: known when it is read."""
    if target not in columns:
        raise ValueError(f"{name} has no column `{target}`; it has {', '.join(columns)}")
    features = [column for column in columns if column != target]
    tests = None if rows is None else held_out(rows, share)
    counts = {"train": rows if rows is None or tests is None else rows - tests, "test": tests}
    if share == 0:
        del counts["test"]

    def load() -> Mapping[str, Mapping[str, Any]]:
        table = read()
        x = numpy.stack([numbers(table[column], f"{name}, column `{column}`") for column in features], axis=1)
        if labels == "class":
            y = numpy.unique(table[target], return_inverse=True)[1].astype(numpy.int64)
        else:
            y = numbers(table[target], f"{name}, column `{target}`")
        train, test = train_and_test("table", numpy.zeros(len(y), int), share)
        x_train, x_test = standardized(x[train], x[test]) if standardize else (x[train], x[test])
        found = {"train": {"x": x_train, "y": y[train]}, "test": {"x": x_test, "y": y[test]}}
        return {split_name: found[split_name] for split_name in counts}

    def divide(nodes: int) -> list[Any]:
        return divide_rows(nodes, load()["train"]["y"], split)

    fields = {}
    for split_name, count in counts.items():
        y_field = FieldSpec("int", (("sample", count),), target=("class", None)) if labels == "class" else FieldSpec("real", (("sample", count),))
        fields[split_name] = {"x": FieldSpec("real", (("sample", count), ("feature", len(features)))), "y": y_field}
    return DataSpec(name, tuple(counts), fields, load, batch_size(batch), divide, {"features": len(features)})


def numbers(column: Any, where: str) -> Any:
    """float64 [rows], or a ValueError that names the first entry that is not a finite number."""
    try:
        values = numpy.asarray(column, numpy.float64)
        wrong = numpy.flatnonzero(~numpy.isfinite(values))
    except (TypeError, ValueError):
        wrong = numpy.array([row for row, entry in enumerate(column) if not is_number(entry)], int)
    if len(wrong):
        raise ValueError(f"{where}, row {int(wrong[0]) + 1}: {column[wrong[0]]!r} is not a finite number")
    return values


def is_number(entry: Any) -> bool:
    try:
        return bool(numpy.isfinite(float(entry)))
    except (TypeError, ValueError):
        return False


TABLE_DOMAINS = {"path": "text", "target": "text", "labels": "real | class", "batch": COUNT, "split": "iid | by_label", "test_share": SHARE}


@primitive("data", standardize="bool", **TABLE_DOMAINS)
def csv(
    path: str,
    target: str,
    labels: str = "real",
    batch: int | str = "all",
    split: str = "iid",
    test_share: float = 0.2,
    standardize: bool = False,
) -> DataSpec:
    """A CSV file with a header; column `target` is y, all others are x and hold numbers.

    x real[sample, feature]; y real[sample], or with `labels: class` [sample -> class], the classes being the values that occur, in order.
    `standardize`: x gets mean 0 and variance 1 over the training rows. Rows are counted when they are read. OSError where there is no such
    file; ValueError where a column is missing or an entry is not a number.
    """
    from csv import DictReader, reader

    with open(path, newline="", encoding="utf-8-sig") as file:
        columns = next(reader(file), [])

    def read() -> Mapping[str, Any]:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(DictReader(file))
        short = next((i for i, row in enumerate(rows) if None in row or None in row.values()), None)
        if short is not None:
            raise ValueError(f"{path}, row {short + 1}: not as many entries as columns ({len(columns)})")
        return {column: numpy.array([row[column] for row in rows]) for column in columns}

    return table_spec(path, columns, None, read, target=target, labels=labels, batch=batch, split=split, share=test_share, standardize=standardize)


@primitive("data", standardize="bool", **TABLE_DOMAINS)
def parquet(
    path: str,
    target: str,
    labels: str = "real",
    batch: int | str = "all",
    split: str = "iid",
    test_share: float = 0.2,
    standardize: bool = False,
) -> DataSpec:
    """A Parquet file; as `csv` otherwise, but its rows are counted at once. Needs pyarrow, of the extra `table` (else MissingExtra)."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra("parquet()", "table", "pyarrow")
    from pyarrow import parquet as files

    head = files.read_metadata(path)

    def read() -> Mapping[str, Any]:
        table = files.read_table(path)
        return {column: table[column].to_numpy() for column in table.column_names}

    columns = list(head.schema.to_arrow_schema().names)
    return table_spec(
        path, columns, head.num_rows, read, target=target, labels=labels, batch=batch, split=split, share=test_share, standardize=standardize
    )
