"Features: no flight's feature looks ahead, online and offline are one, what the service saw is compared with what the definition says."
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mlscale.data import HORIZON, load_flights, load_planes, load_weather
from mlscale.features import (
    FEATURES,
    PLANNED,
    RATES,
    SCHEDULE,
    WEATHER,
    OnlineFlights,
    Rolling,
    View,
    driver_repository,
    flight_facts,
    flight_features,
    flight_stream,
    load_features,
    point_in_time_join,
    replay,
    skew_report,
)
from mlscale.flight_features import features_of_facts
from mlscale.skew import plot_skew

HOUR = pd.Timedelta(hours=1)

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

# The leaks: change anything that was not known, and no feature may move

def rewritten(flights, rows, rng):
    "Other outcomes for some flights: delays, labels, and some that never arrive."
    out, n = flights.copy(), int(rows.sum())
    delay, gone = rng.integers(0, 300, n).astype(float), rng.random(n) < .1
    for c, values in {"dep_delay": delay, "arr_delay": delay + rng.integers(-20, 20, n)}.items(): out.loc[rows, c] = np.where(gone, np.nan, values)
    out.loc[rows, "actual_dep"] = out.sched_dep[rows] + pd.to_timedelta(out.dep_delay[rows], unit="min")
    out.loc[rows, "actual_arr"] = out.sched_arr[rows] + pd.to_timedelta(out.arr_delay[rows], unit="min")
    out.loc[rows, "late"] = (out.arr_delay[rows] > 15).astype(float).where(out.arr_delay[rows].notna())
    out["label_time"] = out.actual_arr
    return out

MOMENT = pd.Timestamp("2013-02-08 20:00", tz="UTC")   # before the blizzard, with hundreds of flights in the air

def after(flights): return (flights.sched_dep > MOMENT) & (flights.actual_dep.isna() | (flights.actual_dep > MOMENT))
LEAKS = {"the average of the day": lambda f: after(f) & (f.sched_dep < MOMENT + 9*HOUR), "a label at once": lambda f: (f.actual_dep <= MOMENT) & (f.label_time > MOMENT),
         "an encoding over the whole year": lambda f: after(f), "everything that comes after": lambda f: after(f) | (f.label_time > MOMENT)}

@pytest.mark.parametrize("leak", LEAKS)
def test_what_is_not_known_yet_changes_no_feature(winter, leak):
    rows = LEAKS[leak](winter)
    other = rewritten(winter, rows, np.random.default_rng(0))
    columns, in_the_air = ["actual_dep", "dep_delay", "actual_arr", "arr_delay", "late", "label_time"], winter.actual_dep <= MOMENT
    other.loc[in_the_air, columns[:2]] = winter.loc[in_the_air, columns[:2]]   # what has departed stays so, and nothing new is known by now
    known_now = rows & ((other.actual_arr <= MOMENT) | (~in_the_air & (other.actual_dep <= MOMENT)))
    other.loc[known_now, columns] = winter.loc[known_now, columns]
    true, changed = (flight_features(f, load_weather(), load_planes()) for f in (winter, other))
    known = true.event_timestamp <= MOMENT
    assert rows.sum() > 100 and (known & (true.event_timestamp > MOMENT - 3*HOUR)).sum() > 100
    pd.testing.assert_frame_equal(changed[known], true[known], check_exact=True)
    assert not changed.loc[~known, FEATURES].equals(true.loc[~known, FEATURES])   # the change is one that features can see

def test_a_flights_own_outcome_is_in_none_of_its_features(winter):
    rng, days = np.random.default_rng(0), winter[winter.sched_dep < pd.Timestamp("2013-01-12", tz="UTC")]
    true = flight_features(days, load_weather(), load_planes())
    for i in rng.choice(days.index[-2000:], 12, replace=False):
        other = rewritten(days, pd.Series(days.index == i, days.index), rng)
        pd.testing.assert_series_equal(flight_features(other, load_weather(), load_planes()).loc[i, FEATURES], true.loc[i, FEATURES])

def test_records_of_the_weather_that_are_not_known_yet_change_no_feature(winter):
    weather = load_weather()
    other = weather.copy()
    late = other.created_timestamp > MOMENT
    other.loc[late, WEATHER] += 7
    true, changed = (flight_features(winter, w, load_planes()) for w in (weather, other))
    known = true.event_timestamp <= MOMENT
    pd.testing.assert_frame_equal(changed[known], true[known], check_exact=True)
    assert not changed[WEATHER].equals(true[WEATHER])

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

@pytest.mark.parametrize("change, message", [
    (dict(flights=load_flights().iloc[:5].drop(columns="late")), "flights: .*missing are 'late'"), (dict(weather=load_weather().iloc[:5].drop(columns="temp")), "weather: .*missing are 'temp'"),
    (dict(planes=load_planes().drop(columns="seats")), "planes: .*missing are 'seats'"), (dict(horizon=-HOUR), "horizon"),
    (dict(horizon=120), "horizon"), (dict(horizon=pd.NaT), "horizon"), (dict(refresh=-HOUR), "refresh")])
def test_tables_and_times_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message): flight_features(**{"flights": load_flights().iloc[:5], "weather": load_weather().iloc[:50], "planes": load_planes()} | change)

def test_a_flight_that_lacks_a_field_is_refused():
    with pytest.raises(ValueError, match="flight: tailnum, sched_dep missing"):
        OnlineFlights().get({"carrier": "UA", "flight": 1, "origin": "JFK", "dest": "LAX"}, pd.Timestamp("2013-01-01", tz="UTC"))

def test_no_flights_give_no_features():
    assert flight_features(load_flights().iloc[:0], load_weather(), load_planes()).shape == (0, len(FEATURES) + 2)

# One definition, two executions

def test_the_stream_gives_what_the_tables_give(winter):
    days = winter[winter.sched_dep < pd.Timestamp("2013-01-20", tz="UTC")]
    live, answers = OnlineFlights(), []
    for source, row in flight_stream(days, load_weather()):
        if source == "flight": answers.append(live.get(row, row["at"]))
        else: live.update(source, row)
    online, offline = pd.DataFrame(answers, index=days.index).astype(float), flight_features(days, load_weather(), load_planes())
    names = [c for c in FEATURES if c not in SCHEDULE]
    assert set(online) == set(names) and len(online) == len(days)
    np.testing.assert_array_equal(online[names].astype("float32"), offline[names].astype("float32"))
    facts = flight_facts(days, load_weather())
    ask = days.assign(event_timestamp=(days.sched_dep - HORIZON).dt.as_unit("us"))
    for r in RATES: np.testing.assert_array_equal(online[r.name], r.offline(facts["landed"], ask))   # not only to the precision of float32
    np.testing.assert_array_equal(online[PLANNED.name], PLANNED.offline(facts["timetable"], ask.assign(event_timestamp=days.sched_dep + HOUR/2)))

@pytest.mark.slow
def test_the_stream_gives_what_the_tables_give_on_the_whole_year():
    flights, weather = load_flights(), load_weather()
    online, at = replay(flights, weather), (flights.sched_dep - HORIZON).dt.as_unit("us")
    offline = features_of_facts(flight_facts(flights, weather), flights.assign(event_timestamp=at), at)
    assert len(online) == 336_776 and online.attrs["facts"] > 2_000_000
    for name in online: np.testing.assert_array_equal(online[name], np.asarray(offline[name], float), err_msg=name)

def test_facts_of_an_unknown_source_are_refused():
    with pytest.raises(ValueError, match="known are landed"): OnlineFlights().update("gossip", {})

def test_a_refresh_takes_what_was_known_at_the_last_full_hour(winter):
    days = winter.iloc[:6000]
    hourly, at_once = (flight_features(days, load_weather(), load_planes(), refresh=r) for r in (HOUR, None))
    on_the_hour = at_once.event_timestamp.dt.minute == 0
    ages = ["last_dep_age", "last_arr_age"]
    pd.testing.assert_frame_equal(hourly[on_the_hour], at_once[on_the_hour])
    assert not hourly.drop(columns=ages).equals(at_once.drop(columns=ages)) and hourly[SCHEDULE + ["planned_load"]].equals(at_once[SCHEDULE + ["planned_load"]])
    with pytest.raises(ValueError, match="refresh"): flight_features(days, load_weather(), load_planes(), refresh=5)

def test_times_without_a_window_are_as_they_should_be(winter):
    waiting = Rolling("waiting", value="step", by="origin", window=None, agg="sum")
    facts = flight_facts(winter, load_weather())
    moment = pd.DataFrame({"origin": ["JFK"], "event_timestamp": [pd.Timestamp("2013-02-08 20:00", tz="UTC")]})
    due = winter[(winter.origin == "JFK") & ~winter.cancelled & (winter.sched_dep <= moment.event_timestamp[0])]
    assert waiting.offline(facts["steps"], moment).item() == (due.actual_dep > moment.event_timestamp[0]).sum() > 0

# Skew

def logs():
    logged = pd.DataFrame({"id": range(4), "event_timestamp": pd.date_range("2013-01-01", periods=4, freq="h", tz="UTC"), "a": [1., 2., np.nan, 4.], "b": list("wxyz"), "c": [1, 2, 3, 4]})
    return logged, logged.drop(columns="event_timestamp")

def test_equal_logs_differ_nowhere():
    report = skew_report(*logs(), by="id")
    assert (report.differ == 0).all() and list(report.rows) == [4, 4, 4] and report["first"].isna().all() and set(report.index) == set("abc")

def test_a_report_says_what_differs_how_much_and_since_when():
    logged, truth = logs()
    truth = truth.assign(a=[1., 2.5, 3., 4.], b=["w", "x", None, "q"]).sample(frac=1, random_state=0)
    report = skew_report(logged, truth, by="id")
    a, b = report.loc["a"], report.loc["b"]
    assert (a.differ, a.only_logged, a.only_recomputed, a.largest, a["median"]) == (.5, 0, .25, .5, .5)
    assert a["first"] == logged.event_timestamp[1] and a["last"] == logged.event_timestamp[2]
    assert (b.differ, b.only_logged) == (.5, .25) and np.isnan(b.largest) and report.loc["c"].differ == 0 and report.index[-1] == "c"

def test_noise_of_floating_point_is_no_difference():
    logged, truth = logs()
    assert skew_report(logged, truth.assign(a=truth.a*(1 + 1e-12)), by="id").loc["a"].differ == 0
    assert skew_report(logged.assign(__found=1), truth.assign(__found=2), by="id").loc["__found"].differ == 1
    assert skew_report(logged, truth.assign(a=truth.a*(1 + 1e-6)), by="id").loc["a"].differ == .75

@pytest.mark.parametrize("seen, true, differ, largest", [
    ([np.inf, 1.], [1., 1.], .5, np.inf), ([np.inf, -np.inf], [np.inf, np.inf], .5, np.inf), ([True, False], [True, True], .5, 1.), (np.array([1, 2], np.uint8), np.array([2, 2], np.uint8), .5, 1.),
    ([2**53 + 1, 5], [2**53, 5], .5, 0.), ([0., 1.], [0., 1 + 1e-12], 0., np.nan)])
def test_infinite_boolean_and_whole_numbers_are_compared_as_they_are(seen, true, differ, largest):
    logged = pd.DataFrame({"id": [0, 1], "event_timestamp": pd.date_range("2013-01-01", periods=2, tz="UTC"), "a": seen})
    row = skew_report(logged, pd.DataFrame({"id": [0, 1], "a": true}), by="id").loc["a"]
    assert row.differ == differ
    np.testing.assert_equal(row.largest, largest)

@pytest.mark.parametrize("change, error, message", [
    (dict(logged=logs()[0].assign(id=0)), ValueError, "are there twice"), (dict(recomputed=logs()[1].assign(id=0)), ValueError, "are there twice"),
    (dict(recomputed=logs()[1].iloc[:2]), ValueError, "2 of the 4"),
    (dict(by="who"), ValueError, "who"), (dict(time="when"), ValueError, "when"), (dict(tolerance=-1), ValueError, "tolerance"), (dict(tolerance=np.nan), ValueError, "tolerance"),
    (dict(recomputed=logs()[1][["id"]]), ValueError, "no feature"),
    (dict(logged=logs()[0].iloc[:0]), ValueError, "no row"), (dict(logged=None), TypeError, "DataFrame"), (dict(by=[]), ValueError, "by=")])
def test_logs_that_cannot_be_compared_are_refused(change, error, message):
    logged, recomputed = logs()
    with pytest.raises(error, match=message): skew_report(**{"logged": logged, "recomputed": recomputed, "by": "id"} | change)

def test_predictions_are_told_apart_by_exact_ids_whoever_holds_the_logs():
    import polars as pl

    ids = [2**53, 2**53 + 1]
    logged = pd.DataFrame(
        {
            "id": ids,
            "event_timestamp": pd.date_range("2013-01-01", periods=2, tz="UTC"),
            "a": [1.0, 2.0],
        }
    )
    truth = logged.drop(columns="event_timestamp").iloc[::-1]
    for hold in (lambda f: f, pl.from_pandas, lambda f: pl.from_pandas(f).to_arrow()):
        assert skew_report(hold(logged), hold(truth), by="id").loc["a"].differ == 0
    for broken, words in (
        (logged.assign(id=[float(2**53), 1.0]), r"logged, key 'id'.*2\*\*53"),
        (logged.assign(id=["a", "b"]), "text never equals a number"),
        (logged.assign(id=pd.array([1, None], "Int64")), "1 predictions have no id"),
    ):
        with pytest.raises(ValueError, match=words) as e:
            skew_report(broken, truth, by="id")
        assert len(str(e.value)) < 300

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

def test_the_warehouse_is_one_configuration_away(tmp_path):
    from feast.repo_config import RepoConfig
    settings = yaml.safe_load((Path(__file__).parent.parent / "nbs" / "warehouse" / "feature_store.yaml").read_text(encoding="utf-8"))
    config = RepoConfig(repo_path=tmp_path, **settings)
    assert type(config.offline_store).__name__ == "BigQueryOfflineStoreConfig" and config.offline_store.dataset == "features" and config.online_store.type == "redis"
    with pytest.raises(Exception, match="project_ids"): _ = RepoConfig(repo_path=tmp_path, **{**settings, "offline_store": {**settings["offline_store"], "project_ids": "x"}}).offline_store

def test_importing_features_brings_none_of_its_optional_packages():
    code = "import mlscale.features, sys; print([m for m in ('polars', 'feast', 'pyarrow.parquet', 'duckdb', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_report_is_drawn_as_the_shares_of_what_differs():
    import matplotlib
    matplotlib.use("Agg")
    logged, truth = logs()
    report = skew_report(logged, truth.assign(a=[1., 2.5, 3., 4.], b=["w", "x", None, "q"]), by="id")   # c agrees
    ax = plot_skew(report)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["b", "a"]
    parts = {c.get_label(): [bar.get_width() for bar in c] for c in ax.containers}
    assert parts == {"another value": [.25, .25], "missing in service": [0, .25], "only in service": [.25, 0]}
    for bars in zip(*ax.containers): assert bars[-1].get_x() + bars[-1].get_width() == .5   # one after the other
    assert any("2 of 3" in ax.get_title(loc=loc) for loc in ("left", "center"))
    assert len(plot_skew(report, most=1).get_yticklabels()) == 1 and plot_skew(report, ax=ax) is ax
    assert any("0 of 3" in plot_skew(skew_report(*logs(), by="id")).get_title(loc=loc) for loc in ("left", "center"))
    with pytest.raises(ValueError, match="most=0"): plot_skew(report, most=0)
    matplotlib.pyplot.close("all")


def test_a_live_system_shows_what_it_holds_and_how_far_it_is():
    live = OnlineFlights()
    assert repr(live) == "OnlineFlights(25 rolling features, 3 lookups, now None)"
    live.update("departed", {"created_timestamp": pd.Timestamp("2013-07-01", tz="UTC"), "origin": "JFK", "dep_delay": 1.})
    live.update("steps", {"created_timestamp": pd.Timestamp("2013-07-02", tz="UTC"), "origin": "JFK", "step": 1.})
    assert "now 2013-07-02 00:00:00+00:00" in repr(live)
