"A feed is asked about itself: the checks are what a loop over its rows computes, quiet times are quiet, and wrong input is named."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale.feed_checks import FeedLimits, clock_finding, largest_jump, longest_still, skew_finding
from mlscale.monitoring import record_outcomes
from mlscale.serving import Prediction, PredictionLog

START, HOUR = pd.Timestamp("2013-04-01", tz="UTC"), pd.Timedelta(hours=1)
FEW = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.sampled_from([1.0, 2.0, 5.0, np.nan])), max_size=25)


def table(rows):
    where, hours, values = zip(*rows) if rows else ((), (), ())
    when = pd.Series([START + h * HOUR + 7 * i * pd.Timedelta("1s") for i, h in enumerate(hours)], dtype="datetime64[ns, UTC]")
    return pd.DataFrame({"x": np.array(values, float), "y": 0.0 * np.array(values, float), "place": np.array(where, object)}), when


def means(rows, place=None):
    "Hour by hour, by hand."
    out = {}
    for where, hour, value in rows:
        if place in (None, where) and not np.isnan(value): out.setdefault(hour, []).append(value)
    return {hour: np.mean(out[hour]) for hour in sorted(out)}


@settings(max_examples=150, deadline=None)
@given(FEW)
def test_jumps_and_stillness_are_those_of_a_loop_over_the_hours(rows):
    X, when = table(rows)
    by_hour = [*means(rows).values()]
    jumps = [abs(b - a) for a, b in zip(by_hour, by_hour[1:])]
    assert np.isclose(largest_jump(X.x, when), max(jumps, default=np.nan), equal_nan=True)
    still = 0
    for place in "ab":
        hours = [*means(rows, place).items()]
        for i, (first, value) in enumerate(hours):
            for later, other in hours[i + 1:]:
                if other != value: break
                still = max(still, later - first)
    assert longest_still(X[["x", "y"]], when, X.place) == still


def test_order_does_not_count_and_a_missing_column_is_alike_with_itself():
    rows = [("a", hour, value) for hour, value in enumerate([1.0, 1.0, 1.0, 5.0])]
    X, when = table(rows)
    X["gust"] = np.nan   # no wind
    mixed = np.array([2, 0, 3, 1])
    assert longest_still(X[["x", "gust"]], when, X.place) == longest_still(X[["x", "gust"]].iloc[mixed], when.iloc[mixed], X.place.iloc[mixed]) == 2
    assert largest_jump(X.x, when) == largest_jump(X.x.iloc[mixed], when.iloc[mixed]) == 4


@pytest.fixture(scope="module")
def feed():
    rng = np.random.default_rng(0)
    when = pd.Series(pd.date_range(START, periods=2000, freq="20min"))
    return pd.DataFrame({"temp": 50 + rng.normal(0, 0.5, 2000).cumsum(), "wind": rng.gamma(2, 5, 2000), "place": np.resize(["a", "b", "c"], 2000)}), when


def test_limits_that_were_learned_are_quiet_afterwards_and_come_back_from_json(feed):
    X, when = feed
    first = when < when[1000]
    limits = FeedLimits.learn(X[first], when[first], jumps=["temp"], still=["temp", "wind"], place="place")
    assert not any(limits.findings(X[~first], when[~first]))
    again = FeedLimits.from_dict(json.loads(json.dumps(limits.to_dict())))
    assert again == limits and [str(f) for f in again.findings(X, when)] == [str(f) for f in limits.findings(X, when)]
    with pytest.raises(ValueError, match="format 7"): FeedLimits.from_dict({**limits.to_dict(), "format": 7})


def test_another_unit_and_a_feed_that_stands_still_are_told_apart_and_dated(feed):
    X, when = feed
    limits, half = FeedLimits.learn(X, when, jumps=["temp"], still=["temp", "wind"], place="place"), np.arange(2000) >= 999   # on the hour
    celsius = X.assign(temp=X.temp.where(~half, (X.temp - 32) / 1.8))
    assert [f.name for f in limits.findings(celsius, when) if f] == ["jump of temp"]
    frozen = X.mask(pd.Series(half) & (np.arange(2000) < 1100)).groupby(X.place).ffill().assign(place=X.place)
    alarm, = [f for f in limits.findings(frozen, when, START + 40 * pd.Timedelta("1D")) if f]
    assert alarm.name == "standing still" and alarm.at == START + 40 * pd.Timedelta("1D") and alarm.value > 30
    begins = when[999]   # asked after its first hour, about that hour alone; and a day later
    assert any(limits.findings(celsius, when, since=begins)) and not any(limits.findings(celsius, when, since=begins + pd.Timedelta("1D")))
    assert not any(limits.findings(frozen, when, since=when[1200]))   # it was over before
    switched_off = celsius.assign(temp=np.nan)
    assert [(f.name, f.value, bool(f)) for f in limits.findings(switched_off, when)][0] == ("jump of temp", 0, False)
    gone = X.copy()
    gone.loc[1000:, ["temp", "wind"]] = np.nan   # a feed that is missing altogether neither jumps nor stands still
    for since in (None, when[1200]):
        found = limits.findings(gone[900:], when[900:], since=since)
        assert [f.name for f in found] == ["jump of temp", "standing still"] and not any(found)
    assert limits.findings(X[:2], when[:2]) == limits.findings(X[:0], when[:0]) == []   # an hour cannot be compared


@pytest.mark.parametrize("wrong, said", [
    ({"margin": 0.5}, "margin"), ({"margin": np.nan}, "margin"), ({"jumps": ["wet"]}, "wet"), ({"jumps": ["empty"]}, "empty"), ({"jumps": ["still"]}, "jumps.'still'"),
])
def test_limits_that_cannot_be_learned_are_named(feed, wrong, said):
    X, when = feed
    with pytest.raises((ValueError, KeyError), match=said):
        FeedLimits.learn(X.assign(empty=np.nan, still=1.), when, **{"jumps": ["temp"], "still": ["temp"], "place": "place", **wrong})


def test_outcomes_before_their_questions_are_counted_and_those_after_are_not(tmp_path):
    log, asked = tmp_path / "log.db", [START + k * HOUR for k in range(20)]
    with PredictionLog(log) as book: book.append(Prediction(str(k), at, "late", 1, None, "production", 0.2, []) for k, at in enumerate(asked))
    known = [at + (-HOUR if k % 4 == 0 else HOUR) for k, at in enumerate(asked)]
    record_outcomes(pd.DataFrame({"request_id": [str(k) for k in range(20)], "label": 1, "known_at": known}), log=log)
    assert (clock_finding(log, START + 50 * HOUR).value, bool(clock_finding(log, START + 50 * HOUR))) == (5, True)
    assert clock_finding(log, START + 50 * HOUR, since=START + 17 * HOUR).value == 0   # those were asked later


def test_a_share_of_skewed_rows_is_allowed_up_to_the_limit():
    sent = pd.DataFrame({"id": range(200), "at": START, "temp": 1.0, "wind": 2.0})
    table_of = lambda wrong: sent.drop(columns="at").assign(temp=np.where(np.arange(200) < wrong, 9.0, 1.0))
    assert [bool(skew_finding(sent, table_of(k), START, by="id")) for k in (0, 2, 3)] == [False, False, True]
    assert skew_finding(sent, table_of(3), START, by="id").evidence == "temp"
    with pytest.raises(ValueError, match="most"): skew_finding(sent, table_of(0), START, by="id", most=1.5)
    for wrong in (pd.concat([sent, sent]), sent[:100]):   # whatever is quick about it, nothing is overlooked
        with pytest.raises(ValueError): skew_finding(sent, wrong.drop(columns="at"), START, by="id")
    with pytest.raises(ValueError): skew_finding(pd.concat([sent, sent]), sent.drop(columns="at"), START, by="id")
    assert skew_finding(sent.assign(wind=3.0), sent[["id", "wind"]], START, by="id").evidence == "wind"   # a column that the table lacks is not compared
    for mine, theirs in ((["71", "0"] * 100, [71., 0.] * 100), ([2**53 + 1] * 200, [2**53] * 200)):   # only floats are soon seen to be alike
        assert skew_finding(sent.assign(temp=mine), table_of(0).assign(temp=theirs), START, by="id")
    words = sent.assign(temp="warm")
    assert not skew_finding(words, words.drop(columns="at"), START, by="id") and skew_finding(words, table_of(0), START, by="id")
