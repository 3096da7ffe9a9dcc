"Detectors of one stream: the run length that is promised is kept, ADWIN keeps what River's keeps, and a state goes on after a restart."
import json
import math
from pathlib import Path

import numpy as np
import pytest

from mlscale.stream_detectors import Adwin, Cusum, cusum_run_length, cusum_threshold

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


# ---- CUSUM

@pytest.mark.parametrize("allowance, threshold", [(.25, 8.01), (.5, 4.77), (.75, 3.34), (1, 2.52), (1.25, 1.99), (1.5, 1.61)])
def test_the_threshold_is_that_of_the_printed_table(allowance, threshold):
    "Hawkins 1993, also in Montgomery's textbook: two sides, run length 370."
    assert cusum_threshold(370, shift=2 * allowance) == pytest.approx(threshold, abs=.011)


@pytest.mark.parametrize("threshold, mean, length", [(4, 0, 168), (5, 0, 465), (4, .25, 74.2), (5, .25, 139), (4, .5, 26.6), (5, .5, 38.0),
    (4, 1, 8.38), (5, 1, 10.4), (4, 2, 3.34), (5, 2, 4.01), (4, 3, 2.19), (5, 3, 2.57)])
def test_the_run_length_is_that_of_the_printed_table(threshold, mean, length):
    "Lucas and Crosier 1982, for an allowance of a half."
    assert cusum_run_length(threshold, mean=mean) == pytest.approx(length, rel=.006)


def markov(h, k, states=250):
    "Brook and Evans: the sum on a grid, as a chain."
    from scipy.stats import norm
    w = 2 * h / (2 * states - 1)
    to = np.arange(states) * w
    edges = np.column_stack([np.full((states, 1), -np.inf), to[None] - to[:, None] + w / 2 + k])
    step = np.diff(norm.cdf(edges), axis=1)
    return np.linalg.solve(np.eye(states) - step, np.ones(states))[0] / 2


@pytest.mark.parametrize("h, shift", [(2, 1), (6, 1), (9, .5), (3, 2)])
def test_the_integral_equation_agrees_with_a_chain_of_states(h, shift): assert cusum_run_length(h, shift=shift) == pytest.approx(markov(h, shift / 2), rel=1e-3)


@pytest.mark.parametrize("shift", [.2, 1, 3])
@pytest.mark.parametrize("length", [10, 1e3, 1e6, 1e9])
def test_the_threshold_is_the_inverse_of_the_run_length(length, shift):
    assert cusum_run_length(cusum_threshold(length, shift=shift), shift=shift) == pytest.approx(length, rel=1e-3)


def run_length(threshold, runs, draw):
    "The mean run length of the detector itself, and its standard error."
    lengths = []
    for _ in range(runs):
        detector = Cusum(3, 2, threshold=threshold)
        while not detector.update(3 + 2 * draw()).drift_detected: pass
        lengths.append(detector.n)
    return np.mean(lengths), np.std(lengths) / math.sqrt(runs)


def test_the_detector_keeps_its_run_length_and_would_not_with_another_threshold():
    rng = np.random.default_rng(0)
    for wanted in (20, 100):
        found, error = run_length(cusum_threshold(wanted), 500, rng.standard_normal)
        assert abs(found - wanted) < 4 * error
    found, error = run_length(cusum_threshold(100) + .5, 500, rng.standard_normal)
    assert found - 100 > 4 * error   # the test would notice


def test_a_change_is_told_with_its_direction_onset_and_size():
    rng, onsets, sizes = np.random.default_rng(1), [], []
    for sign in [-1, 1]*50:
        detector, x = Cusum(0, 1, threshold=cusum_threshold(1e5)), rng.standard_normal(400)
        x[100:] += sign * 1.5
        for v in x:
            if detector.update(v).drift_detected: break
        assert detector.direction == ("up" if sign > 0 else "down") and detector.n > 100
        onsets.append(detector.n - detector.since)
        sizes.append(sign * detector.size)
    assert abs(np.median(onsets) - 100) <= 1 and np.mean(np.abs(np.array(onsets) - 100) <= 10) > .9
    assert 1.3 < np.median(sizes) < 1.9


# ---- ADWIN

def stream(kind, seed, n=2500):
    "As in `benchmarks/stream_detectors.py`."
    rng = np.random.default_rng(seed)
    if kind == "coins": return np.concatenate([rng.random(n) < .2, rng.random(n) < .3]).astype(float)
    if kind == "uniform": return np.concatenate([rng.random(n), .9 * rng.random(n) + .1])
    return np.concatenate([rng.beta(2, 8, n), rng.beta(2, 8, n // 2), rng.beta(8, 2, n // 2)])


@pytest.mark.parametrize("row", json.loads((RESULTS / "stream_detectors_river.json").read_text())["rows"], ids=lambda row: f"{row['stream']} {row['seed']}")
def test_adwin_keeps_what_river_keeps(row):
    detector, kept, cuts = Adwin(row["delta"]), [], 0
    for x in stream(row["stream"], row["seed"]):
        if detector.drift_detected: detector.reset()   # as River does
        kept.append(detector.update(x).width)
        cuts += detector.drift_detected
    assert kept[99::100] == row["kept after every 100th"] and cuts == row["cuts"] > 0 and row["steps that differ"] == 0


def test_the_pieces_hold_the_mean_of_the_values_that_are_kept_and_few_of_them():
    rng = np.random.default_rng(2)
    x, detector = 5 + 3 * rng.random(5000), Adwin(low=5, high=8)
    for i, v in enumerate(x, 1):
        detector.update(v)
        if i in (1, 7, 100, 5000): assert detector.width == i and detector.mean == pytest.approx(x[:i].mean(), rel=1e-12)
    assert sum(map(len, detector.levels)) < 5 * math.log2(5000)
    squares = sum(s + (t - 2**i * x_mean)**2 / 2**i for x_mean in [((x - 5) / 3).mean()] for i, level in enumerate(detector.levels) for t, s in level)
    assert squares == pytest.approx(((x - 5) / 3).var() * 5000, rel=1e-9)


def test_adwin_cuts_seldom_where_nothing_changes_and_soon_where_something_does():
    rng, cuts, delays = np.random.default_rng(3), 0, []
    for _ in range(40):
        detector = Adwin()
        cuts += sum(detector.update(v).drift_detected for v in rng.random(1000) < .3)
        delays.append(next(n for n, v in enumerate(rng.random(1000) < .8) if detector.update(v).drift_detected))
    assert cuts <= 1 and max(delays) < 150


def test_values_on_another_scale_are_the_same_to_adwin():
    rng = np.random.default_rng(4)
    x = np.append(rng.random(500), .5 + rng.random(300) / 2)
    one, other = Adwin(), Adwin(low=-100, high=300)
    for v in x: assert one.update(v).width == other.update(-100 + 400 * v).width
    assert one.width < 800 and other.mean == pytest.approx(-100 + 400 * one.mean)


# ---- both

@pytest.mark.parametrize("make", [lambda: Cusum(0, 1, threshold=4), lambda: Adwin(.1, low=-5, high=5)], ids=["Cusum", "Adwin"])
def test_a_state_goes_on_where_it_was(make):
    rng = np.random.default_rng(5)
    x, whole = np.append(rng.standard_normal(150), 2 + rng.standard_normal(150)).clip(-5, 5), make()
    part = make()
    for i, v in enumerate(x):
        whole.update(v)
        stored = json.dumps(part.update(v).to_dict())
        if i % 7 == 0: part = type(part).from_dict(json.loads(stored))
        assert part.to_dict() == whole.to_dict() and repr(part) == repr(whole) and part.drift_detected == whole.drift_detected
    state = whole.to_dict()
    whole.update(0)
    assert type(whole).from_dict(state).to_dict() == state   # a copy: later values do not change it
    assert make().reset().to_dict() == make().to_dict() == part.reset().to_dict()


@pytest.mark.parametrize("attempt, word", [
    (lambda: Cusum(0, 0, threshold=5), "sd=0"),
    (lambda: Cusum(math.nan, 1, threshold=5), "mean=nan"),
    (lambda: Cusum(0, 1, threshold=0), "threshold=0"),
    (lambda: Cusum(0, 1, threshold=5, shift=0), "shift=0"),
    (lambda: Cusum(0, 1, threshold=5).update(math.nan), "x=nan"),
    (lambda: Cusum(0, 1, threshold=5).update("1"), "x='1'"),
    (lambda: Cusum(0, 1, threshold=5).update(math.inf), "x=inf"),
    (lambda: Adwin(0), "delta=0"),
    (lambda: Adwin(low=1, high=1), "high=1"),
    (lambda: Adwin(check_every=0), "check_every=0"),
    (lambda: Adwin().update(1.1), "x=1.1"),
    (lambda: Adwin().update(math.nan), "x=nan"),
    (lambda: cusum_threshold(1.2), "run_length=1.2"),
    (lambda: cusum_threshold(1e10), "run_length=1"),
    (lambda: cusum_threshold(1e9, shift=.001), "shift=0.001"),
    (lambda: cusum_run_length(-1), "threshold=-1"),
    (lambda: Cusum.from_dict(Cusum(0, 1, threshold=5).to_dict() | {"n_up": 1}), "n_up=1"),
    (lambda: Cusum.from_dict(Cusum(0, 1, threshold=5).to_dict() | {"up": -1}), "up=-1"),
    (lambda: Cusum.from_dict(Adwin().to_dict()), "not a Cusum"),
    (lambda: Adwin.from_dict(Adwin().to_dict() | {"format": 2}), "format 2"),
    (lambda: Adwin.from_dict(Adwin().to_dict() | {"levels": []}), "levels"),
    (lambda: Adwin.from_dict(Adwin().to_dict() | {"levels": [[[0, 0]] * 6], "n": 6}), "levels"),
    (lambda: Adwin.from_dict(Adwin().to_dict() | {"levels": [[[2, 0]]], "n": 1}), "levels=2"),
    (lambda: Adwin.from_dict(Adwin().to_dict() | {"levels": [[[1, 0]]]}), "n=0")])
def test_what_makes_no_sense_is_refused_by_name(attempt, word):
    with pytest.raises(ValueError, match=word.replace("(", r"\(")): attempt()


def test_a_refused_value_is_not_taken_in():
    for detector in (Cusum(0, 1, threshold=5).update(1), Adwin().update(1)):
        before = detector.to_dict()
        with pytest.raises(ValueError): detector.update(math.nan)
        assert detector.to_dict() == before


@pytest.mark.parametrize("made", [Cusum(0, 1, threshold=4), Adwin()], ids=["Cusum", "Adwin"])
def test_a_state_without_a_field_is_refused_by_the_fields_name(made):
    state = made.to_dict()
    for field in set(state) - {"kind", "format"}:
        with pytest.raises(ValueError, match=field): type(made).from_dict({k: v for k, v in state.items() if k != field})
