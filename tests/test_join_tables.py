"""Tables as people hold them, at every door of the joins, the windows and the online store.

The answer is that of the plain DataFrame, or a short error that names the column or the argument;
never a third thing.
"""

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlscale.feature_store import repository
from mlscale.online import materialize, read, write
from mlscale.point_in_time import View, point_in_time_join
from mlscale.rolling import Rolling, rolling_features
from mlscale.tables import in_words

START, HOUR = pd.Timestamp("2013-03-01", tz="UTC"), pd.Timedelta(hours=1)
LOCAL = ["polars", "duckdb", "pandas"]

def at(*hours):
    return pd.DatetimeIndex([START + h * HOUR for h in hours], tz="UTC").as_unit("us")

FACTS = pd.DataFrame(
    {
        "driver": [1, 1, 2, 3, 2],
        "event_timestamp": at(0, 2, 1, 1, 3),
        "created_timestamp": at(0, 2, 1, 4, 3),
        "rides": [1, 2, 3, 4, 5],
    }
)
ASKED = pd.DataFrame({"driver": [1, 2, 1, 3, 4, 2], "event_timestamp": at(1, 1, 5, 5, 5, 9)})
VIEW = View("v", FACTS, "driver", None, "rides")
TOTAL = Rolling("total", value="rides", by="driver", window=6 * HOUR, agg="sum")
STREAM = FACTS.drop(columns="event_timestamp")

# The same table in other hands, types and shapes

HELD = {
    "pandas": lambda x: x,
    "Polars": pl.from_pandas,
    "Arrow": lambda x: pa.Table.from_pandas(x, preserve_index=False),
    "batch": lambda x: pa.RecordBatch.from_pandas(x, preserve_index=False),
}

WHOLE = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "Int8",
    "Int64",
    "UInt32",
    "UInt64",
    "int64[pyarrow]",
    "uint8[pyarrow]",
    "category",
    "object",
)
WIDTHS = (*WHOLE, "float16", "float32", "float64", "Float32", "Float64", "double[pyarrow]")
TYPES = {
    **{t: lambda x, t=t: x.astype(t) for t in WIDTHS},
    "Decimal": lambda x: x.map(lambda v: decimal.Decimal(int(v))).astype(object),
    "text": lambda x: x.astype(str),
    "string": lambda x: x.astype(str).astype("string"),
    "pyarrow text": lambda x: x.astype(str).astype("string[pyarrow]"),
    "category of text": lambda x: x.astype(str).astype("category"),
    "bytes": lambda x: x.map(lambda v: str(v).encode()),
    "mixed": lambda x: x.astype(object).where(x > 1, "one"),
    "bool": lambda x: x > 1,
    "complex": lambda x: x.astype(complex),
    "date": lambda x: x.map(lambda v: dt.date(2013, 1, int(v))),
    "time of day": lambda x: x.map(lambda v: dt.time(int(v))),
    "time": lambda x: START + x * HOUR,
    "naive time": lambda x: (START + x * HOUR).dt.tz_localize(None),
    "duration": lambda x: x * HOUR,
    "period": lambda x: (START + x * HOUR).dt.tz_localize(None).dt.to_period("h"),
    "list": lambda x: x.map(lambda v: [v]),
    "dict": lambda x: x.map(lambda v: {"a": v}),
    "missing": lambda x: x.astype(object).where(x < 0, None),
    "NaN": lambda x: x * np.nan,
}
CLOCKS = {
    **{unit: lambda x, unit=unit: x.dt.as_unit(unit) for unit in ("s", "ms", "us", "ns")},
    "Tokyo": lambda x: x.dt.tz_convert("Asia/Tokyo"),
    "objects": lambda x: x.astype(object),
    "pyarrow": lambda x: x.astype(pd.ArrowDtype(pa.timestamp("us", "UTC"))),
    "naive": lambda x: x.dt.tz_localize(None),
    "text": lambda x: x.astype(str),
    "date": lambda x: x.dt.date,
    "number": lambda x: x.astype("int64"),
    "absent": lambda x: x.where(x.isna()),
    "far": lambda x: pd.Series(np.full(len(x), "9999-12-31", "M8[s]"), x.index).dt.tz_localize(
        "UTC"
    ),
}
SAME_CLOCKS = {"s", "ms", "us", "ns", "Tokyo", "pyarrow"}

def held(frame, holder):
    "In other hands, if these can hold it."
    try:
        return HELD[holder](frame)
    except Exception:
        assume(False)

def shaped(table, shape, column):
    "The same rows with the columns otherwise; some holders have no such shape."
    names = (
        list(table.columns)
        if not isinstance(table, (pa.Table, pa.RecordBatch))
        else table.schema.names
    )
    others = [c for c in names if c != column]
    if shape == "reordered":
        return table[names[::-1]] if isinstance(table, pd.DataFrame) else table.select(names[::-1])
    if shape == "missing":
        return table[others] if isinstance(table, pd.DataFrame) else table.select(others)
    if shape == "renamed":
        new = ["elsewhere" if c == column else c for c in names]
        return (
            table.set_axis(new, axis=1)
            if isinstance(table, pd.DataFrame)
            else table.rename({column: "elsewhere"})
            if isinstance(table, pl.DataFrame)
            else table.rename_columns(new)
        )
    if shape == "twice":
        assume(not isinstance(table, pl.DataFrame))
        if isinstance(table, pd.DataFrame):
            return pd.concat([table, table[[column]]], axis=1)
        return pa.table([*table.columns, table.column(column)], names=[*names, column])
    return table

def plain(x):
    "A value without its wrapping, to compare."
    if isinstance(x, (list, np.ndarray)):
        return [plain(v) for v in x]
    if isinstance(x, dict):
        return x
    if x is None or pd.isna(x):
        return None
    return (
        float(x)
        if isinstance(x, (int, float, np.number, np.bool_, decimal.Decimal))
        else str(pd.Timestamp(x).tz_convert("UTC"))
        if isinstance(x, pd.Timestamp) and x.tzinfo
        else str(x)
    )

def judge(door, table, expected, *names):
    "The expected answer, or an error of the right kind that names one of the names, shortly."
    try:
        got = door(table)
    except (ValueError, TypeError) as e:
        assert len(str(e)) < 300 and any(name in str(e) for name in names), str(e)
        return False
    assert [plain(x) for x in got] == [plain(x) for x in expected]
    return True

def pieces(frame):
    "How a table is drawn: its holder and shape, the order and number of rows, a column's type."
    types = [(c, t) for c in frame for t in (CLOCKS if c.endswith("timestamp") else TYPES)]
    return st.tuples(
        st.sampled_from(list(HELD)),
        st.sampled_from(["as it is", "as it is", "reordered", "missing", "renamed", "twice"]),
        st.permutations(range(len(frame))),
        st.sampled_from([len(frame), len(frame), 1, 0]),
        st.sampled_from([(c, None) for c in frame] + types),
    )

def drawn(frame, how):
    holder, shape, order, n, (column, type_) = how
    rows = frame.iloc[list(order)[:n]]
    changed = (
        rows
        if type_ is None
        else rows.assign(
            **{column: (CLOCKS if column.endswith("timestamp") else TYPES)[type_](rows[column])}
        )
    )
    return (
        rows,
        changed,
        shaped(held(changed.reset_index(drop=True), holder), shape, column),
        column,
        type_,
        shape in ("as it is", "reordered"),
    )

def some(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
        ],
    )


# What must be answered, and cannot be refused

def harmless(column, type_, rows):
    if type_ in ("object", "category") and rows.empty:
        return False  # of no rows nobody knows what they held
    return type_ is None or (
        type_ in SAME_CLOCKS if column.endswith("timestamp") else type_ in WIDTHS
    )


# The join

@pytest.mark.parametrize("engine", LOCAL)
@some(120)
@given(pieces(ASKED))
def test_the_entities_of_a_join(engine, how):
    rows, _, table, column, type_, whole = drawn(ASKED, how)
    right = point_in_time_join(rows, VIEW, engine="pandas")["v__rides"]
    if type_ in ("missing", "NaN"):
        right = right * np.nan
    if type_ == "far":
        right = point_in_time_join(rows.assign(event_timestamp=at(9)[0]), VIEW, engine="pandas")[
            "v__rides"
        ]
    answered = judge(
        lambda t: point_in_time_join(t, VIEW, engine=engine)["v__rides"],
        table,
        right,
        column,
        "entities",
    )
    assert answered == whole or not harmless(column, type_, rows)

@pytest.mark.parametrize("engine", LOCAL)
@some(150)
@given(pieces(FACTS))
def test_the_facts_of_a_join(engine, how):
    rows, changed, table, column, type_, whole = drawn(FACTS, how)
    found = point_in_time_join(
        ASKED,
        View("v", rows.assign(place=np.arange(len(rows))), "driver", None, "place"),
        engine="pandas",
    )["v__place"]
    right = [None if np.isnan(i) else changed["rides"].iloc[int(i)] for i in found]
    if (column == "driver" and type_ in ("missing", "NaN")) or type_ == "far":
        right = [None] * len(right)
    missing = (
        column == "created_timestamp" and not whole
    )  # without it a fact is known at its event, twice it is refused
    if missing and how[1] != "twice":
        assert len(
            point_in_time_join(ASKED, View("v", table, "driver", None, "rides"), engine=engine)
        ) == len(ASKED)
        return
    answered = judge(
        lambda t: point_in_time_join(ASKED, View("v", t, "driver", None, "rides"), engine=engine)[
            "v__rides"
        ],
        table,
        right,
        column,
        "'v'",
        "v.",
    )
    assert answered == whole or not harmless(column, type_, rows)

@pytest.mark.parametrize("holder", HELD)
def test_spark_takes_a_table_whoever_holds_it(spark, holder):
    for type_ in ("int64", "uint64", "float32"):
        facts, asked = (
            HELD[holder](x.assign(driver=x.driver.astype(type_))) for x in (FACTS, ASKED)
        )
        out = point_in_time_join(
            asked, View("v", facts, "driver", None, "rides"), engine="spark", session=spark
        )
        assert out["v__rides"].tolist()[:4] == [1, 3, 2, 4] and np.isnan(out["v__rides"][4])


# The windows

@pytest.mark.parametrize("together", [False, True])
@some(150)
@given(pieces(ASKED))
def test_the_entities_of_a_window(together, how):
    rows, _, table, column, type_, whole = drawn(ASKED, how)
    right = TOTAL.offline(STREAM, rows)
    if type_ in ("missing", "NaN"):
        right = right * 0
    door = (
        (lambda t: rolling_features([TOTAL], STREAM, t)["total"])
        if together
        else (lambda t: TOTAL.offline(STREAM, t))
    )
    answered = judge(door, table, right, column, "entities")
    assert answered == whole or not harmless(column, type_, rows)

@some(200)
@given(pieces(STREAM))
def test_the_events_of_a_window(how):
    rows, changed, table, column, type_, whole = drawn(STREAM, how)
    if column == "rides" and type_ in ("bool",):
        rows = changed
    right = TOTAL.offline(rows.astype({"rides": float}), ASKED)
    if type_ in ("missing", "NaN"):
        right = right * 0
    answered = judge(lambda t: TOTAL.offline(t, ASKED), table, right, column, "events")
    assert answered == whole or not harmless(column, type_, rows)


# The online store

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = repository(tmp_path_factory.mktemp("tables"), VIEW)
    materialize(made, START + 20 * HOUR)
    return made

@some(80)
@given(pieces(ASKED[["driver"]]))
def test_the_keys_of_a_read(store, how):
    rows, _, table, column, type_, whole = drawn(ASKED[["driver"]], how)
    right = point_in_time_join(rows.assign(event_timestamp=at(*[20] * len(rows))), VIEW)["v__rides"]
    if type_ in ("missing", "NaN"):
        right = right * np.nan
    answered = judge(
        lambda t: read(store, "v", t, START + 20 * HOUR)["v__rides"], table, right, column, "keys"
    )
    assert answered == whole or not harmless(column, type_, rows)

@some(80)
@given(pieces(FACTS))
def test_the_facts_of_a_write(store, how):
    rows, changed, table, column, type_, whole = drawn(FACTS, how)
    assume(type_ != "far")  # that would be news
    own = ASKED[["driver"]].drop_duplicates()
    before = read(store, "v", own, START + 20 * HOUR)

    def door(t):
        write(store, "v", t)
        return read(store, "v", own, START + 20 * HOUR)["v__rides"]

    answered = judge(
        door, table, before["v__rides"], column, "facts"
    )  # all of them are known already
    assert read(store, "v", own, START + 20 * HOUR).equals(before)
    assert answered == whole or not harmless(column, type_, rows) or type_ in ("uint64", "UInt64")


# ---- what a view shows of itself


def test_a_view_shows_its_definition_and_none_of_its_facts(tmp_path):
    many = pd.DataFrame({"key": range(2000), "event_timestamp": START, **{f"<f{i}>": 777.0 for i in range(60)}})
    features = [c for c in many if c.startswith("<")]
    of = lambda source, ttl=6*HOUR: View("v", source, ["key", "other"], ttl, features)
    held = {"2,000 rows": many, "2,000 row": pl.from_pandas(many), "1 row ": many[:1], "LazyFrame": pl.from_pandas(many).lazy(),
            "not_there.parquet": tmp_path / "not_there.parquet"}
    for words, source in held.items():
        view = of(source)
        assert words in repr(view) and len(repr(view)) < 150 and "\n" not in repr(view) and "777" not in repr(view)
        assert "6 hours" in repr(view) and "key, other" in repr(view) and "56 more" in repr(view)
    page = of(many)._repr_html_()
    assert all(f"v__&lt;f{i}&gt;" in page for i in range(60)) and "<f1>" not in page and "2,000 rows" in page
    assert "no limit" in of(many, None)._repr_html_() and "no ttl" in repr(of(many, None))


@pytest.mark.parametrize("length, words", [("7D", "7 days"), ("1D", "1 day"), ("36h", "36 hours"), ("90min", "90 minutes"), ("1s", "1 second"), ("1500ms", "0 days 00:00:01.500000"),
                                           ("-2D", "-2 days"), ("2000D", "2,000 days")])
def test_a_length_of_time_in_words(length, words): assert in_words(pd.Timedelta(length)) == words
