"""Sequential tests (chapter 10 and its companions): boundaries, speed, what other libraries say, and all methods on the same streams.

Of the peers confseq is compiled here, which needs a C++ compiler and Boost; where that fails it is left out, and said so.

    python benchmarks/sequential.py              everything, in a few minutes
    python benchmarks/sequential.py methods      one table: boundaries, speed, methods or peers
    python benchmarks/sequential.py --reference  the stored boundaries once more, in 40-digit arithmetic
"""
import json
import math
import os
import subprocess
import sys
import warnings
from decimal import Decimal, getcontext
from fractions import Fraction
from functools import partial

import numpy as np
from harness import ROOT, ask, peer, seconds, store
from scipy import stats

from mlscale.martingales import empirical_bernstein, msprt, safe_two_by_two
from mlscale.sequential import (
    Moments,
    SequentialTest,
    alpha_spending_boundaries,
    always_valid_p,
    asymptotic_confidence_sequence,
    conditional_beta_binomial,
    conditional_beta_binomial_interval,
    group_sequential_design,
    in_regime,
    normal_mixture_boundary,
    sequential_srm,
)

REFERENCE = ROOT / "tests" / "data" / "sequential_boundaries.json"
PACKAGES = ("numpy", "scipy", "pandas")


def savvi(): return peer("savvi", ["savvi==0.3.1", "matplotlib"])   # imports matplotlib without asking for it


def gbstats(): return peer("gbstats", ["gbstats==0.8.0"])


def confseq():
    "Its newest release pins a pybind11 that does not compile on Python 3.11: built here without isolation, against a newer one. None where that fails."
    try: python = peer("confseq", ["pybind11>=2.11,<3", "scikit-build", "cmake<4", "ninja", "setuptools", "wheel", "numpy<2", "scipy", "pandas", "matplotlib", "multiprocess"])
    except subprocess.CalledProcessError: return None
    if subprocess.run([python, "-c", "import confseq.predmix, confseq.boundaries"], capture_output=True).returncode:
        index = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True).stdout.strip()
        env = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", **({"UV_DEFAULT_INDEX": index} if index else {})}
        install = [os.path.join(os.path.dirname(sys.executable), "uv"), "pip", "install", "--quiet", "--python", python, "--no-build-isolation", "confseq==0.0.11"]
        done = subprocess.run(install, env=env, capture_output=True)
        if done.returncode: return None
    return python


# ---- boundaries

MAKE_REFERENCE = """
import mpmath as mp
mp.mp.dps, K, M, alpha = 40, 100, data["points"], mp.mpf("0.025")
upper = lambda p, start: mp.findroot(lambda z: mp.log(mp.erfc(z/mp.sqrt(2))/2) - mp.log(p), start)
q = upper(alpha/2, 2.2)
spent = {"obrien-fleming": lambda t: mp.erfc(q/mp.sqrt(2*t)), "pocock": lambda t: alpha*mp.log(1 + (mp.e - 1)*t)}[data["spending"]]
angle = [mp.pi*j/M for j in range(M + 1)]                       # Clenshaw-Curtis
points = [mp.cos(a) for a in angle]
weights = [(1 - sum((1 if 2*k < M else .5)*2*mp.cos(2*k*a)/(4*k*k - 1) for k in range(1, M//2 + 1)))*mp.mpf(1 if j in (0, M) else 2)/M for j, a in enumerate(angle)]
S, W, edge, before, dt, answer = [mp.mpf(0)], [mp.mpf(1)], None, mp.mpf(0), mp.mpf(1)/K, []
for k in range(1, K + 1):
    t = mp.mpf(k)/K
    if edge is not None:                                         # the density is symmetric: half of it is enough
        half = [mp.fsum(w*mp.exp(-(edge*x - s)**2/(2*dt)) for s, w in zip(S, W))/mp.sqrt(2*mp.pi*dt) for x in points[:M//2 + 1]]
        S, W = [edge*x for x in points], [edge*w*d for w, d in zip(weights, half + half[:-1][::-1])]
    spend, before = spent(t) - before, spent(t)
    excess = lambda c: mp.log(mp.fsum(w*mp.erfc((c - s)/mp.sqrt(2*dt))/2 for s, w in zip(S, W))) - mp.log(spend)
    start = (upper(spend, max(1, mp.sqrt(-2*mp.log(spend)) - .5)) - .05)*mp.sqrt(t) if edge is None else edge + mp.mpf("1e-3")
    edge = mp.findroot(excess, (start, start*1.001), tol=mp.mpf(10)**-24, solver="secant")
    answer.append(mp.nstr(edge/mp.sqrt(t), 18))
"""


def make_reference():
    "A few minutes. Another quadrature, another arithmetic and another root finder than the library's; twice, with different numbers of points."
    python = peer("mpmath", ["mpmath", "gmpy2"])
    made = {}
    for spending in ("obrien-fleming", "pocock"):
        made[spending], fewer = (ask(python, MAKE_REFERENCE, spending=spending, points=points) for points in (280, 200))
        assert made[spending] == fewer
    stored = json.loads(REFERENCE.read_text())
    REFERENCE.write_text(json.dumps({"about": stored["about"], **made}, indent=0) + "\n")


def boundaries():
    t, five = np.arange(1, 101) / 100, np.arange(1, 6) / 5
    reference = json.loads(REFERENCE.read_text())
    cov = np.sqrt(np.minimum.outer(five, five) / np.maximum.outer(five, five))
    normal = lambda: [stats.multivariate_normal.cdf(np.full(5, 2.413), np.zeros(5), cov, lower_limit=np.full(5, -2.413), rng=np.random.default_rng(0)) for _ in range(50)]
    rows = []
    for spending in ("obrien-fleming", "pocock"):
        ours = lambda spending=spending: alpha_spending_boundaries(t, spending=spending)
        times = seconds({"ours": ours, "normal": normal}, rounds=3)
        rows.append({"spending": spending, "looks": 100, "largest |dz| to the reference": float(np.abs(ours() - np.array(reference[spending], float)).max()),
                     "time / 50 calls of multivariate_normal.cdf in 5 dimensions": times["ours"] / times["normal"]})
    store("sequential_boundaries", rows, PACKAGES)


# ---- speed

LOOP = {
    "gbstats": """
import time, warnings
import numpy as np
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import ProportionStatistic as P
warnings.simplefilter("ignore")
config, start, alarms = SequentialConfig(difference_type="absolute"), time.perf_counter(), 0
for test in data["counts"]:
    alarms += min(SequentialTwoSidedTTest(P(n=nc, sum=xc), P(n=nt, sum=xt), config).compute_result().p_value for xc, nc, xt, nt in test) <= .05
answer = [time.perf_counter() - start, alarms]
""",
    "savvi": """
import time
import numpy as np
from savvi.multinomial import Multinomial
start, alarms = time.perf_counter(), 0
for test in data["counts"]:
    m, p, before = Multinomial(.05, np.array([.5, .5]), 100), 1., np.zeros(2, int)
    for xc, nc, xt, nt in test:
        now = np.array([xc, xt])
        m.update(now - before)
        before, p = now, min(p, m.calculate_p_value())
    alarms += p <= .05
answer = [time.perf_counter() - start, int(alarms)]
""",
    "confseq": """
import time
import numpy as np
from confseq.predmix import predmix_empbern_twosided_cs
start, alarms = time.perf_counter(), 0
for i, test in enumerate(data["counts"]):
    x = (np.random.default_rng(i).random(100*data["per_look"]//2) < .5)*1.   # one arm's worth of observations, all looks in one call
    low, high = predmix_empbern_twosided_cs(x)
    alarms += bool((low > .5).any() or (high < .5).any())
answer = [time.perf_counter() - start, int(alarms)]
""",
}


def speed():
    rng, per_look, tests = np.random.default_rng(0), 200, 10_000
    n = rng.binomial(per_look, .5, (tests, 100))
    xt, xc = (rng.binomial(m, .1).cumsum(1) for m in (n, per_look - n))
    nt, nc = n.cumsum(1), (per_look - n).cumsum(1)
    rate = lambda: (always_valid_p(conditional_beta_binomial(xc, xt))[:, -1] <= .05).sum()
    c, t = Moments.from_counts(xc, nc), Moments.from_counts(xt, nt)
    mean = lambda: (asymptotic_confidence_sequence(c, t, n_star=5000, min_count=0).p_value[:, -1] <= .05).sum()
    ours = seconds({"conditional_beta_binomial": rate, "asymptotic_confidence_sequence": mean}, rounds=3)
    few = 20
    counts = np.stack([xc, nc, xt, nt], -1)[:few].tolist()
    pythons = {"gbstats": gbstats(), "savvi": savvi(), "confseq": confseq()}
    rows = []
    for name, python in pythons.items():
        if python is None: continue
        took = ask(python, LOOP[name], counts=counts, per_look=per_look)[0] / few * tests
        method = "asymptotic_confidence_sequence" if name == "gbstats" else "conditional_beta_binomial"
        rows.append({"job": "10,000 A/A tests of 100 looks", "ours": method,
                     "compared with": f"a loop over {name}" + (", one outcome at a time" if name == "confseq" else ""), "times as fast": took / ours[method]})
    x, y = rng.random(10**6), (rng.random(10**6) < .1).astype(float)
    floor = lambda: [y.cumsum() for _ in range(20)]
    for method, settings, data in (("beta-binomial", {}, y), ("asymptotic", {"n_star": 500_000}, y), ("asymptotic", {"n_star": 500_000}, x), ("group-sequential", {"n_max": 2 * 10**6}, y)):
        def stream(method=method, settings=settings, data=data):
            test = SequentialTest(method, **settings)
            for i in range(0, 10**6, 1000): test.update(data[i:i + 500], data[i + 500:i + 1000])
        times = seconds({"ours": stream, "floor": floor})
        kind = "rates" if data is y else "means"
        rows.append({"job": "a million observations, 1,000 looks", "ours": f"SequentialTest, {method}, {kind}", "compared with": "20 numpy cumulative sums",
                     "times as fast": times["floor"] / times["ours"]})
    store("sequential_speed", rows, PACKAGES)


# ---- how the cost grows with the looks

def growth():
    "One time unit: ten always-valid looks at 1,000 units each, of a rate that the treatment raises a little."
    rng, times = np.random.default_rng(0), {}
    def stream(y, method, **settings):
        test = SequentialTest(method, **settings)
        for c, t in y: test.update(c, t)
        return test
    for looks in (10, 30, 100, 300, 1000):
        y = rng.random((looks, 2, 500)) < np.array([[.1], [.1 + .5 / math.sqrt(500 * looks)]])
        always, plan = partial(stream, y, "beta-binomial"), partial(stream, y, "group-sequential", n_max=2000 * looks)
        walked = plan()
        times[looks] = seconds({"always valid": always, "a plan": plan, "p of the plan, read once": lambda walked=walked: walked.p_value}, rounds=3)
    store("sequential_growth", [{"looks": looks, **{what: t / times[10]["always valid"] for what, t in of.items()}} for looks, of in times.items()], PACKAGES)


# ---- all methods on the same streams

def methods(streams=2000, chunk=100):
    "A rate of 24 % (late flights), the planned effect a tenth of it. Stops in units, cut at twice the fixed sample."
    p, effect = .24, .1
    middle = p * (1 - effect / 2)
    fixed = math.ceil((stats.norm.ppf(.8) + stats.norm.ppf(.975))**2 * 4 * middle * (1 - middle) / (p * effect)**2)
    horizon = 2 * fixed
    looks = np.linspace(0, horizon, 201).round().astype(int)[1:]
    plans = {f"group-sequential, {s}": group_sequential_design(np.arange(1, 21) / 20, spending=s) for s in ("obrien-fleming", "pocock")}
    stops = {}
    for label, size in (("none", 0.), ("planned", effect), ("twice", 2 * effect)):
        rng, found = np.random.default_rng(17), []
        for _ in range(streams // chunk):
            treated = rng.random((chunk, horizon)) < .5
            y = rng.random((chunk, horizon)) < np.where(treated, p * (1 - size), p)
            found.append(stopping_times(treated, y, looks, plans, fixed, p * effect))
        stops[label] = {m: np.concatenate([f[m] for f in found]) for m in found[0]}
    rows = []
    for m, none in stops["none"].items():
        planned, mean = stops["planned"][m], {s: float(np.minimum(stops[s][m], END.get(m, 2.)).mean()) for s in stops}
        rows.append({"method": m, "false alarms": float((none <= 2).mean()), "power at the fixed sample": float((planned <= 1).mean()), "power at twice": float((planned <= 2).mean()),
                     "mean sample, planned effect": mean["planned"], "mean sample, twice the effect": mean["twice"], "mean sample, no effect": mean["none"], "streams": streams})
    store("sequential_methods", rows, PACKAGES)


END = {"fixed": 1.}   # where a method with a plan ends, in fixed samples; filled by the plans


def stopping_times(treated, y, looks, plans, fixed, delta):
    "By method, when each stream stops, in fixed samples; infinite if not by the end."
    nt, xt = treated.cumsum(1), (treated & y).cumsum(1)
    n = np.arange(1, y.shape[1] + 1)
    nc, xc = n - nt, y.cumsum(1) - xt

    def z(at):
        c, t, q = xc[:, at] / nc[:, at], xt[:, at] / nt[:, at], (xc + xt)[:, at] / n[at]
        return (t - c) / np.sqrt(q * (1 - q) * (1 / nc[:, at] + 1 / nt[:, at]))
    when = lambda hit, units: np.where(hit.any(1), np.asarray(units)[hit.argmax(1)], np.inf) / fixed
    at = looks - 1
    out = {"fixed": when(np.abs(z(np.array([fixed - 1]))) > 1.959964, [fixed]), "peeking at p < .05": when(np.abs(z(at)) > 1.959964, looks)}
    for name, plan in plans.items():
        units = np.ceil(plan.inflation * fixed * np.array(plan.information)).astype(int)
        out[name] = when(np.abs(z(units - 1)) >= plan.boundary, units)
        END[name] = units[-1] / fixed
    wealth = math.log(20)
    out["beta-binomial"] = when(conditional_beta_binomial(xc[:, at], xt[:, at], k=360) >= wealth, looks)
    c, t = Moments.from_counts(xc[:, at], nc[:, at]), Moments.from_counts(xt[:, at], nt[:, at])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out["asymptotic"] = when(np.where(in_regime(c, t), asymptotic_confidence_sequence(c, t, n_star=fixed).log_e, 0) >= wealth, looks)
    pairs = np.minimum(nc, nt)[:, at]
    paired = {m: np.zeros((len(y), len(looks)), bool) for m in ("mSPRT (10c)", "safe two-by-two (10c)", "empirical Bernstein (10c)")}
    for i in range(len(y)):
        control, treatment = (y[i, arm][:pairs[i, -1]].astype(float) for arm in (~treated[i], treated[i]))
        last = np.maximum(pairs[i], 1) - 1
        paired["mSPRT (10c)"][i] = msprt(control.cumsum()[last], treatment.cumsum()[last], last + 1, tau2=delta**2) >= 20
        paired["safe two-by-two (10c)"][i] = safe_two_by_two(control, treatment, path=True)[last] >= wealth
        low, high = empirical_bernstein(treatment - control, bounds=(-1, 1), path=True)
        paired["empirical Bernstein (10c)"][i] = (low[last] > 0) | (high[last] < 0)
    return out | {m: when(hit, looks) for m, hit in paired.items()}


# ---- what other libraries say

ASK_GBSTATS = """
import warnings
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import ProportionStatistic as P
warnings.simplefilter("ignore")
answer = []
for xc, nc, xt, nt in data["cases"]:
    r = SequentialTwoSidedTTest(P(n=nc, sum=xc), P(n=nt, sum=xt), SequentialConfig(difference_type="absolute")).compute_result()
    answer.append([float(r.p_value), [float(v) for v in r.ci]])
"""
ASK_SAVVI = """
import warnings
import numpy as np
from savvi.multinomial import Multinomial
warnings.simplefilter("ignore")
answer = []
for steps, weights in data["cases"]:
    m = Multinomial(.05, np.array(weights), 100)
    for x in steps: m.update(np.array(x))
    ci = m.calculate_conf_int()[-1].tolist() if np.isfinite(m.odds) and data["interval"] else None
    answer.append([float(np.log(m.odds)), ci])
"""
ASK_CONFSEQ = """
import numpy as np
from confseq.boundaries import normal_mixture_bound
from confseq.predmix import predmix_empbern_twosided_cs
i = np.arange(1, 101)
answer = [[float(v[-1]) for v in predmix_empbern_twosided_cs(.6*((7919*i) % 1000)/1000)], float(normal_mixture_bound(100., alpha=.05, v_opt=1250, is_one_sided=False))]
"""


def exact_log_e(xc, xt, k=100):
    "log e in integers: the beta functions are ratios of factorials."
    f, a = math.factorial, k // 2
    e = Fraction(f(a + xt - 1) * f(a + xc - 1) * f(2 * a - 1), f(2 * a + xt + xc - 1) * f(a - 1)**2) * 2**(xt + xc)
    getcontext().prec = 50
    return float((Decimal(e.numerator) / Decimal(e.denominator)).ln())


def peers():
    show = lambda v: f"{v:.6g}" if isinstance(v, float) else "[" + ", ".join(f"{x:.6g}" for x in v) + "]" if isinstance(v, (list, tuple)) else str(v)
    rows = []
    def row(what, name, theirs, ours, exact, note=""): rows.append({"input": what, "library": name, "it says": show(theirs), "ours": show(ours), "exact": show(exact), "note": note})
    cases = [(500, 10_000, 570, 10_000), (0, 5000, 60, 5000), (60, 5000, 0, 5000), (30_000, 1_000_000, 60_000, 1_000_000), (0, 200, 200, 200)]
    (p, ci), none, other, huge, alike = ask(gbstats(), ASK_GBSTATS, cases=cases)
    asymptotic = lambda xc, nc, xt, nt: asymptotic_confidence_sequence(Moments.from_counts(xc, nc), Moments.from_counts(xt, nt), n_star=5000, min_count=0)
    getcontext().prec = 50
    same = asymptotic(*cases[0])
    row("500 of 10,000 against 570 of 10,000, n_star 5,000: interval", "gbstats 0.8.0", ci, (same.lower, same.upper), exact_asymptotic(*cases[0]))
    for case, (theirs, _) in ((cases[1], none), (cases[2], other)):
        exact = float(always_valid_p(conditional_beta_binomial(case[0], case[2])))
        row(f"{case[0]} of {case[1]:,} against {case[2]} of {case[3]:,}: p", "gbstats 0.8.0", theirs, float(asymptotic(*case).p_value), math.exp(-exact_asymptotic_log_e(*case)),
            f"an arm without conversions is reported as no evidence. No asymptotic p of this size is to be believed: conditional_beta_binomial, exact, says {exact:.3g}")
    row("30,000 of a million against 60,000 of a million: log p", "gbstats 0.8.0", math.log(huge[0]) if huge[0] else "p = 0", -asymptotic(*cases[3]).log_e, -exact_asymptotic_log_e(*cases[3]),
        "e-values are exponentiated and overflow; p of ours is 0 as well, its log_e is kept")
    row("0 of 200 against 200 of 200: p", "gbstats 0.8.0", alike[0], float(asymptotic(*cases[4]).p_value), "no variance", "neither has anything to estimate a variance from")
    steps = [[[[500, 570]], [.5, .5]], [[[5000, 5200]], [.5, .5]], [[[0, 3000], [3000, 0]], [.5, .5]], [[[-5, 3]], [.5, .5]]]
    (log_e, _), (srm, _), (stuck, _), (negative, _) = ask(savvi(), ASK_SAVVI, cases=steps, interval=False)
    theta = ask(savvi(), ASK_SAVVI, cases=steps[:1], interval=True)[0][1]
    ratio = conditional_beta_binomial_interval(500, 570)
    row("500 and 570 conversions: log e", "savvi 0.3.1", log_e, conditional_beta_binomial(500, 570), exact_log_e(500, 570))
    row("the same: interval for the treated share", "savvi 0.3.1", theta, [r / (1 + r) for r in ratio], exact_share(500, 570), "by a convex solver, good to some seven digits, milliseconds a look")
    row("5,000 and 5,200 units: log e of a mismatch", "savvi 0.3.1", srm, sequential_srm([5000, 5200]), exact_log_e(5000, 5200))
    row("3,000 to 0, then 0 to 3,000: log e", "savvi 0.3.1", stuck, conditional_beta_binomial(3000, 3000), exact_log_e(3000, 3000), "the odds overflow at the first step and stay infinite")
    try: conditional_beta_binomial(-5, 3)
    except ValueError as e: refused = f"refused: {e}"[:60]
    row("-5 and 3 conversions", "savvi 0.3.1", negative, refused, "impossible", "accepted without a word")
    python = confseq()
    if python:
        bernstein, mixture = ask(python, ASK_CONFSEQ)
        x = .6 * ((7919 * np.arange(1, 101)) % 1000) / 1000
        row("100 values in [0, .6]: empirical Bernstein", "confseq 0.0.11", bernstein, empirical_bernstein(x), exact_bernstein([Fraction(3, 5) * ((7919 * i) % 1000) / 1000 for i in range(1, 101)]))
        r = Decimal(1250) / (-2 * Decimal("0.05").ln() + (1 - 2 * Decimal("0.05").ln()).ln())
        exact = float(((100 + r) * ((100 + r) / (Decimal("0.0025") * r)).ln()).sqrt())
        row("normal mixture at variance 100, best at 1,250", "confseq 0.0.11", mixture, normal_mixture_boundary(100., v_opt=1250), exact,
            "pip alone does not install it on Python 3.11: see confseq() in the script")
    else: row("all", "confseq 0.0.11", "could not be built here", "", "", "needs a C++ compiler, Boost, an older numpy and a newer pybind11 than it asks for")
    store("sequential_peers", rows, PACKAGES)


def exact_asymptotic(xc, nc, xt, nt, n_star=5000):
    "The interval in 50 digits."
    d, v, rho2 = decimals(xc, nc, xt, nt, n_star)
    m = (nc + nt) * rho2
    half = (v * (m + 1) / m * ((m + 1).ln() - 2 * Decimal("0.05").ln())).sqrt()
    return float(d - half), float(d + half)


def exact_asymptotic_log_e(xc, nc, xt, nt, n_star=5000):
    d, v, rho2 = decimals(xc, nc, xt, nt, n_star)
    m = (nc + nt) * rho2
    return float(m * d * d / (2 * v * (m + 1)) - (m + 1).ln() / 2)


def decimals(xc, nc, xt, nt, n_star):
    pc, pt = Decimal(xc) / nc, Decimal(xt) / nt
    twice = -2 * Decimal("0.05").ln()
    return pt - pc, pc * (1 - pc) / nc + pt * (1 - pt) / nt, (twice + (1 + twice).ln()) / n_star


def exact_share(xc, xt, k=100):
    "Both ends of the interval for the treated share, by bisection in 50 digits."
    getcontext().prec = 50
    f, a = math.factorial, k // 2
    e = Fraction(f(a + xt - 1) * f(a + xc - 1) * f(2 * a - 1), f(2 * a + xt + xc - 1) * f(a - 1)**2)
    room = (Decimal(e.numerator) / Decimal(e.denominator)).ln() + Decimal("0.05").ln()
    inside = lambda s: xt * s.ln() + xc * (1 - s).ln() > room
    ends = []
    for out in (Decimal("1e-9"), 1 - Decimal("1e-9")):
        a, b = out, Decimal(xt) / (xt + xc)
        for _ in range(120): a, b = (a, (a + b) / 2) if inside((a + b) / 2) else ((a + b) / 2, b)
        ends.append(float(b))
    return ends


def exact_bernstein(x):
    "The empirical Bernstein interval, written as loops over fractions and 50-digit logarithms."
    getcontext().prec = 50
    dec = lambda q: Decimal(q.numerator) / Decimal(q.denominator)
    level = -Decimal("0.025").ln()

    def lower(values):
        total, squares, bets, gains, costs, mean_before, variance = Fraction(0), Fraction(0), Decimal(0), Decimal(0), Decimal(0), Fraction(0), Fraction(1, 4)
        for i, v in enumerate(values, 1):
            bet = min(Decimal("0.5"), (2 * level / (dec(variance) * i * Decimal(1 + i).ln())).sqrt())
            bets, gains, costs = bets + bet, gains + bet * dec(v), costs + dec((v - mean_before)**2) * (-(1 - bet).ln() - bet)
            total += v
            mean_before = total / i
            squares += (v - (Fraction(1, 2) + total) / (i + 1))**2
            variance = (Fraction(1, 4) + squares) / (i + 1)
        return max((gains - level - costs) / bets, Decimal(0))
    return float(lower(x)), float(1 - lower([1 - v for v in x]))


if __name__ == "__main__":
    words = [w for w in sys.argv[1:] if not w.startswith("-")] or ["boundaries", "speed", "growth", "methods", "peers"]
    if "--reference" in sys.argv: make_reference()
    else:
        if "boundaries" in words: boundaries()
        if "speed" in words: speed()
        if "growth" in words: growth()
        if "methods" in words: methods()
        if "peers" in words: peers()
