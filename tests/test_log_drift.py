"A log is watched for changes: what changed, since when, how large, whether it is over; what cannot be promised is said, and the log is the only memory."
import numpy as np
import pandas as pd
import pytest

from mlscale import log_drift
from mlscale.log_archive import rotate
from mlscale.log_drift import LogDrift
from mlscale.outcomes import record_outcomes
from mlscale.prediction_log import Prediction, PredictionLog

START = pd.Timestamp("2013-02-25", tz="UTC")
ROWS = 40


def day(k): return START + pd.Timedelta(days=k)


def write(path, days, change=lambda k, row: row, *, model="late", columns=("temp", "carrier"), seed=0, rows=ROWS):
    "Rows a day of a number and a text, each changed by its day; None leaves it out."
    rng, made = np.random.default_rng(seed), []
    for k in days:
        for i in range(rows):
            row = change(k, {"temp": rng.normal(20, 5), "carrier": rng.choice(["AA", "B6", "UA"]), "score": rng.beta(2, 6)})
            if row is not None: made.append(Prediction(f"{model} {k} {i}", day(k) + pd.Timedelta(minutes=30*i), model, 1, f"of {model}", "production", row["score"], [row[c] for c in columns]))
    with PredictionLog(path) as log:
        log.describe(f"of {model}", list(columns))
        log.append(made)
    return path


FAULTS = {"location": ("temp", lambda row: row | {"temp": row["temp"] + 6}), "missing": ("temp", lambda row: row | {"temp": None}),
          "new category": ("carrier", lambda row: row | {"carrier": row["carrier"].lower()}), "score": ("prediction", lambda row: row | {"score": 1 - row["score"]})}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_change_is_named_dated_and_ends_when_it_is_mended(fault, tmp_path):
    column, broken = FAULTS[fault]
    log = write(tmp_path / "log.db", range(110), lambda k, row: broken(row) if 70 <= k < 85 else row)
    drift = LogDrift(log, reference_days=50)
    assert drift.update(day(70)) and not drift.episodes   # twenty days judged, and quiet
    drift.update(day(80))
    open_ = [e for e in drift.episodes if not e.ended]
    assert open_ and {e.change.feature for e in open_} == {column} and fault in {*[e.change.kind for e in open_], "score"}
    assert all(abs((pd.Timestamp(e.change.onset, tz="UTC") - day(70)).days) <= 2 and pd.Timestamp(e.change.since, tz="UTC") <= day(78) for e in open_)
    drift.update(day(110))
    assert all(e.how == "over" and day(85) <= pd.Timestamp(e.ended, tz="UTC") < day(97) for e in drift.episodes), drift.episodes
    assert "over since" in str(drift.episodes[0]) and not any(f.alarm for f in drift.findings)


def test_what_stays_becomes_usual_and_says_so(tmp_path):
    log = write(tmp_path / "log.db", range(130), lambda k, row: row | {"temp": row["temp"] + 6*(k >= 60)})
    drift = LogDrift(log, reference_days=50)
    drift.update(day(130))
    episode, = [e for e in drift.episodes if e.change.kind == "location"]
    assert episode.how == "usual" and episode.ended and "usual since" in str(episode) and episode.change.size > .5
    assert drift.columns.loc[("late", "temp"), "distance"] > .3 > drift.columns.loc[("late", "carrier"), "distance"]


def test_the_log_is_the_memory_day_by_day_at_once_after_a_restart_and_from_parquet(tmp_path):
    log = write(tmp_path / "log.db", range(100), lambda k, row: row | {"temp": row["temp"] + 8*(k >= 80)})
    once = LogDrift(log, reference_days=40)
    found = once.update(day(100))
    daily, told = LogDrift(log, reference_days=40), []
    for k in np.arange(0, 100.1, .7):
        told += daily.update(day(0) + pd.Timedelta(days=float(k)))
        told += daily.update(day(0) + pd.Timedelta(days=float(k)))   # nothing has ended since
    told += daily.update(day(100))
    assert told == found and daily.episodes == once.episodes and once.episodes and daily.lines == once.lines
    assert rotate(log, day(75).isoformat(), folder=tmp_path / "months")
    assert LogDrift(log, reference_days=40).update(day(100)) == found


def test_before_there_are_enough_days_nothing_rings_and_it_says_why(tmp_path):
    log = write(tmp_path / "log.db", range(35), lambda k, row: row | {"temp": row["temp"] + 100*(k >= 20)})
    drift = LogDrift(log)
    assert repr(drift) == "LogDrift(log.db; 0 ringing; no day has ended)" and drift.columns.empty
    assert drift.update(day(35)) == [] and drift.episodes == () and drift.findings == []
    assert "35 of the 60 days" in repr(drift) and "a promise needs 30" in drift.lines[0]
    with pytest.raises(ValueError, match="reference_days=29"): LogDrift(log, reference_days=29)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="false_alarms_per_year"): LogDrift(log, false_alarms_per_year=wrong)
    with pytest.raises(FileNotFoundError): LogDrift(tmp_path / "none.db")
    few = LogDrift(log, reference_days=30)
    few.update(day(35))
    assert "the first 30 days" in few.lines[0] and "5 days judged" in few.lines[0]


def test_days_without_rows_are_counted_and_two_in_a_row_are_a_finding(tmp_path):
    log = write(tmp_path / "log.db", range(60), lambda k, row: None if 50 <= k < 53 else row)
    drift = LogDrift(log, reference_days=40)
    found = [f for f in drift.update(day(60)) if f.name == "days without late"]
    assert [f.value for f in found][-10:] == [1, 2, 3, 0, 0, 0, 0, 0, 0, 0] and [f.alarm for f in found[-10:]] == [False, True, True] + [False]*7
    assert "3 with too few rows" in drift.lines[0] and {f.severity for f in found} == {"warning"}


def test_models_that_share_a_log_are_watched_apart_each_by_its_own_columns(tmp_path):
    log = write(tmp_path / "log.db", range(60), lambda k, row: row | {"temp": row["temp"] + 20*(k >= 50)})
    write(log, range(60), model="other", columns=("carrier",), seed=1)
    drift = LogDrift(log, reference_days=40)
    drift.update(day(60))
    assert {(e.model, e.change.feature) for e in drift.episodes} == {("late", "temp")}
    assert set(drift.columns.index) == {("late", "temp"), ("late", "carrier"), ("late", "prediction"), ("other", "carrier"), ("other", "prediction")}
    assert [line.split(":")[0] for line in drift.lines] == ["late", "other"]


def test_since_begins_anew_and_outcomes_change_nothing(tmp_path):
    log = write(tmp_path / "log.db", range(100), lambda k, row: row | {"temp": row["temp"] + 20*(k >= 40)})
    assert LogDrift(log, reference_days=30).update(day(100)) and LogDrift(log, since=day(40), reference_days=50).update(day(100))
    new = LogDrift(log, since=day(40), reference_days=50)
    found = new.update(day(100))
    assert new.episodes == () and "10 days judged" in new.lines[0]
    record_outcomes(pd.DataFrame({"request_id": ["late 95 0"], "label": [1], "known_at": day(96)}), log=log)
    assert LogDrift(log, since=day(40), reference_days=50).update(day(100)) == found


@pytest.mark.slow
def test_logs_in_which_nothing_changes_ring_as_seldom_as_promised(tmp_path):
    "Two a year were asked; thirty logs of a hundred judged days, whose days differ."
    rang, worlds = 0, 30
    for seed in range(worlds):
        luck = np.random.default_rng(seed).normal(0, 2, 160)
        drift = LogDrift(write(tmp_path / f"{seed}.db", range(160), lambda k, row, luck=luck: row | {"temp": row["temp"] + luck[k]}, seed=seed, rows=20), reference_days=60)
        drift.update(day(160))
        rang += len(drift.episodes)
    from scipy import stats
    assert rang <= stats.poisson.isf(.001, 2*worlds*100/365.25)


def as_text(k, row): return row | {"temp": str(row["temp"])} if 50 <= k < 53 else row


def test_a_column_that_holds_text_instead_of_numbers_rings_and_the_days_after_it_are_judged(tmp_path):
    log = write(tmp_path / "log.db", range(60), as_text)
    drift = LogDrift(log, reference_days=40)
    found = drift.update(day(60))
    assert sum(f.name == "changes of late" for f in found) == 20 and [f.value for f in found if f.value == np.inf] == [np.inf]*3
    lost = [f for f in found if f.value == np.inf]
    assert all(f.alarm and f.severity == "critical" and "'temp' held numbers" in f.evidence and f.evidence.startswith(str(day(50 + i).date())) for i, f in enumerate(lost))
    assert [f.at for f in lost] == [day(k) for k in (51, 52, 53)]
    assert "17 days judged, 0 with too few rows, 3 that could not be counted" in drift.lines[0] and not any(f.alarm for f in drift.findings)


def test_a_model_whose_day_cannot_be_counted_does_not_stop_the_others(tmp_path):
    log = write(tmp_path / "log.db", range(60), as_text, model="zate")
    write(log, range(60), model="aaa", columns=("carrier",), seed=1)
    daily, told = LogDrift(log, reference_days=40), []
    for k in range(61): told += daily.update(day(k))
    assert "aaa: 20 days judged, 0 with" in daily.lines[0] and "zate: 17 days judged" in daily.lines[1]
    assert told == LogDrift(log, reference_days=40).update(day(60))


@pytest.mark.parametrize(("reference", "lean"), [(30, 0), (38, 20), (38, 33), (60, 0)])
def test_a_day_cut_short_is_not_among_those_that_say_what_is_normal(reference, lean, tmp_path):
    left = iter(range(ROWS))
    log = write(tmp_path / "log.db", range(80), lambda k, row: row if k != lean or next(left) < 4 else None)
    drift = LogDrift(log, reference_days=reference)
    for k in (reference, reference + 1, reference + 10, 80): drift.update(day(k))
    assert f"{80 - reference - 1} days judged, 0 with too few rows;" in drift.lines[0] and not any(f.alarm for f in drift.findings)


def test_first_days_that_make_no_reference_ring_until_they_have_passed(tmp_path, monkeypatch):
    fit = log_drift.Reference.fit

    def strict(table, *, days):
        if str(day(4).date()) in days: raise ValueError("no such day")
        return fit(table, days=days)
    monkeypatch.setattr(log_drift.Reference, "fit", strict)
    drift = LogDrift(write(tmp_path / "log.db", range(50)), reference_days=30)
    found = drift.update(day(50))
    assert [f.evidence for f in found if f.alarm] == [f"{day(k).date()} could not be counted: ValueError: no such day" for k in range(29, 34)]
    assert "15 days judged" in drift.lines[0] and not any(f.alarm for f in drift.findings)
