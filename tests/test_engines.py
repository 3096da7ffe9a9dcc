"The point-in-time join: four engines, one answer, which is the definition; Feast agrees (on the whole year with --slow)."
import datetime as dt
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from decimal import Decimal

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlscale.data import HORIZON, load_flights, load_weather
from mlscale.point_in_time import View, point_in_time_join

START = pd.Timestamp("2013-03-01", tz="UTC")
HOUR = pd.Timedelta(hours=1)
LOCAL = ["polars", "duckdb", "pandas"]
ENGINES = [*LOCAL, "spark"]


def at(*hours): return pd.DatetimeIndex([START + h * HOUR for h in hours]).as_unit("us")

def facts(event, created, key="a", value=None):
    return pd.DataFrame({"key": key, "event_timestamp": at(*event), "created_timestamp": at(*created), "value": range(len(event)) if value is None else value})

def asked(*hours, key="a"): return pd.DataFrame({"key": key, "event_timestamp": at(*hours)})

@pytest.fixture(params=ENGINES)
def join(request):
    "The join by each engine."
    session = request.getfixturevalue("spark") if request.param == "spark" else None
    return lambda *args, **options: point_in_time_join(*args, engine=request.param, session=session, **options)

def values(join, entities, source, ttl=None): return list(join(entities, View("v", source, "key", ttl, "value"))["v__value"])


# The definition

FACT = st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([1., 2., np.nan]), st.integers(0, 6), st.integers(0, 8))
QUESTION = st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([1., 2., np.nan]), st.integers(-1, 10))

def tables(known, questions, unit):
    source = pd.DataFrame(known, columns=["k", "n", "event", "created"]).assign(value=np.arange(len(known), dtype=float))
    when = lambda hours: (START + pd.to_timedelta(hours.astype(float), unit="h")).dt.as_unit(unit) if len(hours) else pd.Series([], dtype=f"datetime64[{unit}, UTC]")
    source = source.assign(event_timestamp=when(source.event), created_timestamp=when(source.created)).astype({"k": object, "n": float})
    entities = pd.DataFrame(questions, columns=["k", "n", "t"]).assign(event_timestamp=lambda f: when(f.t)).astype({"k": object, "n": float})
    return source, entities

def by_definition(known, questions, ttl):
    out = []
    for k, n, t in questions:
        seen = [(e, c, i) for i, (fk, fn, e, c) in enumerate(known) if fk is not None and fk == k and fn == n and e <= t and c <= t and (ttl is None or e >= t - ttl)]
        out.append(max(seen)[2] if seen else np.nan)
    return np.array(out, float)

@settings(max_examples=120, deadline=None)
@given(st.lists(FACT, max_size=14, unique_by=repr), st.lists(QUESTION, max_size=8), st.sampled_from([None, 1, 3]), st.sampled_from(["us", "ns"]))
def test_every_local_engine_is_the_definition(known, questions, ttl, unit):
    source, entities = tables(known, questions, unit)
    view = View("v", source, ["k", "n"], ttl and ttl * HOUR, "value")
    for engine in LOCAL: np.testing.assert_array_equal(point_in_time_join(entities, view, engine=engine)["v__value"].to_numpy(float), by_definition(known, questions, ttl))

@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(FACT, min_size=4, max_size=30, unique_by=repr), st.lists(QUESTION, min_size=4, max_size=20), st.sampled_from([None, 1, 3]))
def test_spark_is_the_definition(spark, known, questions, ttl):
    source, entities = tables(known, questions, "us")
    out = point_in_time_join(entities, View("v", source, ["k", "n"], ttl and ttl * HOUR, "value"), engine="spark", session=spark)
    np.testing.assert_array_equal(out["v__value"].to_numpy(float), by_definition(known, questions, ttl))


# What it promises, by each engine

def test_a_fact_is_not_seen_before_it_is_known(join): assert values(join, asked(4, 5), facts([0, 1], [0, 5])) == [0, 1]

def test_a_correction_replaces_what_it_corrects_but_not_newer_facts(join):
    assert values(join, asked(0, 5, 9), facts([0, 0, 1], [0, 9, 1], value=["first", "corrected", "newer"])) == ["first", "newer", "newer"]

def test_of_facts_that_become_known_in_one_moment_the_newest_is_taken(join):
    assert values(join, asked(5), facts([1, 0, 0], [2, 2, 1])) == [0]
    assert values(join, asked(5), facts([3, 3, 3], [2, 1, 0])) == [0]

def test_a_fact_made_known_before_its_event_waits_for_it(join):
    out = values(join, asked(2, 3), facts([3], [0]))
    assert np.isnan(out[0]) and out[1] == 0

def test_ttl_includes_its_end_to_the_microsecond(join):
    edge = asked(2, 2).assign(event_timestamp=lambda f: f.event_timestamp + pd.to_timedelta([0, 1], unit="us"))
    out = values(join, edge, facts([0], [0]), 2 * HOUR)
    assert out[0] == 0 and np.isnan(out[1])

def test_a_missing_newest_value_is_the_answer(join): assert np.isnan(values(join, asked(5), facts([0, 1], [0, 1], value=[7., np.nan]))[0])

@pytest.mark.parametrize("missing", [None, np.nan])
def test_missing_keys_match_nothing_not_even_each_other(join, missing):
    assert np.isnan(values(join, asked(1, key=[missing]), facts([0, 0], [0, 0], key=[missing, "a"]))[0])

def test_an_infinite_number_is_no_key(join): assert np.isnan(values(join, asked(1, key=np.inf), facts([0, 0], [0, 0], key=[np.inf, .5]))[0])

def test_parts_of_a_key_do_not_run_into_each_other(join):
    source = pd.DataFrame({"a": ["x", "xy"], "b": ["yz", "z"], "event_timestamp": at(0, 0), "value": [1, 2]})
    out = join(source.iloc[::-1].drop(columns="value").assign(event_timestamp=at(1, 1)), View("v", source, ["a", "b"], None, "value"))
    assert list(out.v__value) == [2, 1]

def test_rows_order_index_and_columns_are_kept_and_doubled_rows_stay(join):
    entities = asked(5, 1, 3, 1).assign(other=[3, 1, 2, 1], key=["a", "z", "a", "a"])[["other", "event_timestamp", "key"]].set_axis([7, 7, 1, 0])
    before = entities.copy()
    out = join(entities, View("v", facts([0, 4], [0, 4]), "key", None, "value"))
    pd.testing.assert_frame_equal(out[before.columns], before)
    pd.testing.assert_frame_equal(entities, before)
    assert list(out.columns) == ["other", "event_timestamp", "key", "v__value"] and list(out.v__value.fillna(-1)) == [1, -1, 0, 0]

def test_two_views_may_share_column_names(join):
    out = join(asked(1), [View("v", facts([0], [0]), "key", None, "value"), View("w", facts([0], [0], value=[9]), "key", None, "value")])
    assert (out.v__value.item(), out.w__value.item()) == (0, 9)

def test_empty_tables_give_empty_or_missing(join):
    view = View("v", facts([0], [0]), "key", HOUR, "value")
    assert list(join(asked(1).iloc[:0], view).columns) == ["key", "event_timestamp", "v__value"]
    assert np.isnan(values(join, asked(1), facts([0], [0]).iloc[:0])[0])

def test_instants_count_not_time_zones(join):
    source = facts([0], [0])
    for c in ("event_timestamp", "created_timestamp"): source[c] = source[c].dt.tz_convert("Asia/Tokyo")
    out = values(join, asked(0, -1), source)
    assert out[0] == 0 and np.isnan(out[1])

def test_times_without_a_zone_match_each_other(join):
    bare = lambda frame: frame.assign(**{c: frame[c].dt.tz_localize(None) for c in frame if c.endswith("timestamp")})
    out = values(join, bare(asked(4, 5)), bare(facts([0, 1], [0, 5])))
    assert out == [0, 1]

def test_without_a_second_clock_a_fact_is_known_at_its_event(join):
    out = values(join, asked(0, 1), facts([1], [9]).drop(columns="created_timestamp"))
    assert np.isnan(out[0]) and out[1] == 0

def test_rows_equal_in_key_and_times_must_agree(join):
    with pytest.raises(ValueError, match="both times equal, but different values"): values(join, asked(1), facts([0, 0], [0, 0]))
    assert values(join, asked(1), facts([0, 0], [0, 0], value=[5, 5])) == [5]
    assert values(join, asked(1), facts([0, 0, 0], [0, 0, 0], key=[None, None, "a"])) == [2]   # rows without a key are nobody's

def test_whole_numbers_match_whether_or_not_one_is_missing(join):
    big = 2**53
    source = facts([0, 0], [0, 0], key=[big, big + 1])
    assert values(join, asked(1, 1, key=[big + 1, big]), source) == [1, 0]
    below = facts([0, 0], [0, 0], key=[big - 1, big - 2])
    assert values(join, asked(1, 1, key=[float(big - 1), np.nan]), below)[0] == 0
    with pytest.raises(ValueError, match=r"key 'key'.* is a float, and from 2\*\*53 on"):   # which of the two?
        values(join, asked(1, 1, key=[float(big), np.nan]), source)

def test_categories_match_as_the_values_they_stand_for(join):
    assert values(join, asked(1, 1, key=pd.Categorical(["b", "a"])), facts([0, 0], [0, 0], key=["a", "b"])) == [1, 0]

def test_values_come_back_as_they_were(join):
    source = facts([0], [0]).assign(text="x", flag=True, when=at(3), number=2**60 + 1)
    out = join(asked(1), View("v", source, "key", None, ["text", "flag", "when", "number"])).iloc[0]
    assert (out.v__text, out.v__flag, out.v__when, out.v__number) == ("x", True, at(3)[0], 2**60 + 1)

def test_names_that_sql_would_stumble_over_are_only_names(join):
    odd = facts([0], [0]).rename(columns={"key": 'a "key"`', "value": "select 1; --"})
    out = join(asked(1).rename(columns={"key": 'a "key"`'}), View("v", odd, 'a "key"`', None, "select 1; --"))
    assert out["v__select 1; --"].item() == 0

def test_a_feature_named_as_a_column_of_ours_is_only_a_name(join):
    names = ["i", "t", "row", "event", "k0", "f0", "known", "rank", "asked"]
    source = facts([1, 2, 3], [1, 2, 3]).assign(**{n: [30 + j, 20 + j, 10 + j] for j, n in enumerate(names)})
    out = join(asked(3, 1, 2), View("v", source, "key", None, names))
    for j, n in enumerate(names): assert list(out[f"v__{n}"]) == [10 + j, 30 + j, 20 + j], n

@pytest.mark.parametrize("engine", ["duckdb", "spark"])
def test_columns_that_differ_only_in_case_are_refused_by_sql(engine):
    source = facts([0], [0]).assign(Value=5)
    with pytest.raises(ValueError, match="only in case"): point_in_time_join(asked(1), View("v", source, "key", None, ["value", "Value"]), engine=engine, session=object())
    out = point_in_time_join(asked(1), View("v", source, "key", None, ["value", "Value"]))
    assert (out.v__value.item(), out.v__Value.item()) == (0, 5)

@pytest.mark.parametrize("engine", LOCAL)
def test_decimals_of_different_digits_match_and_lists_come_back(engine):
    source = facts([0, 0], [0, 0], key=[Decimal("1.5"), Decimal("10.25")], value=[[1, 2], [3]])
    source = pd.concat([source, source], ignore_index=True)   # copies are no contradiction
    out = point_in_time_join(asked(1, key=[Decimal("1.5")]), View("v", source, "key", None, "value"), engine=engine)
    assert list(out.v__value.item()) == [1, 2]

def test_a_missing_created_time_is_refused(join):
    source = facts([0, 1], [0, 1])
    source.loc[1, "created_timestamp"] = pd.NaT
    with pytest.raises(ValueError, match="missing"): values(join, asked(5), source)

def test_parquet_in_and_out(join, tmp_path):
    source, entities = facts([0, 1, 2], [0, 3, 9]), asked(2, 4, 10, 1).assign(extra=["x", None, "y", "z"])
    expected = point_in_time_join(entities, View("v", source, "key", None, "value"), engine="pandas")
    for name, frame in (("facts", source), ("entities", entities)): frame.to_parquet(tmp_path / f"{name}.parquet")
    to = join(tmp_path / "entities.parquet", View("v", tmp_path / "facts.parquet", "key", None, "value"), to=tmp_path / "out.parquet")
    out = pd.read_parquet(to)
    pd.testing.assert_frame_equal(out, expected, check_dtype=False)
    pd.testing.assert_frame_equal(join(tmp_path / "entities.parquet", View("v", tmp_path / "facts.parquet", "key", None, "value")), expected, check_dtype=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["entities.parquet", "facts.parquet", "out.parquet"]


# Files, memory and what is refused

def test_a_folder_of_files_is_read_in_the_order_of_its_names_and_in_pieces(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    entities = pd.DataFrame({"key": rng.choice(list("abc"), 5000), "event_timestamp": at(*rng.integers(0, 50, 5000)), "n": np.arange(5000)})
    for i in range(5): (tmp_path / "in").mkdir(exist_ok=True), entities[i * 1000:(i + 1) * 1000].to_parquet(tmp_path / "in" / f"part-{i}.parquet", index=False, row_group_size=300)
    source = pd.concat([facts(range(40), range(40), key=k, value=rng.random(40)) for k in "abd"])
    monkeypatch.setattr("mlscale.tables.ROWS", 700)
    expected = point_in_time_join(entities, View("v", source, "key", 3 * HOUR, "value"), engine="pandas")
    for engine in ("polars", "duckdb"):
        to = point_in_time_join(tmp_path / "in", View("v", source, "key", 3 * HOUR, "value"), engine=engine, to=tmp_path / "out.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(to), expected)
        assert str(pq.read_schema(to).field("event_timestamp").type) == "timestamp[us, tz=UTC]"

def test_duckdb_spills_where_the_facts_are_larger_than_its_memory(tmp_path):
    rng, n = np.random.default_rng(0), 1_500_000
    known = pa.table({"key": rng.integers(0, 50_000, n), "event_timestamp": pa.array(rng.integers(0, 10**12, n), pa.timestamp("us", tz="UTC")),
                      "value": rng.random(n), "text": pa.array(rng.integers(0, 10**9, n)).cast(pa.string())})
    pq.write_table(known, tmp_path / "facts.parquet")
    entities = pd.DataFrame({"key": rng.integers(0, 50_000, 1000), "event_timestamp": pd.to_datetime(rng.integers(0, 10**12, 1000), unit="us", utc=True).as_unit("us")})
    view = View("v", tmp_path / "facts.parquet", "key", None, ["value", "text"])
    with duckdb.connect(config={"memory_limit": "120MB", "temp_directory": str(tmp_path / "spill"), "threads": 1}) as session:
        pd.testing.assert_frame_equal(point_in_time_join(entities, view, engine="duckdb", session=session), point_in_time_join(entities, view))

def test_what_stood_there_stays_if_the_join_is_refused(tmp_path):
    to = point_in_time_join(asked(1), View("v", facts([0], [0]), "key", None, "value"), to=tmp_path / "out.parquet")
    content = to.read_bytes()
    with pytest.raises(ValueError): point_in_time_join(asked(1), View("v", facts([0, 0], [0, 0]), "key", None, "value"), to=to)
    pq.write_table(pa.table({"key": ["a"], "event_timestamp": pa.array([None], pa.timestamp("us", tz="UTC"))}), tmp_path / "entities.parquet")
    with pytest.raises(ValueError, match="entities.event_timestamp is missing in 1 of 1"): point_in_time_join(tmp_path / "entities.parquet", View("v", facts([0], [0]), "key", None, "value"), to=to)
    assert to.read_bytes() == content and sorted(p.name for p in tmp_path.iterdir()) == ["entities.parquet", "out.parquet"]

@pytest.mark.parametrize("engine", LOCAL)
@pytest.mark.parametrize("change, error, message", [
    (dict(entities=asked(1).assign(event_timestamp=lambda f: f.event_timestamp.dt.tz_localize(None))), ValueError, "without"),
    (dict(source=facts([0], [0]).assign(created_timestamp=lambda f: f.created_timestamp.dt.tz_localize(None))), ValueError, "without"),
    (dict(entities=asked(1).assign(event_timestamp="2013-03-01")), TypeError, "not times"),
    (dict(entities=asked(1).assign(event_timestamp=pd.Series([pd.NaT], dtype="datetime64[us, UTC]"))), ValueError, "missing in 1 of 1"),
    (dict(entities=asked(1).drop(columns="key")), ValueError, "key"),
    (dict(source=facts([0], [0]).drop(columns="event_timestamp")), ValueError, "event_timestamp"),
    (dict(source=facts([0], [0]).drop(columns="value")), ValueError, "value"),
    (dict(entities=asked(1, key=1)), ValueError, "number never equals text"),
    (dict(entities=asked(1, key=True)), ValueError, "never equals"),
    (dict(entities=asked(1, 2, key=["a", 1])), TypeError, "several kinds"),
    (dict(entities=asked(1).assign(v__value=0)), ValueError, "v__value"),
    (dict(entities=pd.concat([asked(1), asked(1)[["key"]]], axis=1)), ValueError, "twice"),
    (dict(entities=asked(1, key=np.array([2**63 + 1], np.uint64)), source=facts([0], [0], key=5)), ValueError, "cannot be compared"),
    (dict(entities=[1, 2]), TypeError, "DataFrame or the path"),
    (dict(entities=None), TypeError, "DataFrame or the path"),
    (dict(source=facts([0], [0]).assign(event_timestamp=pd.Series(np.array(["3013-01-01"], "datetime64[us]")).dt.tz_localize("UTC")),
          entities=asked(1).assign(event_timestamp=lambda f: f.event_timestamp.dt.as_unit("ns"))), ValueError, "nanoseconds cannot express"),
])
def test_what_cannot_be_joined_is_refused(engine, change, error, message):
    arguments = {"entities": asked(1), "source": facts([0], [0])} | change
    with pytest.raises(error, match=message): point_in_time_join(arguments["entities"], View("v", arguments["source"], "key", None, "value"), engine=engine)

def test_an_engine_is_one_of_four_and_spark_needs_its_session():
    view = View("v", facts([0], [0]), "key", None, "value")
    with pytest.raises(ValueError, match="polars, pandas, duckdb, spark"): point_in_time_join(asked(1), view, engine="dask")
    with pytest.raises(ValueError, match="session=None"): point_in_time_join(asked(1), view, engine="spark")

def test_missing_and_damaged_files_are_named(tmp_path):
    view = lambda name: View("v", tmp_path / name, "key", None, "value")
    with pytest.raises(FileNotFoundError, match="gone.parquet"): point_in_time_join(asked(1), view("gone.parquet"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="bad.parquet is not a readable"): point_in_time_join(asked(1), view("bad.parquet"))

@pytest.mark.parametrize("engine", ["polars", "duckdb", "pandas"])
def test_files_of_several_types_and_times_too_fine_for_the_file_are_named(tmp_path, engine):
    folder = tmp_path / "facts"
    folder.mkdir()
    for name, key in (("a", 1), ("b", "x")): facts([0], [0]).assign(key=[key]).to_parquet(folder / f"{name}.parquet")
    with pytest.raises(ValueError, match="one type in all files"): point_in_time_join(asked(1).assign(key=1), View("v", folder, "key", None, "value"), engine=engine)
    fine, before = asked(1).assign(event_timestamp=lambda q: q.event_timestamp.dt.as_unit("ns") + pd.Timedelta(1, "ns")), (tmp_path / "out.parquet")
    before.write_bytes(b"as it was")
    with pytest.raises(ValueError, match="microseconds"): point_in_time_join(fine, View("v", facts([0], [0]), "key", None, "value"), engine=engine, to=before)
    assert before.read_bytes() == b"as it was" and sorted(p.name for p in tmp_path.iterdir()) == ["facts", "out.parquet"]

@pytest.mark.parametrize("change", [
    dict(name=""), dict(name=None), dict(by=[]), dict(by=["key", "key"]), dict(by=5), dict(features=()), dict(features=[""]),
    dict(ttl=pd.Timedelta(0)), dict(ttl=-HOUR), dict(ttl=5), dict(ttl=np.int64(5)), dict(ttl=np.timedelta64(10**6, "D")), dict(ttl="1h"), dict(ttl=pd.NaT)])
def test_a_view_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))): View(**{"name": "v", "source": facts([0], [0]), "by": "key", "ttl": HOUR, "features": "value"} | change)

@pytest.mark.parametrize("views", [None, [], "abc", [None], 5])
def test_what_is_no_view_is_refused(views):
    with pytest.raises(TypeError, match="views: a View"): point_in_time_join(asked(1), views)

def test_two_views_of_one_name_are_refused():
    view = View("v", facts([0], [0]), "key", None, "value")
    with pytest.raises(ValueError, match="v__value"): point_in_time_join(asked(1), [view, view])


# Ids that a float has rounded, and types on which engines used to differ

BIG = 2**53

def rounded(type_, bits):
    "A column in which an id of this size became a float of this type."
    return pd.Series([2.0**bits, np.nan]).astype(type_)

ROUNDED = {
    "float64": rounded("float64", 53),
    "negative": -rounded("float64", 53),
    "beyond": rounded("float64", 60),
    "float32": rounded("float32", 24),
    "float16": rounded("float16", 11),
    "Float64": rounded("Float64", 53),
    "Float32": rounded("Float32", 24),
    "pyarrow": rounded("double[pyarrow]", 53),
    "category": rounded("category", 53),
    "objects": rounded(object, 53),
}

def two(key):
    return facts([0, 0], [0, 0], key=key, value=[1.0, 2.0])

@pytest.mark.parametrize("engine", LOCAL)
@pytest.mark.parametrize("column", ROUNDED)
def test_a_float_that_may_be_two_ids_is_refused_on_either_side(engine, column, tmp_path):
    ids = ROUNDED[column]
    for source, entities in (
        (two([1, 2]), asked(1, 1, key=ids)),
        (two(ids), asked(1, 1, key=[1, 2])),
        (two(ids), asked(1, 1, key=ids)),
    ):
        with pytest.raises(ValueError, match=r"key 'key'.*2\*\*(53|24|11).*Int64 or text") as e:
            point_in_time_join(entities, View("v", source, "key", None, "value"), engine=engine)
        assert len(str(e.value)) < 300
    if column in ("float16", "objects", "category", "Float32"):
        return
    two(ids).to_parquet(tmp_path / "facts.parquet")
    with pytest.raises(ValueError, match=r"2\*\*"):
        point_in_time_join(
            asked(1, key=1),
            View("v", tmp_path / "facts.parquet", "key", None, "value"),
            engine=engine,
        )

@pytest.mark.parametrize("engine", LOCAL)
@pytest.mark.parametrize(("type_", "bits"), [("float64", 53), ("float32", 24), ("float16", 11)])
def test_below_that_a_float_is_a_whole_number_like_any_other(engine, type_, bits):
    ids = pd.Series([2**bits - 1, 2**bits - 2])
    view = View("v", two(ids), "key", None, "value")
    out = point_in_time_join(asked(1, 1, 1, key=[*ids.astype(type_), np.nan]), view, engine=engine)[
        "v__value"
    ]
    np.testing.assert_array_equal(out, [1, 2, np.nan])

@pytest.mark.parametrize("engine", LOCAL)
def test_one_part_of_a_key_that_was_rounded_is_enough(engine):
    source, entities = (
        two(["a", "b"]).assign(n=[BIG, BIG + 1]),
        asked(1, key="b").assign(n=float(BIG)),
    )
    with pytest.raises(ValueError, match="entities, key 'n'"):
        point_in_time_join(entities, View("v", source, ["key", "n"], None, "value"), engine=engine)

@pytest.mark.parametrize("engine", LOCAL)
def test_whole_numbers_are_kept_where_one_is_missing(engine, tmp_path):
    source = facts([0, 0], [0, 0], key=[BIG, BIG + 1]).assign(
        value=pd.array([BIG + 1, None], "Int64")
    )
    entities = asked(1, 1, 1, key=pd.array([BIG, BIG + 1, None], "Int64"))
    out = point_in_time_join(entities, View("v", source, "key", None, "value"), engine=engine)
    assert out.v__value[0] == BIG + 1 and out.v__value[1:].isna().all()
    entities.to_parquet(tmp_path / "entities.parquet")
    pq.write_table(
        pa.Table.from_pandas(entities).replace_schema_metadata(None), tmp_path / "plain.parquet"
    )
    for name in ("entities", "plain"):
        out = point_in_time_join(
            tmp_path / f"{name}.parquet", View("v", source, "key", None, "value"), engine=engine
        )
        assert out.key[:2].tolist() == [BIG, BIG + 1] and out.v__value[0] == BIG + 1

@pytest.mark.parametrize("engine", LOCAL)
def test_facts_that_differ_only_beyond_a_float_contradict_each_other(engine):
    source = facts([0, 0, 0], [0, 0, 0], key=["a", "a", None]).assign(
        value=pd.array([BIG, BIG + 1, None], "Int64")
    )
    with pytest.raises(ValueError, match="keep one"):
        point_in_time_join(asked(1), View("v", source, "key", None, "value"), engine=engine)

@pytest.mark.parametrize("engine", LOCAL)
def test_numbers_beyond_those_with_a_sign_are_keys_too(engine):
    ids = np.array([2**63 + 1, 2**63 + 2, 1], np.uint64)
    view = View("v", facts([0, 0, 0], [0, 0, 0], key=ids), "key", None, "value")
    out = point_in_time_join(asked(1, 1, 1, key=ids[[2, 0, 1]]), view, engine=engine)["v__value"]
    assert list(out) == [2, 0, 1]
    assert list(
        point_in_time_join(asked(1, key=np.uint32(1)), view, engine=engine)["v__value"]
    ) == [2]

@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_a_nanosecond_counts_where_a_table_has_such(engine):
    first, later = START.as_unit("ns"), START.as_unit("ns") + pd.Timedelta(1, "ns")
    source = pd.DataFrame(
        {"key": "a", "event_timestamp": [first, later], "value": [1, 2], "when": [first, later]}
    )
    out = point_in_time_join(
        pd.DataFrame({"key": "a", "event_timestamp": [first, later]}),
        View("v", source, "key", None, ["value", "when"]),
        engine=engine,
    )
    assert list(out.v__value) == [1, 2] and list(out.v__when) == [first, later]

@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_keys_of_one_kind_match_however_they_are_held(engine):
    day, T = pd.Timestamp("2024-01-02"), START
    pairs = [
        ([T.as_unit("ns")], [T.as_unit("us")]),
        ([pd.Timedelta(1, "h")], [pd.Timedelta(1, "h").as_unit("s")]),
        ([b"a"], pd.array([b"a"], pd.ArrowDtype(pa.large_binary()))),
        ([day.date()], pd.array([day.date()], pd.ArrowDtype(pa.date64()))),
        ([day.time()], pd.array([day.time()], pd.ArrowDtype(pa.time32("s")))),
    ]
    for left, right in pairs:
        view = View("v", facts([0], [0], key=left), "key", None, "value")
        assert list(point_in_time_join(asked(1, key=right), view, engine=engine)["v__value"]) == [
            0
        ], (left, right)

def shaped_values():
    "Two values of every type that a feature may have; what Arrow makes of them is what comes back."
    u, ns = pa.uint64(), pa.timestamp("ns", "UTC")
    return {
        "u8": pa.array([1, 255], pa.uint8()),
        "u16": pa.array([1, 2**16 - 1], pa.uint16()),
        "u32": pa.array([1, 2**32 - 1], pa.uint32()),
        "u64": pa.array([1, 2**64 - 1], u),
        "f16": pa.array(np.array([1, 2], np.float16)),
        "f32": pa.array([0.1, 2.0], pa.float32()),
        "duration": pa.array([1, 2], pa.duration("ns")),
        "days": pa.array([1, 2], pa.duration("s")),
        "ns": pa.array([1, 2], ns),
        "naive ns": pa.array([1, 2], pa.timestamp("ns")),
        "Tokyo": pa.array([1, 2], pa.timestamp("us", "Asia/Tokyo")),
        "s": pa.array([1, 2], pa.timestamp("s")),
        "time": pa.array([1000, 2000], pa.time64("ns")),
        "time32": pa.array([1, 2], pa.time32("ms")),
        "date64": pa.array([dt.date(2020, 1, 1), None], pa.date64()),
        "decimal": pa.array([Decimal("1.5"), None]),
        "text": pa.array(["a", "b"], pa.string_view()),
        "bytes": pa.array([b"ab", b"cd"], pa.binary(2)),
        "null": pa.nulls(2),
        "words": pa.array(["b", "a"]).dictionary_encode(),
        "digits": pa.array([7, 5]).dictionary_encode(),
        "list": pa.array([[1, 2], None], pa.list_(u)),
        "pair": pa.array([[1, 2], [3, 4]], pa.list_(pa.duration("us"), 2)),
        "struct": pa.array([{"a": 1}, None], pa.struct([("a", ns)])),
    }

def test_features_of_every_type_come_back_from_every_engine(join):
    values = shaped_values()
    source = pa.table({"key": ["a", "b"], "event_timestamp": pa.array(at(0, 0)), **values})
    out = join(asked(1, 1, key=["b", "a"]), View("v", source, "key", None, list(values)))
    expected = point_in_time_join(
        asked(1, 1, key=["b", "a"]), View("v", source, "key", None, list(values)), engine="pandas"
    )
    pd.testing.assert_frame_equal(out, expected)
    for name, x in values.items():
        assert repr(out[f"v__{name}"].tolist()) == repr(pd.Series(x.to_pandas())[::-1].tolist()), (
            name
        )

def test_categories_keep_their_order_in_every_engine(join):
    sizes = pd.Categorical(["small", "large"], ["small", "medium", "large"], ordered=True)
    out = values(
        join, asked(1, 1, key=["b", "a"]), facts([0, 0], [0, 0], key=["a", "b"], value=sizes)
    )
    frame = join(
        asked(1, 1, key=["b", "a"]),
        View("v", facts([0, 0], [0, 0], key=["a", "b"], value=sizes), "key", None, "value"),
    )
    assert (
        out == ["large", "small"]
        and frame.v__value.max() == "large"
        and list(frame.v__value.cat.categories) == list(sizes.categories)
    )

@pytest.mark.parametrize("engine", LOCAL)
@pytest.mark.parametrize(
    "value",
    [
        pd.period_range("2020", periods=1),
        pd.interval_range(0, 1),
        [1j],
        [object()],
        [2**70],
        pd.arrays.SparseArray([1.0]),
    ],
)
def test_what_not_every_engine_can_carry_is_refused_by_all(engine, value):
    with pytest.raises(TypeError, match="'v', column 'value'") as e:
        point_in_time_join(
            asked(1),
            View("v", facts([0], [0]).assign(value=value), "key", None, "value"),
            engine=engine,
        )
    assert len(str(e.value)) < 300

@pytest.mark.parametrize(
    "mixed",
    [
        [pd.Timestamp("2020-01-01").date(), pd.Timestamp("2020-01-02 05:00")],
        ["a", b"b"],
        [START, START.tz_localize(None)],
        ["a", 1],
        [True, 1],
    ],
)
def test_a_column_of_several_kinds_is_refused_and_not_made_one(mixed):
    for column in ("key", "value"):
        source = facts([0, 0], [0, 0], key=["a", "b"]).assign(
            **{column: pd.Series(mixed, dtype=object)}
        )
        with pytest.raises(TypeError, match=f"column '{column}' holds values of several kinds"):
            point_in_time_join(asked(1), View("v", source, "key", None, "value"))

@pytest.mark.parametrize("key", [[[1]], [{"a": 1}]])
def test_lists_are_no_keys(key):
    with pytest.raises(TypeError, match="key 'key' holds"):
        point_in_time_join(
            asked(1).assign(key=key),
            View("v", facts([0], [0]).assign(key=key), "key", None, "value"),
        )


# Times in Parquet

@pytest.mark.parametrize("engine", LOCAL)
def test_times_of_96_bits_are_in_utc_also_in_far_years(engine, tmp_path):
    source = facts([0, 1], [0, 9]).assign(
        until=pd.Series(np.array(["9999-12-31", "2013-03-01"], "M8[us]")).dt.tz_localize("UTC")
    )
    pq.write_table(
        pa.Table.from_pandas(source), tmp_path / "old.parquet", use_deprecated_int96_timestamps=True
    )
    view = View("v", tmp_path / "old.parquet", "key", None, ["value", "until"])
    out = point_in_time_join(asked(5, 9), view, engine=engine)
    assert list(out.v__value) == [0, 1] and list(out.v__until) == list(source.until)
    asked(5, 9).to_parquet(tmp_path / "asked.parquet")
    pq.write_table(
        pa.Table.from_pandas(asked(5, 9)),
        tmp_path / "asked96.parquet",
        use_deprecated_int96_timestamps=True,
    )
    for name in ("asked", "asked96"):
        again = point_in_time_join(
            tmp_path / f"{name}.parquet", view, engine=engine, to=tmp_path / "out.parquet"
        )
        pd.testing.assert_frame_equal(pd.read_parquet(again), out)

def spark_join(spark, entities, source, features="value", **options):
    return point_in_time_join(
        entities, View("v", source, "key", None, features), engine="spark", session=spark, **options
    )

def test_what_spark_writes_is_read_by_all_and_is_what_others_write(spark, tmp_path):
    source, entities = facts([0, 1, 2], [0, 3, 9]).assign(key=7), asked(2, 4, 10).assign(key=7)
    spark.createDataFrame(source).coalesce(1).write.parquet(str(tmp_path / "spark"))  # INT96
    entities.to_parquet(tmp_path / "asked.parquet")
    before = (
        dict(spark.sparkContext.getConf().getAll()),
        spark.conf.get("spark.sql.session.timeZone"),
    )
    written = [spark_join(spark, tmp_path / "asked.parquet", tmp_path / "spark", to=tmp_path / "1")]
    written.append(
        point_in_time_join(
            tmp_path / "asked.parquet",
            View("v", tmp_path / "spark", "key", None, "value"),
            to=tmp_path / "2",
        )
    )
    a, b = map(pd.read_parquet, written)
    pd.testing.assert_frame_equal(a, b)
    assert str(a.event_timestamp.dtype) == "datetime64[us, UTC]" and list(a.v__value) == [0, 1, 2]
    assert before == (
        dict(spark.sparkContext.getConf().getAll()),
        spark.conf.get("spark.sql.session.timeZone"),
    )
    second = spark_join(spark, written[0], source.rename(columns={"value": "other"}), "other")
    assert list(second.v__other) == [0, 1, 2]

def test_spark_reads_nanoseconds_as_they_are_and_writes_whole_microseconds_only(spark, tmp_path):
    fine = lambda f: f.assign(**{c: f[c].dt.as_unit("ns") for c in f if c.endswith("timestamp")})
    source, entities = (
        fine(facts([0, 1], [0, 1])).assign(when=at(0, 1).as_unit("ns")),
        fine(asked(1, 1)),
    )
    entities.loc[0, "event_timestamp"] -= pd.Timedelta(1, "ns")
    for name, f in (("facts", source), ("asked", entities)):
        f.to_parquet(tmp_path / f"{name}.parquet")
    for e in (entities, tmp_path / "asked.parquet"):
        for s in (source, tmp_path / "facts.parquet"):
            out = spark_join(spark, e, s, ["value", "when"])
            assert list(out.v__value) == [0, 1] and list(out.v__when) == list(source.when)
    with pytest.raises(ValueError, match="no whole number of microseconds"):
        spark_join(
            spark, tmp_path / "asked.parquet", tmp_path / "facts.parquet", to=tmp_path / "out"
        )
    fine(asked(1, 1)).to_parquet(tmp_path / "asked.parquet")
    to = spark_join(
        spark,
        tmp_path / "asked.parquet",
        tmp_path / "facts.parquet",
        ["value", "when"],
        to=tmp_path / "out",
    )
    out = pd.read_parquet(to)
    assert list(out.v__when) == list(at(1, 1)) and list(out.event_timestamp) == list(at(1, 1))

def test_keys_in_parquet_are_those_of_a_table_on_spark(spark, tmp_path):
    big, day = np.array([2**63 + 1, 2**63 + 2], np.uint64), pd.Timestamp("2024-01-02")
    pairs = {
        "uint64": big,
        "uint8": np.array([1, 2], np.uint8),
        "decimal": [Decimal("1.1"), Decimal("2.2")],
        "bytes": [b"a", b"b"],
        "float": [1.0, 2.0],
        "date": [day.date(), (day + 24 * HOUR).date()],
        "duration": pd.to_timedelta([1, 2], "h"),
        "time": at(0, 1).as_unit("ns"),
        "naive": at(0, 1).tz_localize(None),
        "category": pd.Categorical(["a", "b"]),
    }
    for name, key in pairs.items():
        facts([0, 0], [0, 0], key=key).to_parquet(tmp_path / "facts.parquet")
        entities = asked(1, 1, key=key).iloc[::-1].reset_index(drop=True)
        entities.to_parquet(tmp_path / "asked.parquet")
        assert list(spark_join(spark, entities, tmp_path / "facts.parquet").v__value) == [1, 0], (
            name
        )
        if name in ("uint64", "decimal", "time"):  # the other types are written by the same way; a duration Spark does not write
            to = spark_join(
                spark,
                tmp_path / "asked.parquet",
                tmp_path / "facts.parquet",
                to=tmp_path / f"{name} out",
            )
            assert list(pd.read_parquet(to).v__value) == [1, 0], name

def test_what_spark_cannot_take_from_files_or_bring_to_them_is_named(spark, tmp_path):
    def stored(frame, name):
        frame.to_parquet(tmp_path / name)
        return tmp_path / name

    day, plain, questions = (
        pd.Timestamp("2024-01-02"),
        facts([0], [0]),
        stored(asked(1), "asked.parquet"),
    )
    refused = [
        (
            asked(1, key=float(BIG)),
            stored(plain.assign(key=BIG), "a.parquet"),
            {},
            ValueError,
            r"entities, key 'key'.*2\*\*53",
        ),
        (
            asked(1, key=BIG),
            stored(plain.assign(key=float(BIG)), "b.parquet"),
            {},
            ValueError,
            r"v, key 'key'.*2\*\*53",
        ),
        (
            asked(1),
            stored(plain.assign(other=[day.time()]), "c.parquet"),
            {},
            TypeError,
            "column 'other' holds time64",
        ),
        (
            asked(1),
            stored(plain.assign(other=np.float16(1)), "d.parquet"),
            {},
            TypeError,
            "column 'other' holds halffloat",
        ),
        (
            questions,
            plain.assign(value=pd.Timedelta(1, "h")),
            {"to": tmp_path / "out"},
            TypeError,
            "column 'value' holds duration",
        ),
        (
            asked(1, key=np.uint64(2**63 + 1)),
            stored(plain.assign(key=5), "e.parquet"),
            {},
            ValueError,
            "cannot be compared",
        ),
        (
            asked(1, key=5),
            stored(plain.assign(key=np.uint64(2**63 + 1)), "f.parquet"),
            {},
            ValueError,
            "cannot be compared",
        ),
    ]
    for entities, source, options, kind, words in refused:
        with pytest.raises(kind, match=words) as e:
            spark_join(spark, entities, source, **options)
        assert len(str(e.value)) < 300
    pq.write_table(
        pa.table({"key": ["a"], "event_timestamp": pa.array([None], pa.timestamp("us", "UTC"))}),
        tmp_path / "gap.parquet",
    )
    with pytest.raises(ValueError, match="entities.event_timestamp is missing"):
        spark_join(spark, tmp_path / "gap.parquet", plain, to=tmp_path / "out")


# Tables of other libraries

@pytest.mark.parametrize("engine", LOCAL)
def test_tables_of_polars_and_arrow_are_taken_without_rounding(engine, tmp_path):
    import polars as pl

    source = facts([0, 0], [0, 0], key=[BIG, BIG + 1])
    entities = asked(1, 1, 1, key=pd.array([BIG + 1, None, BIG], "Int64"))
    for hold in (
        pl.from_pandas,
        lambda f: pa.Table.from_pandas(f, preserve_index=False),
        lambda f: pa.RecordBatch.from_pandas(f, preserve_index=False),
    ):
        out = point_in_time_join(
            hold(entities), View("v", hold(source), "key", None, "value"), engine=engine
        )
        assert out.v__value.tolist()[::2] == [1, 0] and np.isnan(out.v__value[1])
        assert out.key[0] == BIG + 1 and out.key[2] == BIG and out.key.isna()[1]
        to = point_in_time_join(
            hold(entities),
            View("v", hold(source), "key", None, "value"),
            engine=engine,
            to=tmp_path / "out.parquet",
        )
        assert pd.read_parquet(to).key[0] == BIG + 1

def test_tables_that_hold_no_rows_or_no_columns_that_arrow_knows_are_refused():
    import polars as pl

    good = pl.from_pandas(asked(1))
    view = lambda source: View("v", source, "key", None, "value")
    known = pl.from_pandas(facts([0], [0]))
    odd = known.with_columns(value=pl.Series([object()], dtype=pl.Object))
    for wrong, words in (
        (good.lazy(), "collect it first"),
        ({"key": ["a"]}, "got dict"),
        (good["key"], "got Series"),
        (pa.array([1]), "Array"),
        (5, "got int"),
    ):
        with pytest.raises(TypeError, match=f"entities.*{words}"):
            point_in_time_join(wrong, view(known))
        with pytest.raises(TypeError, match=f"'v'.*{words}"):
            point_in_time_join(good, view(wrong))
    with pytest.raises(TypeError, match="column 'value' holds Object"):
        point_in_time_join(good, view(odd))
    twice = pa.table([known.to_arrow()["key"]] * 2, names=["key", "key"])
    with pytest.raises(ValueError, match="entities: columns 'key' are there twice"):
        point_in_time_join(twice, view(known))

def test_errors_of_wide_tables_stay_short():
    wide = pd.concat(
        [asked(1), pd.DataFrame(1, [0], [f"a column with a long name {i}" for i in range(500)])],
        axis=1,
    )
    for change in (
        wide.drop(columns="key"),
        pd.concat([wide, wide], axis=1),
        wide.rename(columns={"key": "k" * 400}),
    ):
        with pytest.raises(ValueError) as e:
            point_in_time_join(change, View("v", facts([0], [0]), "key", None, "value"))
        assert len(str(e.value)) < 300


# The whole year

@pytest.fixture(scope="module")
def year():
    "All flights as questions, and three views with two clocks; the departures are corrected five hours later."
    flights = load_flights()
    departures = flights[["tailnum", "origin", "dest", "dep_delay"]].assign(event_timestamp=flights.actual_dep).dropna(subset=["event_timestamp", "tailnum"])
    corrected = departures.assign(dep_delay=departures.dep_delay + 1, created_timestamp=(departures.event_timestamp + 5 * HOUR).dt.as_unit("us"))
    both = pd.concat([departures.assign(created_timestamp=departures.event_timestamp), corrected], ignore_index=True)
    views = [View("weather", load_weather()[["origin", "event_timestamp", "created_timestamp", "temp"]], "origin", 6 * HOUR, "temp"),
             View("aircraft", both.drop_duplicates(["tailnum", "event_timestamp", "created_timestamp"]), "tailnum", 48 * HOUR, "dep_delay"),
             View("route", both.drop_duplicates(["origin", "dest", "event_timestamp", "created_timestamp"]), ["origin", "dest"], 24 * HOUR, "dep_delay")]
    return flights[["flight_id", "tailnum", "origin", "dest"]].assign(event_timestamp=(flights.sched_dep - HORIZON).dt.as_unit("us")), views

def test_the_engines_agree_on_the_whole_year(year):
    pd.testing.assert_frame_equal(point_in_time_join(*year, engine="duckdb"), point_in_time_join(*year))

@pytest.mark.parametrize("until", ["2013-03-20", pytest.param("2014-01-02", marks=pytest.mark.slow)])   # over the change of the clocks; the whole year
def test_feast_agrees_if_it_looks_at_both_clocks(year, until, tmp_path):
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64
    entities, views = year
    until = pd.Timestamp(until, tz="UTC")
    entities, views = entities[entities.event_timestamp < until], [replace(v, source=v.source[v.source.event_timestamp < until]) for v in views]
    (tmp_path / "feature_store.yaml").write_text("project: year\nprovider: local\nregistry: registry.db\n"
                                                "offline_store: {type: duckdb}\nonline_store: {type: sqlite, path: online.db}\nentity_key_serialization_version: 3\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = FeatureStore(repo_path=str(tmp_path))
        keys = {c: Entity(name=c, join_keys=[c], value_type=ValueType.STRING) for c in ("origin", "tailnum", "dest")}
        for v in views:
            v.source.to_parquet(tmp_path / f"{v.name}.parquet", coerce_timestamps="us", index=False)
            source = FileSource(name=v.name, path=str(tmp_path / f"{v.name}.parquet"), timestamp_field="event_timestamp", created_timestamp_column="created_timestamp")
            schema = [Field(name=c, dtype=Float64) for c in v.features]
            store.apply([*keys.values(), FeatureView(name=v.name, entities=[keys[c] for c in v.by], ttl=v.ttl.to_pytimedelta(), schema=schema, source=source)])
        asked = entities.dropna(subset="tailnum")
        names = [f"{v.name}:{c}" for v in views for c in v.features]
        feast = store.get_historical_features(entity_df=asked, features=names, full_feature_names=True, filter_by_created_timestamp=True).to_df()
    ours = point_in_time_join(asked, views)
    feast = feast.set_index("flight_id").loc[asked.flight_id]
    for v in views:
        for c in v.features: np.testing.assert_array_equal(feast[f"{v.name}__{c}"].to_numpy(float), ours[f"{v.name}__{c}"].to_numpy(float), err_msg=v.name)
    assert ours.aircraft__dep_delay.notna().mean() > .5

CLUSTER = """
import pathlib, pickle, sys
from mlscale.batch import spark_session
from mlscale.point_in_time import point_in_time_join
views, asked, out = map(pathlib.Path, sys.argv[1:])
spark = spark_session("local-cluster[2,1,1536]", conf={"spark.sql.shuffle.partitions": "4"})
point_in_time_join(asked, pickle.loads(views.read_bytes()), engine="spark", session=spark, to=out)
"""

@pytest.mark.slow
def test_a_cluster_of_processes_agrees_on_the_whole_year_from_files(year, tmp_path):
    entities, views = year
    entities.to_parquet(tmp_path / "entities.parquet", coerce_timestamps="us", index=False)
    files = []
    for v in views:
        v.source.to_parquet(tmp_path / f"{v.name}.parquet", coerce_timestamps="us", index=False)
        files.append(View(v.name, tmp_path / f"{v.name}.parquet", v.by, v.ttl, v.features))
    asked, out = tmp_path / "entities.parquet", tmp_path / "out.parquet"
    (tmp_path / "views").write_bytes(pickle.dumps(files))
    done = subprocess.run([sys.executable, "-c", CLUSTER, tmp_path / "views", asked, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pd.testing.assert_frame_equal(pd.read_parquet(out), point_in_time_join(entities, views), check_dtype=False)
