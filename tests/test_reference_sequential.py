"The public reference numbers of sequential analysis, each as a test (tests/data/statistics.json; the notes say which convention is meant)."
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from mlscale.martingales import empirical_bernstein, msprt, msprt_interval, safe_two_by_two
from mlscale.sequential import (
    Moments,
    SequentialTest,
    alpha_spending_boundaries,
    alpha_spent,
    always_valid_p,
    asymptotic_confidence_sequence,
    conditional_beta_binomial,
    conditional_beta_binomial_interval,
    crossing_probabilities,
    group_sequential_constant,
    group_sequential_design,
    normal_mixture_boundary,
    peeking_error,
    sequential_srm,
)

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "statistics.json").read_text())["cases"]


def cases(group):
    found = [c for c in CASES if c["group"] == group]
    assert found, f"no case of the group {group}"
    return pytest.mark.parametrize("case", found, ids=[c["id"] for c in found])


def close(got, want, rel=1e-8): assert np.asarray(got, float) == pytest.approx(np.asarray(want, float), rel=rel, abs=1e-12)


@cases("group_sequential_constants")
def test_constants_boundaries_and_inflation(case):
    K, alpha, want = case["inputs"]["K"], case["inputs"]["alpha"], case["expected"]
    t = np.arange(1, K + 1) / K
    z = {"obf": group_sequential_constant(K, alpha=alpha) / np.sqrt(t), "pocock": np.full(K, group_sequential_constant(K, alpha=alpha, kind="pocock")),
         "ld_obf": alpha_spending_boundaries(t, alpha=alpha)}
    kinds = {"obf": "obrien-fleming", "pocock": "pocock"}
    for key, value in want.items():
        kind = key.removesuffix(key[key.index("_constant"):]) if "_constant" in key else key[:max(key.find(s) for s in ("_boundaries", "_nominal", "_inflation"))]
        if key.endswith("_constant"): got = z[kind][-1]
        elif key.endswith("_constant_alpha01"): got = group_sequential_constant(K, alpha=.01, kind=kinds[kind])
        elif key.endswith("_boundaries"): got = z[kind]
        elif key.endswith("_nominal_p"): got = np.vectorize(lambda v: math.erfc(v / math.sqrt(2)))(z[kind])[:np.size(value)]
        elif "_inflation_power" in key: got = group_sequential_design(t, boundary=z[kind], alpha=alpha, power=int(key[-2:]) / 100).inflation
        else: raise AssertionError(f"unknown key {key}")
        assert np.ravel(got) == pytest.approx(np.ravel(value), abs=1e-5 if "inflation" in key else 1e-6), key


@cases("alpha_spending")
def test_error_spending(case):
    x, want = case["inputs"], case["expected"]
    assert x["sided"] == 2
    name, numbers = x["spending"], [float(v) for v in re.findall(r"=(-?[\d.]+)", x["spending"])]
    settings = {"obf": dict(spending="obrien-fleming"), "pocock": dict(spending="pocock"), "power": dict(spending="power", rho=(numbers or [None])[0]),
                "hsd": dict(spending="hwang-shih-decani", gamma=(numbers or [None])[0])}[name.split()[0]]
    spend = "total" if "single" in name else "per-side"
    z = alpha_spending_boundaries(x["information_fractions"], alpha=x["alpha"], spend=spend, **settings)
    assert z == pytest.approx(want["boundaries_z"], abs=1e-6)
    t = np.array(x["information_fractions"])
    spent = 2 * alpha_spent(t, alpha=x["alpha"] / 2, **settings) if spend == "per-side" else alpha_spent(t, alpha=x["alpha"], **settings)
    close(spent, want["cumulative_alpha_two_sided"], rel=1e-9)
    up, down = crossing_probabilities(t, z)
    close((up + down).cumsum(), want["cumulative_alpha_two_sided"], rel=1e-7)


@cases("naive_peeking_type1")
def test_peeking(case):
    assert peeking_error(case["inputs"]["looks"], alpha=case["inputs"]["nominal_alpha"]) == pytest.approx(case["expected"]["type1"], abs=1e-9)


@cases("conditional_beta_binomial")
def test_conditional_beta_binomial(case):
    x, want = case["inputs"], case["expected"]
    xc, xt, share, k = x["control_conversions"], x["treatment_conversions"], x["rho_treatment_share"], x["k"]
    log_e = conditional_beta_binomial(xc, xt, share=share, k=k)
    close(log_e, want["log_e"])
    close(always_valid_p(log_e), want["p_single_look"])
    ratio = conditional_beta_binomial_interval(xc, xt, alpha=x["alpha"], share=share, k=k)
    close(ratio, want["risk_ratio_cs"], rel=1e-7)
    close([r * share / (r * share + 1 - share) for r in ratio], want["theta_cs"])


@cases("msprt_two_proportion")
def test_msprt(case):
    x, want = case["inputs"], case["expected"]
    args = x["control_conversions"], x["treatment_conversions"], x["n_per_arm"]
    ratio = msprt(*args, tau2=x["tau2"])
    close(ratio, want["lambda_n"])
    close(min(1, 1 / ratio), want["p_single_look"])
    close(msprt_interval(*args, tau2=x["tau2"], alpha=x["alpha"]), want["ci"])


@cases("safe_2x2")
def test_safe_two_by_two(case):
    i = np.arange(1, case["inputs"]["n"] + 1)
    a, b = ((7919 * i) % 1000 < 100).astype(int), ((6133 * i) % 1000 < 160).astype(int)
    assert (a.sum(), b.sum()) == (case["expected"]["successes_a"], case["expected"]["successes_b"])
    close(safe_two_by_two(a, b, prior=.18), case["expected"]["e_value"])


@cases("sequential_srm")
def test_sequential_srm(case):
    x, want = case["inputs"], case["expected"]
    log_e = sequential_srm(x["counts"], x["weights"], k=x["k"])
    close(log_e, want["log_e"])
    close(always_valid_p(log_e), want["p_single_look"])


def check_sequence(seq, want):
    close([seq.lower, seq.upper], want["ci"])
    close(seq.log_e, want["log_e"])
    close(seq.p_value, want["p_always_valid"])


@cases("asymptotic_cs_proportions")
def test_asymptotic_sequence_of_rates(case):
    x = case["inputs"]
    counts = [(x[f"{arm}_conversions"], x[f"{arm}_total"]) for arm in ("control", "treatment")]
    kw = dict(alpha=x["alpha"], n_star=x["n_star_total"])
    check_sequence(asymptotic_confidence_sequence(*(Moments.from_counts(*c) for c in counts), **kw), case["expected"])
    raw = [np.repeat([1, 0], [s, n - s]) for s, n in counts]   # the same from single outcomes
    check_sequence(asymptotic_confidence_sequence(*raw, **kw), case["expected"])


@cases("asymptotic_cs_means")
def test_asymptotic_sequence_of_means(case):
    x = case["inputs"]
    arms = [(x[f"{arm}_n"], x[f"{arm}_mean"], x[f"{arm}_var"]) for arm in ("control", "treatment")]
    kw = dict(alpha=x["alpha"], n_star=x["n_star_total"])
    check_sequence(asymptotic_confidence_sequence(*(Moments.from_summary(*a) for a in arms), **kw), case["expected"])
    rng = np.random.default_rng(0)
    raw = []
    for n, mean, variance in arms:
        v = rng.normal(size=n)
        raw.append(mean + (v - v.mean()) / v.std(ddof=1) * math.sqrt(variance))
    check_sequence(asymptotic_confidence_sequence(*raw, **kw), case["expected"])


@cases("bounded_mean_cs")
def test_bounded_mean(case):
    i = np.arange(1, case["inputs"]["n"] + 1)
    lower, upper = empirical_bernstein(.6 * ((7919 * i) % 1000) / 1000, alpha=case["inputs"]["alpha"])
    assert (lower, upper) == pytest.approx((case["expected"]["lower"], case["expected"]["upper"]), abs=1e-9)


@cases("normal_mixture_boundary")
def test_normal_mixture(case):
    x = case["inputs"]
    assert normal_mixture_boundary(x["v"], alpha=x["alpha"], v_opt=x["v_opt"], two_sided=x["two_sided"]) == pytest.approx(case["expected"]["bound"], rel=1e-9)


@cases("stream_path")
@pytest.mark.filterwarnings("ignore::mlscale.sequential.RegimeWarning")
def test_a_whole_stream_look_by_look_through_sequential_test(case):
    x, want = case["inputs"], case["expected"]
    j = np.arange(1, x["n"] + 1, dtype=np.uint64)
    mod = np.uint64(2**32)
    arm = ((j * np.uint64(2654435761) % mod) // np.uint64(65536)) % np.uint64(2) == 1
    y = ((j * np.uint64(40503) + np.uint64(12345)) * np.uint64(2654435761) % mod) / 2**32 < np.where(arm, .12, .10)
    exact = SequentialTest("beta-binomial", alpha=x["alpha"], k=x["k"])
    normal = SequentialTest("asymptotic", alpha=x["alpha"], n_star=x["n_star_total"], min_count=1e-9)
    assert (arm.sum(), (y & arm).sum(), (y & ~arm).sum()) == (want["n_treatment"], want["conv_treatment"], want["conv_control"])
    best = 0.
    for converted, treated in zip(y, arm, strict=True):
        outcome = [converted], []
        for test in (exact, normal): test.update(*(outcome[::-1] if treated else outcome))
        if min(normal.control.m2, normal.treatment.m2) > 0: best = max(best, normal._path[-1][3])   # the reference skips looks at which an arm does not vary
    close(exact._path[-1][3], want["cond_bb_log_e"], rel=1e-7)
    close(exact.p_value, want["cond_bb_running_p"])
    close(normal._path[-1][3], want["asymp_log_e"])
    close(math.exp(-best), want["asymp_running_p_skip_zero_var"])


def test_a_hundred_looks_against_forty_digits():
    stored = json.loads((DATA / "sequential_boundaries.json").read_text())
    for spending in ("obrien-fleming", "pocock"):
        z = alpha_spending_boundaries(np.arange(1, 101) / 100, spending=spending)
        assert np.abs(z - np.array(stored[spending], float)).max() < 1e-9
