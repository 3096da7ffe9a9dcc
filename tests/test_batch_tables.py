"A Parquet file means the same however it was written, or is refused by name before anything is."

import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from tables import NOT_NUMBERS, NUMBERS, PARQUET, refused, reshaped, same_or_refused

from mlscale.artifacts import load_bundle, save
from mlscale.batch import (
    batch_predict,
    input_columns,
    plan_parts,
    read_rows,
    score_batches,
)

COLUMNS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "Sums its columns with different weights, so that no two may change places."
    x = pd.DataFrame(
        np.random.default_rng(0).integers(0, 10, (60, 3)).astype(float), columns=COLUMNS
    )
    return save(
        LinearRegression().fit(x, x @ [1.0, 10.0, 100.0]),
        tmp_path_factory.mktemp("model") / "m",
        example=x,
    )


@pytest.fixture(scope="module")
def blind(spark):
    "The session, as if it knew no difference between a and A."
    spark.conf.set("spark.sql.caseSensitive", "false")
    yield spark
    spark.conf.set("spark.sql.caseSensitive", "true")


@pytest.fixture(scope="module")
def doors(model, blind, tmp_path_factory):
    "From a table to predictions in the order of ids: the whole job, and what a worker does of it."

    def job(table, write=PARQUET["pandas"], **more):
        box = tmp_path_factory.mktemp("job")
        write(table, box / "in.parquet")
        batch_predict(model.path, box / "in.parquet", box / "out", spark=blind, **more)
        return pd.read_parquet(box / "out").sort_values("id").prediction.to_numpy()

    def worker(table, write=PARQUET["pandas"]):
        path = tmp_path_factory.mktemp("worker") / "in.parquet"
        write(table, path)
        wanted = ["id", *input_columns([path], "id", COLUMNS)]
        batches = (
            batch for part in plan_parts([path], 2) for batch in read_rows(part, wanted, batch=2)
        )
        scored = list(score_batches(batches, lambda: load_bundle(model.path)))
        return (
            pa.Table.from_batches(scored).to_pandas().sort_values("id").prediction.to_numpy()
            if scored
            else np.empty(0)
        )

    return {"job": job, "worker": worker}


def frame_of(rows):
    return pd.DataFrame(rows, columns=COLUMNS).assign(id=range(len(rows)))


def truth(frame):
    return frame[COLUMNS].to_numpy(float) @ [1.0, 10.0, 100.0]


SIX = frame_of([(1, 2, 3), (4, 5, 6), (7, 8, 9), (0, 0, 1), (0, 1, 0), (1, 0, 0)])
small = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5
)


def write_twice(table, path):
    pq.write_table(
        pa.table(
            [pa.array(table.iloc[:, i]) for i in range(table.shape[1])], names=list(table.columns)
        ),
        path,
    )


def write_lists(kind):
    def write(table, path):
        rows = (
            table[COLUMNS]
            .to_numpy(float if pa.types.is_floating(kind.value_type) else int)
            .tolist()
        )
        lists = pa.array(rows, kind)
        pq.write_table(pa.table({"features": lists, "id": table.id}), path)

    return write


LISTS = {
    "list": pa.list_(pa.float64()),
    "large list": pa.large_list(pa.float32()),
    "list of a fixed size": pa.list_(pa.float64(), 3),
    "list view": pa.list_view(pa.float16()),
    "large list view": pa.large_list_view(pa.float64()),
    "list of whole numbers": pa.list_(pa.uint8()),
    "list of decimals": pa.list_(pa.decimal128(5, 1)),
}


@pytest.mark.parametrize("door", ["job", "worker"])
def test_columns_that_are_not_those_wanted(doors, door):
    for what, table, name in reshaped(SIX, "b"):
        if what == "two names swapped":
            continue  # these are other rows
        if what == "twice":
            refused(lambda t: doors[door](t, write_twice), table, "'b'")
        elif name is None:
            np.testing.assert_allclose(doors[door](table), truth(SIX), atol=1e-3)
        else:
            refused(doors[door], table, repr(name))
    for table, name in (
        (SIX.assign(B=1), "'B'"),
        (SIX.drop(columns="id"), "'id'"),
        (SIX.rename(columns={"id": "ID"}), "'id'"),
        (SIX.assign(id=SIX.id + 0.5), "'id'"),
        (SIX[["id"]], "'a'"),
    ):
        refused(doors[door], table, name)


@pytest.mark.parametrize("kind", sorted(NUMBERS))
def test_a_number_is_a_number_in_every_type(doors, kind):
    np.testing.assert_allclose(
        doors["job"](SIX.assign(b=NUMBERS[kind](SIX.b))), truth(SIX), atol=1e-3
    )


@pytest.mark.parametrize("kind", sorted(NOT_NUMBERS))
def test_what_is_no_number_is_refused_by_name(doors, kind):
    if kind == "complex":
        return  # no Parquet holds it
    for door in doors.values():
        assert "number" in refused(door, SIX.assign(b=NOT_NUMBERS[kind](SIX.b)), "'b'")


@pytest.mark.parametrize("held", sorted(PARQUET))
def test_whoever_wrote_it(doors, held):
    np.testing.assert_allclose(doors["job"](SIX, PARQUET[held]), truth(SIX), atol=1e-3)


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_every_kind(doors, kind):
    for door in doors.values():
        np.testing.assert_allclose(door(SIX, write_lists(LISTS[kind])), truth(SIX), atol=1e-3)


@pytest.mark.parametrize("n", [0, 1])
def test_no_row_and_one_row(doors, n):
    for write in (*PARQUET.values(), write_lists(LISTS["list"])):
        np.testing.assert_allclose(doors["job"](SIX[:n], write), truth(SIX[:n]), atol=1e-3)
    if n == 0:
        assert (
            len(doors["job"](SIX[:0].astype(object))) == 0
        )  # a table without rows often has no types either


def test_truth_values_are_numbers(doors):
    np.testing.assert_allclose(
        doors["job"](SIX.assign(b=SIX.b > 1)), truth(SIX.assign(b=SIX.b > 1)), atol=1e-3
    )


@pytest.mark.parametrize(
    "column",
    [
        pd.array([1, None] * 3, "Int64"),
        pd.array([True, None] * 3, "boolean"),
        [1.0, np.nan] * 3,
        pd.array([1.0, None] * 3, "Float32"),
        None,
        np.inf,
        1e39,
    ],
)
def test_what_never_was_missing_is_named_by_id(doors, column):
    for door in doors.values():
        assert "id " in refused(door, SIX.assign(b=column), "'b'")


@settings(deadline=None, max_examples=40)
@given(
    small,
    st.sampled_from(sorted(PARQUET)),
    st.permutations([*COLUMNS, "id"]),
    st.sampled_from(sorted({**NUMBERS, **NOT_NUMBERS})),
    st.sampled_from(COLUMNS),
)
def test_the_same_answer_or_an_error_that_names_the_column(doors, rows, held, order, kind, column):
    frame = frame_of(rows)
    try:
        dressed = frame.assign(**{column: {**NUMBERS, **NOT_NUMBERS}[kind](frame[column])})[order]
    except (TypeError, ValueError):
        return

    def write(table, path):
        try:
            PARQUET[held](table, path)
        except Exception:
            pytest.skip("no file of this library holds it")

    if (
        kind == "complex"
        or held == "Polars"
        and kind in ("category", "object", "Decimal", "int64[pyarrow]", "double[pyarrow]")
    ):
        return
    same_or_refused(lambda t: doors["worker"](t, write), dressed, truth(frame), f"'{column}'")


def test_the_job_leaves_no_name_of_the_machine_in_an_error(doors):
    assert os.sep not in refused(doors["job"], SIX.assign(b="text"), "'b'")


def test_polars_has_arrays_and_categories(doors):
    def write(table, path):
        features = pl.Series(
            "features", table[COLUMNS].to_numpy(float).tolist(), dtype=pl.Array(pl.Float64, 3)
        )
        pl.DataFrame({"id": table.id.to_numpy(), "features": features}).write_parquet(path)

    for door in doors.values():
        np.testing.assert_allclose(door(SIX, write), truth(SIX), atol=1e-3)
    write_ids = lambda table, path: (
        pl.from_pandas(table.assign(id=[f"k{i}" for i in table.id]))
        .with_columns(pl.col("id").cast(pl.Categorical))
        .write_parquet(path)
    )
    for door in doors.values():
        np.testing.assert_allclose(door(SIX, write_ids), truth(SIX), atol=1e-3)
