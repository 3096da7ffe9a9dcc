"One page for whoever is called: what stands out comes first, what is not mature is not judged, and nothing of the log becomes markup."
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlscale.duty_report import duty_report
from mlscale.outcomes import labelled, record_actions, record_outcomes
from mlscale.prediction_log import Prediction, PredictionLog

NOW = pd.Timestamp("2013-09-12 04:00", tz="UTC")
HOUR = pd.Timedelta("1h")


def write(path, at, scores, *, labels=None, model="late", version=1, start=0):
    with PredictionLog(path) as book: book.append(Prediction(f"r{start + i}", t, model, version, None, "production", float(x), []) for i, (t, x) in enumerate(zip(at, scores, strict=True)))
    if labels is not None: record_outcomes(pd.DataFrame({"request_id": [f"r{start + i}" for i in range(len(at))], "label": labels, "known_at": [t + 5 * HOUR for t in at]}), log=path)
    return path


def test_what_stands_out_comes_first(tmp_path):
    rng = np.random.default_rng(0)
    p, at = rng.uniform(.1, .5, 2000), [NOW - pd.Timedelta("3d") - i * HOUR / 9 for i in range(2000)]
    y = (rng.random(2000) < p).astype(float)
    log = write(tmp_path / "a.db", at, p, labels=y)
    report = duty_report(log, NOW)
    assert len(report.first) == 2 and report.first[0] == "no prediction has arrived for 3 d" and report.first[1].startswith("no outcome") and abs(report.versions.t[0]) < report.versions.allowed[0]
    write(log, at, np.maximum(p - .1, .01), labels=y, version=2, start=5000)
    write(log, [NOW - HOUR / 2], [.3], start=9000)
    off = duty_report(log, NOW)
    assert [x[:20] for x in off.first] == ["no outcome has arriv", "late version 2 is of"] and off.versions.t[1] > off.versions.allowed[1]
    assert repr(off).startswith("DutyReport(a.db, 2013-09-12 04:00 UTC; no outcome")


def test_only_the_mature_are_judged_with_their_weights_and_as_of_the_moment(tmp_path):
    rng = np.random.default_rng(1)
    at = [NOW - i * HOUR for i in range(200)]
    log = write(tmp_path / "a.db", at, rng.uniform(.1, .9, 200), labels=rng.integers(0, 2, 200))
    every_third = range(0, 200, 3)
    done = {"request_id": [f"r{i}" for i in every_third], "at": NOW - 300 * HOUR, "action": ["crew" if i % 2 else "none" for i in every_third], "propensity": .25}
    record_actions(pd.DataFrame(done), log=log)
    seen = labelled(log, NOW)
    some = seen[seen.mature & (seen.weight > 0)]
    [row] = duty_report(log, NOW).versions.to_dict("records")
    assert row["predictions"] == 200 and row["judged"] == len(some) < 150 and set(some.weight) == {1., 4.}
    assert row["happened"] == pytest.approx(np.average(some.label, weights=some.weight)) and row["expected"] == pytest.approx(np.average(some.prediction, weights=some.weight))
    given = np.where(some.label == 1, some.prediction, 1 - some.prediction)
    assert row["loss"] == pytest.approx(np.average(-np.log(given), weights=some.weight))
    before = NOW - 100 * HOUR
    assert duty_report(log, before).versions.predictions[0] == 100 and duty_report(log, NOW, wait="0h").versions.judged[0] > row["judged"]
    days = duty_report(log, NOW, days=3).days
    assert list(days.day.dt.day) == [12, 11, 10] and days.predictions.sum() == 5 + 24 + 24 and days.judged.iloc[0] == 0


def test_the_counts_of_days_add_up_to_those_of_versions(tmp_path):
    rng = np.random.default_rng(2)
    log = write(tmp_path / "a.db", [NOW - i * HOUR for i in range(300)], rng.uniform(.1, .9, 300), labels=rng.integers(0, 2, 300))
    report = duty_report(log, NOW)
    assert report.days.judged.sum() == report.versions.judged.sum() > 200 and report.days.predictions.sum() == report.versions.predictions.sum() == 300


def test_numbers_are_judged_as_numbers_and_nothing_is_no_error(tmp_path):
    log = write(tmp_path / "n.db", [NOW - 50 * HOUR] * 3, [10., 20., 30.], labels=[12., 18., 33.])
    [row] = duty_report(log, NOW).versions.to_dict("records")
    assert row["loss"] == pytest.approx(7 / 3) and np.isnan(row["t"])
    PredictionLog(tmp_path / "e.db").close()
    empty = duty_report(tmp_path / "e.db", NOW)
    assert empty.first == ["no prediction is in the log", "no outcome is in the log"] and "<tbody></tbody>" in empty.html()
    certain = write(tmp_path / "c.db", [NOW - 50 * HOUR] * 2, [0., 1.], labels=[0., 1.])
    assert duty_report(certain, NOW).first == ["no prediction has arrived for 2 d", "no outcome has arrived for 45 h"]
    for wrong in (dict(days=0), dict(wait="long")): pytest.raises(ValueError, duty_report, certain, NOW, **wrong)
    with pytest.raises(ValueError, match="at="): duty_report(certain, "2013-09-12")


HOSTILE = "<script>alert(1)</script>\"'&"


def hostile(tmp_path):
    log = write(tmp_path / "<b>&.db", [NOW - 50 * HOUR - 24 * HOUR * (i % 5) for i in range(400)], [.2] * 400, labels=[1.] * 400, model=HOSTILE)
    return duty_report(log, NOW)


def test_nothing_of_the_log_becomes_markup_and_nothing_is_fetched(tmp_path):
    page = hostile(tmp_path).html()
    assert "<script" not in page and "<b>&" not in page and page.count("&lt;script&gt;") == 2 and "&lt;b&gt;&amp;.db" in page
    assert not [word for word in ("http", "src=", "@import", "url(") if word in page]
    path = hostile(tmp_path).write(tmp_path / "deep" / "report.html")
    assert path.read_text() == page


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_the_page_fits_a_phone_and_a_desk(tmp_path):
    path = hostile(tmp_path).write(tmp_path / "report.html")
    probe = path.with_name("probe.html")
    probe.write_text(path.read_text().replace("</body>", "<p id=w></p><script>w.textContent = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"))
    for width in (500, 1300):
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", f"--user-data-dir={tmp_path / 'c'}", "--dump-dom", probe.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        wide, inner = done.stdout.partition("id=\"w\">")[2].partition("</p>")[0].split(" of ")
        assert int(wide) <= int(inner) == width


def test_predictions_without_a_version_are_told_of_and_certain_ones_that_are_wrong_are_off(tmp_path):
    at = [NOW - pd.Timedelta("3d") - 3 * i * HOUR for i in range(40)]
    log = write(tmp_path / "a.db", at, np.ones(40), labels=np.zeros(40), version=None)
    report = duty_report(log, NOW)
    assert report.versions.predictions.tolist() == [40] and report.versions.t[0] == -np.inf and "is off" in report.first[-1]
    off = report.findings[-1]
    assert off.alarm and off.value == np.inf


def test_days_are_the_witnesses_and_their_number_says_what_is_allowed(tmp_path):
    rng = np.random.default_rng(3)
    at = [NOW - pd.Timedelta("2d") - i * HOUR / 8 for i in range(1900)]
    p = rng.uniform(.1, .6, 1900)
    bad = {t.floor("D"): rng.normal(0, .1) for t in at}
    y = (rng.random(1900) < p + [bad[t.floor("D")] for t in at]).astype(float)
    log = write(tmp_path / "a.db", at, p, labels=y)
    every_third = range(0, 1900, 3)
    record_actions(pd.DataFrame({"request_id": [f"r{i}" for i in every_third], "at": NOW - 300 * HOUR, "action": "none", "propensity": .5}), log=log)
    [row] = duty_report(log, NOW).versions.to_dict("records")
    seen = labelled(log, NOW)
    sums = (seen.weight * (seen.label - seen.prediction)).groupby(seen["at"].dt.floor("D")).sum(), seen.weight.groupby(seen["at"].dt.floor("D")).sum()
    a, n = (x.to_numpy() for x in sums)
    assert row["days"] == len(a) == 11
    m, D = a.sum() / n.sum(), row["days"]
    assert row["t"] == pytest.approx(m * n.sum() / np.sqrt(D / (D - 1) * ((a - m * n) ** 2).sum())) and row["allowed"] == pytest.approx(stats.t.isf(stats.norm.sf(4), D - 1))


def test_days_that_differ_ring_far_less_often_than_rows_taken_as_independent(tmp_path):
    days, per = 12, 120
    at = [NOW - pd.Timedelta("2d") - i * 24 * HOUR / per for i in range(days * per)]
    of_day, rang, rows_rang = np.arange(days * per) // per, 0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        p = np.full(days * per, .35)
        y = (rng.random(days * per) < p + rng.normal(0, .15, days)[of_day]).astype(float)
        v = duty_report(write(tmp_path / f"{seed}.db", at, p, labels=y), NOW).versions.iloc[0]
        rang, rows_rang = rang + (abs(v.t) > v.allowed), rows_rang + (abs((y - p).sum()) > 4 * np.sqrt((p * (1 - p)).sum()))
    assert rang == 0 and rows_rang >= 2


def test_two_days_are_not_judged_and_the_page_says_so(tmp_path):
    at = [NOW - pd.Timedelta("2d") - i * HOUR for i in range(20)]
    report = duty_report(write(tmp_path / "a.db", at, [.2] * 20, labels=[1.] * 20), NOW)
    assert report.versions.days[0] == 2 and np.isnan(report.versions.t[0]) and "<td>only 2 d</td>" in report.html() and len(report.findings) == 2
    assert report.days.difference.dropna().tolist() == pytest.approx([.8, .8]) and "<td>+0.800</td>" in report.html() and "t" not in report.days


def test_a_silence_as_long_as_those_of_the_days_before_calls_nobody(tmp_path):
    morning = NOW.floor("D") + 6 * HOUR
    at = [morning - 24 * HOUR * d + HOUR * i / 2 for d in range(1, 8) for i in range(36)]   # 6:00 to 23:30, then 6.5 hours of none
    log = write(tmp_path / "a.db", at, [.3] * len(at), labels=[0.] * len(at))
    def ages(hours, **more): return {f.name: f for f in duty_report(log, morning - HOUR / 2 + hours * HOUR, **more).findings if f.name.startswith("age")}
    night, late = ages(0), ages(5)
    assert night["age of predictions"].value == 360 and night["age of predictions"].threshold == pytest.approx(1.5 * 390) and not any(f.alarm for f in night.values())
    assert late["age of predictions"].alarm and {f.severity for f in late.values()} == {"warning"} and "no prediction has arrived for 11 h" in duty_report(log, morning + 4.5 * HOUR).first
    strict = ages(0, oldest={"predictions": "2h"})
    assert strict["age of predictions"].alarm and strict["age of predictions"].severity == "critical" and strict["age of predictions"].threshold == 120
    assert strict["age of outcomes"].severity == "warning"
    for wrong, why in (({"prediction": "2h"}, "oldest: 'prediction' is not known"), ({"outcomes": "0h"}, "oldest: '0h' for outcomes")):
        with pytest.raises(ValueError, match=why): duty_report(log, NOW, oldest=wrong)
