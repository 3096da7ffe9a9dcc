"Sequential analysis keeps its error, agrees with itself and with other roads, survives restarts, and refuses what it cannot answer."
import copy
import json
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlscale.martingales import conditional_power, empirical_bernstein, futility_boundaries, msprt, msprt_interval, safe_two_by_two
from mlscale.sequential import (
    Moments,
    RegimeWarning,
    SequentialTest,
    alpha_spending_boundaries,
    alpha_spent,
    always_valid_p,
    asymptotic_confidence_sequence,
    conditional_beta_binomial,
    conditional_beta_binomial_interval,
    crossing_probabilities,
    days_to_decision,
    discordant_pairs,
    group_sequential_constant,
    group_sequential_design,
    in_regime,
    normal_mixture_boundary,
    peeking_error,
    sequential_srm,
    stagewise_estimate,
)

FIVE = np.arange(1, 6) / 5
LOG20 = math.log(20)


def at_most(alarms, n, alpha=.05): assert alarms <= stats.binom.ppf(.9995, n, alpha), f"{alarms} of {n}"


def null_streams(rate, share=.5, reps=1000, looks=1000, per_look=40, seed=0):
    "Running counts of streams without an effect: x_control, n_control, x_treatment, n_treatment."
    rng = np.random.default_rng(seed)
    nt = rng.binomial(per_look, share, (reps, looks))
    xt, xc = rng.binomial(nt, rate).cumsum(1), rng.binomial(per_look - nt, rate).cumsum(1)
    return xc, (per_look - nt).cumsum(1), xt, nt.cumsum(1)


# ---- group-sequential

@pytest.mark.parametrize("spending", [dict(spending="obrien-fleming"), dict(spending="pocock"), dict(spending="hwang-shih-decani", gamma=-4.),
                                      dict(spending="hwang-shih-decani", gamma=0.), dict(spending="power", rho=.5)])
@pytest.mark.parametrize("spend", ["per-side", "total"])
def test_boundaries_spend_what_they_should_on_any_looks(spending, spend):
    t = np.array([.03, .1, .11, .5, .9, 1])
    up, down = crossing_probabilities(t, alpha_spending_boundaries(t, alpha=.03, spend=spend, **spending))
    assert np.allclose(up, down, rtol=1e-9)
    side = alpha_spent(t, alpha=.015, **spending) if spend == "per-side" else alpha_spent(t, alpha=.03, **spending) / 2
    assert np.allclose(up.cumsum(), side, rtol=1e-8, atol=1e-300)


def test_the_recursion_agrees_with_the_multivariate_normal_under_any_drift():
    t, drift = np.array([.2, .5, .7, 1]), 1.3
    upper, lower = np.array([2.5, 2.2, 2.1, 2.]), np.array([-1., -.5, .2, 2.])
    up, down = crossing_probabilities(t, upper, lower, drift=np.array([0., drift]))
    cov = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    for row, theta in enumerate((0., drift)):
        for k in range(2, 5):
            inside = stats.multivariate_normal(theta * np.sqrt(t[:k]), cov[:k, :k]).cdf(upper[:k], lower_limit=lower[:k], rng=np.random.default_rng(0))
            assert 1 - (up[row, :k] + down[row, :k]).sum() == pytest.approx(inside, abs=2e-5)
    assert (up + down).sum(-1) == pytest.approx([1, 1], abs=1e-12)      # the boundaries meet: every walk ends


def test_one_sided_boundaries_spend_all_of_alpha_above():
    z = alpha_spending_boundaries(FIVE, alpha=.025, sided=1)
    assert crossing_probabilities(FIVE, z, np.full(5, -12.))[0].sum() == pytest.approx(.025, abs=1e-10)
    assert (z >= alpha_spending_boundaries(FIVE) - 1e-12).all()      # walks that a lower boundary would have stopped may still cross


def test_many_close_looks_and_tiny_errors_stay_exact():
    z = alpha_spending_boundaries(np.arange(1, 301) / 300)
    assert np.isfinite(z[1:]).all() and (np.diff(z) < 0).all()
    up, down = crossing_probabilities(np.arange(1, 301) / 300, z)
    assert (up + down).sum() == pytest.approx(.05, abs=1e-10)
    assert peeking_error(1000) == pytest.approx(.5299113847, abs=1e-8)


def test_group_sequential_tests_hold_alpha_and_power_on_simulated_rates():
    design = group_sequential_design(FIVE, spending="pocock")
    rng, n = np.random.default_rng(1), 40_000
    for drift, want in ((0., .05), (design.drift, .8)):
        p, per = .3, 4000
        q = p + drift * math.sqrt(2 * p * (1 - p) / (5 * per))
        xc, xt = rng.binomial(per, p, (n, 5)).cumsum(1), rng.binomial(per, q, (n, 5)).cumsum(1)
        m = per * np.arange(1, 6)
        both = (xc + xt) / (2 * m)
        hit = np.abs(xt - xc) / m / np.sqrt(both * (1 - both) * 2 / m) >= design.boundary
        assert hit.any(1).mean() == pytest.approx(want, abs=4 * math.sqrt(want * (1 - want) / n) + .004)
        stop = np.where(hit.any(1), hit.argmax(1), 4)
        assert FIVE[stop].mean() == pytest.approx(float(design.expected_information(drift)), abs=.01)


@pytest.mark.parametrize("drift", [-1., 0., 1.5, 3.])
def test_stagewise_estimates_are_median_unbiased_and_their_intervals_cover(drift):
    z = alpha_spending_boundaries(FIVE, spending="pocock")
    rng, n = np.random.default_rng(2), 400
    paths = (rng.normal(size=(n, 5)) * math.sqrt(.2) + drift * .2).cumsum(1) / np.sqrt(FIVE)
    above = misses = small = 0
    for path in paths:
        hit = np.abs(path) >= z
        k = hit.argmax() if hit.any() else 4
        e = stagewise_estimate(FIVE[:k + 1], z[:k + 1], path[k])
        above, misses = above + (e.estimate > drift), misses + (not e.lower <= drift <= e.upper)
        small += e.p_value <= .05
        assert e.lower < e.estimate < e.upper and (e.p_value <= .05) == (not e.lower <= 0 <= e.upper)
    low, high = stats.binom.interval(.999, n, .5)
    assert low <= above <= high
    at_most(misses, n)
    if drift == 0: at_most(small, n)


def test_a_p_value_after_stopping_matches_the_boundary_it_crossed():
    z = alpha_spending_boundaries(FIVE)
    for k in range(5):
        at = stagewise_estimate(FIVE[:k + 1], z[:k + 1], z[k])
        assert at.p_value == pytest.approx(2 * float(alpha_spent(FIVE[k], alpha=.025)), rel=1e-6)
        mirrored = stagewise_estimate(FIVE[:k + 1], z[:k + 1], -z[k])
        assert (mirrored.estimate, mirrored.lower, mirrored.upper) == pytest.approx((-at.estimate, -at.upper, -at.lower), abs=1e-7)


def test_futility_keeps_power_and_type_one_error():
    plan = futility_boundaries(FIVE, power=.9, beta_spending="pocock")
    assert float(plan.success(plan.drift)) == pytest.approx(.9, abs=1e-7) and float(plan.success(0., obeyed=False)) == pytest.approx(.025, abs=1e-9)
    assert float(plan.success(0.)) < .025 and float(plan.expected_information(0.)) < .6
    assert futility_boundaries([1.]).drift == pytest.approx(stats.norm.ppf(.8) + stats.norm.ppf(.975), abs=1e-6)


# ---- always valid: exact methods

@pytest.mark.parametrize(("rate", "share"), [(.5, .5), (.1, .5), (.1, .1), (.001, .9), (np.where(np.arange(1000) % 24 < 12, .02, .6), .3)])
def test_the_conditional_beta_binomial_holds_alpha_under_a_thousand_looks(rate, share):
    xc, _, xt, _ = null_streams(rate, share)
    for k in (10, 100, 3000): at_most((conditional_beta_binomial(xc, xt, share=share, k=k).max(1) >= LOG20).sum(), 1000)


def test_the_conditional_beta_binomial_is_a_fair_game_by_enumeration():
    for share in (.5, .2):
        n = np.arange(31)
        for total in (1, 7, 30):
            weight = stats.binom.pmf(n[:total + 1], total, share)
            assert weight @ np.exp(conditional_beta_binomial(total - n[:total + 1], n[:total + 1], share=share, k=40)) == pytest.approx(1, abs=1e-12)


def test_sequential_srm_holds_alpha_and_is_the_beta_binomial_for_two_arms():
    n = np.random.default_rng(3).multinomial(30, [.5, .3, .2], (1000, 1000)).cumsum(1)
    at_most((sequential_srm(n, [5, 3, 2]).max(1) >= LOG20).sum(), 1000)
    assert sequential_srm([400, 90], [.8, .2], k=50) == pytest.approx(conditional_beta_binomial(400, 90, share=.2, k=50), rel=1e-10)
    wrong = np.random.default_rng(3).multinomial(30, [.5, .35, .15], (200, 1000)).cumsum(1)
    assert (sequential_srm(wrong, [5, 3, 2]).max(1) >= math.log(1000)).mean() > .95


def test_safe_two_by_two_holds_alpha_and_is_never_a_game_worth_playing():
    rng = np.random.default_rng(4)
    alarms = sum(safe_two_by_two(*(rng.random((2, 1000)) < rate), path=True).max() >= LOG20 for rate in (.5, .05) for _ in range(500))
    at_most(alarms, 1000)
    h = (np.arange(2**10)[:, None] >> np.arange(10)) & 1
    worth = np.array([safe_two_by_two(row[:5], row[5:]) for row in h])
    for p in (.001, .05, .4, .5, .99): assert np.where(h == 1, p, 1 - p).prod(1) @ worth <= 1 + 1e-12


@pytest.mark.parametrize(("draw", "mean"), [(lambda r, n: r.random(n), .5), (lambda r, n: (r.random(n) < .02) * 1., .02), (lambda r, n: r.beta(.05, 2, n), .05 / 2.05)])
def test_empirical_bernstein_covers_at_all_looks(draw, mean):
    rng, misses = np.random.default_rng(5), 0
    for _ in range(500):
        low, high = empirical_bernstein(draw(rng, 1000), path=True)
        misses += ((low > mean) | (high < mean)).any()
    at_most(misses, 500)


def test_normal_mixture_is_crossed_as_seldom_as_promised():
    rng, v = np.random.default_rng(6), np.arange(1, 1001)
    s = rng.normal(size=(4000, 1000)).cumsum(1)
    for alpha in (.05, .2):
        two, one = (normal_mixture_boundary(v, alpha=alpha, v_opt=200, two_sided=sides) for sides in (True, False))
        at_most((np.abs(s) >= two).any(1).sum(), 4000, alpha)
        at_most((s >= one).any(1).sum(), 4000, alpha)
        assert (one < two).all()
    assert (np.abs(s) >= normal_mixture_boundary(v, v_opt=200)).any(1).mean() > .01      # and it is no wall


def test_no_other_v_opt_is_tighter_at_v_opt():
    at = normal_mixture_boundary(300., v_opt=300)
    assert all(normal_mixture_boundary(300., v_opt=o) > at for o in (150, 280, 320, 900))


@pytest.mark.parametrize(("xc", "xt"), [(0, 0), (0, 12), (12, 0), (1, 1), (500, 570), (100_000, 99_000)])
def test_the_ratio_interval_is_the_set_of_nulls_not_rejected(xc, xt):
    low, high = conditional_beta_binomial_interval(xc, xt, alpha=.1, share=.3, k=60)
    def rejected(ratio):   # the same bet against a null at this ratio
        theta = ratio * .3 / (ratio * .3 + .7)
        return conditional_beta_binomial(xc, xt, share=.3, k=60) + xt * math.log(.3 / theta) + xc * math.log(.7 / (1 - theta)) >= math.log(10)
    for edge in (low, high):
        if 0 < edge < math.inf: assert rejected(edge * (1 + 1e-6)) != rejected(edge * (1 - 1e-6))
    assert (low == 0) == (xt == 0) and (high == math.inf) == (xc == 0)


# ---- always valid: asymptotic methods

@pytest.mark.parametrize(("rate", "share"), [(.5, .5), (.1, .1), (.02, .5), (.02, .1)])
def test_asymptotic_sequences_hold_alpha_in_the_regime(rate, share):
    xc, nc, xt, nt = null_streams(rate, share, per_look=100)
    c, t = Moments.from_counts(xc, nc), Moments.from_counts(xt, nt)
    ok = in_regime(c, t)
    assert ok[:, -1].all()
    for n_star in (2000, 50_000):
        seq = asymptotic_confidence_sequence(c, t, n_star=n_star, min_count=0)
        at_most((np.where(ok, seq.log_e, 0).max(1) >= LOG20).sum(), 1000)
        at_most((ok & ((seq.lower > 0) | (seq.upper < 0))).any(1).sum(), 1000)


def test_outside_the_regime_they_fail_and_warn():
    xc, nc, xt, nt = null_streams(.005, .1, reps=400)
    c, t = Moments.from_counts(xc, nc), Moments.from_counts(xt, nt)
    with pytest.warns(RegimeWarning, match="outside the regime"): seq = asymptotic_confidence_sequence(c, t, n_star=5000)
    assert (seq.p_value[:, -1] <= .05).mean() > .2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asymptotic_confidence_sequence(Moments.from_counts(500, 10_000), Moments.from_counts(570, 10_000), n_star=5000)
        asymptotic_confidence_sequence(c, t, n_star=5000, min_count=0)


def test_heavy_skew_fails_after_a_thousand_an_arm_and_the_rule_notices():
    rng, late, ruled, reps = np.random.default_rng(7), 0, 0, 500
    for _ in range(reps):
        x, treated = (rng.random(20_000) < .01) * rng.lognormal(0, 1.5, 20_000), rng.random(20_000) < .1
        c, t, first = Moments(), Moments(), [None, None]
        for i in range(0, 20_000, 200):
            now, who = x[i:i + 200], treated[i:i + 200]
            c, t = c + Moments.of(now[~who]), t + Moments.of(now[who])
            if min(c.n, t.n) < 1000: continue
            hit = asymptotic_confidence_sequence(c, t, n_star=5000, min_count=0).log_e >= LOG20
            first = [first[0] or hit, first[1] or (hit and in_regime(c, t))]
        late, ruled = late + bool(first[0]), ruled + bool(first[1])
    assert late > stats.binom.ppf(.9995, reps, .05)
    at_most(ruled, reps)


def test_a_burn_in_says_nothing_before_its_end():
    c, t = Moments.from_counts(np.array([5, 50]), np.array([50, 500])), Moments.from_counts(np.array([25, 90]), np.array([50, 500]))
    seq = asymptotic_confidence_sequence(c, t, n_star=1000, burn_in=500)
    assert seq.log_e[0] == 0 and seq.lower[0] == -math.inf and seq.p_value[0] == 1 and seq.log_e[1] > 0


def test_msprt_interval_is_the_set_of_effects_not_rejected():
    low, high = msprt_interval(500, 570, 10_000, tau2=1e-4, alpha=1 / msprt(500, 570, 10_000, tau2=1e-4))
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(.014, abs=1e-12)


# ---- the streaming test

@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-3), max_size=20), min_size=1, max_size=5))
def test_moments_add_up(parts):
    total = Moments()
    for part in parts: total = total + Moments.of(part)
    whole = Moments.of(np.concatenate([np.asarray(p, float) for p in parts]))
    scale = max((abs(v) for p in parts for v in p), default=0)
    for name, power in (("n", 0), ("mean", 1), ("m2", 2), ("m3", 3)): assert getattr(total, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9 * scale**power)
    assert total.binary == whole.binary


def test_moments_are_those_of_scipy():
    rng = np.random.default_rng(19)
    for x in (rng.lognormal(size=500), (rng.random(500) < .1) * 1.):
        m = Moments.of(x[:100]) + Moments.of(x[100:])
        assert (m.mean, m.skewness) == pytest.approx((x.mean(), stats.skew(x)), rel=1e-10)
        assert m.variance == pytest.approx(x.var(ddof=0 if m.binary else 1), rel=1e-10)
    assert Moments.of([True, False, True]) == Moments.of([1, 0, 1.]) == Moments.from_counts(2, 3) and not Moments.of([.5, 1.5]).binary


@settings(max_examples=40, deadline=None)
@given(chunks=st.lists(st.tuples(st.lists(st.integers(0, 1), max_size=30), st.lists(st.integers(0, 1), max_size=30)), max_size=12), share=st.sampled_from([.5, .2]))
def test_rates_agree_look_by_look_with_the_batch_formulas(chunks, share):
    test, xc, xt, want = SequentialTest(share=share), 0, 0, []
    for c, t in chunks:
        test.update(c, t)
        xc, xt = xc + sum(c), xt + sum(t)
        if c or t: want.append(conditional_beta_binomial(xc, xt, share=share))
    assert list(test.path.statistic) == want and test.p_value == (always_valid_p(want)[-1] if want else 1)
    assert test.ci == conditional_beta_binomial_interval(xc, xt, share=share)
    assert (test.decision != "continue") == (test.p_value <= .05)


def test_means_agree_look_by_look_with_the_batch_formulas():
    rng = np.random.default_rng(8)
    x, y = rng.exponential(2, 3000) + 1e6, rng.exponential(2.2, 3000) + 1e6       # a large offset would spoil plain sums of squares
    test = SequentialTest("asymptotic", n_star=2000, min_count=2)
    for i in range(0, 3000, 300): test.update(x[i:i + 300], y[i:i + 300])
    for look, i in enumerate(range(300, 3001, 300), 1):
        batch = asymptotic_confidence_sequence(x[:i], y[:i], n_star=2000, min_count=2)
        assert test.path.statistic[look] == pytest.approx(batch.log_e, rel=1e-7)
    assert test.ci == pytest.approx((batch.lower, batch.upper), rel=1e-7) and test.estimate == pytest.approx(y.mean() - x.mean(), rel=1e-9)


def test_group_sequential_agrees_with_the_batch_boundaries_and_ends():
    rng = np.random.default_rng(9)
    for effect, decision in ((0., "no difference shown"), (.15, "treatment higher"), (-.15, "control higher")):
        test, looks = SequentialTest("group-sequential", n_max=2000, spending="pocock"), 0
        while not test.finished:
            test.update(rng.random(100) < .5, rng.random(100) < .5 + effect)
            looks += 1
        path = test.path
        t = np.minimum(path.information, 1).to_numpy()
        assert looks <= 10 and np.allclose(path.boundary, alpha_spending_boundaries(t, spending="pocock"), atol=1e-9) and test.decision == decision
        assert (test.p_value <= .05) == (decision != "no difference shown")
        with pytest.raises(ValueError, match="has ended"): test.update([1], [0])


def test_the_estimate_after_stopping_is_median_unbiased_on_the_scale_of_the_effect():
    rng, above, misses, n = np.random.default_rng(20), 0, 0, 300
    for _ in range(n):
        test = SequentialTest("group-sequential", n_max=4000, spending="pocock")
        while not test.finished: test.update(rng.random(400) < .5, rng.random(400) < .53)
        e = test.after_stopping()
        above, misses = above + (e.estimate > .03), misses + (not e.lower <= .03 <= e.upper)
    low, high = stats.binom.interval(.999, n, .5)
    assert low <= above <= high
    at_most(misses, n)
    with pytest.raises(ValueError, match="has ended"): SequentialTest().after_stopping()
    with pytest.raises(ValueError, match="has ended"): SequentialTest("group-sequential", n_max=100).after_stopping()


def test_the_repeated_p_value_is_the_level_at_which_the_boundary_is_met():
    test = SequentialTest("group-sequential", n_max=4000)
    rng = np.random.default_rng(10)
    for _ in range(6): test.update(rng.random(200) < .5, rng.random(200) < .55)
    path = test.path
    z = alpha_spending_boundaries(path.information, alpha=test.p_value)
    assert (path.statistic - z).max() == pytest.approx(0, abs=1e-6)


def test_a_plan_that_overshoots_spends_what_is_left():
    test = SequentialTest("group-sequential", n_max=1000)
    rng = np.random.default_rng(11)
    test.update(rng.random(400) < .5, rng.random(400) < .5).update(rng.random(400) < .5, rng.random(400) < .5)
    assert test.finished and test.path.information.iloc[-1] == pytest.approx(1.6)
    up, down = crossing_probabilities(test.path.information, test.path.boundary)
    assert (up + down).sum() == pytest.approx(.05, abs=1e-9)


METHODS = [("beta-binomial", {}), ("paired", {}), ("asymptotic", {"n_star": 1000}), ("group-sequential", {"n_max": 4000})]


@pytest.mark.parametrize(("method", "kw"), METHODS)
def test_a_restart_loses_nothing(method, kw):
    rng = np.random.default_rng(12)
    chunks = [(rng.random(60) < .4, rng.random(60) < .5) for _ in range(12)]
    whole, part = SequentialTest(method, alpha=.01, **kw), SequentialTest(method, alpha=.01, **kw)
    for i, chunk in enumerate(chunks):
        whole.update(*chunk)
        part.update(*chunk)
        if i in (0, 5): part = SequentialTest.from_dict(json.loads(json.dumps(part.to_dict(), allow_nan=False)))
    assert part.to_dict() == whole.to_dict() and (part.p_value, part.ci, part.decision, repr(part)) == (whole.p_value, whole.ci, whole.decision, repr(whole))


@pytest.mark.parametrize(("method", "kw"), METHODS[:3])
def test_a_merged_day_is_one_look_at_its_end(method, kw):
    rng = np.random.default_rng(13)
    days = [(rng.random(200) < .4, rng.random(200) < .5) for _ in range(4)]
    one, later, whole = (SequentialTest(method, **kw) for _ in range(3))
    for d in days[:2]: one.update(*d)
    for d in days[2:]: later.update(*d)
    before = later.to_dict()
    one.merge(later)
    for d in days[:2] + [tuple(np.concatenate(x) for x in zip(*days[2:], strict=True))]: whole.update(*d)
    assert np.allclose(one.path, whole.path) and later.to_dict() == before and len(one.path) == 3
    assert one.p_value == pytest.approx(whole.p_value, rel=1e-9)


def test_what_cannot_be_merged_says_so():
    with pytest.raises(ValueError, match="cannot be merged"): SequentialTest("group-sequential", n_max=100).merge(SequentialTest("group-sequential", n_max=100))
    others = {"k=50.0 instead of 100.0": SequentialTest(k=50), "alpha=0.01 instead of 0.05": SequentialTest(alpha=.01),
              "method=.paired. instead of .beta-binomial.; only": SequentialTest("paired"), "got NoneType": None}
    for words, other in others.items():
        with pytest.raises(ValueError, match=words): SequentialTest().merge(other)


def test_pairs_are_the_beta_binomial_on_discordant_pairs():
    rng = np.random.default_rng(14)
    a, b = rng.random(500) < .6, rng.random(500) < .7
    test = SequentialTest("paired").update(a[:200], b[:200]).update(a[200:], b[200:])
    only_a, only_b = discordant_pairs(a, b)
    assert (only_a, only_b) == ((a & ~b).sum(), (b & ~a).sum())
    assert test.path.statistic.iloc[-1] == conditional_beta_binomial(only_a, only_b) and test.estimate == pytest.approx(only_b / only_a)
    with pytest.raises(ValueError, match="every pair"): test.update([1], [1, 0])


def test_looks_outside_the_regime_do_not_count_and_are_announced_once():
    test = SequentialTest("asymptotic", n_star=1000)
    with pytest.warns(RegimeWarning) as seen:
        for _ in range(5): test.update([0, 0, 0], [1, 1, 1])
    assert len(seen) == 1 and len(test.path) == 0 and test.p_value == 1 and test.decision == "continue" and test.ci == (-math.inf, math.inf)
    test.update(np.zeros(2000), np.r_[np.ones(60), np.zeros(1940)])
    assert len(test.path) == 1 and test.decision == "treatment higher"       # an arm without successes is evidence, too


def test_a_wrong_split_is_said_aloud():
    test = SequentialTest()
    for _ in range(20): test.update(np.zeros(100), np.zeros(60))
    assert test.srm_p_value < .001 and "SPLIT IS WRONG" in repr(test)
    fine = SequentialTest(share=.375)
    for _ in range(20): fine.update(np.zeros(100), np.zeros(60))
    assert fine.srm_p_value > .05


@pytest.mark.parametrize("bad", [[np.nan], [1, np.inf], ["late"], [None], None, 1, [[1, 0]], [2 + 1j], {"a": 1}, [1e200]])
@pytest.mark.parametrize("side", ["control", "treatment"])
def test_refused_outcomes_leave_no_trace(bad, side):
    for method, kw in METHODS:
        test = SequentialTest(method, **kw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RegimeWarning)
            test.update([1, 0], [0, 1])
        before = test.to_dict()
        with pytest.raises(ValueError, match=side): test.update(**{"control": [1], "treatment": [0], side: bad})
        assert test.to_dict() == before


@pytest.mark.parametrize(("method", "kw"), [
    ("mystery", {}), (None, {}), ("beta-binomial", {"alpha": 0}), ("beta-binomial", {"alpha": True}), ("beta-binomial", {"share": 1}), ("beta-binomial", {"k": "100"}),
    ("beta-binomial", {"n_star": 5}), ("asymptotic", {}), ("asymptotic", {"n_star": math.nan}), ("paired", {"share": .4}), ("group-sequential", {}), ("group-sequential", {"n_max": 10.5}),
    ("group-sequential", {"n_max": 100, "spending": "power"}),
])
def test_impossible_tests_are_refused(method, kw):
    with pytest.raises(ValueError): SequentialTest(method, **kw)


@pytest.mark.parametrize("state", [{}, None, SequentialTest().to_dict() | {"format": 99}, SequentialTest().to_dict() | {"kind": "DriftMonitor"}, SequentialTest().to_dict() | {"path": 3},
                                   {k: v for k, v in SequentialTest().to_dict().items() if k != "control"}])
def test_states_of_something_else_are_refused(state):
    with pytest.raises(ValueError, match="SequentialTest"): SequentialTest.from_dict(state)


def test_the_state_is_small_and_the_drawing_is_made():
    import matplotlib
    matplotlib.use("Agg")
    rng = np.random.default_rng(15)
    for method, kw in METHODS:
        test = SequentialTest(method, **kw)
        for _ in range(5):
            if not test.finished: test.update(rng.random(300) < .4, rng.random(300) < .6)
        ax = test.plot()
        assert test.decision == "treatment higher" and "treatment higher" in ax.get_title() and ax.get_xlabel() and len(ax.lines) == 3
        matplotlib.pyplot.close(ax.figure)
    long = SequentialTest()
    for _ in range(1000): long.update(rng.random(500) < .1, rng.random(500) < .1)
    assert len(json.dumps(long.to_dict())) < 100_000


def random_arms(rng, n, share=.5, rates=(.3, .3)):
    "The outcomes of n units, each assigned by a coin."
    treated = rng.random(n) < share
    return [rng.random(k) < p for k, p in ((n - treated.sum(), rates[0]), (treated.sum(), rates[1]))]


@pytest.mark.parametrize(("share", "spending", "spend"), [(.5, "obrien-fleming", "per-side"), (.5, "pocock", "total"), (.2, "obrien-fleming", "per-side")])
def test_a_plan_ends_with_its_units_however_the_coin_fell(share, spending, spend):
    rng, n, alarms, below = np.random.default_rng(21), 250, 0, 0
    for _ in range(n):
        test = SequentialTest("group-sequential", n_max=4000, share=share, spending=spending, spend=spend)
        while not test.finished: test.update(*random_arms(rng, 800, share))
        assert test.control.n + test.treatment.n <= 4000 and type(test.finished) is bool
        assert test.decision == ("no difference shown" if test._end is None else test.decision) and (test.p_value <= .05) == (test.decision != "no difference shown")
        alarms, below = alarms + (test.decision != "no difference shown"), below + (test.path.information.iloc[-1] < 1 and test._end is None)
        if test._end is None:
            up, down = crossing_probabilities(test.path.information, test.path.boundary)
            assert (up + down).sum() == pytest.approx(.05, abs=1e-7)          # all of alpha is spent, though information is below 1
    low, high = stats.binom.interval(.999, n, .05)
    assert low <= alarms <= high and below > n/5


def test_a_plan_in_random_arms_survives_a_restart_before_its_last_look():
    rng = np.random.default_rng(22)
    looks = [random_arms(rng, 500) for _ in range(4)]
    test = SequentialTest("group-sequential", n_max=2000)
    for control, treatment in looks[:3]: test.update(control, treatment)
    other = SequentialTest.from_dict(json.loads(json.dumps(test.to_dict())))
    for t in (test, other): t.update(*looks[3])
    assert test.finished and other.to_dict() == test.to_dict() and test.path.information.iloc[-1] < 1
    again = SequentialTest.from_dict(test.to_dict())
    assert again.finished and again.after_stopping() == test.after_stopping() and again.p_value == test.p_value


def test_the_last_look_counts_even_if_it_brings_next_to_nothing():
    test = SequentialTest("group-sequential", n_max=10_000_000)
    test.update(np.arange(4_999_999) % 2, np.arange(4_999_999) % 2)
    assert not test.finished and test.decision == "continue"
    test.update([1], [0])
    assert test.finished and len(test.path) == 2 and SequentialTest.from_dict(test.to_dict()).to_dict() == test.to_dict()
    test.after_stopping()


def test_a_plan_that_never_enters_the_regime_ends_without_a_difference():
    test = SequentialTest("group-sequential", n_max=100)
    with pytest.warns(RegimeWarning): test.update(np.zeros(50), np.zeros(50))
    assert test.finished and test.decision == "no difference shown" and test.p_value == 1 and test.ci == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="0 looks"): test.after_stopping()


def test_before_any_evidence_the_interval_is_everything():
    for method, kw in METHODS:
        test = SequentialTest(method, **kw)
        assert test.ci in ((-math.inf, math.inf), (0, math.inf)) and test.p_value == 1 and math.isnan(test.estimate)
    for control, treatment in (([], [1, 0, 1]), ([1, 0, 1], []), ([], [])):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RegimeWarning)
            seq = asymptotic_confidence_sequence(control, treatment, n_star=100)
        assert math.isnan(seq.estimate) and (seq.lower, seq.upper, seq.log_e, seq.p_value) == (-math.inf, math.inf, 0, 1)


@pytest.mark.parametrize(("method", "kw"), [("beta-binomial", {"k": np.float32(50)}), ("asymptotic", {"n_star": np.int64(1000), "min_count": np.float64(20)}),
                                            ("group-sequential", {"n_max": np.int64(4000), "spending": "power", "rho": np.float32(2)}),
                                            ("group-sequential", {"n_max": 4000, "spending": "hwang-shih-decani", "gamma": np.int32(-4)})])
def test_settings_of_numpy_go_through_json_and_defaults_are_settings(method, kw):
    test = SequentialTest(method, alpha=np.float64(.05), share=np.float32(.5), **kw)
    test.update(np.tile([0, 1], 200), np.tile([0, 1], 200))
    assert SequentialTest.from_dict(json.loads(json.dumps(test.to_dict()))).to_dict() == test.to_dict()


def test_a_default_and_the_same_value_are_one_setting():
    assert SequentialTest().merge(SequentialTest(k=100)).settings == {"k": 100.}
    with pytest.raises(ValueError, match="count twice"): (t := SequentialTest()).merge(t)
    with pytest.raises(ValueError, match="same settings"): SequentialTest().merge(SequentialTest(k=50))


def damaged():
    "Every way we could think of to spoil a stored test."
    rng = np.random.default_rng(24)
    test = SequentialTest("group-sequential", n_max=4000)
    while not test.finished: test.update(*random_arms(rng, 500, rates=(.3, .36)))
    good = json.loads(json.dumps(test.to_dict()))
    assert good["end"] and SequentialTest.from_dict(good).to_dict() == good
    row = good["path"][0]
    for changes in (
            {"end": [9, "bananas"]}, {"end": [1, "bananas"]}, {"end": None}, {"end": "treatment higher"}, {"control": [1, 2]}, {"control": [-5., .1, 1., 0., True]},
            {"control": [5.5, .1, 1., 0., True]}, {"treatment": [100., math.nan, 1., 0., True]}, {"treatment": [100., .5, -1., 0., True]}, {"treatment": [100., 5., 1., 0., True]},
            {"treatment": [100., .5, 25., 0., "yes"]}, {"control": None}, {"srm": "x"}, {"srm": math.nan}, {"srm": -1.}, {"warned": "no"}, {"path": [[1, 2]]}, {"path": [row, row]},
            {"path": "abcde"}, {"path": {}}, {"path": [[*row[:4], 9.]]}, {"path": [[*row[:3], None, row[4]]]}, {"path": good["path"][::-1]}, {"path": [[1e9, *row[1:]]]}, {"path": []},
            {"alpha": 7}, {"alpha": None}, {"share": "half"}, {"settings": None}, {"settings": {"n_max": -1}}, {"settings": {}}, {"method": "mystery"},
            {"settings": good["settings"] | {"n_max": 9000}}):
        yield changes, good | changes


@pytest.mark.parametrize(("changes", "state"), list(damaged()))
def test_damaged_states_are_refused(changes, state):
    with pytest.raises(ValueError, match="damaged SequentialTest"): SequentialTest.from_dict(state)


def test_counts_that_cannot_be_are_refused():
    for x, n in ((50, 10), (-1, 10), (.5, 10), (math.nan, 10), (5, math.inf), ([1, 20], [10, 10]), ([1, 2, 3], [10, 10]), ("5", 10), (None, 10)):
        with pytest.raises(ValueError, match="x|n"): Moments.from_counts(x, n)
    with pytest.raises(ValueError, match="control: .*differ in length"): SequentialTest().update([[1], [1, 0]], [1])


def test_weights_and_counts_beyond_their_digits_are_refused():
    for k in (1e8, 1e12, math.inf):
        with pytest.raises(ValueError, match="k="): conditional_beta_binomial(50, 60, k=k)
        with pytest.raises(ValueError, match="k="): conditional_beta_binomial_interval(50, 60, k=k)
        with pytest.raises(ValueError, match="k="): sequential_srm([50, 60], k=k)
        with pytest.raises(ValueError, match="k="): SequentialTest(k=k)
    with pytest.raises(ValueError, match="x_control"): conditional_beta_binomial(10**13, 5)
    with pytest.raises(ValueError, match="counts"): sequential_srm([10**13, 5])


@pytest.mark.parametrize(("xc", "xt", "share", "k"), [(50, 60, .5, 9e7), (5_000, 5_400, .2, 1e7), (100_000, 101_000, .5, 1e6), (3, 0, .1, 1e-6), (40, 70, .3, 100.)])
def test_the_conditional_test_is_the_product_of_its_bets(xc, xt, share, k):
    i, j = np.arange(xt), np.arange(xc)                       # first all of the treatment, then all of the control; the order does not matter
    bets = np.concatenate([np.log1p(i*(1 - share)/((k + i)*share)), np.log1p((j*share - xt*(1 - share))/((k + xt + j)*(1 - share)))])
    assert conditional_beta_binomial(xc, xt, share=share, k=k) == pytest.approx(math.fsum(bets), abs=2e-6)


def test_hwang_shih_decani_at_its_extremes():
    t = np.linspace(0, 1, 11)
    for gamma in (-1000., -700., -30., -4., -1e-6, 0., 1e-6, 4., 1000.):
        spent = alpha_spent(t, alpha=.05, spending="hwang-shih-decani", gamma=gamma)
        assert spent[0] == 0 and spent[-1] == .05 and (np.diff(spent) >= 0).all()
    for gamma in (-30., -4., 4., 30.):
        assert np.allclose(alpha_spent(t, alpha=.05, spending="hwang-shih-decani", gamma=gamma), .05*(1 - np.exp(-gamma*t))/(1 - np.exp(-gamma)), rtol=1e-12)
    assert np.isfinite(alpha_spending_boundaries([.5, 1], spending="hwang-shih-decani", gamma=-1000)[-1])


def test_a_test_explains_itself_without_claiming_more():
    rng = np.random.default_rng(25)
    assert "nothing is decided" in SequentialTest().explain() and "may go on" in SequentialTest().explain()
    won = SequentialTest().update(rng.random(2000) < .2, rng.random(2000) < .3)
    for words in ("After 1 look at", "outcomes of the treatment were higher", "decided since look 1", "95 % interval, valid at every look"): assert words in won.explain()
    lost = SequentialTest("group-sequential", alpha=.01, n_max=4000).update(rng.random(2000) < .3, rng.random(2000) < .2)
    e = lost.after_stopping(level=.99)
    assert "outcomes of the control were higher" in lost.explain() and f"from {e.lower:.3g} to {e.upper:.3g}" in lost.explain() and "99 % interval" in lost.explain()
    ended = SequentialTest("group-sequential", n_max=4000).update(np.arange(2000) % 2, np.arange(2000) % 2)
    assert "ended without a decision" in ended.explain() and "not shown that there is no difference" in ended.explain()
    assert "other shares than planned" in SequentialTest().update(rng.random(3000) < .5, rng.random(2000) < .5).explain()
    assert "500 pairs" in SequentialTest("paired").update(rng.random(500) < .3, rng.random(500) < .3).explain()


@pytest.mark.filterwarnings("ignore::mlscale.sequential.RegimeWarning")
@pytest.mark.parametrize(("rates", "share", "n_max", "looks"), [((.02, .04), 1/11, 22_000, 4), ((.1, .05), .2, 8000, 3), ((.3, .3), .3, 3000, 3)])
def test_after_stopping_covers_in_unequal_arms(rates, share, n_max, looks):
    rng, above, misses, n = np.random.default_rng(26), 0, 0, 300
    for _ in range(n):
        test = SequentialTest("group-sequential", n_max=n_max, share=share)
        while not test.finished: test.update(*random_arms(rng, n_max//looks, share, rates))
        e = test.after_stopping()
        above, misses = above + (e.estimate > rates[1] - rates[0]), misses + (not e.lower <= rates[1] - rates[0] <= e.upper)
    at_most(misses, n)
    low, high = stats.binom.interval(.999, n, .5)
    assert low <= above <= high


def test_after_one_look_the_estimate_is_the_plain_one_whatever_the_arms():
    test = SequentialTest("group-sequential", n_max=22_000, share=1/11).update(np.arange(20_000) < 200, np.arange(2000) < 100)
    e, error = test.after_stopping(), math.sqrt(.01*.99/20_000 + .05*.95/2000)
    assert (e.estimate, e.lower, e.upper) == pytest.approx((.04, .04 - 1.959964*error, .04 + 1.959964*error), rel=1e-6)


@pytest.mark.filterwarnings("ignore::mlscale.sequential.RegimeWarning")
@pytest.mark.parametrize(("rates", "share"), [((.02, .03), .1), ((.2, .2), .5), ((.3, .4), .8)])
def test_the_repeated_interval_excludes_no_difference_exactly_when_the_look_decides_and_covers(rates, share):
    rng, misses, n = np.random.default_rng(27), 0, 250
    for _ in range(n):
        test, missed = SequentialTest("group-sequential", n_max=10_000, share=share, spending="pocock"), False
        while not test.finished:
            test.update(*random_arms(rng, 2000, share, rates))
            if not len(test.path): continue
            low, high = test.ci
            assert (not low <= 0 <= high) == (test.path.statistic.iloc[-1] >= test.path.boundary.iloc[-1])
            missed |= not low <= rates[1] - rates[0] <= high
        misses += missed
    at_most(misses, n)


@pytest.mark.filterwarnings("ignore::mlscale.sequential.RegimeWarning")
def test_group_sequential_tests_of_forty_looks_hold_alpha():
    rng, alarms, n = np.random.default_rng(28), 0, 200
    for _ in range(n):
        test = SequentialTest("group-sequential", n_max=8000, spending="pocock")
        while not test.finished: test.update(*random_arms(rng, 200))
        alarms += test.decision != "no difference shown"
    at_most(alarms, n)


def test_error_spending_holds_alpha_under_a_thousand_looks():
    t, rng, n = np.arange(1, 1001)/1000, np.random.default_rng(29), 20_000
    z = alpha_spending_boundaries(t, spending="pocock")*np.sqrt(t*1000)
    alarms = sum((np.abs(rng.normal(size=(1000, 1000)).cumsum(1)) >= z).any(1).sum() for _ in range(n//1000))
    low, high = stats.binom.interval(.999, n, .05)
    assert low <= alarms <= high


@pytest.mark.parametrize("rates", [(.1, .1), (.5, .5), (.3, .36)])
def test_msprt_and_the_asymptotic_sequence_hold_their_level_under_a_thousand_looks_whatever_the_effect(rates):
    rng, reps, n = np.random.default_rng(30), 500, 25*np.arange(1, 1001)
    xc, xt = (rng.binomial(25, p, (reps, 1000)).cumsum(1) for p in rates)
    ready, effect = n >= 400, rates[1] - rates[0]
    seq = asymptotic_confidence_sequence(Moments.from_counts(xc, np.broadcast_to(n, xc.shape)), Moments.from_counts(xt, np.broadcast_to(n, xt.shape)), n_star=5000, min_count=0)
    at_most(((effect < seq.lower) | (effect > seq.upper))[:, ready].any(1).sum(), reps)
    if effect == 0: at_most((msprt(xc, xt, n, tau2=.02**2)[:, ready] >= 20).any(1).sum(), reps)
    few, missed = slice(None, None, 20), 0
    for counts in np.stack([xc, xt, np.broadcast_to(n, xc.shape)], -1)[:200, ready][:, few].tolist():
        missed += any(not low <= effect <= high for low, high in (msprt_interval(*look, tau2=.02**2) for look in counts))
    at_most(missed, 200)


def test_drifts_far_from_zero_have_probabilities():
    for drift in (54., 100., -100., 1e6):
        up, down = crossing_probabilities([.5, 1], [math.inf, 1.96], drift=drift)
        assert (up[1], down[1]) == pytest.approx((float(drift > 0), float(drift < 0)), abs=1e-9) and (up[0], down[0]) == (0, 0)
    near, far = crossing_probabilities(FIVE, [3.] * 5, drift=[24., 0.])[0], crossing_probabilities(FIVE, [3.] * 5, drift=[26., 0., -3.])[0]
    assert near.shape == (2, 5) and far.shape == (3, 5) and np.allclose(near[1], far[1], rtol=1e-12) and far[0].sum() == pytest.approx(1)
    t, z = np.array([.3, .6, 1]), np.array([20., 22., 25.])       # on both sides of where the road changes
    walks = np.random.default_rng(31).normal(size=(200_000, 3))*np.sqrt(np.diff(t, prepend=0))
    for drift in (24.9, 25.1):
        simulated = ((walks + drift*np.diff(t, prepend=0)).cumsum(1)/np.sqrt(t) >= z).any(1).mean()
        assert crossing_probabilities(t, z, drift=drift)[0].sum() == pytest.approx(simulated, abs=.005)


def test_estimates_exist_after_very_early_looks_and_very_large_statistics():
    rng = np.random.default_rng(5)
    test = SequentialTest("group-sequential", n_max=10**6)
    for n in (160, 3600, 496_240, 500_000): test.update(rng.random(n//2) < .5, rng.random(n//2) < .5)
    e, error = test.after_stopping(), math.sqrt(.5/5e5)
    assert abs(e.estimate - test.estimate) < .1*error and e.upper - e.lower == pytest.approx(2*1.96*error, rel=.02)
    assert stagewise_estimate([.5, 1], [3, 2], 1e300) == stagewise_estimate([.5, 1], [3, 2], 50.)


def test_close_looks_need_little_memory():
    import tracemalloc
    tracemalloc.start()
    z = alpha_spending_boundaries([.5, .50002, .50004, .50006])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (np.diff(z) > 0).all() and peak < 100e6
    assert sum(p.sum() for p in crossing_probabilities([.5, .50002, .50004, .50006], z)) == pytest.approx(alpha_spent(.50006, alpha=.025)*2, rel=1e-6)


@pytest.mark.parametrize(("xc", "xt", "k"), [(1, 2000, 1e4), (3000, 1, 1000), (10**5, 1, 360), (1, 10**9, 10.), (0, 5, 100.), (7, 0, 1e-6)])
def test_lopsided_counts_have_an_interval_by_inversion(xc, xt, k):
    low, high = conditional_beta_binomial_interval(xc, xt, k=k)
    assert low <= xt/max(xc, .1) <= high or high == math.inf
    log_e = lambda r: conditional_beta_binomial(xc, xt, k=k) - xt*math.log(2*r/(1 + r)) - xc*math.log(2/(1 + r))
    for bound in (low, high):
        if 1e-250 < bound < 1e250: assert log_e(bound) == pytest.approx(math.log(20), abs=max(1e-6, 1e-15*(xc + xt)))
    assert "interval" in SequentialTest(k=k).update(np.ones(min(xc, 3000)), np.ones(min(xt, 3000))).explain() or xc != xt


def test_a_look_that_does_not_count_changes_no_report():
    rng = np.random.default_rng(3)
    test = SequentialTest("group-sequential", n_max=4000, spending="pocock").update(rng.normal(0, 1, 1500), rng.normal(.05, 1, 1500))
    before = test.ci, test.estimate
    outlier = np.append(400., rng.normal(0, 1, 499))
    with pytest.warns(RegimeWarning): test.update(outlier, rng.normal(.05, 1, 500))
    assert test.finished and len(test.path) == 1 and (test.ci, test.estimate) == before and test.after_stopping().estimate == pytest.approx(test.estimate)
    assert SequentialTest.from_dict(json.loads(json.dumps(test.to_dict()))).to_dict() == test.to_dict() and test.control.n == 2000


def test_constant_arms_are_no_look():
    test = SequentialTest("group-sequential", n_max=400).update([5.]*200, [7.]*200)
    assert test.finished and test.decision == "no difference shown" and test.ci == (-math.inf, math.inf) and len(test.path) == 0


def test_large_outcomes_stay_finite_or_are_refused():
    with pytest.raises(ValueError, match="control: finite numbers above -1e.90 and below 1e.90"): Moments.of([1e110, 2e110], "control")
    with pytest.raises(ValueError, match="mean"): Moments.from_summary(10, 1e120, 1.)
    test = SequentialTest("asymptotic", n_star=100).update([1e80, -1e80, 3.]*40, [1e80, 0., 1]*40).update([3.], [4.])
    assert SequentialTest.from_dict(json.loads(json.dumps(test.to_dict(), allow_nan=False))).to_dict() == test.to_dict()
    with pytest.raises(ValueError, match="masked"): Moments.of(np.ma.array([1, 2], mask=[0, 1]))
    assert not Moments.of([1 + 1e-9, 1 - 1e-9]).binary


def test_moments_of_several_looks_add_look_by_look():
    rng = np.random.default_rng(32)
    parts = [[rng.exponential(size=n) for n in (5, 9)] for _ in range(2)]
    arrays = [Moments(*(np.array([getattr(Moments.of(x), f) for x in part]) for f in ("n", "mean", "m2", "m3")), binary=False) for part in parts]
    total = arrays[0] + arrays[1]
    for i in range(2):
        one = Moments.of(parts[0][i]) + Moments.of(parts[1][i])
        assert (total.n[i], total.mean[i], total.m2[i], total.m3[i]) == pytest.approx((one.n, one.mean, one.m2, one.m3))
    counts = Moments.from_counts([1, 0], [10, 0]) + Moments.from_counts([3, 4], [10, 20])
    assert counts.n.tolist() == [20, 20] and counts.mean.tolist() == [.2, .2] and counts.binary


def test_copies_share_nothing():
    test = SequentialTest().update([1, 0, 1], [1, 1, 0])
    other = copy.copy(test)
    other.update(np.ones(50), np.zeros(50))
    other.settings["k"] = 5
    assert len(test.path) == 1 and len(other.path) == 2 and test.settings == other.settings == {"k": 100.} and other.to_dict()["settings"] == {"k": 100.}


def test_a_warning_raised_as_an_error_leaves_no_trace():
    test = SequentialTest("asymptotic", n_star=1000)
    before = test.to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RegimeWarning)
        with pytest.raises(RegimeWarning): test.update([1, 0], [0, 1])
    assert test.to_dict() == before


def spoiled():
    "States of the always-valid methods that no looks leave."
    rng = np.random.default_rng(33)
    test = SequentialTest()
    for _ in range(3): test.update(rng.random(200) < .3, rng.random(200) < .5)
    good = json.loads(json.dumps(test.to_dict()))
    assert SequentialTest.from_dict(good).to_dict() == good and good["end"] == [1, "treatment higher"]
    n, mean, *_ = good["control"]
    rows = lambda place, value: {"path": [[*row[:place], value, *row[place + 1:]] for row in good["path"]]}
    changes = ({"end": None} | rows(4, 1e9), {"alpha": 1e-9}, {"alpha": .2}, {"path": [], "end": None}, {"control": good["treatment"], "treatment": good["control"]}, {"share": .3},
               {"settings": {"k": 50.}}, {"end": None} | rows(3, -1.), rows(2, .5), {"control": [n, .1234567, *good["control"][2:]]}, {"control": [n, mean, 3., 0., True]},
               {"control": [n, mean, *good["control"][2:4], False]}, {"control": [1e300, .5, 1., 0., True]}, {"warned": "1"}, {"warned": 1}, {"counted": []},
               {"counted": [good["control"]]}, {"counted": [good["control"], [0., 0., 0., 0., True]]}, {"format": 1})
    return [(c, good | c) for c in changes]


@pytest.mark.parametrize(("changes", "state"), spoiled())
def test_spoiled_states_are_refused(changes, state):
    with pytest.raises(ValueError, match="d: a"): SequentialTest.from_dict(state)


def test_a_last_look_names_the_winner():
    test = SequentialTest().update(np.arange(1000) < 300, np.arange(1000) < 500)
    state = test.to_dict()
    assert state["end"] == [1, "treatment higher"]
    with pytest.raises(ValueError, match="damaged"): SequentialTest.from_dict(state | {"end": [1, "control higher"]})


@pytest.mark.slow
def test_of_a_plan_two_thousand_looks_count():
    test = SequentialTest("group-sequential", n_max=4400, min_count=0)
    for i in range(2200): test.update([i % 2], [(i//2) % 2])
    assert test.finished and len(test.path) <= 2000 and SequentialTest.from_dict(test.to_dict()).finished and np.isfinite(test.after_stopping().estimate)


@pytest.mark.parametrize("value", [9.99, .1, 1/3, 1e-7, 123456.789])
def test_constant_outcomes_bet_nothing_even_if_no_double_is_exact(value):
    rng = np.random.default_rng(34)
    for method, kw in (("asymptotic", {"n_star": 2000}), ("group-sequential", {"n_max": 4000})):
        test = SequentialTest(method, **kw)
        for _ in range(8):
            n = rng.binomial(500, .5)
            test.update(np.full(n, value), np.full(500 - n, value))
        assert test._end is None and test.p_value == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert asymptotic_confidence_sequence([value]*240, [value]*260, n_star=2000).p_value == 1


def test_estimates_after_high_early_boundaries():
    e = stagewise_estimate([.5, 1], [math.inf, 2], 30)
    assert (e.estimate, e.lower, e.upper) == pytest.approx((30, 30 - 1.959964, 30 + 1.959964), abs=1e-5)
    e = stagewise_estimate([.2, .4, .6, 1], [38, 38, 38, 2], 30)
    assert (e.estimate, e.lower, e.upper) == pytest.approx((30, 30 - 1.959964, 30 + 1.959964), abs=1e-4)


def test_states_that_divide_by_zero_or_overflow_are_damaged():
    test = SequentialTest("group-sequential", n_max=4000)
    for _ in range(3): test.update(np.arange(300) % 3 == 0, np.arange(300) % 3 == 1)
    good = test.to_dict()
    twice = [list(row) for row in good["path"]]
    twice[0][2] = twice[1][2]
    for changes in ({"path": twice}, {"control": [1e15, 1e300, 1., 0., False]}, {"srm": 10**400}):
        with pytest.raises(ValueError, match="damaged"): SequentialTest.from_dict(good | changes)
    sure = SequentialTest("asymptotic", n_star=100, min_count=0).update([0, 1e-155]*40, [1e5]*80)
    assert SequentialTest.from_dict(json.loads(json.dumps(sure.to_dict(), allow_nan=False))).to_dict() == sure.to_dict()


def test_explanations_admit_what_contradicts_the_decision():
    close = SequentialTest("group-sequential", n_max=22_000, share=1/11).update(np.arange(20_000) < 200, np.arange(2000) < 30)
    assert close.decision == "treatment higher" and close.after_stopping().lower < 0 and "a close call that test and interval decide differently" in close.explain()
    other = SequentialTest("group-sequential", n_max=5500, share=1/11).update(np.arange(5000) < 250, np.arange(500) < 16)
    assert other.decision == "no difference shown" and "close call" in other.explain() and "not shown that there is no difference" not in other.explain()
    turned = SequentialTest().update(np.arange(1000) < 100, np.arange(1000) < 200)
    assert "looks since" not in turned.explain()
    turned.update(np.arange(1000) < 200, np.arange(1000) < 110)
    assert turned.decision == "treatment higher" and "leave it open again" in turned.explain()
    assert "say the opposite" in turned.update(np.arange(5000) < 2500, np.arange(5000) < 1000).explain()


def test_levels_that_no_sentence_can_name_are_refused():
    for alpha in (1e-12, 1e-20, 1e-300, 0, None, math.nan):
        with pytest.raises(ValueError, match="alpha"): SequentialTest(alpha=alpha)
    for method, kw in METHODS: assert "99.999999999 %" in SequentialTest(method, alpha=1e-11, **kw).explain()


def test_the_regime_of_means_asks_for_a_hundred_times_the_squared_skewness():
    moments = lambda n, skewness: Moments(float(n), 0., float(n), float(n*skewness), False)
    assert moments(99, 2).skewness == pytest.approx(2)
    for skewness, needed in ((0, 40), (1, 100), (3, 900)):
        at, below = moments(needed + 1, skewness), moments(needed - 1, skewness)
        assert in_regime(at, at) and not in_regime(at, below) and not in_regime(below, at)


@pytest.mark.parametrize("alpha", [1e-20, 1e-60, 1e-99])
def test_futility_plans_of_tiny_errors_are_numbers(alpha):
    plan = futility_boundaries([.3, .6, 1], alpha=alpha, power=.9)
    up, down = crossing_probabilities(plan.information, plan.upper, plan.lower, drift=plan.drift)
    assert up.sum() == pytest.approx(.9, abs=1e-6) and down.sum() == pytest.approx(.1, abs=1e-6)
    with pytest.raises(ValueError, match="alpha"): futility_boundaries([.3, .6, 1], alpha=1e-200)


# ---- planning

def test_days_to_decision_come_true():
    plan = days_to_decision(1000, .24, -.1, k=360, reps=400)
    assert list(plan.columns) == ["days", "mean_days", "mean_days_without_effect"] and plan.days["fixed"] == 10
    assert plan.days["fixed"] <= plan.days["group-sequential, obrien-fleming"] <= plan.days["group-sequential, pocock"] < plan.days["asymptotic"] < plan.days["beta-binomial"]
    rng, decided = np.random.default_rng(16), 0
    for _ in range(200):
        test = SequentialTest(k=360)
        for _ in range(int(plan.days["beta-binomial"])):
            n = rng.binomial(1000, .5)
            test.update(rng.random(1000 - n) < .24, rng.random(n) < .216)
        decided += test.decision == "control higher"
    low, high = stats.binom.interval(.9999, 200, .8)
    assert low <= decided <= high + 15
    assert (days_to_decision(250, .24, -.1, reps=100).days["fixed"] - 38) in range(3)


def test_days_agree_with_the_sample_sizes_of_experiments_and_undecided_streams_are_infinite():
    from mlscale.experiments import sample_size_proportions
    for p, effect, share in ((.02, .5, .1), (.01, 1., .1), (.24, -.1, .5), (.02, -.5, .3)):
        units = sum(sample_size_proportions(p, effect, ratio=share/(1 - share)))
        plan = days_to_decision(max(2, units//30), p, effect, share=share, reps=100)
        assert plan.days["fixed"] == math.ceil(units/max(2, units//30)) or abs(plan.days["fixed"] - units/max(2, units//30)) <= 1
    hopeless = days_to_decision(1000, .9, .02, reps=200)           # a bet made for far larger effects
    assert hopeless.loc["beta-binomial"].tolist() == [math.inf]*3 and hopeless.loc["asymptotic", "days"] < 20
    with pytest.raises(ValueError, match="seed"): days_to_decision(1000, .24, -.1, seed="x")


@pytest.mark.parametrize(("daily", "p", "effect", "share"), [(100, .02, 2., .5), (1000, .02, 1., .1), (100, .01, 3., .5)])
def test_plans_are_long_enough_for_looks_to_count(daily, p, effect, share):
    plan, rng, won, n = days_to_decision(daily, p, effect, share=share, reps=100).days, np.random.default_rng(35), 0, 200
    for _ in range(n):
        test = SequentialTest("group-sequential", n_max=int(plan["group-sequential, obrien-fleming"])*daily, share=share)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RegimeWarning)
            while not test.finished: test.update(*random_arms(rng, daily, share, (p, p*(1 + effect))))
        won += test.decision == "treatment higher"
    assert won >= stats.binom.ppf(.0005, n, .8)


def test_plans_that_would_take_years_are_refused():
    for arguments in ((2, .3, .044), (10, .0001, 50.)):
        with pytest.raises(ValueError, match="at most 1,000"): days_to_decision(*arguments)


# ---- bad input

BAD_NUMBERS = [None, math.nan, math.inf, True, "x", 0, -1, [1.]]


@pytest.mark.parametrize("bad", BAD_NUMBERS)
@pytest.mark.parametrize(("name", "call"), [
    ("alpha", lambda v: peeking_error(5, alpha=v)), ("looks", lambda v: peeking_error(v)), ("looks", lambda v: group_sequential_constant(v)),
    ("alpha", lambda v: alpha_spending_boundaries([1.], alpha=v)),
    ("rho", lambda v: alpha_spent(.5, alpha=.05, spending="power", rho=v)), ("k", lambda v: conditional_beta_binomial(1, 2, k=v)),
    ("share", lambda v: conditional_beta_binomial(1, 2, share=v)),
    ("alpha", lambda v: conditional_beta_binomial_interval(1, 2, alpha=v)), ("n_star", lambda v: asymptotic_confidence_sequence([1.], [1.], n_star=v)),
    ("k", lambda v: sequential_srm([1, 2], k=v)),
    ("v_opt", lambda v: normal_mixture_boundary(1., v_opt=v)), ("alpha", lambda v: normal_mixture_boundary(1., alpha=v, v_opt=1.)), ("tau2", lambda v: msprt(1, 2, 10, tau2=v)),
    ("n", lambda v: msprt(0, 0, v, tau2=1.)),
    ("alpha", lambda v: msprt_interval(1, 2, 10, tau2=1., alpha=v)), ("prior", lambda v: safe_two_by_two([1], [0], prior=v)), ("alpha", lambda v: empirical_bernstein([.5], alpha=v)),
    ("information", lambda v: conditional_power(1., v)), ("alpha", lambda v: futility_boundaries([1.], alpha=v)), ("power", lambda v: group_sequential_design([1.], power=v)),
    ("level", lambda v: stagewise_estimate([1.], [2.], 1., level=v)), ("daily_units", lambda v: days_to_decision(v, .1, .1)), ("baseline", lambda v: days_to_decision(100, v, .1)),
    ("reps", lambda v: days_to_decision(100, .1, .1, reps=v)),
])
def test_numbers_that_are_none_are_refused_by_name(name, call, bad):
    if name == "n" and bad == [1.]: return        # an array of one size is fine
    with pytest.raises(ValueError, match=name): call(bad)


@pytest.mark.parametrize("bad", [None, [], [0, 1], [.5, .5], [.8, .4], [.5, 1.2], [math.nan, 1], ["a"], [[.5, 1]], .5, [True]])
@pytest.mark.parametrize("call", [alpha_spending_boundaries, group_sequential_design, futility_boundaries])
def test_looks_that_are_none_are_refused(call, bad):
    with pytest.raises(ValueError, match="information"): call(bad)


@pytest.mark.parametrize(("name", "call"), [
    ("x_control", lambda: conditional_beta_binomial(-1, 2)), ("x_treatment", lambda: conditional_beta_binomial(1, 2.5)), ("x_control", lambda: conditional_beta_binomial("5", 2)),
    ("x_treatment", lambda: conditional_beta_binomial([1, 2], [1, math.nan])),
    ("x_control", lambda: conditional_beta_binomial([1, 2], [1, 2, 3])), ("x_control", lambda: conditional_beta_binomial(True, 2)),
    ("x_control", lambda: conditional_beta_binomial_interval(-1, 3)),
    ("counts", lambda: sequential_srm([5])), ("counts", lambda: sequential_srm(None)), ("counts", lambda: sequential_srm([1, -2])), ("weights", lambda: sequential_srm([1, 2], [1.])),
    ("weights", lambda: sequential_srm([1, 2], [1., 0.])), ("weights", lambda: sequential_srm([1, 2], [math.nan, 1])),
    ("control", lambda: discordant_pairs([2], [1])), ("treatment", lambda: discordant_pairs([1], ["a"])), ("control", lambda: discordant_pairs([[1]], [[1]])),
    ("control", lambda: asymptotic_confidence_sequence([math.nan], [1.], n_star=5)), ("treatment", lambda: asymptotic_confidence_sequence([1.], "ab", n_star=5)),
    ("burn_in", lambda: asymptotic_confidence_sequence([1.], [1.], n_star=5, burn_in=-1)),
    ("v", lambda: normal_mixture_boundary(-1., v_opt=1.)), ("alpha_opt", lambda: normal_mixture_boundary(1., v_opt=1., alpha_opt=.7, two_sided=False)),
    ("log_e", lambda: always_valid_p([0., math.nan])),
    ("spending", lambda: alpha_spending_boundaries(FIVE, spending="obf")), ("gamma", lambda: alpha_spending_boundaries(FIVE, spending="hwang-shih-decani")),
    ("gamma", lambda: alpha_spending_boundaries(FIVE, gamma=1.)),
    ("rho", lambda: alpha_spending_boundaries(FIVE, spending="pocock", rho=1.)), ("spend", lambda: alpha_spending_boundaries(FIVE, spend="both")),
    ("sided", lambda: alpha_spending_boundaries(FIVE, sided=3)), ("kind", lambda: group_sequential_constant(3, kind="haybittle")),
    ("upper", lambda: crossing_probabilities(FIVE, [2.] * 4)), ("upper", lambda: crossing_probabilities([1.], ["a"])), ("lower", lambda: crossing_probabilities([1.], [2.], [None])),
    ("upper", lambda: crossing_probabilities([.5, 1], [1., 1.], [2., 0.])),
    ("upper", lambda: crossing_probabilities([1.], [math.nan])), ("drift", lambda: crossing_probabilities([1.], [2.], drift=math.inf)),
    ("last look", lambda: group_sequential_design([.5])), ("boundary", lambda: stagewise_estimate(FIVE, [2.], 1.)), ("z", lambda: stagewise_estimate([1.], [2.], math.nan)),
    ("x_control", lambda: msprt(11, 2, 10, tau2=1.)), ("x_treatment", lambda: msprt(1, -2, 10, tau2=1.)), ("x", lambda: empirical_bernstein([1.5])),
    ("x", lambda: empirical_bernstein([])), ("bounds", lambda: empirical_bernstein([.5], bounds=(1, 0))), ("bounds", lambda: empirical_bernstein([.5], bounds=None)),
    ("control", lambda: safe_two_by_two([], [])), ("control", lambda: safe_two_by_two([1, 0], [1])), ("treatment", lambda: safe_two_by_two([1], [.5])),
    ("z", lambda: conditional_power(math.nan, .5)), ("drift", lambda: conditional_power(1., .5, drift=math.inf)),
    ("relative_effect", lambda: days_to_decision(100, .6, .9)), ("relative_effect", lambda: days_to_decision(100, .6, 0.)), ("daily_units", lambda: days_to_decision(2, .1, .01)),
    ("n", lambda: Moments.from_summary(1, 0., 1.)), ("variance", lambda: Moments.from_summary(5, 0., -1.)), ("looks", lambda: peeking_error(5000)),
])
def test_what_is_impossible_is_refused_by_name(name, call):
    with pytest.raises(ValueError, match=name): call()


def test_shapes_come_back_as_they_went_in():
    assert isinstance(conditional_beta_binomial(3, 4), float) and conditional_beta_binomial(np.ones((2, 3)), 2 * np.ones((2, 3))).shape == (2, 3)
    assert isinstance(sequential_srm([3, 4]), float) and sequential_srm(np.ones((5, 4, 3))).shape == (5, 4)
    assert isinstance(msprt(3, 4, 10, tau2=.1), float) and isinstance(normal_mixture_boundary(3, v_opt=1), float) and isinstance(peeking_error(np.int64(3)), float)
    assert isinstance(pd.DataFrame(SequentialTest().path), pd.DataFrame) and SequentialTest().p_value == 1 and math.isnan(SequentialTest().estimate)
    assert conditional_beta_binomial(0, 0) == 0 and SequentialTest().update([], []).decision == "continue"


@pytest.mark.parametrize(("alpha", "reps"), [(.01, 30_000), (.001, 16_000)])
def test_the_regime_grows_with_the_level_asked_for(alpha, reps):
    rng, new = np.random.default_rng(31), np.array([15_000] + [160]*250 + [640]*200)
    alarms = {"by alpha": 0, "twenty": 0}
    for _ in range(reps // 2000):
        nt = rng.binomial(new, .95, (2000, len(new)))
        xt, xc = rng.binomial(nt, .02).cumsum(1), rng.binomial(new - nt, .02).cumsum(1)
        c, t = Moments.from_counts(xc, (new - nt).cumsum(1)), Moments.from_counts(xt, nt.cumsum(1))
        log_e = asymptotic_confidence_sequence(c, t, alpha=alpha, n_star=20_000, min_count=0).log_e
        for rule, ok in (("by alpha", in_regime(c, t, alpha=alpha)), ("twenty", in_regime(c, t))): alarms[rule] += (np.where(ok, log_e, 0).max(1) >= -math.log(alpha)).sum()
    at_most(alarms["by alpha"], reps, alpha)
    assert alarms["twenty"] > stats.binom.ppf(.9995, reps, alpha)
    assert SequentialTest("asymptotic", alpha=alpha, n_star=100).settings["min_count"] == pytest.approx(20*(math.log(alpha)/math.log(.05))**2)
    assert SequentialTest("group-sequential", alpha=.2, n_max=100).settings["min_count"] == 20


def test_a_reversal_does_not_lend_its_evidence_to_the_decision_before_it():
    test = SequentialTest().update([1]*60 + [0]*140, [1]*25 + [0]*175)
    at_the_decision = test.p_value
    for _ in range(2): test.update([1]*60 + [0]*1940, [1]*180 + [0]*1820)
    assert test.decision == "control higher" and test.p_value < 1e-4 < .04 < at_the_decision
    assert "(p = 0.048 then)" in test.explain() and "say the opposite" in test.explain()
    test.update([1]*180 + [0]*1820, [1]*60 + [0]*1940)
    assert "(p = 0.048 then)" in test.explain() and "leave it open again" in test.explain()


def test_a_sentence_about_a_plan_that_ended_quotes_the_p_value_of_its_interval():
    test = SequentialTest("group-sequential", n_max=4000, spending="pocock").update(np.arange(1000) < 200, np.arange(1000) < 260)
    after = test.after_stopping()
    assert test.finished and f"(p = {after.p_value:.2g})" in test.explain() and after.p_value < test.p_value <= .05
    certain = SequentialTest("group-sequential", n_max=402, min_count=0).update([0]*201, [0] + [1]*200)
    assert certain.finished and certain.after_stopping(level=.99).upper <= 1 and "at 99.9 %" in repr(certain.after_stopping(level=.999))


def test_pairs_are_not_said_to_be_assigned_at_random():
    won = SequentialTest("paired").update(np.arange(400) < 100, np.arange(400) < 300)
    assert won.decision == "treatment higher" and "assigned" not in won.explain() and "could as well have differed the other way" in won.explain()


def test_a_test_whose_looks_never_counted_says_why_and_what_is_missing():
    rng = np.random.default_rng(32)
    spent = [(rng.random(4000) < .05)*rng.lognormal(0, 2, 4000) for _ in range(2)]
    for method, kw, end in (("asymptotic", {"n_star": 8000}, "yet"), ("group-sequential", {"n_max": 8000}, "and the plan has ended")):
        with pytest.warns(RegimeWarning, match=r"each arm needs about [\d,]+ units"): test = SequentialTest(method, **kw).update(*spent)
        again = SequentialTest.from_dict(json.loads(json.dumps(test.to_dict())))
        assert f"nothing can be said, since no look has counted {end}: by what was seen so far each arm needs about" in again.explain() and "compatible" not in again.explain()
    with pytest.warns(RegimeWarning, match="all outcomes are alike"): SequentialTest("asymptotic", n_star=100).update([0]*50, [0]*50)
    with pytest.warns(RegimeWarning, match="an arm is empty"): SequentialTest("asymptotic", n_star=100).update([0, 1]*50, [])
    early = SequentialTest("group-sequential", n_max=10**7).update(np.arange(400) < 100, np.arange(400) < 110)
    assert "no look has counted yet: too little of the planned information." in early.explain()
    left = SequentialTest("asymptotic", n_star=1000).update(rng.normal(size=500), rng.normal(size=500))
    with pytest.warns(RegimeWarning): left.update([1e4], [])
    assert "at 501 units in the control and 500 in the treatment (of which 1 came later and do not count: by what was seen so far each arm needs" in left.explain()
    assert SequentialTest().update([1], [0]).explain().startswith("After 1 look at 1 unit in the control and 1 in")


def test_daily_counts_are_outcomes():
    rng = np.random.default_rng(33)
    for method, kw in METHODS:
        if method == "paired": continue
        rows, sums = SequentialTest(method, **kw), SequentialTest(method, **kw)
        for _ in range(5):
            y = [rng.random(300) < p for p in (.3, .35)]
            rows.update(*y)
            sums.update(*(Moments.from_counts(int(a.sum()), a.size) for a in y))
        assert sums.to_dict() == rows.to_dict()
    test = SequentialTest("asymptotic", n_star=1000).update(Moments.from_summary(500, 10., 4.), Moments.from_summary(480, 10.5, 4.))
    assert test.estimate == pytest.approx(.5) and test.control.n == 500
    before = test.to_dict()
    for wrong, words in ((Moments.from_counts([1, 2], [3, 4]), "one look at a time"), (Moments(-1.), "no moments"), (Moments(2., math.nan, 1., 0., False), "finite"), (12, "Moments.from_counts"),
                         (Moments(4., 1e308, 1., 0., True), "no moments"), (Moments(10., 1e200, 1., 0., False), "no moments"),
                         (Moments.from_summary(10**12, 0., 1.), "at most 1,000,000,000,000 units")):
        with pytest.raises(ValueError, match=words): test.update(wrong, Moments.from_counts(1, 2))
    with pytest.raises(ValueError, match="belong together"): SequentialTest("paired").update(Moments.from_counts(1, 2), Moments.from_counts(1, 2))
    assert test.to_dict() == before


@pytest.mark.parametrize("call", [lambda m: SequentialTest().update(m, [0]), lambda m: SequentialTest("paired").update(m, [0, 1]), sequential_srm, empirical_bernstein,
                                  lambda m: safe_two_by_two(m, [0, 1]), lambda m: conditional_beta_binomial(m, [1, 1]), lambda m: msprt(m, [1, 1], [2, 2], tau2=.1),
                                  lambda m: alpha_spent(m, alpha=.05)])
def test_masked_values_are_refused_everywhere(call):
    with pytest.raises(ValueError, match="masked array"): call(np.ma.array([1, 1], mask=[0, 1]))


@pytest.mark.parametrize(("method", "kw"), METHODS)
def test_a_plot_shows_the_boundary_from_the_first_look(method, kw):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    ax = SequentialTest(method, **kw).update(np.arange(300) % 2, np.arange(300) % 2).plot()
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    dashed = ax.lines[names.index("boundary")]
    assert list(ax.lines[0].get_xdata()) == [300 if method == "paired" else 600] and ax.get_xlabel() == ("pairs" if method == "paired" else "units in both arms")
    assert names == ["a look", "boundary"] and (method == "group-sequential" or list(dashed.get_ydata()) == [pytest.approx(math.log10(20))]*2)
    plt.close(ax.figure)


def test_a_stored_state_cannot_forget_the_alarm_of_its_split():
    test = SequentialTest().update(np.zeros(2000), np.zeros(1000))
    assert test.srm_p_value < .001
    for state in (test.to_dict() | {"srm": 0.}, SequentialTest("paired").update([0, 1], [1, 0]).to_dict() | {"srm": 50.}):
        with pytest.raises(ValueError, match="srm"): SequentialTest.from_dict(state)
    with pytest.raises(ValueError, match="json.loads"): SequentialTest.from_dict(json.dumps(test.to_dict()))
    huge = SequentialTest(share=.9).update(*[Moments.from_counts(10**11, 10**12)]*2)
    assert SequentialTest.from_dict(huge.to_dict()).to_dict() == huge.to_dict() and "other shares" in huge.explain()


@pytest.mark.parametrize("name", ["spending", "beta_spending"])
def test_futility_plans_name_the_spending_that_they_know(name):
    with pytest.raises(ValueError, match=f"{name}='power': known are obrien-fleming, pocock"): futility_boundaries(FIVE, **{name: "power"})


def test_plans_and_tests_can_be_looked_at():
    plan, giving_up = group_sequential_design(FIVE), futility_boundaries(FIVE)
    upper, lower, _ = (ax := plan.plot()).lines
    assert upper.get_xdata().tolist() == list(FIVE) and upper.get_ydata().tolist() == list(plan.boundary) == (-lower.get_ydata()).tolist()
    assert ax.get_title() == f"5 looks, {plan.inflation:.3f} times the fixed sample"
    upper, lower, _ = giving_up.plot().lines
    assert list(upper.get_ydata()) == list(giving_up.upper) and list(lower.get_ydata()) == list(giving_up.lower)
    assert repr(giving_up) == (f"FutilityPlan(looks 5, one-sided alpha 0.025, power 0.8: needs up to {giving_up.inflation:.3f} times the fixed sample,"
                               f" {giving_up.inflation*giving_up.expected_information(0.):.3f} on average without an effect)")
    test = SequentialTest().update(Moments.from_counts(100, 1000), Moments.from_counts(160, 1000))
    page = test._repr_html_()
    assert test.explain() in page and ">1,000<" in page and ">0.16<" in page and "nan" not in SequentialTest()._repr_html_().split("<table")[1]
    plt.close("all")
