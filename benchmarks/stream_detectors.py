"""Detectors on one stream: ADWIN beside River's after every value, and what each detector's rate of false alarms buys in delay.

    python benchmarks/stream_detectors.py [river] [delays]     both where none is named; some three minutes
"""
import sys

import numpy as np
from harness import ask, peer, store
from scipy import stats

from mlscale.stream_detectors import Adwin, Cusum, cusum_threshold

RIVER = ("river==0.26.1",)

RIVER_ADWIN = """
from river import drift
answer = []
for values in data["streams"]:
    detector, widths, cuts = drift.ADWIN(delta=data["delta"]), [], 0
    for v in values:
        detector.update(v)
        widths.append(int(detector.width))
        cuts += detector.drift_detected
    answer.append([widths, cuts])
"""


def stream(kind, seed, n=2500):
    "Two worlds one after the other, values between 0 and 1."
    rng = np.random.default_rng(seed)
    if kind == "coins": return np.concatenate([rng.random(n) < .2, rng.random(n) < .3]).astype(float)
    if kind == "uniform": return np.concatenate([rng.random(n), .9*rng.random(n) + .1])
    return np.concatenate([rng.beta(2, 8, n), rng.beta(2, 8, n//2), rng.beta(8, 2, n//2)])


def river(delta=.002):
    "The number of values that are kept after every value; River begins anew after each cut."
    kinds = [(kind, seed) for kind in ("coins", "uniform", "beta") for seed in (0, 1)]
    streams = [stream(kind, seed) for kind, seed in kinds]
    rows = []
    for (kind, seed), x, (theirs, cuts) in zip(kinds, streams, ask(peer("river", RIVER), RIVER_ADWIN, streams=[x.tolist() for x in streams], delta=delta), strict=True):
        detector, ours = Adwin(delta), []
        for v in x:
            if detector.drift_detected: detector.reset()
            ours.append(detector.update(v).width)
        rows.append({"stream": kind, "seed": seed, "delta": delta, "steps": len(x), "cuts": cuts, "steps that differ": int((np.array(ours) != theirs).sum()),
                     "kept after every 100th": theirs[99::100]})
    store("stream_detectors_river", rows, packages=("numpy", "scipy"))


RIVER_OTHERS = """
import random
from river import drift
h = data["threshold"]
make = {"Page-Hinkley (River)": lambda: drift.PageHinkley(min_instances=30, delta=.5, threshold=h, alpha=1., mode="both"), "ADWIN (River)": lambda: drift.ADWIN(),
        "KSWIN (River)": lambda: drift.KSWIN(seed=1)}
answer = {}
for name, new in make.items():
    alarms, detector = 0, new()
    quiet = data["quiet"][:data["kswin"]] if "KSWIN" in name else data["quiet"]
    for v in quiet:
        detector.update(v)
        alarms += detector.drift_detected
    delays = []
    for values in data["streams"]:
        detector, at = new(), None
        for k, v in enumerate(values):
            detector.update(v)
            if detector.drift_detected:
                if k >= data["before"]:
                    at = k - data["before"] + 1
                    break
                detector = new()
        delays.append(at)
    answer[name] = [len(quiet), alarms, delays]
"""


def delays(quiet=2_000_000, before=1000, after=20_000, streams=60, run_length=50_000):
    "False alarms on values in which nothing changes, and the median delay after changes of the mean; values are cut at 5 sd."
    cut = lambda x: np.clip(x, -5, 5)
    calm = cut(np.random.default_rng(0).standard_normal(quiet))
    sizes = (.25, .5, 1, 2)
    changed = [cut(np.random.default_rng((1, i, j)).standard_normal(before + after) + size*(np.arange(before + after) >= before)) for i, size in enumerate(sizes) for j in range(streams)]
    h = cusum_threshold(run_length)
    ours = {"CUSUM for 1 sd": (f"run length {run_length:,}", lambda: Cusum(0, 1, threshold=h)),
            "CUSUM for 1/4 sd": (f"run length {run_length:,}", lambda: Cusum(0, 1, threshold=cusum_threshold(run_length, shift=.25), shift=.25)),
            "ADWIN": ("delta .002", lambda: Adwin(.002, low=-5, high=5)), "ADWIN, delta .9": ("delta .9", lambda: Adwin(.9, low=-5, high=5))}

    def delay(new, x):
        detector = new()
        for k, v in enumerate(x):
            if detector.update(v).drift_detected:
                if k >= before: return k - before + 1
                detector.reset()
        return None

    found = {}
    for name, (_, new) in ours.items():
        detector, alarms = new(), 0
        for v in calm:
            if detector.update(v).drift_detected:
                alarms += 1
                if isinstance(detector, Cusum): detector.reset()
        found[name] = [len(calm), alarms, [delay(new, x) for x in changed]]
    found |= ask(peer("river", RIVER), RIVER_OTHERS, threshold=h, quiet=calm.tolist(), kswin=100_000, streams=[x.tolist() for x in changed], before=before)
    settings = {name: how for name, (how, _) in ours.items()} | {"Page-Hinkley (River)": f"delta .5, threshold {h:.1f}", "ADWIN (River)": "delta .002", "KSWIN (River)": "alpha .005"}
    rows = []
    for name, (n, alarms, waits) in found.items():
        low, high = n/(stats.chi2.ppf(.975, 2*alarms + 2)/2), n/(stats.chi2.ppf(.025, 2*alarms)/2) if alarms else None
        medians = np.median(np.array([np.inf if w is None else w for w in waits]).reshape(len(sizes), streams), axis=1)
        rows.append({"detector": name, "setting": settings[name], "values": n, "false alarms": alarms, "run length, from": low, "run length, to": high,
                     **{f"delay, {size:g} sd": None if np.isinf(m) else float(m) for size, m in zip(sizes, medians, strict=True)}})
    store("stream_detectors", rows, packages=("numpy", "scipy"))


if __name__ == "__main__":
    for part in sys.argv[1:] or ("river", "delays"): {"river": river, "delays": delays}[part]()
