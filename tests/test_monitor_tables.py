"A monitor answers the same whoever holds a table and its numbers, or refuses it by name."

import decimal
import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import HELD, NOT_NUMBERS, NUMBERS, TIMES, refused, reshaped, same_or_refused

from mlscale.drift import DriftMonitor, Reference
from mlscale.monitoring import (
    Finding,
    ModelMetrics,
    ModelMonitor,
    ks_test,
    record_outcomes,
    usual_effects,
)

few = settings(deadline=None, max_examples=25)
rng = np.random.default_rng(0)
NORMAL = pd.DataFrame(
    {
        "a": rng.integers(0, 9, 400),
        "b": rng.integers(0, 9, 400),
        "text": rng.choice(["x", "y"], 400),
    }
)
NUMERIC = NORMAL[["a", "b"]]
CODED = NORMAL.assign(text=pd.Categorical(NORMAL.a % 4))  # a category of codes in place of the text
AT = pd.Timestamp("2013-09-02", tz="UTC")

REFERENCE, CODES = Reference.fit(NORMAL), Reference.fit(CODED)
MODEL = ModelMonitor(NUMERIC, reference_predictions=NORMAL.a)
count, coded = REFERENCE.count, CODES.count
report = lambda table: (
    MODEL.report(table).loc[["a", "b"], ["distance", "p", "missing"]].to_numpy(float)
)
null_rate = lambda table: ModelMetrics.measure(table, [1.0], [1.0]).null_rate
effects = lambda table: [*usual_effects([NUMERIC] * 19 + [table]).values()]
fit = lambda table: (lambda r: [*r.cuts, r.category, r.counts.tolist()])(Reference.fit(table))
DOORS = {
    "count": (count, NORMAL),
    "count codes": (coded, CODED),
    "report": (report, NUMERIC),
    "null rate": (null_rate, NUMERIC),
    "usual effects": (effects, NUMERIC),
}
rows = st.integers(1, 60)
constants = st.floats(-1e6, 1e6).filter(lambda c: c == 0 or abs(c) > 1e-9)


def held_by(held, frame):
    "The table in other hands, or None where they cannot hold it."
    if held == "pandas":
        return frame
    if not frame.columns.is_unique:
        if held == "Polars":
            return None
        table = pa.table(
            [pa.array(frame.iloc[:, i]) for i in range(frame.shape[1])], names=list(frame.columns)
        )
        return table if held == "Arrow" else table.combine_chunks().to_batches()[0]
    try:
        return HELD[held](frame)
    except (TypeError, ValueError, pa.ArrowException, pl.exceptions.PolarsError):
        return None


def equal(one, other):
    np.testing.assert_allclose(np.asarray(one, float), np.asarray(other, float), rtol=1e-6)


# ---- whoever holds the table


@few
@given(
    st.sampled_from(sorted(DOORS)), st.sampled_from(sorted(HELD)), st.sampled_from(["a", "b"]), rows
)
def test_columns_go_by_name_at_every_door(name, held, column, n):
    door, frame = DOORS[name]
    part = frame[:n]
    for what, table, names in reshaped(part, column):
        if what == "two names swapped":
            continue
        if what == "missing" and name == "null rate":
            continue  # a figure of whatever is there
        if what == "renamed" and name == "null rate":
            names = None
        if (table := held_by(held, table)) is None:
            continue
        if names is None:
            equal(door(table), door(part))
        else:
            refused(door, table, repr(names))
    more = held_by(held, part.assign(more="text"))
    if name == "usual effects":
        refused(door, more, "'more'")
    elif name == "null rate":
        refused(door, more, "'more'")
    else:
        equal(door(more), door(part))


@pytest.mark.parametrize("held", sorted(HELD))
def test_a_reference_is_the_same_in_all_hands(held):
    assert fit(held_by(held, NORMAL)) == fit(NORMAL)
    if held != "Polars":
        assert fit(held_by(held, CODED)) == fit(CODED)  # its categories are text
    pd.testing.assert_frame_equal(
        ModelMonitor(held_by(held, NUMERIC)).report(NUMERIC), MODEL.report(NUMERIC)
    )
    twice = held_by(held, pd.concat([NUMERIC, NUMERIC[["a"]]], axis=1))
    for door in (Reference.fit, ModelMonitor, lambda x: usual_effects([x] * 20)):
        if twice is not None:
            refused(door, twice, "'a'")
        refused(door, NUMERIC.set_axis([1, "1"], axis=1), "'1'")


@pytest.mark.parametrize("held", sorted(HELD))
def test_empty_tables_and_one_row(held):
    none, one = held_by(held, NORMAL[:0]), held_by(held, NORMAL[:1])
    assert count(none).sum() == 0 and (count(one).sum(1) == 1).all() and fit(one) == fit(NORMAL[:1])
    assert not DriftMonitor(REFERENCE, false_alarms_per_year=1).update(none).drift_detected
    refused(Reference.fit, none, "X")
    for door in (report, null_rate, effects):
        refused(door, held_by(held, NUMERIC[:0]))
    equal(report(held_by(held, NUMERIC[:1])), report(NUMERIC[:1]))


def test_tables_without_a_data_frame():
    tables = [
        NUMERIC.to_dict("list"),
        NUMERIC[["b", "a"]].to_dict("records"),
        NUMERIC.to_records(index=False),
    ]
    reference = Reference.fit(NUMERIC)
    for table in tables:
        equal(reference.count(table), reference.count(NUMERIC))
        equal(report(table), report(NUMERIC))
    array = NUMERIC.to_numpy()
    for door in (Reference.fit(NUMERIC).count, report):
        refused(door, array, "'a'")  # nobody can say which is which
    nameless = Reference.fit(array)
    for table in (
        array,
        array.tolist(),
        NUMERIC.set_axis([0, 1], axis=1),
        array.astype("float16"),
        pl.from_numpy(array, schema=["x0", "x1"]),
    ):
        equal(nameless.count(table), nameless.total)
    for table in (
        "x",
        5.0,
        None,
        object(),
        np.zeros((2, 2, 2)),
        [["1", "2"]],
        np.array([["a", 1]], object),
        [[1, 2], [3]],
    ):
        refused(Reference.fit, table, "X")
    for columns in (
        pl.Series("a", [1.0, 2.0]),
        pa.array([1.0, 2.0]),
        pd.Series([1.0, 2.0]),
        [1.0, 2.0],
        np.array([1.0, 2.0]),
    ):
        assert fit(columns) == fit([[1.0], [2.0]])
        assert ks_test(columns, [1.0, 2.0]) == ks_test([1.0, 2.0], [1.0, 2.0])


def test_a_mask_is_not_lost():
    values = np.ma.masked_array([[1.0, 9.0], [2.0, 9.0]] * 50, [[False, True], [False, False]] * 50)
    assert Reference.fit(values).total[:, 0].tolist() == [0, 50]
    assert ModelMonitor(values).report(values).was_missing["x1"] == 0.5
    assert ModelMetrics.measure(
        values, values[:, 1], np.ma.masked_array([1.0, 500.0], [False, True])
    ) == ModelMetrics(9.0, 0.0, 0.25, 1.0)
    assert ks_test(values[:, 1], [9.0] * 10)[0] == 0.5 == ks_test([9.0] * 10, values[:, 1])[0]
    masked_days = np.ma.masked_array([0, 1], [False, True])
    refused(lambda days: Reference.fit([[1.0], [2.0]], days=days), masked_days, "days")


# ---- however numbers are held


@few
@given(
    st.sampled_from(sorted(DOORS)),
    st.sampled_from(sorted(HELD)),
    st.sampled_from(sorted(NUMBERS | NOT_NUMBERS)),
    rows,
)
def test_the_same_numbers_give_the_same_answer_or_are_refused_by_name(name, held, kind, n):
    door, frame = DOORS[name]
    part = frame[:n]
    dressed = held_by(held, part.assign(a=(NUMBERS | NOT_NUMBERS)[kind](part.a)))
    if dressed is None:
        return
    if kind in NUMBERS:
        equal(door(dressed), door(part))
    elif kind == "duration":
        same_or_refused(door, dressed, door(part), "'a'")  # of as many seconds
    else:
        refused(door, dressed, "'a'")


@few
@given(st.sampled_from(sorted(NUMBERS)), st.sampled_from(sorted(HELD)), st.booleans(), rows)
def test_codes_are_compared_by_value(kind, held, missing, n):
    codes = CODED.text[:n].astype(int)
    table = NUMERIC[:n].assign(text=NUMBERS[kind](codes))
    if missing:
        table = table.assign(
            text=table.text.where(np.arange(n) > 0, None)
            if kind != "category"
            else table.text.mask(np.arange(n) == 0)
        )
    if (table := held_by(held, table)) is None:
        return
    expected = coded(CODED[:n])
    if missing:
        expected[2, 1 + codes[0]] -= 1
        expected[2, 0] += 1
    equal(coded(table), expected)


@pytest.mark.parametrize("kind", sorted(NOT_NUMBERS))
@pytest.mark.parametrize("held", sorted(HELD))
def test_what_is_no_category_is_refused_and_text_is_text(held, kind):
    table = held_by(held, NORMAL.assign(text=NOT_NUMBERS[kind](NORMAL.a)))
    if table is None:
        return
    if "text" in kind or kind == "duration":
        assert count(table)[2, [0, 1, 2, 3]].sum() == 0 < count(table)[2, 4]  # never seen, nor rare
    else:
        refused(count, table, "'text'")
    if "text" in kind:
        assert Reference.fit(table).category == (False, False, True)
    elif kind == "duration":
        assert Reference.fit(table).category == (False, False, False)
    else:
        refused(Reference.fit, table, "'text'")


def test_truth_values_are_one_and_zero():
    yes = pd.Series([True, False, None, True] * 100, dtype=object)
    hold = {
        "object": yes,
        "float": yes.astype(float),
        "boolean": yes.astype("boolean"),
        "Int8": yes.astype("Int8"),
        "category": pd.Categorical(yes),
        "category of floats": pd.Categorical(yes.astype(float)),
        "Arrow": yes.astype("bool[pyarrow]"),
        "Decimal": yes.map(lambda v: v if v is None else decimal.Decimal(int(v))),
    }
    for name, reference in hold.items():
        fitted = Reference.fit({"c": reference})
        for batch in hold.values():
            equal(fitted.count({"c": batch}), fitted.total)
        assert "category" not in name or set(fitted.cuts[0]) in ({"True", "False"}, {"1", "0"})
    text = Reference.fit({"c": ["1", "01", "1.0"] * 20})
    assert text.cuts == (("01", "1", "1.0"),) and text.count({"c": ["1", "01", "x"]}).tolist() == [
        [0, 1, 1, 0, 0, 1]
    ]
    assert text.count({"c": pd.array(["1", None], dtype="string")}).tolist() == [[1, 0, 1, 0, 0, 0]]


def test_a_state_written_before_codes_were_compared_by_value_still_counts():
    old = Reference.fit({"c": pd.Categorical([1.0, 2.0] * 50)}).to_dict() | {
        "cuts": [["1.0", "2.0"]]
    }
    assert Reference.from_dict(old).count({"c": [1, 2, 3]}).tolist() == [[0, 1, 1, 0, 1]]


@pytest.mark.parametrize(
    "kind", ["Decimal", "object", "Float64", "double[pyarrow]", "duration", "float32"]
)
def test_ten_times_as_large_rings_in_every_type(kind):
    dress = {
        "Decimal": lambda x: [decimal.Decimal(f"{v:.2f}") for v in x],
        "duration": lambda x: pd.to_timedelta(x, unit="s"),
        "object": lambda x: pd.Series([*x, None, pd.NA], dtype=object),
    }
    hold = dress.get(kind, lambda x: pd.Series(x, dtype=kind))
    s = np.random.default_rng(1).normal(600, 60, 2000)
    monitor = DriftMonitor(Reference.fit({"d": hold(s)}), false_alarms_per_year=1)
    assert monitor.update({"d": hold(10 * s[:500])}).drift_detected
    assert not monitor.reset().update({"d": hold(s[:500])}).drift_detected


@pytest.mark.parametrize("clothes", sorted(TIMES))
def test_times_in_any_clothes_are_refused_with_the_same_advice(clothes):
    column = TIMES[clothes](pd.Series(pd.date_range("2013-07-01", periods=50, freq="h")))
    doors = [
        Reference.fit,
        Reference.fit({"t": [1.0, 2.0]}).count,
        Reference.fit({"t": ["x", "y"]}).count,
    ]
    for door in doors:
        assert "turn it into a number such as the hour" in refused(door, {"t": column}, "'t'")
    refused(ModelMonitor, {"t": column}, "'t'")


def test_columns_of_two_minds_are_refused_by_name():
    second = pd.Timedelta(seconds=1)
    for column in (
        [1.0, second],
        [1j, 2.0],
        [[1], [2]],
        [{"a": 1}, {}],
        [1, {2}],
        np.array([1 + 1j]),
        [np.timedelta64(1, "s"), 1.0],
    ):
        for door in (
            Reference.fit,
            Reference.fit({"c": [1.0, 2.0]}).count,
            Reference.fit({"c": ["x", "y"]}).count,
        ):
            refused(door, pd.DataFrame({"c": pd.Series(list(column), dtype=object)}), "'c'")
    refused(Reference.fit, {"c": pd.Series([10**400, 1], dtype=object)}, "'c'")
    for text in (["1", "2"], ["1", None], [1, "2"]):
        assert Reference.fit({"c": text}).category == (True,)
        refused(Reference.fit({"c": [1.0, 2.0]}).count, {"c": text}, "'c'")
    unknown = [
        pd.Series([None] * 4, dtype=t)
        for t in (
            "object",
            "float",
            "Int64",
            "string",
            "category",
            "string[pyarrow]",
            "boolean",
            pd.ArrowDtype(pa.null()),
        )
    ]
    for column in unknown:  # a column that went missing is missing, whatever its type
        for reference in (Reference.fit({"c": [1.0, 2.0]}), Reference.fit({"c": ["x", "y"]})):
            assert reference.count({"c": column})[0, 0] == 4
        Reference.fit({"c": column})


# ---- days


def test_a_day_is_a_day():
    X, stamps = np.arange(96.0), pd.Series(pd.date_range("2013-07-01", periods=96, freq="h"))
    day = stamps.dt.floor("D")
    expected = Reference.fit(X, days=day).counts
    local = day.dt.tz_localize("America/New_York")
    for days in (
        day.to_numpy(),
        day.astype("datetime64[s]"),
        list(day),
        day.dt.date,
        local,
        local.astype(object),
        day.dt.to_period("D"),
        pl.Series(day.dt.date),
        pa.array(day.dt.date),
        pd.DatetimeIndex(day),
        pd.Categorical(day),
        day.dt.day,
        day.dt.day.astype(float),
        day.astype(str),
        pd.array(day.dt.day, "Int64"),
    ):
        equal(Reference.fit(X, days=days).counts, expected)
    fitted = lambda days: Reference.fit(X, days=days)
    for days in (
        stamps,
        stamps.to_numpy(),
        stamps.dt.tz_localize("UTC"),
        [t.to_pydatetime() for t in stamps],
        stamps.dt.to_period("h"),
        pl.from_pandas(stamps),
        day + pd.Timedelta(1, "ns"),
        np.arange(96) / 24,
        pd.Series(pa.array(stamps), dtype="timestamp[us][pyarrow]"),
    ):
        assert "give the dates" in refused(fitted, days, "days")
    for days in (day[:5], day.where(day.index > 0), day.to_frame(), "monday", 5, [[1], [2, 3]]):
        refused(fitted, days, "days")


# ---- predictions, latencies, labels, moments


def test_both_columns_of_predict_proba_are_refused_with_what_to_do():
    p = rng.random(200)
    both = np.column_stack([1 - p, p])
    monitor = ModelMonitor(p, reference_predictions=p)
    for two in (both, both.tolist(), pd.DataFrame(both), pl.DataFrame(both), both[:1], both[:, :0]):
        for door in (
            monitor.check_prediction_distribution,
            lambda x: ModelMonitor(p, reference_predictions=x),
            lambda x: ModelMetrics.measure(p, x, [1.0]),
        ):
            assert "positive class" in refused(door, two, "predictions")
        refused(monitor.check_latency, two, "latencies_ms")
    for one in (
        both[:, 1],
        both[:, 1:],
        pd.Series(p),
        pl.Series(p),
        pa.array(p),
        pd.DataFrame({"p": p}),
        p.astype("float32"),
        list(p),
    ):
        assert monitor.check_prediction_distribution(one) is False


@pytest.mark.parametrize(
    "bad",
    [
        ["a"],
        ["0.5"],
        [0.5 + 0j],
        [[0.5], [1, 2]],
        pd.to_timedelta([1], unit="s"),
        pd.to_datetime(["2013-07-01"]),
        [{"a": 1}, {"b": 1}],
        pl.Series(["x"]),
    ],
    ids=str,
)
def test_what_is_no_number_is_refused_at_the_other_doors(bad):
    monitor = ModelMonitor([1.0, 2.0], reference_predictions=[1.0, 2.0])
    for door in (
        monitor.check_prediction_distribution,
        monitor.check_latency,
        lambda x: ks_test(x, [1.0]),
        lambda x: ks_test([1.0], x),
        lambda x: ModelMetrics.measure([1.0], [1.0], x),
    ):
        refused(door, bad)
    refused(lambda x: ks_test([], [1.0]), bad, "reference")


@pytest.mark.parametrize(
    "at",
    [
        pd.Timestamp("2013-09-02"),
        "2013-09-02 06:00",
        np.datetime64("2013-09-02"),
        pd.Timestamp("2013-09-02").date(),
        pd.NaT,
        "tomorrow",
        5,
        None,
    ],
    ids=str,
)
def test_a_moment_without_a_zone_is_refused_and_changes_nothing(at):
    monitor = ModelMonitor(np.zeros(500), reference_predictions=np.zeros(500))
    checks = [
        lambda at: monitor.check_data_drift(np.ones(500), at=at),
        lambda at: monitor.check_prediction_distribution(np.ones(500), at=at),
        lambda at: monitor.check_latency([999], at=at),
    ]
    if at is not None:  # None is now
        for check in checks:
            assert "zone" in refused(check, at, "at=")
    assert "zone" in refused(lambda at: Finding("x", 1, 0, "", at, True), at, "at=")
    assert monitor.record.history == []
    for check in checks:
        assert check("2013-09-02T06:00:00-04:00") and check(AT + pd.Timedelta(days=1))
    assert [a.seen for a in monitor.alerts] == [2, 2, 2]


@pytest.mark.parametrize("held", sorted(HELD))
def test_outcomes_go_by_name_in_all_hands(held, tmp_path):
    outcomes = pd.DataFrame({"request_id": ["1", "2"], "label": [0, 1], "known_at": [AT, AT]})
    door = lambda table: record_outcomes(table, log=tmp_path / "p.db")
    for what, table, name in reshaped(outcomes, "label"):
        if what == "two names swapped":
            continue
        if what == "twice" and held != "pandas":
            continue
        if name is None:
            assert door(held_by(held, table)) == 2
        else:
            refused(door, held_by(held, table), repr(name))
    assert (
        door(outcomes.assign(request_id=[1, 2]))
        == door(outcomes.assign(request_id=[1.0, 2.0]))
        == 0
    )  # the same requests
    assert door(held_by(held, outcomes.assign(more="x", label=[0.0, 1.0]))) == 0
    refused(door, outcomes.assign(label=["0", "1"]), "label=0")
    refused(door, outcomes.assign(known_at=AT.date()), "known_at")


# ---- equal numbers are equal


@few
@given(
    constants,
    st.integers(50, 3000),
    st.integers(50, 3000),
    st.sampled_from([0, 1, -1, 3, "float32"]),
)
def test_the_same_constant_never_rings_whatever_rounding_does_to_it(c, n, m, moved):
    other = (
        float(np.float32(c))
        if moved == "float32" and c != int(c)
        else c + (0 if moved == "float32" else moved * np.spacing(c))
    )
    monitor = ModelMonitor(np.full(n, c), reference_predictions=np.full(n, c))
    assert not monitor.check_prediction_distribution(
        np.full(m, other)
    ) and not monitor.check_data_drift(np.full(m, other))
    watch = DriftMonitor(Reference.fit(np.full(n, c)), false_alarms_per_year=1, n_resamples=300)
    assert not watch.update(np.full(m, other)).drift_detected
    further = c + max(1e-3 * abs(c), 0.5)
    assert monitor.check_prediction_distribution(np.full(m, further)) and monitor.check_data_drift(
        np.full(m, further)
    )
    assert watch.reset().update(np.full(m, further)).drift_detected


@few
@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=6), st.integers(0, 9))
def test_ties_moved_by_rounding_do_not_ring(levels, seed):
    draw = np.random.default_rng(seed)
    a, b = draw.choice(levels, 2000), draw.choice(levels, 1000)
    d = ks_test(a, b)[0]
    for moved in (
        b * (1 + draw.choice([-1, 0, 1], 1000) * 1e-16),
        np.nextafter(b, draw.choice([-np.inf, np.inf], 1000)),
        b.astype("float32"),
    ):
        assert ks_test(a, moved)[0] <= d + 1e-12 and ks_test(moved, a)[0] <= d + 1e-12
        reference = Reference.fit(a)
        equal(reference.count(moved), reference.count(b))
    narrow = Reference.fit(a.astype("float32"))
    equal(narrow.count(a), narrow.total)


def test_near_zero_and_among_whole_numbers_only_rounding_is_rounding():
    for residue in (5e-17, -5e-17):
        assert ks_test(np.zeros(100), np.full(100, residue))[0] == 0
        assert (
            not DriftMonitor(Reference.fit(np.zeros(100)), false_alarms_per_year=1)
            .update(np.full(100, residue))
            .drift_detected
        )
    for one, other in (
        (1e7, 1e7 + 1),
        (2**40, 2**40 + 1),
        (2**53 - 2, 2**53 - 1),
        (0, 1e-9),
        (7, 6.999),
        (1e-20, 2e-20),
        (0.3, 0.30001),
    ):
        assert ks_test(np.full(100, float(one)), np.full(100, float(other)))[0] == 1
        assert (
            DriftMonitor(Reference.fit(np.full(100, float(one))), false_alarms_per_year=1)
            .update(np.full(100, float(other)))
            .drift_detected
        )
    extreme = np.array([np.finfo(float).max, -np.finfo(float).max] * 50)
    assert (
        json.loads(json.dumps(Reference.fit(extreme).to_dict(), allow_nan=False))
        and ks_test(extreme, extreme)[0] == 0
    )
