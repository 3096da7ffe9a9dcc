"""The drift alarm (chapter 07 and its companions): how soon it sees a change at a stated number of false alarms a year, and what counting costs.

The daily Kolmogorov-Smirnov test is calibrated to the same budget; the detectors of River and CapyMOA promise none, so theirs is measured beside their delay; those of
sequential-analysis (AGPL, in an environment of its own) promise a run length, which is set to the same budget. The last line is a floor: Page's CUSUM, told the shift, the
mean and the variance, with the whole budget of the column for this one number. CapyMOA starts Java.

    python benchmarks/drift.py                 both tables, in some minutes
    python benchmarks/drift.py power           one table: power or speed
    python benchmarks/drift.py speed --all     beside NannyML and deepchecks, too
"""
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from harness import ask, peer, seconds, store, waiting
from scipy import special, stats

from mlscale.drift import Cusum, Reference, bin_scores, critical_values, cusum_threshold, day_baseline, outer_edges, quantile_edges, score_moments, window_scores

ROWS, DAYS, COLUMNS, ASKED = 1000, 120, 10, 2.   # rows a day, days of reference, columns that share the budget, false alarms a year
WINDOWS, STATISTICS = (1, 2, 4, 8, 16, 32), 5    # numbers a column: location, spread, two of the shape, missing
SHIFTS = (.05, .1, .15, .2, .3)
PACKAGES = ("numpy", "scipy", "pandas")

ROWS_ONE_BY_ONE = """
import numpy as np
rng = np.random.default_rng(data["seed"])
make = detectors[data["name"]]
def first(x, detector):
    for i, v in enumerate(x):
        if rings(detector, v): return i
alarms, days = 0, data["null_days"]
detector = make()
for v in rng.standard_normal(days*data["rows"]).tolist(): alarms += rings(detector, v)
delays = {}
for shift in data["shifts"]:
    found = []
    for _ in range(data["worlds"]):
        detector = make()
        for v in rng.standard_normal(20*data["rows"]).tolist(): rings(detector, v)
        at = first((rng.standard_normal(data["most"]*data["rows"]) + shift).tolist(), detector)
        found.append(data["most"] if at is None else at//data["rows"] + 1)
    delays[str(shift)] = found
answer = {"alarms": alarms, "delays": delays}
"""
RIVER = """
from river import drift
detectors = {"ADWIN": drift.ADWIN, "Page-Hinkley": drift.PageHinkley, "KSWIN": lambda: drift.KSWIN(seed=1)}
def rings(detector, v):
    detector.update(v)
    return bool(detector.drift_detected)
"""
CAPYMOA = """
from capymoa.drift import detectors as moa
detectors = {"ADWIN": moa.ADWIN, "CUSUM": moa.CUSUM, "Page-Hinkley": moa.PageHinkley, "EWMA chart": moa.EWMAChart, "SEED": moa.SEED}
def rings(detector, v):
    detector.add_element(v)
    return bool(detector.detected_change())
"""
PEERS = {"River": ("river", ("river==0.22.0",), RIVER, ("ADWIN", "Page-Hinkley", "KSWIN")),
         "CapyMOA": ("capymoa", ("capymoa==0.15.1",), CAPYMOA, ("ADWIN", "CUSUM", "Page-Hinkley", "EWMA chart", "SEED"))}

DAYS_ONE_BY_ONE = """
import random
from sequential_analysis.procedures import Gaussian, MeanEDetector, ShiryaevRoberts
sd, arl = data["sd"], data["arl"]
def detectors():
    if data["name"] == "e-detector": return [MeanEDetector(0., -8*sd, 8*sd, arl=arl)]
    return [ShiryaevRoberts(Gaussian(sigma=sd), 0., theta, threshold=2*arl) for theta in (data["for"], -data["for"])]
def first(x):
    made = detectors()
    states = [d.initial_state() for d in made]
    for i, v in enumerate(x):
        out = [d.step(state, {"x": max(-8*sd, min(8*sd, v))}) for d, state in zip(made, states)]
        if any(o.alarm for _, o in out): return i + 1
        states = [state for state, _ in out]
rng = random.Random(0)
alarms = days = 0
while days < data["null_days"]:
    at = first(rng.gauss(0, sd) for _ in range(data["null_days"] - days))
    alarms, days = alarms + (at is not None), days + (at or data["null_days"])
delays = {}
for shift in data["shifts"]:
    delays[str(shift)] = [first(rng.gauss(shift, sd) for _ in range(data["most"])) or data["most"] for _ in range(data["worlds"])]
answer = {"alarms": alarms, "days": days, "delays": delays}
"""


def counted(rng: np.random.Generator, edges: np.ndarray, days: int, shift: float = 0.) -> np.ndarray:
    "Days of normal rows, as counts: drawn by the probabilities that the bins have."
    p = np.diff(special.ndtr(edges - shift), prepend=0, append=1)
    return rng.multinomial(ROWS, p/p.sum(), days)


def alarm_delay(rng: np.random.Generator, shift: float, most: int = 120) -> int:
    "Days until the change alarm rings for a column whose values move, the first day being 1."
    edges = outer_edges(quantile_edges(rng.standard_normal(20_000)))
    usual = counted(rng, edges, DAYS)
    scores, rows = bin_scores(usual.sum(0)), np.full((DAYS, 4), ROWS)
    values, lucky = score_moments(usual, scores)
    baseline = day_baseline(values, rows, lucky.mean(0), np.zeros(4, bool), np.zeros(4, int))
    limit = critical_values(baseline, ASKED/365.25, COLUMNS*STATISTICS*len(WINDOWS))
    live = np.vstack([counted(rng, edges, 32), counted(rng, edges, most, shift)])
    values, rings = score_moments(live, scores)[0], np.zeros(len(live), bool)
    for w in WINDOWS:
        z = window_scores(values, np.full(values.shape, ROWS), baseline, w)
        rings[w - 1:] |= (np.abs(z) > limit).any(1)
    after = np.flatnonzero(rings[32:])
    return int(after[0]) + 1 if len(after) else most


def ks_delay(rng: np.random.Generator, shift: float, days: int = 20_000) -> tuple[float, float]:
    "Median and mean delay of a daily KS test of rows against the reference: its days ring independently of each other."
    n, far = ROWS, np.empty(days)
    limit = special.kolmogi(ASKED/365.25/COLUMNS)*np.sqrt(1/n + 1/(n*DAYS))
    above = np.arange(1, n + 1)/n
    for k in range(days):
        below = special.ndtr(np.sort(rng.standard_normal(n) + shift))
        far[k] = max((above - below).max(), (below - above + 1/n).max())
    p = max((far > limit).mean(), .5/days)
    return float(np.ceil(np.log(.5)/np.log1p(-min(p, 1 - 1e-12)))), 1/p


def line(name: str, promised: str, false: float, delays: dict) -> dict:
    "A row of the table."
    return {"detector": name, "promised a year": promised, "false alarms a year, 10 columns": false,
            **{f"{s} sd": f"{np.median(delays[str(s)]):.0f} (mean {np.mean(delays[str(s)]):.1f})" for s in SHIFTS}}


def one_by_one() -> list[dict]:
    "Detectors that are given row by row, as they come."
    rows = []
    for maker, (folder, requirements, code, names) in PEERS.items():
        python = peer(folder, requirements)
        for name in names:
            slow = name == "KSWIN"
            days = 20 if slow else 365
            got = ask(python, code + ROWS_ONE_BY_ONE, name=name, seed=0, rows=ROWS, null_days=days, worlds=4 if slow else 10, most=5 if slow else 30, shifts=SHIFTS)
            rows.append(line(f"{maker} {name}, as it comes", "nothing", got["alarms"]/days*365*COLUMNS, got["delays"]))
    return rows


def run_lengths() -> list[dict]:
    "Detectors that promise a run length, given the mean of a day's rows and what its mean and spread are, which the others have to learn."
    python, arl, rows = peer("sequential-analysis", ("sequential-analysis==0.4.0",)), 365.25*COLUMNS/ASKED, []
    for name, more in (("e-detector", {}), ("Shiryaev-Roberts", {"for": .1})):
        got = ask(python, DAYS_ONE_BY_ONE, name=name, sd=ROWS**-.5, arl=arl, null_days=200_000, worlds=300, most=120, shifts=SHIFTS, **more)
        told = f"sequential-analysis {name}" + (" for .1 sd" if more else "")
        rows.append(line(f"{told}, on daily means", f"at most {ASKED}", got["alarms"]/got["days"]*365.25*COLUMNS, got["delays"]))
    return rows


def floor(rng: np.random.Generator) -> dict:
    "Page's CUSUM on daily means that is told everything: for each shift one that was made for it."
    arl, delays, most = 365.25*COLUMNS/ASKED, {}, 60
    for shift in SHIFTS:
        size, found = shift*ROWS**.5, []
        made_for = min(size, 4.)   # standard deviations of a day's mean; beyond, every day rings
        h = cusum_threshold(arl, shift=made_for)
        for x in rng.standard_normal((2000, most)) + size:
            detector = Cusum(0, 1, threshold=h, shift=made_for)
            found.append(next((k for k, v in enumerate(x.tolist(), 1) if detector.update(v).drift_detected), most))
        delays[str(shift)] = found
    return line("CUSUM that is told the shift, on daily means", str(ASKED), ASKED, delays)


def power() -> None:
    "False alarms a year beside the delay of each shift, in days."
    rng = np.random.default_rng(0)
    alarm = {s: [alarm_delay(rng, s) for _ in range(200)] for s in (0., *SHIFTS)}
    years = 200*120/365.25
    false = sum(d < 120 for d in alarm.pop(0.))/years*COLUMNS
    rows = [{"detector": "change alarm", "promised a year": str(ASKED), "false alarms a year, 10 columns": false,
             **{f"{s} sd": f"{np.median(d):.0f} (mean {np.mean(d):.1f})" for s, d in alarm.items()}}]
    ks = {s: ks_delay(rng, s) for s in SHIFTS}
    rows.append({"detector": "daily KS, same budget", "promised a year": str(ASKED), "false alarms a year, 10 columns": ASKED,
                 **{f"{s} sd": f"{median:.0f} (mean {mean:.1f})" for s, (median, mean) in ks.items()}})
    rows += one_by_one() + run_lengths() + [floor(rng)]
    store("drift_power", rows, PACKAGES)


def sorted_columns(columns: list[np.ndarray]) -> None:
    for column in columns: np.sort(column)


def scipy_tests(usual: pd.DataFrame, table: pd.DataFrame) -> None:
    for name in usual: stats.ks_2samp(usual[name].to_numpy(), table[name].to_numpy(), method="asymp")


NANNYML = """
import os, time, warnings
os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"   # it reports each call to its makers otherwise
warnings.simplefilter("ignore")
import numpy as np, pandas as pd
import nannyml
rng = np.random.default_rng(0)
names = [f"x{k}" for k in range(20)]
usual, table = (pd.DataFrame(rng.standard_normal((n, 20)), columns=names) for n in (100_000, data["rows"]))
made = nannyml.UnivariateDriftCalculator(column_names=names, continuous_methods=["kolmogorov_smirnov"], chunk_number=1).fit(usual)
def turn(word):
    start = time.perf_counter()
    made.calculate(table)
    return time.perf_counter() - start
"""


DEEPCHECKS = """
import time, warnings
warnings.simplefilter("ignore")
import numpy as np, pandas as pd
from deepchecks.tabular import Dataset
from deepchecks.tabular.checks import FeatureDrift
rng = np.random.default_rng(0)
names = [f"x{k}" for k in range(20)]
usual, table = (Dataset(pd.DataFrame(rng.standard_normal((n, 20)), columns=names), cat_features=[]) for n in (100_000, data["rows"]))
def turn(word):
    start = time.perf_counter()
    FeatureDrift(n_samples=data["rows"], numerical_drift_method="KS").run(train_dataset=usual, test_dataset=table, with_display=False)
    return time.perf_counter() - start
"""
COUNTERS = {"NannyML": ("nannyml", ("nannyml==0.13.1", "statsmodels"), NANNYML),
            "deepchecks": ("deepchecks", ("deepchecks==0.19.1", "setuptools<81", "scikit-learn==1.5.2", "numpy<2"), DEEPCHECKS)}


def other(name: str, rows: int, rounds: int) -> float:
    "The median seconds of a peer's Kolmogorov-Smirnov distances of a table from a reference."
    folder, requirements, code = COUNTERS[name]
    with waiting(peer(folder, requirements), code, rows=rows) as turn: return float(np.median([turn("") for _ in range(rounds)]))


def speed() -> None:
    "Counting rows against a fitted reference beside sorting them and scipy's test."
    rng, rows = np.random.default_rng(0), []
    names = [f"x{k}" for k in range(20)]
    usual = pd.DataFrame(rng.standard_normal((100_000, 20)), columns=names)
    reference = Reference.fit(usual, days=np.repeat(np.arange(100), 1000))
    for n, rounds in ((1_000_000, 3), (1000, 30)):
        table = pd.DataFrame(rng.standard_normal((n, 20)), columns=names)
        columns = [table[name].to_numpy().copy() for name in names]
        contenders: dict[str, Callable] = {"ours": partial(reference.count, table), "numpy.sort": partial(sorted_columns, columns)}
        if n > 1000: contenders["scipy"] = partial(scipy_tests, usual, table)
        took = seconds(contenders, rounds)
        rows.append({"rows of 20 columns": f"{n:,}", "counting over numpy.sort": took["ours"]/took["numpy.sort"],
                     "scipy's KS test over counting": took["scipy"]/took["ours"] if "scipy" in took else "-",
                     **({f"{name} over counting": other(name, n, rounds)/took["ours"] if n > 1000 else "-" for name in COUNTERS} if "--all" in sys.argv else {}),
                     "kept of them, bytes": str(reference.count(table).nbytes)})
    store("drift_speed", rows, PACKAGES)


if __name__ == "__main__":
    tables = {"power": power, "speed": speed}
    for name in [word for word in sys.argv[1:] if word != "--all"] or tables: tables[name]()
