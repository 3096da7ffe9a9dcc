"""Experiments: what four libraries answer to the same tables, how often their intervals hold the truth, and what it costs, looked at once or often.

    python benchmarks/experiments.py          # a few minutes
    python benchmarks/experiments.py --all    # larger designs for the coverage, more rounds
    python benchmarks/experiments.py bayes    # one part alone
"""
import json
import math
import sys
from pathlib import Path

import numpy as np
import sequential
from harness import ask, peer, seconds, store
from scipy import stats

from mlscale.experiments import ABTestAnalyzer, beta_binomial, cuped, diff_proportions_ci, pooled_z_test, ratio_metric_test

PEERS = {"statsmodels": ["statsmodels==0.15.0"], "tea-tasting": ["tea-tasting==1.14.0"],
         "spotify-confidence": ["spotify-confidence==4.1.0"], "gbstats": ["gbstats==0.8.0", "numpy<2"]}

# conversions and units of the control, then of the treatment
TABLES = {"ordinary": (500, 10_000, 570, 10_000), "small": (1, 34, 7, 34), "uneven arms": (9900, 10_000, 60, 100), "none in the control": (0, 100, 5, 100),
          "none at all": (0, 50, 0, 60), "overwhelming": (1000, 100_000, 5000, 100_000)}

COUNTS = ("control_conversions", "control_total", "treatment_conversions", "treatment_total")


def cases(group):
    "The reference cases of a group."
    path = Path(__file__).parent.parent / "tests" / "data" / "statistics.json"
    return [c for c in json.loads(path.read_text())["cases"] if c["group"] == group]


# each leaves in `answer` a list of {method: [low, high, p]} for the tables in data["tables"]; None where there is no number
HEAD = """
import math, warnings
warnings.simplefilter("ignore")
def attempt(f, *a):
    try: values = [float(v) for v in f(*a)]
    except Exception as e: return [None]*3
    return [v if math.isfinite(v) else None for v in values]
"""
CODE = {
    "statsmodels": HEAD + """
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest
def run(method):
    return lambda xc, nc, xt, nt: (*confint_proportions_2indep(xt, nt, xc, nc, method=method), proportions_ztest([xt, xc], [nt, nc])[1] if data["p"] else 0)
answer = [{m: attempt(run(m), *t) for m in ("newcomb", "score")} for t in data["tables"]]
""",
    "tea-tasting": HEAD + """
import tea_tasting
from tea_tasting.aggr import Aggregates
# the default, "auto", takes Barnard's exact test below 1,000 units in all and then gives a p-value but no interval; "norm" always gives one
methods = {"Proportion": "norm"} | ({"Proportion, method auto": "auto"} if data["p"] else {})
arm = lambda x, n: Aggregates(count_=n, mean_={"x": x/n}, var_={}, cov_={})
def run(method):
    def one(xc, nc, xt, nt):
        r = tea_tasting.Proportion("x", method=method).analyze_aggregates(arm(xc, nc), arm(xt, nt))
        return r.effect_size_ci_lower, r.effect_size_ci_upper, r.pvalue
    return one
answer = [{m: attempt(run(method), *t) for m, method in methods.items()} for t in data["tables"]]
""",
    "spotify-confidence": HEAD + """
import pandas as pd
import spotify_confidence
tests = {"ChiSquared": (spotify_confidence.ChiSquared, {}), "ZTest": (spotify_confidence.ZTest, {"numerator_sum_squares_column": "x"})}
def run(name):
    def one(xc, nc, xt, nt):
        test, more = tests[name]
        frame = pd.DataFrame({"arm": ["c", "t"], "x": [xc, xt], "n": [nc, nt]})
        r = test(frame, numerator_column="x", denominator_column="n", categorical_group_columns="arm", **more).difference("c", "t").iloc[0]
        return r["ci_lower"], r["ci_upper"], r["p-value"]
    return one
answer = [{m: attempt(run(m), *t) for m in tests} for t in data["tables"]]
""",
    "gbstats": HEAD + """
from gbstats.frequentist.tests import FrequentistConfig, TwoSidedTTest
from gbstats.models.statistics import ProportionStatistic
arm = lambda x, n: ProportionStatistic(n=n, sum=x)
def run(xc, nc, xt, nt):
    r = TwoSidedTTest(arm(xc, nc), arm(xt, nt), FrequentistConfig(difference_type="absolute")).compute_result()
    return *r.ci, r.p_value
answer = [{"TwoSidedTTest": attempt(run, *t)} for t in data["tables"]]
"""}


def ours(tables):
    "As the peers."
    analyzer = ABTestAnalyzer()
    return [{"ABTestAnalyzer": [*(r := analyzer.analyze(*t))["ci_95"], r["p_value"]]} for t in tables]


def answers(tables, p=True):
    "The answers of all: {(library, method): [[low, high, p], ...]}; without p-values, methods that differ in them only are asked once."
    out = {}
    for name, requirements in PEERS.items():
        code = CODE[name] if p else CODE[name].replace("for m in tests}", "for m in ['ChiSquared']}")
        got = ask(peer(name, requirements), code, tables=tables, p=p)
        out |= {(name, m): [g[m] for g in got] for m in got[0]}
    return out | {("mlscale", "ABTestAnalyzer"): [a["ABTestAnalyzer"] for a in ours(tables)]}


def exact(tables):
    "Miettinen-Nurminen's limits and the p-value of the pooled z, in 90 digits, where the reference has the table."
    rows = {tuple(c["inputs"][k] for k in COUNTS): c["expected"] for c in cases("two_proportion_table")}
    return [[*rows[t]["miettinen_nurminen_95"], rows[t]["p_two_sided"]] if t in rows else [None]*3 for t in tables]


def one_by_one():
    "Interval and p-value of each library for each table."
    tables = list(TABLES.values())
    got = answers(tables) | {("reference", "Miettinen-Nurminen in 90 digits"): exact(tables)}
    store("experiments_tables", [{"table": name, "counts": "{:,}/{:,} against {:,}/{:,}".format(*t), "library": library, "method": method,
                                  "low": rows[i][0], "high": rows[i][1], "p": rows[i][2]}
                                 for i, (name, t) in enumerate(TABLES.items()) for (library, method), rows in got.items()], ("numpy", "scipy"))


def coverage(designs):
    "The exact coverage of each library's nominal 95 % interval: every table that matters, weighted by its probability."
    rows = []
    for nc, nt, pc, pt in designs:
        xc, xt = (np.flatnonzero(stats.binom.pmf(np.arange(n + 1), n, p) > 1e-7) for n, p in ((nc, pc), (nt, pt)))
        tables = [(int(a), nc, int(b), nt) for a in xc for b in xt]
        weight = np.outer(stats.binom.pmf(xc, nc, pc), stats.binom.pmf(xt, nt, pt)).ravel()
        for (library, method), got in answers(tables, p=False).items():
            low, high = (np.array([r[i] if r[0] is not None and r[1] is not None else math.nan for r in got], float) for i in (0, 1))
            rows.append({"design": f"{nc} at {pc:g}, {nt} at {pt:g}", "library": library, "method": method,
                         "coverage": float(weight @ ((low <= pt - pc) & (pt - pc <= high))), "no answer": float(weight @ np.isnan(low))})
    store("experiments_coverage", rows, ("numpy", "scipy"))


def bayes():
    "Probability that the treatment is better, where an exact answer exists; spotify-confidence's prior is Beta(.5, .5), gbstats' flat and its posterior normal."
    tables = {"small": (3, 10, 9, 10), "ordinary": (120, 1000, 150, 1000), "none in the control": (0, 100, 5, 100)}
    spotify = """
import numpy as np, pandas as pd, spotify_confidence
np.random.seed(0)
answer = [float(spotify_confidence.BetaBinomial(pd.DataFrame({"arm": ["c", "t"], "x": [t[0], t[2]], "n": [t[1], t[3]]}), numerator_column="x",
          denominator_column="n", categorical_group_columns="arm").difference("c", "t").iloc[0]["P(level_2 > level_1)"]) for t in data["tables"]]
"""
    gb = """
from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig
from gbstats.models.statistics import ProportionStatistic
arm = lambda x, n: ProportionStatistic(n=n, sum=x)
answer = [EffectBayesianABTest(arm(*t[:2]), arm(*t[2:]), EffectBayesianConfig(difference_type="absolute")).compute_result().chance_to_win for t in data["tables"]]
"""
    got = {"spotify-confidence": ask(peer("spotify-confidence", PEERS["spotify-confidence"]), spotify, tables=list(tables.values())),
           "gbstats": ask(peer("gbstats", PEERS["gbstats"]), gb, tables=list(tables.values()))}
    store("experiments_bayes", [{"table": name, "counts": "{:,}/{:,} against {:,}/{:,}".format(*t), "mlscale": beta_binomial(*t)[0], "mlscale, prior (.5, .5)": beta_binomial(*t, prior=(.5, .5))[0],
                                 **{library: float(a[i]) for library, a in got.items()}} for i, (name, t) in enumerate(tables.items())], ("numpy", "scipy"))


def reference():
    "The largest error of the Miettinen-Nurminen limits on the reference tables that are answered."
    known = cases("two_proportion_table")
    tables = [tuple(c["inputs"][k] for k in COUNTS) for c in known]
    true = np.array([c["expected"]["miettinen_nurminen_95"] for c in known])
    theirs = [a["score"][:2] for a in ask(peer("statsmodels", PEERS["statsmodels"]), CODE["statsmodels"], tables=tables, p=False)]
    error = lambda limits: float(np.nanmax(abs(np.array(limits, float) - true)))
    within = lambda limits: f"{int((abs(np.array(limits, float) - true) < 1e-6).all(1).sum())} of {len(true)}"
    mine = [diff_proportions_ci(*t) for t in tables]
    return {"mlscale": (within(mine), error(mine)), "statsmodels": (within(theirs), error(theirs))}


def agreement():
    "CUPED and a ratio of sums: ours beside tea-tasting's, on the reference data."
    given = cases("cuped")[0]["inputs"]
    code = """
import numpy as np, tea_tasting
from tea_tasting.aggr import Aggregates
y, x, arm = (np.array(data[k]) for k in ("y", "x", "variant"))
def aggregates(rows):
    c = np.cov(y[rows], x[rows])
    return Aggregates(count_=int(rows.sum()), mean_={"y": y[rows].mean(), "x": x[rows].mean()}, var_={"y": c[0, 0], "x": c[1, 1]}, cov_={("x", "y"): c[0, 1]})
both = aggregates(arm == 0), aggregates(arm == 1)
cuped, ratio = tea_tasting.Mean("y", covariate="x").analyze_aggregates(*both), tea_tasting.RatioOfMeans("y", "x").analyze_aggregates(*both)
answer = [cuped.effect_size, cuped.pvalue, ratio.effect_size, ratio.pvalue]
"""
    theirs = ask(peer("tea-tasting", PEERS["tea-tasting"]), code, **{k: given[k] for k in ("y", "x", "variant")})
    a, r = cuped(given["y"], given["x"], given["variant"]), ratio_metric_test(given["y"], given["x"], given["variant"], distribution="t")
    names = ("CUPED, difference", "CUPED, p", "ratio of sums, difference", "ratio of sums, p")
    store("experiments_agreement", [{"what": n, "mlscale": m, "tea-tasting": t} for n, m, t in zip(names, (a.difference, a.p_value, r.difference, r.p_value), theirs, strict=True)], ("numpy", "scipy"))


def speed(rounds):
    "100,000 Miettinen-Nurminen intervals at once; statsmodels one by one on 500 of them, in its own process, times 200."
    rng = np.random.default_rng(0)
    nc, nt = rng.integers(20, 5000, (2, 100_000))
    xc, xt = rng.binomial(nc, rng.uniform(.01, .99, len(nc))), rng.binomial(nt, rng.uniform(.01, .99, len(nt)))
    code = HEAD + """
import time
from statsmodels.stats.proportion import confint_proportions_2indep
start = time.perf_counter()
for xc, nc, xt, nt in data["tables"]: attempt(confint_proportions_2indep, xt, nt, xc, nc, "score")
answer = time.perf_counter() - start
"""
    some = np.stack([xc, nc, xt, nt], 1)[:500].tolist()
    loop = []
    t = seconds({"mlscale, vectorised": lambda: diff_proportions_ci(xc, nc, xt, nt), "floor: the pooled z, vectorised": lambda: pooled_z_test(xc, nc, xt, nt),
                 "statsmodels in a loop, 500 timed": lambda: loop.append(ask(peer("statsmodels", PEERS["statsmodels"]), code, tables=some))}, rounds)
    t["statsmodels in a loop, 500 timed"] = float(np.median(loop))*len(nc)/len(some)   # its own clock: without the start of the process
    right = {**reference(), "floor": ("", "")}
    name = lambda k: next(n for n in right if k.startswith(n))
    base = t["mlscale, vectorised"]
    store("experiments_speed", [{"100,000 intervals": k, "time": v/base, "reference tables right to 1e-6": right[name(k)][0], "largest error where answered": right[name(k)][1]}
                                for k, v in t.items()], ("numpy", "scipy"))


def growth(rounds):
    "The cost of a Miettinen-Nurminen interval, by how many are asked for at once."
    rng, run = np.random.default_rng(1), {}
    for n in (1, 100, 10_000, 1_000_000):
        units = rng.integers(20, 5000, (2, n))
        converted = rng.binomial(units, rng.uniform(.01, .99, units.shape))
        run[n] = lambda x=converted, u=units: diff_proportions_ci(x[0], u[0], x[1], u[1])
    t = seconds(run, rounds)
    store("experiments_growth", [{"intervals at once": f"{n:,}", "time": t[n]/t[10_000], "time an interval": t[n]/n/(t[10_000]/10_000)} for n in run], ("numpy", "scipy"))


if __name__ == "__main__":
    everything, chosen = "--all" in sys.argv, [word for word in sys.argv[1:] if not word.startswith("-")]
    designs = [(30, 30, .1, .1), (900, 100, .05, .05), (900, 100, .05, .3)] + ([(100, 100, .02, .02), (1000, 1000, .05, .06)] if everything else [])
    rounds = 5 if everything else 3
    parts = {"tables": one_by_one, "bayes": bayes, "agreement": agreement, "coverage": lambda: coverage(designs), "speed": lambda: speed(rounds), "growth": lambda: growth(rounds),
             "boundaries": sequential.boundaries, "streams": sequential.speed}
    if unknown := set(chosen) - parts.keys(): sys.exit(f"no part {', '.join(unknown)}: there are {', '.join(parts)}")
    for part in chosen or parts: parts[part]()
