"The reference numbers of `tests/data/statistics.json`: the fixed-sample methods, case by case, each to the tolerance that the case states or better."
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mlscale import experiments as e
from mlscale import planning

CASES = json.loads((Path(__file__).parent / "data" / "statistics.json").read_text(encoding="utf-8"))["cases"]
GROUPS = {"sample_size_proportions", "sample_size_unequal", "power_proportions", "mde_for_n", "sample_size_means", "two_proportion_table", "welch", "srm", "cuped",
          "ratio_metric_delta", "multiple_testing", "exact_size_pooled_z", "exact_ci_coverage_95", "bayesian_beta_binomial", "hash_assignment"}


def of(*groups): return [pytest.param(c["inputs"], c["expected"], id=c["id"]) for c in CASES if c["group"] in groups]


def close(rel=1e-9, absolute=0.): return lambda expected: pytest.approx(expected, rel=rel, abs=absolute)


exactly, digits = close(1e-12, 1e-12), close(1e-8)


def test_every_group_of_the_fixed_sample_methods_is_in_the_file():
    assert {c["group"] for c in CASES} >= GROUPS | {"must_raise"}


@pytest.mark.parametrize(("given", "expected"), of("sample_size_proportions"))
def test_sample_size_proportions(given, expected):
    n = e.sample_size_proportions(given["baseline"], given["relative_mde"], alpha=given["alpha"], power=given["power"], ratio=given["ratio"])
    assert n == (expected["n_ceil_pooled"],)*2
    rates, quantiles = planning._two_rates(given["baseline"], given["relative_mde"], "relative_mde"), planning._z_alpha_power(given["alpha"], given["power"])
    assert planning._needed(*rates, *quantiles, given["ratio"]) == digits(expected["n_per_arm_pooled"])
    (pc, pt, difference), z = rates, sum(quantiles)      # the two others that people use, which we do not offer
    unpooled = (z/difference)**2*(pc*(1 - pc) + pt*(1 - pt))
    assert unpooled == digits(expected["n_per_arm_unpooled"]) and math.ceil(unpooled) == expected["n_ceil_unpooled"]
    assert 2*(z/(2*math.asin(math.sqrt(pt)) - 2*math.asin(math.sqrt(pc))))**2 == pytest.approx(expected["n_per_arm_arcsine"], rel=1e-5)
    assert expected.keys() == {"n_per_arm_pooled", "n_ceil_pooled", "n_per_arm_unpooled", "n_ceil_unpooled", "n_per_arm_arcsine"}
    analyzer = e.ABTestAnalyzer(alpha=given["alpha"], mde=given["relative_mde"])
    assert analyzer.required_sample_size(given["baseline"], power=given["power"]) == n[0]


@pytest.mark.parametrize(("given", "expected"), of("sample_size_unequal"))
def test_sample_size_of_unequal_arms(given, expected):
    n = e.sample_size_proportions(given["baseline"], given["relative_mde"], alpha=given["alpha"], power=given["power"], ratio=given["n_treatment_over_n_control"])
    assert n == (math.ceil(expected["n_control"]), math.ceil(expected["n_treatment"]))
    ratio = given["n_treatment_over_n_control"]
    control = planning._needed(*planning._two_rates(given["baseline"], given["relative_mde"], "relative_mde"), *planning._z_alpha_power(given["alpha"], given["power"]), ratio)
    assert (control, ratio*control) == digits((expected["n_control"], expected["n_treatment"]))


@pytest.mark.parametrize(("given", "expected"), of("power_proportions"))
def test_power_proportions(given, expected):
    assert e.power_proportions(given["p_control"], given["p_treatment"], given["n_per_arm"], alpha=given["alpha"]) == exactly(expected["power"])


@pytest.mark.parametrize(("given", "expected"), of("mde_for_n"))
def test_minimum_detectable_effect(given, expected):
    mde = e.minimum_detectable_effect(given["baseline"], given["n_per_arm"], alpha=given["alpha"], power=given["power"], direction=given["direction"])
    assert mde == digits(expected["relative_mde"])
    assert given["baseline"]*(1 + mde) == digits(expected["p_treatment"]) and given["baseline"]*abs(mde) == pytest.approx(abs(expected["absolute_mde"]), rel=1e-6)


@pytest.mark.parametrize(("given", "expected"), of("sample_size_means"))
def test_sample_size_means(given, expected):
    n = e.sample_size_means(given["sd"], given["delta"], alpha=given["alpha"], power=given["power"])
    assert n == math.ceil(expected["n_per_arm_t"])
    assert e.power_means(given["sd"], given["delta"], expected["n_per_arm_t"], alpha=given["alpha"]) == pytest.approx(given["power"], rel=1e-6)
    assert 2*(sum(planning._z_alpha_power(given["alpha"], given["power"]))*given["sd"]/given["delta"])**2 == pytest.approx(expected["n_per_arm_z"], rel=1e-6)


METHODS = {"wald_unpooled": "wald", "newcombe": "newcombe", "agresti_caffo": "agresti-caffo", "miettinen_nurminen": "miettinen-nurminen", "mee": "mee"}


def lift_delta(xc, nc, xt, nt):
    "The textbook's interval of the relative lift: a normal ratio."
    pc, pt, z = xc/nc, xt/nt, stats.norm.isf(.025)
    half = z*pt/pc*math.sqrt((1 - pt)/(nt*pt) + (1 - pc)/(nc*pc))
    return pt/pc - 1 - half, pt/pc - 1 + half


def lift_fieller(xc, nc, xt, nt):
    "Fieller's, from a quadratic equation with Wald's variances; none where the control's rate cannot be told from 0."
    pc, pt, z2 = xc/nc, xt/nt, stats.norm.isf(.025)**2
    a, c = pc**2 - z2*pc*(1 - pc)/nc, pt**2 - z2*pt*(1 - pt)/nt
    root = math.sqrt((pc*pt)**2 - a*c) if a > 0 else math.nan
    return ((pc*pt - root)/a - 1, (pc*pt + root)/a - 1) if a > 0 else None


COMPARED = {"z_pooled", "p_two_sided", "log10_p", *(f"{m}_{level}" for m in METHODS for level in (95, 99)), "risk_ratio_katz_95", "risk_ratio_koopman_95"}
NOT_OFFERED = {"relative_lift_delta_95": lift_delta, "relative_lift_fieller_95": lift_fieller, "fisher_p": lambda xc, nc, xt, nt: stats.fisher_exact([[xc, nc - xc], [xt, nt - xt]]).pvalue}


@pytest.mark.parametrize(("given", "expected"), of("two_proportion_table"))
def test_the_methods_of_a_table_that_we_do_not_offer_are_known_by_name(given, expected):
    "Recomputed here, so that a key of the file is never skipped without a word."
    assert expected.keys() <= COMPARED | NOT_OFFERED.keys()
    table = tuple(given[k] for k in ("control_conversions", "control_total", "treatment_conversions", "treatment_total"))
    for key, method in NOT_OFFERED.items():
        if expected.get(key) is not None: assert method(*table) == pytest.approx(expected[key] if key == "fisher_p" else tuple(expected[key]), rel=1e-6, abs=1e-12), key


@pytest.mark.parametrize(("given", "expected"), of("two_proportion_table"))
def test_two_proportion_table(given, expected):
    table = tuple(given[k] for k in ("control_conversions", "control_total", "treatment_conversions", "treatment_total"))
    result = e.ABTestAnalyzer().analyze(*table)
    assert result["z"] == (close(1e-9)(expected["z_pooled"]) if expected["z_pooled"] is not None else 0)
    assert result["log10_p"] == pytest.approx(expected["log10_p"], rel=1e-9, abs=1e-12)
    if expected["p_two_sided"] > 1e-300: assert result["p_value"] == digits(expected["p_two_sided"])
    for key, limits in expected.items():
        name, _, level = key.rpartition("_")
        if name in METHODS: assert e.diff_proportions_ci(*table, level=int(level)/100, method=METHODS[name]) == exactly(tuple(limits)), key
        if name in ("risk_ratio_koopman", "risk_ratio_katz") and limits is not None:
            limits = tuple(math.inf if x == "inf" else x for x in limits)
            assert e.ratio_proportions_ci(*table, level=int(level)/100, method=name[11:]) == digits(limits), key
    assert result["ci_95"] == exactly(tuple(expected["miettinen_nurminen_95"]))


@pytest.mark.parametrize(("given", "expected"), of("welch"))
def test_welch(given, expected):
    if "control" in given: effect = e.welch_test(given["control"], given["treatment"], alpha=given["alpha"])
    else: effect = e.welch_from_moments(*(given[f"{arm}_{m}"] for arm in ("control", "treatment") for m in ("mean", "sd", "n")), alpha=given["alpha"])
    assert (effect.statistic, effect.df, effect.p_value, *effect.ci) == close(1e-9)((expected["t"], expected["df"], expected["p"], *expected["ci_95"]))


@pytest.mark.parametrize(("given", "expected"), of("srm"))
def test_srm(given, expected):
    found = e.srm_test(given["counts"], given["weights"])
    assert (found.chi2, found.log10_p) == digits((expected["chi2"], expected["log10_p"]))
    if expected["p"] > 1e-300: assert found.p_value == digits(expected["p"])


@pytest.mark.parametrize(("given", "expected"), of("cuped"))
def test_cuped(given, expected):
    effect = e.cuped(given["y"], given["x"], given["variant"])
    assert (effect.theta, effect.rho, effect.variance_ratio, effect.difference, effect.se, effect.statistic, effect.df, effect.p_value, *effect.ci) == digits(
        (*(expected[k] for k in ("theta", "rho", "variance_ratio_adjusted_over_raw", "adjusted_diff", "se", "t", "df", "p")), *expected["ci_95"]))


@pytest.mark.parametrize(("given", "expected"), of("ratio_metric_delta"))
def test_ratio_metric(given, expected):
    normal, t = (e.ratio_metric_test(given["numerator"], given["denominator"], given["variant"], distribution=d) for d in ("normal", "t"))
    assert (normal.control, normal.treatment, normal.difference, normal.se, normal.statistic, normal.p_value, *normal.ci, *t.ci) == digits(
        (*(expected[k] for k in ("ratio_control", "ratio_treatment", "diff", "se_delta", "z", "p_normal")), *expected["ci_95_normal"], *expected["ci_95_welch_t"]))
    y, x, arm = (np.array(given[k]) for k in ("numerator", "denominator", "variant"))
    naive = math.sqrt(sum(y[arm == k].var(ddof=1)/(arm == k).sum()/x[arm == k].mean()**2 for k in (0, 1)))      # as if the denominators were fixed
    assert naive == digits(expected["naive_se_ignoring_cov"]) and naive > 4*normal.se


@pytest.mark.parametrize(("given", "expected"), of("multiple_testing"))
def test_multiple_testing(given, expected):
    for method, p in expected.items(): assert e.adjust_pvalues(given["p_values"], method) == pytest.approx(np.array(p), abs=1e-10), method


@pytest.mark.parametrize(("given", "expected"), of("exact_size_pooled_z"))
def test_exact_size(given, expected):
    assert e.exact_size(given["n_control"], given["n_treatment"], given["p"], alpha=given["alpha"]) == pytest.approx(expected["type1"], abs=1e-9)


def pooled_se(xc, nc, xt, nt):
    p, d = (xc + xt)/(nc + nt), xt/nt - xc/nc
    half = stats.norm.isf(.025)*np.sqrt(p*(1 - p)*(1/nc + 1/nt))
    return d - half, d + half


@pytest.mark.parametrize(("given", "expected"), of("exact_ci_coverage_95"))
def test_exact_coverage(given, expected):
    design = tuple(given[k] for k in ("n_control", "n_treatment", "p_control", "p_treatment"))
    methods = {"pooled_se_ci": pooled_se} | {f"{k}_ci": m for k, m in METHODS.items()}
    for key, coverage in expected.items(): assert e.exact_coverage(*design, method=methods[key]) == pytest.approx(coverage, abs=1e-6), key


@pytest.mark.parametrize(("given", "expected"), of("bayesian_beta_binomial"))
def test_beta_binomial(given, expected):
    assert given["prior"] == "Beta(1,1)"
    table = tuple(given[k] for k in ("control_conversions", "control_total", "treatment_conversions", "treatment_total"))
    assert e.beta_binomial(*table) == pytest.approx((expected["prob_treatment_better"], expected["expected_loss_choose_treatment"]), rel=1e-7)


@pytest.mark.parametrize(("given", "expected"), of("hash_assignment"))
def test_hashes_of_other_systems(given, expected):
    for method, key in (("growthbook", "growthbook_v2"), ("planout", "planout_sha1")):
        assert e.bucket(given["unit"], given["seed"], method=method) == pytest.approx(expected[key], abs=1e-12)


MUST_RAISE = {
    "analyze(5,0,5,100)": lambda: e.ABTestAnalyzer().analyze(5, 0, 5, 100),
    "analyze(-5,100,10,100)": lambda: e.ABTestAnalyzer().analyze(-5, 100, 10, 100),
    "required_sample_size(0)": lambda: e.ABTestAnalyzer().required_sample_size(0),
    "mde=0": lambda: e.ABTestAnalyzer(mde=0),
    "baseline=.1, mde=-1.5 (p2<0)": lambda: e.sample_size_proportions(.1, -1.5),
    "alpha=5": lambda: e.ABTestAnalyzer(alpha=5),
    "power=80": lambda: e.ABTestAnalyzer().required_sample_size(.1, power=80)}


@pytest.mark.parametrize("case", [pytest.param(c["inputs"]["call"], id=c["id"]) for c in CASES if c["group"] == "must_raise"])
def test_impossible_input_is_refused_with_a_value_error(case):
    with pytest.raises(ValueError, match="="): MUST_RAISE[case]()
