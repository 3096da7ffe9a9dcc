"One page for whoever is called: what stands out comes first, what is not mature is not judged, and nothing of the log becomes markup."
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

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
    p, at = rng.uniform(.1, .5, 2000), [NOW - pd.Timedelta("3d") - i * HOUR / 20 for i in range(2000)]
    y = (rng.random(2000) < p).astype(float)
    log = write(tmp_path / "a.db", at, p, labels=y)
    report = duty_report(log, NOW)
    assert len(report.first) == 2 and report.first[0] == "no prediction has arrived for 3 d" and report.first[1].startswith("no outcome") and abs(report.versions.z[0]) < 4
    write(log, at, np.maximum(p - .1, .01), labels=y, version=2, start=5000)
    write(log, [NOW - HOUR / 2], [.3], start=9000)
    off = duty_report(log, NOW)
    assert [x[:20] for x in off.first] == ["no outcome has arriv", "late version 2 is of"] and off.versions.z[1] > 4 and repr(off).startswith("DutyReport(a.db, 2013-09-12 04:00 UTC; no outcome")


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
    assert row["loss"] == pytest.approx(7 / 3) and np.isnan(row["z"])
    PredictionLog(tmp_path / "e.db").close()
    empty = duty_report(tmp_path / "e.db", NOW)
    assert empty.first == ["no prediction is in the log", "no outcome is in the log"] and "<tbody></tbody>" in empty.html()
    certain = write(tmp_path / "c.db", [NOW - 50 * HOUR] * 2, [0., 1.], labels=[0., 1.])
    assert duty_report(certain, NOW).first == ["no prediction has arrived for 2 d", "no outcome has arrived for 45 h"]
    for wrong in (dict(days=0), dict(wait="long")): pytest.raises(ValueError, duty_report, certain, NOW, **wrong)
    with pytest.raises(ValueError, match="at="): duty_report(certain, "2013-09-12")


HOSTILE = "<script>alert(1)</script>\"'&"


def hostile(tmp_path):
    log = write(tmp_path / "<b>&.db", [NOW - 50 * HOUR] * 400, [.2] * 400, labels=[1.] * 400, model=HOSTILE)
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
    at = [NOW - pd.Timedelta("3d") - i * HOUR / 20 for i in range(40)]
    log = write(tmp_path / "a.db", at, np.ones(40), labels=np.zeros(40), version=None)
    report = duty_report(log, NOW)
    assert report.versions.predictions.tolist() == [40] and report.versions.z[0] == -np.inf and "is off" in report.first[-1]
    off = report.findings[-1]
    assert off.alarm and off.value == np.inf
