"""The drift alarm (chapter 07 and its companions): how soon it sees a change at a stated number of false alarms a year, and what counting costs.

The daily Kolmogorov-Smirnov test is calibrated to the same budget; River's detectors promise none, so theirs is measured beside their delay.

    python benchmarks/drift.py           both tables, in some minutes
    python benchmarks/drift.py power     one table: power or speed
"""
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from harness import ask, peer, seconds, store
from scipy import special, stats

from mlscale.drift import Reference, bin_scores, critical_values, day_baseline, outer_edges, quantile_edges, score_moments, window_scores

ROWS, DAYS, COLUMNS, ASKED = 1000, 120, 10, 2.   # rows a day, days of reference, columns that share the budget, false alarms a year
WINDOWS, STATISTICS = (1, 2, 4, 8, 16, 32), 5    # numbers a column: location, spread, two of the shape, missing
SHIFTS = (.05, .1, .15, .2, .3)
PACKAGES = ("numpy", "scipy", "pandas")

RIVER = """
import numpy as np
from river import drift
make = {"ADWIN": drift.ADWIN, "Page-Hinkley": drift.PageHinkley, "KSWIN": lambda: drift.KSWIN(seed=1)}[data["name"]]
rng = np.random.default_rng(data["seed"])
def first(x, detector):
    for i, v in enumerate(x):
        detector.update(v)
        if detector.drift_detected: return i
alarms, days = 0, data["null_days"]
detector = make()
for v in rng.standard_normal(days*data["rows"]).tolist():
    detector.update(v)
    alarms += detector.drift_detected
delays = {}
for shift in data["shifts"]:
    found = []
    for _ in range(data["worlds"]):
        detector = make()
        for v in rng.standard_normal(20*data["rows"]).tolist(): detector.update(v)
        at = first((rng.standard_normal(data["most"]*data["rows"]) + shift).tolist(), detector)
        found.append(data["most"] if at is None else at//data["rows"] + 1)
    delays[str(shift)] = found
answer = {"alarms": alarms, "delays": delays}
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
    river = peer("river", ["river==0.22.0"])
    for name in ("ADWIN", "Page-Hinkley", "KSWIN"):
        days = 365 if name != "KSWIN" else 20
        got = ask(river, RIVER, name=name, seed=0, rows=ROWS, null_days=days, worlds=10 if name != "KSWIN" else 4, most=30 if name != "KSWIN" else 5, shifts=SHIFTS)
        rows.append({"detector": f"River {name}, as it comes", "promised a year": "nothing", "false alarms a year, 10 columns": got["alarms"]/days*365*COLUMNS,
                     **{f"{s} sd": f"{np.median(got['delays'][str(s)]):.0f} (mean {np.mean(got['delays'][str(s)]):.1f})" for s in SHIFTS}})
    store("drift_power", rows, PACKAGES)


def sorted_columns(columns: list[np.ndarray]) -> None:
    for column in columns: np.sort(column)


def scipy_tests(usual: pd.DataFrame, table: pd.DataFrame) -> None:
    for name in usual: stats.ks_2samp(usual[name].to_numpy(), table[name].to_numpy(), method="asymp")


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
                     "kept of them, bytes": str(reference.count(table).nbytes)})
    store("drift_speed", rows, PACKAGES)


if __name__ == "__main__":
    tables = {"power": power, "speed": speed}
    for name in sys.argv[1:] or tables: tables[name]()
