"A classifier tells two tables apart where columns part, and rings no oftener than it says where only the days differ."
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from mlscale import two_sample_classifier as module
from mlscale.two_sample_classifier import two_sample_classifier


def world(rng, n_days=24, rows=8, apart=False, sky=1.):
    "Days that share their weather; `apart`: each column's values dealt anew among the rows of its day."
    day = np.repeat(np.arange(n_days), rows)
    common = rng.standard_normal(len(day))
    x = sky * rng.standard_normal((n_days, 2))[day] + np.column_stack([common, common + .3 * rng.standard_normal(len(day))])
    table = pd.DataFrame(x, columns=["a", "b"])
    if apart: table["b"] = table.groupby(day).b.transform(rng.permutation)
    return table, day


def ask(before, now, **settings): return two_sample_classifier(before[0], now[0], days_before=before[1], days_now=now[1], **settings)


def test_false_alarms_are_as_many_as_promised_with_days_that_share_their_weather():
    rng, p = np.random.default_rng(0), []
    for seed in range(150): p.append(ask(world(rng), world(rng), deals=19, seed=seed).p_value)
    for alpha in (.05, .2, .5): assert binom.ppf(.0005, 150, alpha) <= (np.array(p) <= alpha + 1e-9).sum() <= binom.ppf(.9995, 150, alpha)


def test_rows_taken_for_days_ring_though_nothing_changed():
    rng, rang = np.random.default_rng(1), 0
    for _ in range(40):
        (a, _), (b, _) = world(rng), world(rng)
        rang += two_sample_classifier(a, b, days_before=rng.permutation(len(a)), days_now=rng.permutation(len(b)), deals=19).p_value <= .05
    assert rang > binom.ppf(.9999, 40, .05)


def test_columns_that_part_are_found_and_named_while_each_stays_as_it_was():
    rng, found = np.random.default_rng(2), []
    for seed in range(20): found.append(ask(world(rng, 40, sky=.5), world(rng, 40, apart=True, sky=.5), deals=19, seed=seed))
    assert sum(f.p_value <= .05 for f in found) >= 18
    assert sum(f.terms.index[0] == "a x b" or f.terms.index[1] == "a x b" for f in found) >= 18


def test_a_moved_a_wider_and_a_missing_column_are_found_too():
    rng = np.random.default_rng(3)
    (before, day), (now, _) = world(rng, 40), world(rng, 40)
    plain = lambda t: ask((before, day), (t, day), deals=99)
    assert plain(now.assign(a=now.a + 4)).p_value == .01 and plain(now.assign(a=now.a + 4)).terms.index[0].startswith("a")
    assert plain(now.assign(a=6 * now.a)).p_value == .01
    gone = plain(now.assign(b=now.b.where(rng.random(len(now)) < .5)))
    assert gone.p_value == .01 and "b missing" in " ".join(gone.terms.index[:3])


def test_the_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(4)
    score, label = rng.standard_normal(200).round(1), rng.random(200) < .3
    assert module._auc(score, label) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_names_of_days_order_of_columns_and_scale_do_not_matter():
    rng = np.random.default_rng(5)
    (before, day), (now, _) = world(rng), world(rng)
    one = ask((before, day), (now, day), deals=19)
    dates = pd.to_datetime("2013-01-01") + pd.to_timedelta(day, unit="D")
    other = ask((np.exp(before), dates), (np.exp(now)[["b", "a"]], dates.strftime("%d %m")), deals=19)
    assert other.p_value == one.p_value and other.auc == one.auc


@pytest.mark.parametrize("change, word", [
    (dict(days_now=np.zeros(80, int)), "1 days; at least 8"),
    (dict(days_now=np.arange(3)), "days_now: one for each of the 80 rows"),
    (dict(days_before=[None] * 80), "days_before"),
    (dict(now=pd.DataFrame({"a": np.zeros(80)})), "now: columns go by name"),
    (dict(before=pd.DataFrame({"a": ["x"] * 80, "b": ["y"] * 80})), "before"),
    (dict(deals=5), "deals=5"),
    (dict(seed=-1), "seed=-1")])
def test_what_makes_no_sense_is_refused_by_name(change, word):
    (table, day), _ = world(np.random.default_rng(6), 10), None
    with pytest.raises(ValueError, match=word): two_sample_classifier(**{**dict(before=table, now=table, days_before=day, days_now=day), **change})


def test_moments_are_no_days():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.standard_normal((480, 2)), columns=["a", "b"])
    hours = pd.date_range("2013-01-01", periods=480, freq="h")
    with pytest.raises(ValueError, match="days_now: .* is a moment"): two_sample_classifier(X, X, days_before=hours.floor("D"), days_now=hours)
    with pytest.raises(ValueError, match="no columns"): two_sample_classifier(X[[]], X[[]], days_before=hours.floor("D"), days_now=hours.floor("D"))
