"A table means the same however it is held, or is refused by name."
import decimal
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import HELD, NOT_NUMBERS, NUMBERS, refused, reshaped

from mlscale.arguments import (
    check_names,
    column_names,
    column_of_floats,
    data_frame,
    numeric_rows,
    plain,
)

small = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4)
frame_of = lambda rows: pd.DataFrame(rows, columns=["a", "b", "c"])
door = lambda table: numeric_rows(table, ["a", "b", "c"])


@settings(deadline=None, max_examples=30)
@given(small, st.sampled_from(sorted(HELD)), st.permutations(["a", "b", "c"]))
def test_columns_go_by_name_whoever_holds_them(rows, held, order):
    frame = frame_of(rows)
    np.testing.assert_array_equal(door(HELD[held](frame[order])), frame.to_numpy(float))


@settings(deadline=None, max_examples=60)
@given(small, st.sampled_from(sorted(HELD)), st.sampled_from(sorted(NUMBERS)))
def test_a_number_is_a_number_in_every_width(rows, held, kind):
    frame = frame_of(rows)
    dressed = frame.assign(b=NUMBERS[kind](frame.b))
    if held != "pandas" and kind in ("object", "category"): return   # other libraries have their own of these
    np.testing.assert_array_equal(door(HELD[held](dressed)), frame.to_numpy(float))


@pytest.mark.parametrize("kind", sorted(NOT_NUMBERS))
@pytest.mark.parametrize("held", sorted(HELD))
def test_what_is_no_number_is_refused_by_name(held, kind):
    frame = frame_of([(1, 2, 3), (4, 5, 6)])
    if kind == "complex" and held != "pandas": return
    assert "number" in refused(door, HELD[held](frame.assign(b=NOT_NUMBERS[kind](frame.b))), "'b'")


@pytest.mark.parametrize("held", sorted(HELD))
def test_columns_that_are_not_those_wanted(held):
    frame = frame_of([(1, 2, 3), (4, 5, 6)])
    for what, table, name in reshaped(frame, "b"):
        if what == "twice" and held == "Polars": continue   # it cannot hold such a table
        if what == "twice" and held != "pandas":
            table = pa.table([pa.array(table.iloc[:, i]) for i in range(4)], names=list(table.columns))
            refused(door, table if held == "Arrow" else table.to_batches()[0], "'b'")
        elif name is None: np.testing.assert_array_equal(door(HELD[held](table)), frame)
        elif name != "swapped": refused(door, HELD[held](table), repr(name))
    assert "unknown are 'd'" in refused(door, HELD[held](frame.assign(d=1)))
    np.testing.assert_array_equal(numeric_rows(HELD[held](frame.assign(d=1)), ["c", "a"], more=True), frame[["c", "a"]])


def test_rows_and_columns_without_a_data_frame():
    rows = [(1, 2, 3), (4, 5, 6)]
    frame = frame_of(rows)
    tables = [frame.to_dict("list"), frame[["c", "b", "a"]].to_dict("records"), frame[["b", "a", "c"]].to_records(index=False), np.array(rows), rows, np.asfortranarray(rows),
              frame.set_axis([0, 1, 2], axis=1)]
    for table in tables: np.testing.assert_array_equal(door(table), rows)
    assert column_names(np.zeros((2, 3))) is column_names(rows) is column_names(frame.set_axis([0, 1, 2], axis=1)) is column_names([]) is None
    refused(door, [{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "d": 3}], "values[1]")
    refused(door, {"a": [1, 2], "b": [1], "c": [3, 4]}, "different lengths")
    refused(door, {"a": 1, "b": 2, "c": 3}, "'a'")
    refused(door, frame.set_axis([2, 0, 1], axis=1), "'2'")   # numbers that are not the default are names
    refused(door, frame.set_axis(["a", 1, "1"], axis=1), "'1'")
    for shape in (1., [1., 2., 3.], [], np.zeros((2, 3, 3)), np.zeros((2, 4)), "abc", [[1, 2, 3], [1, 2]], object()): refused(door, shape)
    refused(door, pl.LazyFrame({"a": [1]}), "collect")


def test_what_is_missing_is_nan_and_nothing_else_is():
    for column in ([1, None], [1, np.nan], [1, pd.NA], pd.Series([1, None], dtype="Int64"), pd.Series([1, None], dtype="float64[pyarrow]"), pa.array([1, None]), pa.chunked_array([[True], [None]]),
                   pl.Series([1, None]), pl.Series([decimal.Decimal(1), None]), np.ma.masked_array([1, 7], [False, True]), [True, None]):
        np.testing.assert_array_equal(column_of_floats(column, "a"), [1, np.nan])
    for value in ("1", b"1", 1j, pd.NaT, pd.Timestamp(0), [1], {}): refused(lambda v: column_of_floats([1., v], "a"), value, "column 'a'")
    refused(lambda v: column_of_floats(v, "a"), [10**400, 1], "too large")
    assert column_of_floats([2**70, decimal.Decimal("1.5")], "a").tolist() == [2.**70, 1.5]


def test_a_mask_is_not_lost():
    masked = np.ma.masked_array([[1., 2, 3], [4, 5, 6]], [[False, True, False], [False]*3])
    assert np.isnan(door(masked)).tolist() == data_frame(masked).isna().to_numpy().tolist() == masked.mask.tolist()


@pytest.mark.parametrize("held", sorted(HELD))
def test_a_data_frame_keeps_names_and_kinds(held):
    frame = pd.DataFrame({"text": ["x", None], "flag": [True, False], "n": [1, 2]})
    got = data_frame(HELD[held](frame))
    assert list(got) == ["text", "flag", "n"] and got.text.isna().tolist() == [False, True] and got.n.tolist() == [1, 2]
    assert list(data_frame(np.zeros((1, 2)))) == ["x0", "x1"] and list(data_frame(np.arange(3.))) == ["x0"]
    refused(data_frame, pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a'")
    refused(data_frame, pd.DataFrame([[1, 2]], columns=[1, "1"]), "'1'")
    refused(data_frame, np.zeros((1, 2, 3)))


def test_names_are_compared_both_ways_and_errors_stay_short():
    check_names(["b", "a"], ["a", "b"])
    text = refused(lambda there: check_names(there, [f"a_rather_long_name_of_a_column_{i}" for i in range(100)]), [f"another_rather_long_name_{i}" for i in range(100)])
    assert "and 97 more" in text


def test_no_table_package_is_imported_for_an_array():
    program = "import sys; from mlscale.arguments import numeric_rows; numeric_rows([[1, 2]], ['a', 'b']); print([m for m in ('pandas', 'polars', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_series_and_records_are_tables_too():
    for column in (pl.Series("a", [1, None]), pa.array([1, None]), pa.chunked_array([[1], [None]]),
                   pd.Series([1, None]), [1, None], np.ma.masked_array([1, 7], [False, True])):
        frame = data_frame(column)
        assert list(frame) == ["x0"] and frame.x0.isna().tolist() == [False, True]
    assert list(data_frame(pd.DataFrame(np.zeros((1, 2))))) == ["x0", "x1"]   # numbered is nameless
    records = [{"a": 1, "b": "x"}, {"b": None, "a": 2}]
    expected = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    pd.testing.assert_frame_equal(data_frame(records), expected)
    for row in ({"a": 2}, {"a": 2, "b": 1, "c": 3}, {"a": 2, "c": 3}):
        refused(data_frame, [*records, row], "X[2]")


def test_a_duration_is_not_a_number_without_a_unit():
    for one in ([np.timedelta64(1, "s"), 1.], [np.timedelta64(1, "s")]):
        refused(lambda x: column_of_floats(np.array(x, object), "a"), one, "column 'a'")


def test_settings_out_of_arrays_become_plain():
    given = {"n": np.int64(3), 1: (np.float32(.5), np.bool_(True)), "a": np.arange(2), "none": None,
             "in": {"name": np.str_("x"), "list": [np.array([1.5])]}, "zero-dim": np.array(7)}
    made = plain(given)
    assert made == {"n": 3, "1": [.5, True], "a": [0, 1], "none": None,
                    "in": {"name": "x", "list": [[1.5]]}, "zero-dim": 7}
    assert json.loads(json.dumps(made)) == made
    assert [type(made[k]) for k in ("n", "zero-dim")] == [int, int] and type(made["1"][1]) is bool


def test_a_column_may_have_the_name_of_a_method():
    for name in ("columns", "column_names", "collect", "to_pandas", "iloc"):
        frame = pd.DataFrame({name: [1., 2.], "b": [3., 4.]})
        tables = [frame, frame.to_records(index=False), *(HELD[held](frame) for held in HELD)]
        for table in tables: np.testing.assert_array_equal(numeric_rows(table, ["b", name]), [[3, 1], [4, 2]])
        for table in tables[:1] + tables[2:]: assert list(data_frame(table)) == [name, "b"]


def test_labels_that_only_look_like_places_are_names():
    for labels in ([False, True], [0., 1.]): assert column_names(pd.DataFrame([[1, 2]], columns=labels)) == [str(label) for label in labels]


def test_masked_rows_in_a_list_keep_their_masks():
    rows = [np.ma.array([1., 2.], mask=[False, True]), np.ma.array([3., 4.])]
    for got in (numeric_rows(rows, ["a", "b"]), data_frame(rows).to_numpy(float)): np.testing.assert_array_equal(got, [[1, np.nan], [3, 4]])


def test_a_matrix_is_an_array_and_a_number_beside_text_stays_a_number():
    assert type(numeric_rows(np.matrix([[1., 2.]]), ["a", "b"])) is np.ndarray
    assert data_frame([[1, "x"], [2.5, "y"]]).x0.tolist() == [1, 2.5]


def test_an_index_of_pandas_inside_an_arrow_table_hides_no_column():
    table = pa.Table.from_pandas(pd.DataFrame({"a": [1.], "b": [2.]}).set_index("b"))
    assert sorted(data_frame(table)) == ["a", "b"]


def test_what_a_library_cannot_convert_is_our_error():
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    refused(lambda table: numeric_rows(table, ["a"]), pa.table({"a": union}), "'a'")
