"Rolling features: nine aggregates, offline and online, equal to the definition and to each other to the last bit."
import json
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale.point_in_time import View, point_in_time_join
from mlscale.rolling import LookupState, Rolling, RollingState, rolling_features

START = pd.Timestamp("2013-03-01", tz="UTC")
HOUR = pd.Timedelta(hours=1)
AGGREGATES = ["count", "sum", "mean", "rate", "std", "min", "max", "last", "distinct"]


def at(*hours): return pd.DatetimeIndex([START + h * HOUR for h in hours]).as_unit("us")

def asked(*hours, key="a"): return pd.DataFrame({"key": key, "event_timestamp": at(*hours)})

def events(*hours, key="a", value=1.): return pd.DataFrame({"key": key, "created_timestamp": at(*hours), "value": value})

def rolling(agg="mean", hours=3, value="value", by="key", **options): return Rolling("r", value=value, by=by, window=hours and hours * HOUR, agg=agg, **options)

def exactly(agg, inside, prior=None):
    "The aggregate of values in the order of time, in exact arithmetic, rounded once."
    x, n = [Fraction(v) for v in inside], len(inside)
    if agg == "count": return float(n)
    if agg == "sum": return float(sum(x, Fraction(0)))
    if agg == "distinct": return float(len(set(inside)))
    if agg in ("mean", "rate"): return math.nan if not n else float(sum(x)) / n
    if not n or (agg == "std" and n < 2): return math.nan
    if agg == "std": return math.sqrt(float((n * sum(v * v for v in x) - sum(x)**2) / (n * (n - 1))))
    return float({"min": min, "max": max, "last": lambda v: v[-1]}[agg](x))

def replay(definition, happened, entities, through_json=0.):
    "Fed in the order of time, what became known at a minute before what is asked at it."
    rng = np.random.default_rng(0)
    rows = [(e["created_timestamp"], 0, i, e) for i, e in enumerate(happened.to_dict("records"))] + [(e["event_timestamp"], 1, i, e) for i, e in enumerate(entities.to_dict("records"))]
    state, out = definition.online(), np.empty(len(entities))
    for when, question, i, row in sorted(rows, key=lambda r: r[:3]):
        if question: out[i] = state.get(tuple(row[c] for c in definition.by), when)
        else: state.update(row)
        if rng.random() < through_json: state = RollingState.from_dict(json.loads(json.dumps(state.to_dict())))
    return out

NUMBER = st.one_of(st.floats(-1e18, 1e18), st.integers(-5, 5).map(float), st.sampled_from([.1, 1e16, 5e-324, 1e150, -1e150, np.nan]))
EVENT = st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([1, 2]), st.integers(0, 8), NUMBER)
QUESTION = st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([1, 2]), st.integers(-1, 12))

def tables(happened, questions):
    known = pd.DataFrame(happened, columns=["k", "n", "created", "value"]).astype({"k": object, "value": float, "created": float})
    known["created_timestamp"] = START + pd.to_timedelta(known.pop("created"), unit="h")
    entities = pd.DataFrame(questions, columns=["k", "n", "t"]).astype({"k": object, "t": float})
    entities["event_timestamp"] = START + pd.to_timedelta(entities.pop("t"), unit="h")
    return known, entities

@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=15), st.lists(QUESTION, max_size=8), st.sampled_from([a for a in AGGREGATES if a != "rate"]), st.sampled_from([3, None]))
def test_offline_equals_online_equals_exact_arithmetic(happened, questions, agg, hours):
    known, entities = tables(happened, questions)
    order = sorted(range(len(happened)), key=lambda i: (happened[i][2], i))
    in_window = lambda e, k, n, t: e[0] is not None and e[:2] == (k, n) and e[2] <= t and (hours is None or e[2] > t - hours) and not np.isnan(e[3])
    expected = [exactly(agg, [happened[i][3] for i in order if in_window(happened[i], k, n, t)]) for k, n, t in questions]
    definition = rolling(agg, hours, by=["k", "n"])
    np.testing.assert_array_equal(definition.offline(known, entities).to_numpy(), np.array(expected, float))
    np.testing.assert_array_equal(replay(definition, known, entities, through_json=.1), np.array(expected, float))

@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=25), st.sampled_from([a for a in AGGREGATES if a not in ("rate", "last")]), st.sampled_from([3, None]), st.randoms(use_true_random=False))
def test_in_whatever_order_events_arrive_the_next_answer_is_the_same(happened, agg, hours, random):
    known, _ = tables(happened, [])
    shuffled = known.to_dict("records")
    random.shuffle(shuffled)
    states = [rolling(agg, hours, by=["k", "n"]).online() for _ in range(2)]
    for state, stream in zip(states, (known.to_dict("records"), shuffled), strict=True):
        for e in stream: state.update(e)
    for when in (8, 9, 10, 12): assert len({repr(s.get(("a", 1), START + when * HOUR)) for s in states}) == 1
    assert all(s.late == 0 for s in states)

def test_several_definitions_at_once_are_each_by_itself():
    rng = np.random.default_rng(0)
    known = pd.DataFrame({"a": rng.choice(list("xyz"), 500), "b": rng.integers(0, 4, 500), "created_timestamp": START + pd.to_timedelta(rng.integers(0, 100, 500), unit="h"),
                          "u": rng.integers(-9, 9, 500), "v": rng.random(500)})
    entities = pd.DataFrame({"a": rng.choice(list("wxyz"), 300), "b": rng.integers(0, 5, 300), "event_timestamp": START + pd.to_timedelta(rng.integers(-5, 120, 300), unit="h")})
    many = [Rolling(f"{agg}_{value}_{'_'.join(by)}_{h}", value=value, by=by, window=h and h * HOUR, agg=agg, prior=(.3, 2) if agg == "rate" else None)
            for agg in AGGREGATES for value in (["v"] if agg == "rate" else ["u", "v"]) for by in (["a"], ["a", "b"]) for h in (5, 24, None)]
    together = rolling_features(many, known, entities)
    assert list(together) == [r.name for r in many]
    for r in many: pd.testing.assert_series_equal(together[r.name], r.offline(known, entities))

def test_a_value_does_not_depend_on_other_keys():
    few, others = events(1, 2, key="b", value=[.1, .2]), events(0, 1, key=["a", "c"], value=[1e150, -1e-300])
    for agg in set(AGGREGATES) - {"rate"}:
        together, alone = (rolling(agg).offline(known, asked(2, key="b")).item() for known in (pd.concat([others, few]), few))
        assert repr(together) == repr(alone)
    assert rolling("sum").offline(pd.concat([others, few]), asked(2, key="b")).item() == .1 + .2

def test_keys_of_many_columns_do_not_collide():
    rng = np.random.default_rng(0)
    columns = [f"k{i}" for i in range(8)]
    known = pd.DataFrame(rng.integers(0, 10**6, (400, 8)), columns=columns).assign(created_timestamp=at(0)[0], value=1.)
    assert list(rolling("count", by=columns).offline(known, known.assign(event_timestamp=at(1)[0]))) == [1] * 400

def test_a_window_longer_than_time_is_one_without_an_end():
    for window in (pd.Timedelta(days=100_000), pd.Timedelta.max):
        definition = Rolling("r", value="value", by="key", window=window, agg="sum")
        assert definition.offline(events(0, 1, 2), asked(2)).item() == replay(definition, events(0, 1, 2), asked(2))[0] == 3

@pytest.mark.parametrize("keys, questions, expected", [
    (np.array([2**53, 2**53 + 1], np.uint64), np.array([2**53, 2**53 + 1], np.int64), [1, 1]), ([1, 2], [1.5, 2.], [0, 1]),
    ([1., np.nan], [1, 2], [1, 0]), ([2**53 - 1, 2**53 - 2], [float(2**53 - 1), np.nan], [1, 0]),
    ([np.inf, 1.], [np.inf, 1.], [0, 1]), (pd.Categorical(["a", "b"]), ["b", "c"], [1, 0])])
def test_numbers_are_compared_exactly_as_keys(keys, questions, expected):
    known, entities = events(0, 0).assign(key=keys), asked(1, 1).assign(key=questions)
    assert list(rolling("count").offline(known, entities)) == list(replay(rolling("count"), known, entities)) == expected

ROUNDED = [
    (float(2**53), 53),
    (-float(2**60), 53),
    (np.float64(2**53), 53),
    (np.float32(2**24), 24),
    (np.float16(2**11), 11),
]

@pytest.mark.parametrize(("key", "bits"), ROUNDED)
def test_a_float_that_may_be_two_ids_is_refused_everywhere(key, bits):
    words, column = (
        rf"2\*\*{bits} on several whole numbers share one",
        pd.Series([key, np.nan]).astype(type(key)),
    )
    pairs = [(column, [1, 2]), ([1, 2], column)]
    if bits == 53:
        pairs.append((column.astype(object), [1, 2]))  # Python's own floats
    if bits > 11:
        pairs.append(([1, 2], column.astype("category")))  # pandas has none of 16 bits
    for known, entities in ((events(0, 0, key=a), asked(1, 1, key=b)) for a, b in pairs):
        with pytest.raises(ValueError, match=f"key 'key'.*{words}") as e:
            rolling().offline(known, entities)
        assert len(str(e.value)) < 300
    state, lookup = rolling().online(), LookupState(View("v", pd.DataFrame(), "key", None, "value"))
    event = {"key": key, "created_timestamp": START, "event_timestamp": START, "value": 1.0}
    for refuses in (
        lambda: state.update(event),
        lambda: lookup.update(event),
        lambda: state.get(key, START),
        lambda: lookup.get(key, START),
    ):
        with pytest.raises(ValueError, match=words):
            refuses()
    assert state.now is lookup.now is None
    several = rolling(by=["key", "n"]).online()
    with pytest.raises(ValueError, match=words):
        several.update({**event, "n": None})
    with pytest.raises(ValueError, match=words):
        several.get((1, key), START)

@pytest.mark.parametrize("type_", [np.float32, "Float32", "Float64", "category", object])
def test_an_infinite_number_of_any_width_is_no_key(type_):
    keys = pd.Series([np.inf, 1.0]).astype(type_)
    assert list(rolling("count").offline(events(0, 0, key=keys), asked(1, 1, key=keys))) == [0, 1]
    state = rolling("count").online()
    state.update({"key": np.float32(np.inf), "created_timestamp": START, "value": 1.0})
    assert state.get(np.float32(np.inf), START) == 0

@pytest.mark.parametrize(
    ("known", "asked_for", "words"),
    [
        ([START], [START.tz_localize(None)], "time without a zone never equals a time with a zone"),
        ([b"a"], ["a"], "text never equals a bytes"),
        ([START.date()], [1], "number never equals a date"),
        ([pd.Period("2020")], [1], "period"),
        ([True], [1], "truth value"),
        (["a", 1], [1, 1], "several kinds"),
        ([[1]], [[1]], "lists"),
    ],
)
def test_keys_that_can_never_be_equal_are_refused_by_name(known, asked_for, words):
    n = len(known)
    with pytest.raises((TypeError, ValueError), match=f"key '?key'?.*{words}|{words}.*key"):
        rolling("count").offline(
            events(*[0] * n).assign(key=pd.Series(known, dtype=object)),
            asked(*[1] * n).assign(key=pd.Series(asked_for, dtype=object)),
        )

@pytest.mark.parametrize("value", [2**53 + 1, np.int64(-(2**60) - 1), 10**400, 1j])
def test_a_whole_number_that_no_float_holds_is_no_value_but_can_be_counted(value):
    for agg in ("sum", "last", "min", "mean"):
        with pytest.raises(ValueError, match="value="):
            rolling(agg).offline(events(0, value=pd.Series([value], dtype=object)), asked(1))
        with pytest.raises(ValueError, match="value="):
            rolling(agg).online().update({"key": "a", "created_timestamp": START, "value": value})
    if isinstance(value, complex):
        return
    assert rolling("sum").offline(events(0, value=2**60), asked(1)).item() == 2**60
    assert (
        rolling("distinct")
        .offline(events(0, 0, value=pd.Series([value, value + 1], dtype=object)), asked(1))
        .item()
        == 2
    )

def test_times_beyond_nanoseconds_are_named():
    far = pd.Timestamp("9999-12-31", tz="UTC")
    late = pd.Series([far] * 1).astype("datetime64[s, UTC]")
    with pytest.raises(ValueError, match="events.created_timestamp: a time lies beyond"):
        rolling().offline(events(0).assign(created_timestamp=late), asked(1))
    with pytest.raises(ValueError, match="created_timestamp=9999.* lies beyond"):
        rolling().online().update({"key": "a", "created_timestamp": far, "value": 1.0})
    with pytest.raises(ValueError, match="at=9999.* lies beyond"):
        rolling().online().get("a", far)
    with pytest.raises(ValueError, match="a time is needed"):
        rolling().online().get("a", np.int64(5))

def test_times_and_text_are_no_numbers_on_either_side():
    for value in (START, "1", pd.Timedelta(hours=1)):
        with pytest.raises(ValueError, match="finite numbers"): rolling("sum").offline(events(0, value=[value]), asked(1))
        with pytest.raises(ValueError, match="finite numbers"): rolling("sum").online().update({"key": "a", "created_timestamp": START, "value": value})

def test_keys_that_cannot_be_looked_up_change_nothing():
    state = rolling("sum").online()
    for wrong in (lambda: state.update({"key": ["a"], "created_timestamp": START, "value": 1.}), lambda: state.update(None), lambda: state.get(["a"], START)):
        with pytest.raises(ValueError): wrong()
    assert state.now is None and state.late == 0

@pytest.mark.parametrize("wrong", [lambda: RollingState(None), lambda: LookupState(None), lambda: rolling_features(None, events(0), asked(1)),
                                   lambda: rolling_features([], events(0), asked(1)), lambda: rolling_features(rolling(), events(0), asked(1))])
def test_what_is_no_definition_is_refused(wrong):
    with pytest.raises(TypeError, match="a Rolling|a View|at least one Rolling"): wrong()

def test_the_window_is_open_at_its_beginning_and_closed_at_its_end(): assert list(rolling("count").offline(events(1), asked(0, 1, 3, 4))) == [0, 1, 1, 0]

def test_of_events_known_at_the_same_time_the_last_is_the_one_that_came_last():
    same = events(1, 1, 1, value=[3., 1., 2.])
    assert rolling("last").offline(same, asked(1)).item() == replay(rolling("last"), same, asked(1))[0] == 2

def test_distinct_counts_anything_that_can_be_a_key():
    known = events(0, 1, 2, value=["x", "y", "x"])
    assert list(rolling("distinct").offline(known, asked(0, 2, 3, 4, 5))) == list(replay(rolling("distinct"), known, asked(0, 2, 3, 4, 5))) == [1, 2, 2, 1, 0]

def test_a_prior_draws_small_rates_to_its_mean():
    rate = rolling("rate", prior=(.2, 8))
    assert list(rate.offline(events(1, 1), asked(0, 1))) == list(replay(rate, events(1, 1), asked(0, 1))) == [.2, (2 + 1.6) / 10]
    assert np.isnan(rolling("rate").offline(events(1), asked(0)).item())

def test_offline_keeps_the_index_and_the_name():
    out = rolling("count", value=None).offline(events(1).drop(columns="value"), asked(1, 0).set_axis([5, 5]))
    assert list(out.index) == [5, 5] and out.name == "r" and list(out) == [1, 0]


# Late, doubled, out of order

def test_a_late_event_counts_from_then_on_and_is_counted():
    state = rolling("sum").online()
    for h in (0, 2): state.update({"key": "a", "created_timestamp": START + h * HOUR, "value": 1.})
    assert state.get("a", START + 2 * HOUR) == 2
    state.update({"key": "a", "created_timestamp": START + 1 * HOUR, "value": 5.})
    assert (state.late, state.get("a", START + 2 * HOUR), state.get("a", START + 3 * HOUR), state.get("a", START + 4 * HOUR)) == (1, 7, 6, 1)

def test_an_event_at_the_moment_of_an_answer_is_late():
    state = rolling("count").online()
    state.get("a", START)
    state.update({"key": "a", "created_timestamp": START, "value": 1.})
    assert state.late == 1 and state.get("a", START) == 1

def test_an_event_whose_window_is_over_is_dropped():
    state = rolling("count").online()
    state.get("a", START + 9 * HOUR)
    state.update({"key": "a", "created_timestamp": START, "value": 1.})
    assert state.late == 1 and state.get("a", START + 9 * HOUR) == 0 and not state._keys

def test_an_event_delivered_twice_counts_twice_on_both_sides():
    twice = events(1, 1)
    assert rolling("count").offline(twice, asked(1)).item() == replay(rolling("count"), twice, asked(1))[0] == 2

def test_the_state_goes_only_forward_and_a_refused_event_leaves_no_trace():
    state = rolling("sum").online()
    state.update({"key": "a", "created_timestamp": at(5)[0], "value": 1.})
    before = state.to_dict()
    for wrong in ({"key": "a", "created_timestamp": at(6)[0], "value": np.inf}, {"key": "a", "created_timestamp": at(6)[0]}, {"created_timestamp": at(6)[0], "value": 1.},
                  {"key": "a", "created_timestamp": pd.NaT, "value": 1.},
                  {"key": "a", "created_timestamp": None, "value": 1.}, {"key": "a", "created_timestamp": 5, "value": 1.}, {"key": "a", "created_timestamp": "never", "value": 1.},
                  {"key": "a", "created_timestamp": at(6)[0].tz_localize(None), "value": 1.},
                  {"key": "a", "created_timestamp": at(6)[0], "value": "x"}):
        with pytest.raises(ValueError): state.update(wrong)
    assert state.to_dict() == before
    with pytest.raises(ValueError, match="only goes forward"): state.get("a", at(4)[0])
    with pytest.raises(ValueError, match="one value each for key"): state.get(("a", "b"), at(5)[0])
    with pytest.raises(ValueError, match="text never equals a number"): state.get(1, at(5)[0])
    assert state.get("a", at(5)[0]) == 1 and state.get("a", at(8)[0]) == 0

@pytest.mark.parametrize("agg", AGGREGATES)
def test_memory_is_bounded_by_the_window_also_for_keys_that_nobody_asks_for(agg):
    state = rolling(agg).online()
    for i in range(20_000): state.update({"key": i, "created_timestamp": START + i * pd.Timedelta(minutes=1), "value": i % 2})
    assert len(state._keys) <= 2 * 180 + 1001
    assert all(np.isnan(state.get(i, START + 400 * HOUR)) or state.get(i, START + 400 * HOUR) == 0 for i in range(19_900, 20_000))
    for i in range(2000): state.update({"key": "z", "created_timestamp": START + 401 * HOUR, "value": i % 2})
    assert len(state._keys) <= 1 + 1000

def test_a_window_without_an_end_keeps_no_events():
    for agg in ("count", "sum", "mean", "std", "min", "max", "last"):
        state = rolling(agg, None).online()
        for i in range(100): state.update({"key": "a", "created_timestamp": START + i * HOUR, "value": float(i)})
        assert len(json.dumps(state.to_dict())) < 500
        assert state.get("a", START + 99 * HOUR) == exactly(agg, range(100))


# To the disk and back

@pytest.mark.parametrize("agg", AGGREGATES)
@pytest.mark.parametrize("hours", [3, None])
def test_a_state_survives_json(agg, hours):
    state = rolling(agg, hours, prior=(.5, 2) if agg == "rate" else None).online()
    for i, v in enumerate([.1, .7, .7, 0., 1.]): state.update({"key": "ab"[i % 2], "created_timestamp": START + i * HOUR, "value": v})
    state.get("a", START + 4 * HOUR)
    again = RollingState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again.to_dict() == state.to_dict() and again.rolling == state.rolling and again.now == state.now
    for when in (4, 5, 6, 8): assert repr(again.get("b", START + when * HOUR)) == repr(state.get("b", START + when * HOUR))

@pytest.mark.parametrize("damage", [lambda d: {**d, "format": 2}, lambda d: {k: v for k, v in d.items() if k != "keys"}, lambda d: {**d, "keys": [[["a"]]]},
                                    lambda d: {**d, "rolling": {**d["rolling"], "agg": "median"}}, lambda d: None, lambda d: [1]])
def test_a_damaged_state_is_refused(damage):
    state = rolling("sum").online()
    state.update({"key": "a", "created_timestamp": START, "value": 1.})
    with pytest.raises(ValueError, match="replaying the events"): RollingState.from_dict(damage(state.to_dict()))

def test_keys_that_json_cannot_hold_are_named():
    state = rolling("count").online()
    state.update({"key": START, "created_timestamp": START, "value": 1.})
    with pytest.raises(TypeError, match="neither text nor a number"): state.to_dict()


# What is refused

@pytest.mark.parametrize("value, agg", [(np.inf, "mean"), (-np.inf, "sum"), (1e151, "std"), (1.5, "rate"), (-.1, "rate"), ("x", "mean")])
def test_values_without_a_place_are_refused_on_both_sides(value, agg):
    event = {"key": "a", "created_timestamp": at(1)[0], "value": value}
    with pytest.raises(ValueError, match="value="): rolling(agg).offline(pd.DataFrame([event]), asked(2))
    with pytest.raises(ValueError, match="value="): rolling(agg).online().update(event)

@pytest.mark.parametrize("change", [
    dict(name=""), dict(agg="median"), dict(value=None), dict(value=5), dict(value=""), dict(window=pd.Timedelta(0)), dict(window=3), dict(by=[]), dict(prior=(.2, 1)),
    dict(agg="rate", prior=(2, 1)), dict(agg="rate", prior=(.2, -1)), dict(agg="rate", prior=(.2, np.inf)), dict(agg="rate", prior=.2),
    dict(agg="rate", prior=("a", 1)), dict(agg="rate", prior=(np.nan, 1))])
def test_a_definition_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match=list(change)[-1]): Rolling(**{"name": "r", "value": "value", "by": "key", "window": HOUR, "agg": "mean"} | change)

@pytest.mark.parametrize("happened, entities, error, message", [
    (events(0).drop(columns="created_timestamp"), asked(1), ValueError, "created_timestamp"),
    (events(0).drop(columns="value"), asked(1), ValueError, "value"),
    (events(0), asked(1).drop(columns="key"), ValueError, "key"),
    (events(0).assign(created_timestamp="2013"), asked(1), TypeError, "not times"),
    (events(0).assign(created_timestamp=pd.Series([pd.NaT], dtype="datetime64[us, UTC]")), asked(1), ValueError, "missing in 1 of 1"),
    (events(0), asked(1).assign(event_timestamp=lambda f: f.event_timestamp.dt.tz_localize(None)), ValueError, "time zone"),
    (events(0), asked(1, key=1), ValueError, "text never equals a number"),
    (pd.concat([events(0), events(0)[["value"]]], axis=1), asked(1), ValueError, "twice"),
    ([1], asked(1), TypeError, "events: a DataFrame"), (events(0), None, TypeError, "entities: a DataFrame")])
def test_tables_that_make_no_sense_are_refused(happened, entities, error, message):
    with pytest.raises(error, match=message): rolling().offline(happened, entities)

def test_two_definitions_of_one_name_are_refused():
    with pytest.raises(ValueError, match="twice"): rolling_features([rolling(), rolling("sum")], events(0), asked(1))


# Lookups

FACT = st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 8), st.integers(0, 8))

@settings(max_examples=150, deadline=None)
@given(st.lists(FACT, max_size=14, unique=True), st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(-1, 12)), max_size=8), st.sampled_from([None, 1, 3]), st.booleans())
def test_a_lookup_online_is_the_join_offline(known, questions, ttl, doubled):
    source = pd.DataFrame(known, columns=["key", "event", "created"]).astype({"key": object, "event": float, "created": float}).assign(value=np.arange(len(known), dtype=float))
    source = source.assign(event_timestamp=START + pd.to_timedelta(source.event, unit="h"), created_timestamp=START + pd.to_timedelta(source.created, unit="h"))
    entities = pd.DataFrame(questions, columns=["key", "t"]).astype({"key": object, "t": float})
    entities = entities.assign(event_timestamp=START + pd.to_timedelta(entities.t, unit="h"))
    view = View("v", source, "key", ttl and ttl * HOUR, "value")
    expected, state, out = point_in_time_join(entities, view)["v__value"].to_numpy(float), LookupState(view), np.full(len(questions), np.nan)
    rows = [(r["created_timestamp"], 0, i, r) for i, r in enumerate(source.to_dict("records"))] + [(r["event_timestamp"], 1, i, r) for i, r in enumerate(entities.to_dict("records"))]
    for when, question, i, row in sorted(rows, key=lambda r: r[:3]):
        if question:
            value = state.get(row["key"], when)["value"]
            out[i] = np.nan if value is None else value
        else:
            for _ in range(1 + doubled): state.update(row)
    np.testing.assert_array_equal(out, expected)

@given(st.permutations(range(6)))
@settings(max_examples=60, deadline=None)
def test_in_whatever_order_facts_arrive_the_newest_counts(order):
    rows = [{"key": "a", "event_timestamp": START + e * HOUR, "created_timestamp": START + c * HOUR, "value": i} for i, (e, c) in enumerate([(0, 0), (1, 5), (1, 2), (3, 3), (2, 6), (3, 4)])]
    state = LookupState(View("v", pd.DataFrame(), "key", None, "value"))
    for i in order: state.update(rows[i])
    assert state.get("a", START + 9 * HOUR) == {"value": 5} and state.late == 0

def test_a_lookup_refuses_contradictions_and_counts_what_is_late():
    state = LookupState(View("v", pd.DataFrame(), "key", 2 * HOUR, ["value"]))
    fact = {"key": "a", "event_timestamp": START, "created_timestamp": START, "value": 1}
    state.update(fact)
    state.update(fact)
    with pytest.raises(ValueError, match="keep one"): state.update({**fact, "value": 2})
    with pytest.raises(ValueError, match="'value' is missing"): state.update({k: v for k, v in fact.items() if k != "value"})
    with pytest.raises(ValueError, match="event_timestamp"): state.update({**fact, "event_timestamp": pd.NaT})
    with pytest.raises(ValueError, match="text never equals a number"): state.get(1, START)
    ahead = {**fact, "event_timestamp": START + 9 * HOUR, "created_timestamp": START + HOUR / 2, "value": 7}
    state.update(ahead)
    with pytest.raises(ValueError, match="keep one"): state.update({**ahead, "value": 8})   # also while it waits for its moment
    assert state.get("a", START + 2 * HOUR) == {"value": 1} and state.get("a", START + 2.5 * HOUR) == {"value": None}
    state.update({**fact, "event_timestamp": START + HOUR, "created_timestamp": START + HOUR, "value": 3})
    assert state.late == 1 and state.get("a", START + 3 * HOUR) == {"value": 3}
    with pytest.raises(ValueError, match="only goes forward"): state.get("a", START)


# ---- what they show of themselves

def test_a_definition_and_its_states_show_themselves_in_a_line():
    rate = Rolling("late", value="<late>", by=["a", "b"], window=36*HOUR, agg="rate", prior=(.2, 10))
    assert repr(rate) == "Rolling('late', rate of <late> by a, b, last 36 hours, prior (0.2, 10.0))"
    page = rate._repr_html_()
    assert "&lt;late&gt;" in page and "<late>" not in page and "last 36 hours" in page and "mean 0.2, weight of 10 events" in page
    assert "prior" not in rolling()._repr_html_() and "since the beginning" in repr(rolling(hours=None)) and "count by key" in repr(rolling("count", value=None))
    state = rolling().online()
    assert "0 keys" in repr(state) and "now None" in repr(state)
    for hour, key in ((0, "a"), (1, "a"), (2, "b")): state.update({"key": key, "created_timestamp": START + hour*HOUR, "value": 1.})
    assert "'r': 2 keys, 3 events kept, now 2013-03-01 02:00:00+00:00" in repr(state)
    lookup = LookupState(View("v", None, "key", None, "value"))
    for hour in (0, 5): lookup.update({"key": "a", "event_timestamp": START + hour*HOUR, "created_timestamp": START, "value": hour})
    assert repr(lookup) == "LookupState('v': 1 keys, 1 facts waiting, now 2013-03-01 00:00:00+00:00)"
