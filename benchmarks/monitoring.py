"""The latency sketch beside DDSketch's own package: the same answers, and what a million requests cost.

    python benchmarks/monitoring.py                            some ten seconds
"""
import numpy as np
from harness import peer, seconds, store, waiting

from mlscale.latency_sketch import LatencySketch

DDSKETCH = ("ddsketch==3.0.1",)
QS = (.5, .9, .99, .999)
PEER = """
from time import perf_counter
from ddsketch import DDSketch
def turn(word):
    start, sketch = perf_counter(), DDSketch(.01)
    for x in data["ms"]: sketch.add(x)
    return [perf_counter() - start, [sketch.get_quantile_value(q) for q in data["qs"]]]
"""


def main():
    ms = np.random.default_rng(0).lognormal(3, 1, 100_000)
    exact = np.quantile(ms, QS, method="inverted_cdf")
    with waiting(peer("ddsketch", DDSKETCH), PEER, ms=ms.tolist(), qs=QS) as turn:
        theirs = turn("add")
        slow = min(turn("add")[0] for _ in range(3))
    ours = np.array([LatencySketch().update(ms).quantile(q) for q in QS])
    one_by_one = LatencySketch()
    cost = seconds({"array": lambda: LatencySketch().update(ms), "sort": lambda: np.sort(ms), "single": lambda: [one_by_one.update(x) for x in ms[:1000]]})
    rows = [{"what": "an array at once", "us per request": cost["array"] / len(ms) * 1e6, "of the peer": cost["array"] / slow},
            {"what": "one request a call", "us per request": cost["single"] / 1000 * 1e6, "of the peer": cost["single"] * len(ms) / 1000 / slow},
            {"what": "ddsketch, one a call", "us per request": slow / len(ms) * 1e6, "of the peer": 1.},
            {"what": "numpy.sort", "us per request": cost["sort"] / len(ms) * 1e6, "of the peer": cost["sort"] / slow}]
    store("monitoring_sketch", rows, ("numpy",))
    answers = [{"quantile": q, "exact": e, "ddsketch": t, "ours": o, "largest difference of the two": abs(o / t - 1)} for q, e, t, o in zip(QS, exact, theirs[1], ours, strict=True)]
    store("monitoring_quantiles", answers, ("numpy",))


if __name__ == "__main__": main()
