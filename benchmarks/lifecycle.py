"""What each part of the system was worth (chapter 12): the year lived again under other rules, in memory.

Models are boosted trees of sixty rounds on thirty thousand rows drawn from those that may teach, so that a year costs seconds; the comparisons are
within one run. OMP_NUM_THREADS=1 is faster than more where the machine does other things.

    python benchmarks/lifecycle.py               everything, some ten minutes
    python benchmarks/lifecycle.py policies      one table: policies, labels, releases, stops, ledger, events or memory
"""
import hashlib
import subprocess
import sys
import tempfile
import time
from functools import cache

import numpy as np
import pandas as pd
import psutil
from harness import store
from sklearn.ensemble import HistGradientBoostingClassifier

from mlscale.data import OperationsDesk, load_flights
from mlscale.evaluation import daily_differences, estimate_mean
from mlscale.features import load_features
from mlscale.policy import surely_worse
from mlscale.replay import TURNED_OFF, replay, worth
from mlscale.system import CHECK, END, RETRAIN, START, WEEK, Rules
from mlscale.world import World, without_horizon

PACKAGES = ("numpy", "pandas", "scikit-learn")
ROWS, BAD = 30_000, pd.Timestamp("2013-09-02", tz="UTC")


@cache
def features():
    return load_features().set_index("flight_id").sort_values("event_timestamp", kind="stable")


@cache
def leaky(): return without_horizon(features(), END)


@cache
def world(seed=0): return World(load_flights().set_index("flight_id"), OperationsDesk(seed=seed))


MADE = {}


def fit(X, y, weights, seed=0):
    "Boosted trees; the same question is answered from memory, for many of these years begin alike."
    rows = np.random.default_rng(seed).permutation(len(X))[:ROWS]
    key = hashlib.sha256(b"".join([X.iloc[rows].to_numpy().tobytes(), y[rows].tobytes(), weights[rows].tobytes()])).hexdigest()
    if key not in MADE:
        model = HistGradientBoostingClassifier(max_iter=60, learning_rate=.12, min_samples_leaf=100, l2_regularization=1, early_stopping=False,
                                               random_state=seed)
        MADE[key] = model.fit(X.iloc[rows], y[rows], sample_weight=weights[rows]), {}
    model, answered = MADE[key]

    def score(asked):
        table = hashlib.sha256(asked.last_dep_delay.to_numpy().tobytes()).hexdigest()   # in which the true table and the leaky one differ
        if table not in answered: answered[table] = model.predict_proba(asked)[:, 1]
        return answered[table]
    return score


def live(rules=None, seed=0, **more): return replay(world(seed), features(), rules or Rules(), fit=fit, **more)


def against(year, other):
    "As `worth`, under the names of the stored tables."
    told, names = worth(year, other), {"log_loss": "log loss", "more_saved": "more saved", "saved_low": "saved low", "saved_high": "saved high"}
    return {names.get(name, name): value for name, value in told.items()}


def policies():
    "When to retrain, with and without the gate; each against never."
    years = {(rule, gate): live(Rules(retrain=rule, gate=gate, check="shadow")) for gate in (True, False) for rule in RETRAIN}
    never = years["never", True]
    store("lifecycle_policies", [{"retrain": rule, "gate": gate, "trained": year.count("train"), "released": year.count("release"),
                                  **against(year, never)} for (rule, gate), year in years.items()], PACKAGES)


def labels():
    "A month's retraining without gate and check: on flights left alone with their weights, or on whatever happened."
    rows = []
    for seed in range(3):
        years = {honest: live(Rules(retrain="monthly", gate=False, check="none", left_alone=honest), seed) for honest in (True, False)}
        for honest, year in years.items():
            for month, part in year.weeks.groupby(year.weeks.week.dt.strftime("%m")):
                rows.append({"seed": seed, "left alone": honest, "month": month, "log loss": float(np.average(part.log_loss, weights=part.flights)),
                             "acted": int(part.acted.sum()), "flights": int(part.flights.sum()), "saved": float(part.saved.sum())})
    store("lifecycle_labels", rows, PACKAGES)


def releases():
    "The bad release on eight Mondays, and a good one: the champion's own recipe on newer flights."
    rows = []
    for monday in pd.date_range(START + 4 * WEEK, periods=8, freq=4 * WEEK):
        for kind, table in (("bad", leaky()), ("good", features())):
            for check in CHECK:
                year = live(Rules(retrain="never", check=check, gate=kind == "bad"), bad_release=monday, leaky=table, until=monday + 5 * WEEK)
                taken = [d for d in year.decisions if d.kind in ("stop", "rollback")]
                passed = not year.count("refuse")
                exposed = int(year.weeks.exposed.sum())
                if passed and not taken: exposed = int(year.weeks.flights[year.weeks.week >= monday].sum()) if check in ("none", "week") else None
                rows.append({"monday": f"{monday:%Y-%m-%d}", "release": kind, "check": check, "passed the gate": passed, "taken back": bool(taken),
                             "days": (taken[0].at - monday).days if taken else None, "exposed": exposed})
    store("lifecycle_releases", rows, PACKAGES)


def stops():
    "How often daily looks stop a model that differs from its predecessor by the seed alone."
    table, found = features(), []
    known = table[(table.event_timestamp < START) & table.late.notna()]
    columns = [c for c in table if c not in ("event_timestamp", "late", "label_time")]
    later = table[(table.event_timestamp >= START) & table.late.notna()]
    day = ((later.event_timestamp - START) // pd.Timedelta(days=1)).to_numpy()
    models = [fit(known[columns], known.late.to_numpy(), np.ones(len(known)), seed)(later[columns]) for seed in range(8)]
    for share in (1., .2):
        some = np.random.default_rng(0).random(len(later)) < share
        stopped = ordinary = weekly = trials = 0
        for a, new in enumerate(models):
            for b, old in enumerate(models):
                if a == b: continue
                d = daily_differences(new[some], old[some], later.late.to_numpy()[some], np.ones(some.sum()), day[some])
                d -= d.mean()   # no worse over the year
                for first in range(14, len(d) - 14, 14):
                    before, now = d[first - 14:first], d[first:first + 14]
                    stopped += any(surely_worse(now[:k], before) for k in range(1, 15))
                    z = [now[:k].mean() / (before.std(ddof=1) / k**.5) for k in range(1, 15)]
                    ordinary += max(z) > 1.645
                    weekly += estimate_mean(now[:7], days=np.arange(7), block_days=1).interval(.9)[0] > 0
                    trials += 1
        found.append({"share": share, "trials": trials, "stopped": stopped / trials, "by an ordinary interval looked at daily": ordinary / trials,
                      "by the check after a week": weekly / trials})
    store("lifecycle_stops", found, PACKAGES)


def ledger():
    "Each part turned off, in a year with the bad release."
    bad = {"bad_release": BAD, "leaky": leaky()}
    whole = live(**bad)
    without = {name: live(Rules(**changed), **bad) for name, changed in TURNED_OFF.items()} | {"no point-in-time features": live(leaky=leaky())}
    store("lifecycle_ledger", [{"year": name, "trained": year.count("train"), "released": year.count("release"),
                                "taken back": year.count("stop", "rollback"), **against(year, whole)} for name, year in without.items()], PACKAGES)


def events():
    "The loop itself, canaries and their daily looks included, without fitting and scoring."
    constant = lambda X, y, weights: lambda rows: np.full(len(rows), .45)
    start = time.process_time()
    year = replay(world(), features(), Rules(retrain="monthly", gate=False), fit=constant)
    took = time.process_time() - start
    n = int(2 * year.weeks.flights.sum() + year.weeks.acted.sum())
    store("lifecycle_events", [{"events": n, "seconds of the processor": took, "events a second": n / took}])


def memory():
    "Megabytes of a served run and of its servers, over its time; the JVM of Spark is left out."
    seen = []
    with tempfile.TemporaryDirectory() as place:
        child = subprocess.Popen([sys.executable, "-m", "mlscale.cli", "run", "--quiet", "--folder", f"{place}/run"], stdout=subprocess.DEVNULL)
        start, process = time.monotonic(), psutil.Process(child.pid)
        while child.poll() is None:
            try:
                servers = [p for p in process.children(recursive=True) if "_serve_inherited" in " ".join(p.cmdline())]
                seen.append((time.monotonic() - start, process.memory_info().rss, max([p.memory_info().rss for p in servers], default=0)))
            except psutil.NoSuchProcess: pass
            time.sleep(.5)
    if child.returncode: raise RuntimeError(f"the run ended with {child.returncode}")
    at, run, server = np.array(seen).T
    parts = np.minimum((10 * at / at[-1]).astype(int), 9)
    store("lifecycle_memory", [{"tenth of the run": k + 1, "the run, MB": float(np.median(run[parts == k]) / 2**20),
                                "its largest server, MB": float(np.median(server[parts == k]) / 2**20)} for k in range(10)], PACKAGES)


if __name__ == "__main__":
    TABLES = {f.__name__: f for f in (policies, labels, releases, stops, ledger, events, memory)}
    for name in sys.argv[1:] or TABLES: TABLES[name]()
