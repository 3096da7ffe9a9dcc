"Features: a join uses only what was known, one definition gives one value offline and online, no flight's feature looks ahead."
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale.data import load_flights, load_planes, load_weather
from mlscale.features import FEATURES, SCHEDULE, WEATHER, Rolling, View, driver_repository, flight_features, load_features, point_in_time_join

START = pd.Timestamp("2013-03-01", tz="UTC")
HOUR = pd.Timedelta(hours=1)

def at(*hours): return pd.DatetimeIndex([START + h*HOUR for h in hours]).as_unit("us")

def facts(event, created, key="a", value=None):
    return pd.DataFrame({"key": key, "event_timestamp": at(*event), "created_timestamp": at(*created), "value": range(len(event)) if value is None else value})

def asked(*hours, key="a"): return pd.DataFrame({"key": key, "event_timestamp": at(*hours)})

def values(entities, source, ttl=None, **options): return list(point_in_time_join(entities, View("v", source, "key", ttl, "value"), **options)["v__value"])

# The join

FACT = st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([1., 2., np.nan]), st.integers(0, 6), st.integers(0, 8))
QUESTION = st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([1., 2., np.nan]), st.integers(-1, 10))

@settings(max_examples=100, deadline=None)
@given(st.lists(FACT, max_size=14, unique_by=repr), st.lists(QUESTION, max_size=8), st.sampled_from([None, 1, 3]))
def test_the_join_is_the_definition(known, questions, ttl):
    source = pd.DataFrame(known, columns=["k", "n", "event", "created"]).assign(value=np.arange(len(known), dtype=float))
    source = source.assign(event_timestamp=START + source.event.astype(int)*HOUR, created_timestamp=START + source.created.astype(int)*HOUR)
    entities = pd.DataFrame(questions, columns=["k", "n", "t"]).assign(event_timestamp=lambda f: START + f.t.astype(int)*HOUR)
    view = View("v", source, ["k", "n"], ttl and ttl*HOUR, "value")
    expected = []
    for k, n, t in questions:
        seen = [(e, c, i) for i, (fk, fn, e, c) in enumerate(known) if fk is not None and fk == k and fn == n and e <= t and c <= t and (ttl is None or e >= t - ttl)]
        expected.append(max(seen)[2] if seen else np.nan)
    for engine in ("polars", "pandas"):
        np.testing.assert_array_equal(point_in_time_join(entities, view, engine=engine)["v__value"].to_numpy(float), np.array(expected, float))

@pytest.mark.parametrize("engine", ["polars", "pandas"])
class TestEngines:
    def test_a_fact_is_not_seen_before_it_is_known(self, engine):
        assert values(asked(4, 5), facts([0, 1], [0, 5]), engine=engine) == [0, 1]

    def test_a_correction_replaces_what_it_corrects_but_not_newer_facts(self, engine):
        late_correction = facts([0, 0, 1], [0, 9, 1], value=["first", "corrected", "newer"])
        assert values(asked(0, 5, 9), late_correction, engine=engine) == ["first", "newer", "newer"]

    def test_a_fact_made_known_before_its_event_waits_for_it(self, engine):
        assert values(asked(2, 3), facts([3], [0]), engine=engine)[1] == 0 and np.isnan(values(asked(2), facts([3], [0]), engine=engine)[0])

    def test_ttl_includes_its_end_and_nothing_after(self, engine):
        one = facts([0], [0])
        assert values(asked(2), one, 2*HOUR, engine=engine) == [0]
        just_after = asked(2).assign(event_timestamp=at(2) + pd.Timedelta(microseconds=1))
        assert np.isnan(values(just_after, one, 2*HOUR, engine=engine)[0])

    def test_a_missing_newest_value_is_the_answer(self, engine):
        assert np.isnan(values(asked(5), facts([0, 1], [0, 1], value=[7., np.nan]), engine=engine)[0])

    def test_missing_keys_match_nothing_not_even_each_other(self, engine):
        for missing in (None, np.nan):
            source = facts([0, 0], [0, 0], key=[missing, "a"])
            assert np.isnan(values(asked(1, key=[missing]), source, engine=engine)[0])

    def test_rows_order_index_and_columns_are_kept(self, engine):
        entities = asked(5, 1, 3, 1).assign(other=[3, 1, 2, 1], key=["a", "z", "a", "a"])[["other", "event_timestamp", "key"]].set_axis([7, 7, 1, 0])
        before = entities.copy()
        out = point_in_time_join(entities, View("v", facts([0, 4], [0, 4]), "key", None, "value"), engine=engine)
        pd.testing.assert_frame_equal(out[before.columns], before)
        pd.testing.assert_frame_equal(entities, before)
        assert list(out.columns) == ["other", "event_timestamp", "key", "v__value"] and list(out.v__value.fillna(-1)) == [1, -1, 0, 0]

    def test_empty_tables_give_empty_or_missing(self, engine):
        view = View("v", facts([0], [0]), "key", HOUR, "value")
        assert list(point_in_time_join(asked(1).iloc[:0], view, engine=engine).columns) == ["key", "event_timestamp", "v__value"]
        assert np.isnan(values(asked(1), facts([0], [0]).iloc[:0], engine=engine)[0])

    def test_instants_count_not_time_zones_or_units(self, engine):
        source = facts([0], [0])
        for c in ("event_timestamp", "created_timestamp"): source[c] = source[c].dt.tz_convert("Asia/Tokyo").dt.as_unit("ns")
        assert values(asked(0), source, engine=engine) == [0] and np.isnan(values(asked(-1), source, engine=engine)[0])

def test_without_a_second_clock_a_fact_is_known_at_its_event():
    source = facts([1], [9]).drop(columns="created_timestamp")
    assert np.isnan(values(asked(0), source)[0]) and values(asked(1), source) == [0]

def test_rows_equal_in_key_and_times_must_agree():
    with pytest.raises(ValueError, match="both times equal, but different values"): values(asked(1), facts([0, 0], [0, 0]))
    assert values(asked(1), facts([0, 0], [0, 0], value=[5, 5])) == [5]
    assert np.isnan(values(asked(1), facts([0, 0], [0, 0], value=[np.nan, np.nan]))[0])
    assert values(asked(1), facts([0, 0, 0], [0, 0, 0], key=[None, None, "a"])) == [2]   # rows without a key are nobody's

def test_numbers_match_as_keys_whether_or_not_one_is_missing():
    big = 2**53
    source = facts([0, 0], [0, 0], key=[big, big + 1])
    assert values(asked(1, 1, key=[big + 1, big]), source) == [1, 0]
    assert values(asked(1, 1, key=[float(big), np.nan]), facts([0, .5], [0, .5], key=[big, big + 1]))[0] == 0

def test_categories_match_as_the_values_they_stand_for():
    assert values(asked(1, 1, key=pd.Categorical(["b", "a"])), facts([0, 0], [0, 0], key=["a", "b"])) == [1, 0]

def test_values_come_back_as_they_were():
    source = facts([0], [0]).assign(text="x", flag=True, when=at(3), number=2**60 + 1)
    out = point_in_time_join(asked(1), View("v", source, "key", None, ["text", "flag", "when", "number"])).iloc[0]
    assert (out.v__text, out.v__flag, out.v__when, out.v__number) == ("x", True, at(3)[0], 2**60 + 1)

def test_parquet_in_and_out_in_microseconds_and_in_one_step(tmp_path):
    source, entities = facts([0, 1], [0, 3]), asked(2, 4)
    expected = point_in_time_join(entities, View("v", source, "key", None, "value"))
    for name, frame in (("facts", source), ("entities", entities)): frame.to_parquet(tmp_path/f"{name}.parquet")
    view = View("v", tmp_path/"facts.parquet", "key", None, "value")
    to = point_in_time_join(tmp_path/"entities.parquet", view, to=tmp_path/"out.parquet")
    assert str(pq.read_schema(to).field("event_timestamp").type) == "timestamp[us, tz=UTC]"
    pd.testing.assert_frame_equal(pd.read_parquet(to), expected)
    content = to.read_bytes()
    with pytest.raises(ValueError): point_in_time_join(entities, View("v", facts([0, 0], [0, 0]), "key", None, "value"), to=to)
    assert to.read_bytes() == content and sorted(p.name for p in tmp_path.iterdir()) == ["entities.parquet", "facts.parquet", "out.parquet"]

@pytest.mark.parametrize("change, error, message", [
    (dict(entities=asked(1).assign(event_timestamp=lambda f: f.event_timestamp.dt.tz_localize(None))), ValueError, "without"),
    (dict(source=facts([0], [0]).assign(created_timestamp=lambda f: f.created_timestamp.dt.tz_localize(None))), ValueError, "without"),
    (dict(entities=asked(1).assign(event_timestamp="2013-03-01")), TypeError, "not times"),
    (dict(entities=asked(1).assign(event_timestamp=pd.Series([pd.NaT], dtype="datetime64[us, UTC]"))), ValueError, "missing in 1 of 1"),
    (dict(source=facts([0], [0]).assign(created_timestamp=pd.Series([pd.NaT], dtype="datetime64[us, UTC]"))), ValueError, "created_timestamp is missing"),
    (dict(entities=asked(1).drop(columns="key")), ValueError, "key"),
    (dict(source=facts([0], [0]).drop(columns="event_timestamp")), ValueError, "event_timestamp"),
    (dict(source=facts([0], [0]).drop(columns="value")), ValueError, "value"),
    (dict(entities=asked(1, key=1)), ValueError, "text never equals a number"),
    (dict(entities=asked(1).assign(v__value=0)), ValueError, "v__value"),
    (dict(entities=pd.concat([asked(1), asked(1)[["key"]]], axis=1)), ValueError, "twice"),
    (dict(entities=[1, 2]), TypeError, "DataFrame or the path"),
    (dict(engine="spark"), ValueError, "polars, pandas"),
])
def test_what_cannot_be_joined_is_refused(change, error, message):
    arguments = {"entities": asked(1), "source": facts([0], [0]), "engine": "polars"} | change
    with pytest.raises(error, match=message): values(arguments["entities"], arguments["source"], engine=arguments["engine"])

def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.parquet"): values(asked(1), tmp_path/"gone.parquet")
    (tmp_path/"bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="bad.parquet is not a readable"): values(asked(1), tmp_path/"bad.parquet")

@pytest.mark.parametrize("change", [
    dict(name=""), dict(name=None), dict(by=[]), dict(by=["key", "key"]), dict(features=()),
    dict(ttl=pd.Timedelta(0)), dict(ttl=-HOUR), dict(ttl=5), dict(ttl="1h"), dict(ttl=pd.NaT)])
def test_a_view_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))): View(**{"name": "v", "source": facts([0], [0]), "by": "key", "ttl": HOUR, "features": "value"} | change)

def test_two_views_of_one_name_are_refused():
    view = View("v", facts([0], [0]), "key", None, "value")
    with pytest.raises(ValueError, match="v__value"): point_in_time_join(asked(1), [view, view])

# Rolling features

def rolling(agg="mean", hours=3, value="value", **options): return Rolling("r", value=value, by="key", window=hours*HOUR, agg=agg, **options)

def replay(definition, events, entities):
    "Fed in the order of time, what became known at a minute before what is asked at it."
    rows = [(e["created_timestamp"], 0, i, e) for i, e in enumerate(events.to_dict("records"))] + [(e["event_timestamp"], 1, i, e) for i, e in enumerate(entities.to_dict("records"))]
    state, out = definition.online(), np.empty(len(entities))
    for when, question, i, row in sorted(rows, key=lambda r: r[:3]):
        if question: out[i] = state.get(row["key"], when)
        else: state.update(row)
    return out

NUMBER = st.one_of(st.floats(-1e18, 1e18), st.integers(-5, 5).map(float), st.sampled_from([.1, 1e16, 5e-324, np.nan]))
EVENT = st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 8), NUMBER)

@settings(max_examples=100, deadline=None)
@given(st.lists(EVENT, max_size=15), st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 12)), max_size=8), st.sampled_from(["count", "sum", "mean"]))
def test_offline_equals_online_equals_exact_arithmetic(happened, questions, agg):
    events = pd.DataFrame(happened, columns=["key", "created", "value"]).astype({"key": object, "value": float})
    events["created_timestamp"] = START + events.pop("created").astype(int)*HOUR
    entities = pd.DataFrame(questions, columns=["key", "t"]).astype({"key": object})
    entities["event_timestamp"] = START + entities.pop("t").astype(int)*HOUR
    expected = []
    for k, t in questions:
        inside = [Fraction(x) for key, c, x in happened if key is not None and key == k and t - 3 < c <= t and not np.isnan(x)]
        total = float(sum(inside, Fraction(0)))
        expected.append(float(len(inside)) if agg == "count" else total if agg == "sum" else total/len(inside) if inside else np.nan)
    definition = rolling(agg)
    np.testing.assert_array_equal(definition.offline(events, entities).to_numpy(), expected)
    np.testing.assert_array_equal(replay(definition, events, entities), expected)

def test_a_value_does_not_depend_on_other_keys():
    few = pd.DataFrame({"key": "b", "created_timestamp": at(1, 2), "value": [.1, .2]})
    others = pd.DataFrame({"key": ["a", "c"], "created_timestamp": at(0, 1), "value": [1e300, -1e-300]})
    assert rolling("sum").offline(pd.concat([others, few]), asked(2, key="b")).item() == rolling("sum").offline(few, asked(2, key="b")).item() == .1 + .2

def test_the_window_is_open_at_its_beginning_and_closed_at_its_end():
    events = pd.DataFrame({"key": "a", "created_timestamp": at(1), "value": 1.})
    assert list(rolling("count").offline(events, asked(0, 1, 3, 4))) == [0, 1, 1, 0]

def test_a_prior_draws_small_rates_to_its_mean():
    events = pd.DataFrame({"key": "a", "created_timestamp": at(1, 1), "value": [1., 1.]})
    rate = rolling("rate", prior=(.2, 8))
    assert list(rate.offline(events, asked(0, 1))) == [.2, (2 + 1.6)/10]
    assert np.isnan(rolling("rate").offline(events, asked(0)).item())

def test_offline_keeps_the_index_and_the_name():
    out = rolling("count", value=None).offline(pd.DataFrame({"key": ["a"], "created_timestamp": at(1)}), asked(1, 0).set_axis([5, 5]))
    assert list(out.index) == [5, 5] and out.name == "r" and list(out) == [1, 0]

@pytest.mark.parametrize("value, agg", [(np.inf, "mean"), (-np.inf, "sum"), (1.5, "rate"), (-.1, "rate")])
def test_values_without_a_place_are_refused_on_both_sides(value, agg):
    event = {"key": "a", "created_timestamp": at(1)[0], "value": value}
    with pytest.raises(ValueError, match="value="): rolling(agg).offline(pd.DataFrame([event]), asked(2))
    with pytest.raises(ValueError, match="value="): rolling(agg).online().update(event)

@pytest.mark.parametrize("change", [
    dict(agg="median"), dict(value=None), dict(window=pd.Timedelta(0)), dict(window=3), dict(by=[]), dict(prior=(.2, 1)),
    dict(agg="rate", prior=(2, 1)), dict(agg="rate", prior=(.2, -1)), dict(agg="rate", prior=(.2, np.inf))])
def test_a_definition_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match=list(change)[-1]): Rolling("r", **{"value": "value", "by": "key", "window": HOUR, "agg": "mean"} | change)

def test_events_without_the_second_clock_are_refused():
    with pytest.raises(ValueError, match="created_timestamp is missing"): rolling().offline(facts([0], [0]).drop(columns="created_timestamp"), asked(1))

def test_the_state_goes_only_forward_and_a_refused_event_leaves_no_trace():
    state = rolling("sum").online()
    state.update({"key": "a", "created_timestamp": at(5)[0], "value": 1.})
    for wrong in ({"key": "a", "created_timestamp": at(4)[0], "value": 1.}, {"key": "a", "created_timestamp": at(6)[0], "value": np.inf}, {"key": "a", "created_timestamp": at(6)[0]},
                  {"key": "a", "created_timestamp": pd.NaT, "value": 1.}, {"key": "a", "created_timestamp": at(6)[0].tz_localize(None), "value": 1.}):
        with pytest.raises(ValueError): state.update(wrong)
    with pytest.raises(ValueError, match="only goes forward"): state.get("a", at(4)[0])
    with pytest.raises(ValueError, match="one value each for key"): state.get(("a", "b"), at(5)[0])
    assert state.get("a", at(5)[0]) == 1 and state.get("a", at(8)[0]) == 0

def test_the_state_forgets_keys_whose_window_is_empty():
    state = rolling("sum").online()
    for i in range(100): state.update({"key": i, "created_timestamp": at(0)[0], "value": .1})
    for i in range(100): assert state.get(i, at(9)[0]) == 0
    assert not state._events and not state._total

# The flights

def as_known(flights, moment):
    "What the table of flights held at a moment."
    gone, landed, out = flights.actual_dep <= moment, flights.actual_arr <= moment, flights.copy()
    for c in ("actual_dep", "dep_delay"): out[c] = out[c].where(gone)
    for c in ("actual_arr", "arr_delay", "late", "label_time", "air_time"): out[c] = out[c].where(landed)
    return out.assign(cancelled=out.cancelled & (out.sched_dep <= moment), diverted=False)

@pytest.fixture(scope="module")
def winter():
    flights = load_flights()
    return flights[flights.sched_dep < pd.Timestamp("2013-02-16", tz="UTC")]

@pytest.mark.parametrize("moment", ["2013-01-20 13:07", "2013-02-09 02:00"])   # the second: in the blizzard
def test_no_feature_looks_ahead(winter, moment):
    moment, weather = pd.Timestamp(moment, tz="UTC"), load_weather()
    then = flight_features(as_known(winter, moment), weather[weather.created_timestamp <= moment], load_planes())
    now = then.event_timestamp.between(moment - 12*HOUR, moment)
    assert now.sum() > 100
    pd.testing.assert_frame_equal(then.loc[now, FEATURES], load_features().loc[winter.index[now], FEATURES], check_exact=True)

def test_the_order_and_index_of_the_flights_do_not_matter(winter):
    some = winter.iloc[:3000]
    straight, mixed = (flight_features(f, load_weather(), load_planes()) for f in (some, some.sample(frac=1, random_state=0).rename(lambda i: i + 10)))
    assert list(mixed.index) != sorted(mixed.index)
    pd.testing.assert_frame_equal(mixed.sort_index().set_axis(straight.index), straight)

def test_the_stored_features_are_those_of_the_code(winter):
    fresh, stored = flight_features(winter, load_weather(), load_planes()), load_features()
    whole = winter.sched_dep < winter.sched_dep.max() - HOUR   # the load around the slot needs the next half hour of the timetable
    pd.testing.assert_frame_equal(fresh.loc[whole, FEATURES], stored.loc[winter.index[whole], FEATURES], check_exact=True)

def test_the_features_are_what_a_model_may_rely_on():
    features = load_features()
    X = features[FEATURES]
    assert len(set(FEATURES)) == len(FEATURES) and set(SCHEDULE) | set(WEATHER) <= set(FEATURES)
    assert set(X.dtypes.astype(str)) == {"float64"} and X.equals(X.astype("float32").astype(float)) and not np.isinf(X).any(axis=None)
    assert (features.event_timestamp == load_flights().sched_dep - pd.Timedelta(minutes=120)).all() and features.late.isin([0, 1]).sum() == features.label_time.notna().sum()
    rates = X[[c for c in FEATURES if c.startswith("late_")]]
    assert rates.min().min() >= 0 and rates.max().max() <= 1 and (X.waiting >= 0).all() and (X.planned_load >= 1).all() and (X.last_arr_age.dropna() >= 0).all()

def test_of_two_arrivals_of_one_aircraft_in_one_minute_that_of_the_later_flight_counts():
    flights = load_flights()
    own = flights[flights.tailnum == "N710TW"]
    landing = pd.Timestamp("2013-04-18 19:04", tz="UTC")
    both = own[own.actual_arr == landing]
    features = flight_features(own, load_weather(), load_planes())
    after = features[(features.event_timestamp >= landing) & (features.last_arr_age == (features.event_timestamp - landing)/pd.Timedelta(minutes=1))]
    assert len(both) == 2 and len(after) and set(after.last_arr_delay) == {both.sort_values("sched_dep").arr_delay.iloc[-1]}

def test_no_flights_give_no_features():
    assert flight_features(load_flights().iloc[:0], load_weather(), load_planes()).shape == (0, len(FEATURES) + 2)

# Feast

def test_the_drivers_store_answers_offline_and_online_with_our_value(tmp_path):
    store, feature = driver_repository(tmp_path), ["driver_statistics:avg_daily_rides"]
    ask = lambda: store.get_online_features(features=feature, entity_rows=[{"driver_id": 1003}, {"driver_id": 1}]).to_dict()["avg_daily_rides"]
    assert ask() == [None, None]
    warnings.simplefilter("ignore")   # Feast switched those of its own dependencies on
    table = pd.read_parquet(tmp_path/"driver_statistics.parquet")
    store.materialize(table.event_timestamp.min().to_pydatetime(), table.created_timestamp.max().to_pydatetime())
    mine = table[table.driver_id == 1003].sort_values("event_timestamp")
    assert ask() == [mine.avg_daily_rides.iloc[-1], None]
    rng = np.random.default_rng(0)
    when = table.event_timestamp.min() + pd.to_timedelta(rng.integers(-30, 2200, 200), unit="h")
    entities = pd.DataFrame({"driver_id": rng.integers(1000, 1006, 200), "event_timestamp": when}).drop_duplicates(ignore_index=True)
    theirs = store.get_historical_features(entity_df=entities, features=feature, filter_by_created_timestamp=True).to_df()
    ours = point_in_time_join(entities, View("d", tmp_path/"driver_statistics.parquet", "driver_id", pd.Timedelta(days=1), "avg_daily_rides"))
    np.testing.assert_array_equal(ours.d__avg_daily_rides, entities.merge(theirs, how="left").avg_daily_rides)
    assert 0 < ours.d__avg_daily_rides.isna().mean() < .5

def test_importing_features_brings_none_of_its_optional_packages():
    code = "import mlscale.features, sys; print([m for m in ('polars', 'feast', 'pyarrow.parquet', 'duckdb', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
