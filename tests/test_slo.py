"A service level counts labels when they become known, rings when its budget goes too fast, and refuses rules that never could."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale.alerts import Alerts
from mlscale.slo import SLO, WORKBOOK, BurnRule

T0 = pd.Timestamp("2013-09-02", tz="UTC")
times = lambda minutes: pd.DatetimeIndex([T0 + pd.Timedelta(minutes=float(m)) for m in minutes], tz="UTC")
SLOW = (BurnRule("1d", "2h", .1, "critical"), BurnRule("7d", "1d", .3))

events = st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.sampled_from([0., 1., 2.5])), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(events, st.integers(0, 600), st.sampled_from([5, 30, 360, 1440]))
def test_a_burn_rate_is_the_share_of_what_became_known_in_the_window(rows, at, window):
    minutes, bad, weights = (np.array(x, float) for x in zip(*rows, strict=True))
    slo = SLO(.9, rules=SLOW).update(times(minutes), bad, weights=weights)
    end = 5 * at
    inside = (minutes > end - window) & (minutes <= end)   # both ends are multiples of five minutes
    found, n = slo.burn_rate(T0 + pd.Timedelta(minutes=end), f"{window}min"), weights[inside].sum()
    assert np.isnan(found) if n == 0 else found == pytest.approx((bad * weights)[inside].sum() / n / .1)


@settings(max_examples=50, deadline=None)
@given(events, st.integers(0, 60))
def test_parts_can_be_merged_stored_and_come_in_any_order(rows, cut):
    minutes, bad, weights = (np.array(x, float) for x in zip(*rows, strict=True))
    whole, parts = SLO(.9, rules=SLOW).update(times(minutes), bad, weights=weights), [SLO(.9, rules=SLOW) for _ in range(2)]
    for slo, some in zip(parts, (slice(cut, None), slice(cut)), strict=True): slo.update(times(minutes[some]), bad[some], weights=weights[some])
    merged = SLO.from_dict(json.loads(json.dumps(parts[0].to_dict()))).merge(parts[1])
    at = T0 + pd.Timedelta("1d")
    assert [merged.burn_rate(at, w) for w in ("2h", "1d", "7d")] == pytest.approx([whole.burn_rate(at, w) for w in ("2h", "1d", "7d")], nan_ok=True)


def test_nothing_that_became_known_later_is_used():
    slo = SLO(.9, rules=SLOW).update(times([10, 20, 61]), [0, 0, 1])
    assert slo.burn_rate(T0 + pd.Timedelta("1h"), "1d") == 0 < slo.burn_rate(T0 + pd.Timedelta("65min"), "1d") == pytest.approx(1 / 3 / .1)


def test_it_rings_while_it_burns_and_not_long_after():
    minutes = np.arange(0, 3 * 24 * 60, 2)
    bad = (minutes >= 24 * 60) & (minutes < 36 * 60)   # half a day in which all is wrong
    slo = SLO(.9, period="28d", rules=SLOW[:1]).update(times(minutes), bad)
    rings = [h for h in range(1, 72) if slo.findings(T0 + pd.Timedelta(hours=h))[0]]
    assert rings[0] == 24 + 7 and rings[-1] == 37 and rings == [*range(31, 38)]   # .28 of a day, then until two hours are well again
    [finding] = slo.findings(T0 + pd.Timedelta(hours=34))
    assert finding.threshold == pytest.approx(2.8) and finding.value == pytest.approx(10 / 24 / .1, rel=.01) and "of the budget is left" in finding.evidence
    assert slo.remaining(T0 + pd.Timedelta(hours=72)) == pytest.approx(1 - 12 / 72 / .1, rel=.01)


def test_the_factors_are_those_of_the_workbook():
    assert [round(rule.factor("30d"), 6) for rule in WORKBOOK] == [14.4, 6, 1] and [rule.severity for rule in WORKBOOK] == ["critical", "critical", "warning"]


def test_a_rule_that_could_never_ring_is_refused():
    for objective in (.5, .88, .93): pytest.raises(ValueError, SLO, objective).match("never ring")
    assert SLO(.94).allowed == pytest.approx(.06) and SLO(.88, period="28d", rules=SLOW)


def test_no_label_is_no_good_sign():
    slo = SLO(.9, period="28d", rules=SLOW).update(times(range(0, 60, 5)), [0] * 12)
    with pytest.raises(ValueError, match="find out what stopped arriving"): slo.findings(T0 + pd.Timedelta("9d"))
    with pytest.raises(ValueError, match="find out what stopped arriving"): SLO(.9, rules=SLOW).findings(T0)
    quiet = slo.findings(T0 + pd.Timedelta("10h"))[0]
    assert not quiet and "(no event)" in quiet.evidence and np.isnan(slo.burn_rate(T0 + pd.Timedelta("10h"), "2h"))


def test_what_is_old_is_forgotten():
    slo = SLO(.9, period="2d", rules=[BurnRule("1d", "2h", .1)])
    for day in range(60): slo.update(times(day * 1440 + np.arange(0, 1440, 5)), np.zeros(288))
    assert len(slo.to_dict()["counts"]) <= 4 * 288 + 1 and slo.burn_rate(T0 + pd.Timedelta("60d"), "2d") == 0


def test_what_makes_no_sense_is_refused_and_changes_nothing():
    slo = SLO(.9, rules=SLOW)
    for known_at, bad, more in ((pd.DatetimeIndex(["2013-09-02"]), [1], {}), (times([1]), [1, 0], {}), (times([1]), [.5], {}), (times([1]), [np.nan], {}),
                                (times([1]), [1], {"weights": [-1]}), (times([1]), [1], {"weights": [1, 1]}), (pd.DatetimeIndex([pd.NaT], tz="UTC"), [1], {})):
        with pytest.raises(ValueError): slo.update(known_at, bad, **more)
    assert slo.to_dict()["counts"] == []
    for wrong in (dict(long="2h", short="2h", share=.1), dict(long="2h", short="0h", share=.1), dict(long="2h", short="1h", share=0), dict(long="soon", short="1h", share=.1),
                  dict(long="2h", short="1h", share=.1, severity="x")):
        with pytest.raises(ValueError): BurnRule(**wrong)
    for objective in (0, 1, 88, np.nan): pytest.raises(ValueError, SLO, objective, rules=SLOW).match("objective")
    with pytest.raises(ValueError, match="rules"): SLO(.9, rules=[])
    with pytest.raises(ValueError, match="merged"): slo.merge(SLO(.8, rules=SLOW))
    with pytest.raises(ValueError, match="at="): slo.burn_rate("2013-09-02", "1d")


def test_windows_that_cannot_be_counted_and_labels_from_the_future_are_refused():
    for long, short in (("30min", "1min"), ("1h", "7min"), ("61min", "5min")):
        with pytest.raises(ValueError, match="multiple of five minutes"): BurnRule(long, short, .1)
    slo = SLO(.9, rules=SLOW).update(times([1, 2]), [0, 1])
    with pytest.raises(ValueError, match="still to come"): slo.update(pd.DatetimeIndex(["2103-01-01"], tz="UTC"), [1])
    assert "2 events seen" in repr(slo)   # nothing was forgotten for it


def test_rules_that_differ_have_names_that_differ():
    rules = [BurnRule("1d", "2h", share) for share in (.104, .1)]
    slo = SLO(.9, rules=rules).update(times([1]), [0])
    assert len({finding.name for finding in slo.findings(T0 + pd.Timedelta("1h"))}) == 2


def test_a_rule_hands_its_severity_to_the_alert_of_its_finding():
    slo = SLO(.99).update(times(range(0, 600, 5)), np.ones(120))
    alerts = Alerts()
    for finding in slo.findings(T0 + pd.Timedelta("595min")): alerts.update(finding)
    assert [a.severity for a in alerts.open] == [rule.severity for rule in WORKBOOK] == ["critical", "critical", "warning"]
