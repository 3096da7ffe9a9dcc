"A percentile of many servers: within its stated error, merged without loss, never silent."
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale.monitoring import LatencySketch, ModelMetrics, ModelMonitor

latencies = st.lists(st.one_of(st.floats(1e-6, 1e9), st.just(np.inf)), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(latencies, st.floats(0, 1), st.sampled_from([.001, .01, .2]))
def test_a_quantile_is_within_the_relative_error_of_the_exact_one(ms, q, error):
    exact = np.sort(ms)[max(int(np.ceil(round(q * len(ms), 9))), 1) - 1]
    found = LatencySketch(relative_error=error).update(ms).quantile(q)
    assert found == exact if np.isinf(exact) else abs(found / exact - 1) <= error * (1 + 1e-9)


def test_the_error_is_no_larger_and_no_smaller_than_stated():
    grid = np.geomspace(1, 1e6, 200_001)
    wrong = max(abs(LatencySketch().update(x).quantile(.5) / x - 1) for x in grid[::2000])
    assert .008 < wrong <= .01 * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(latencies, st.data())
def test_the_sketch_of_the_parts_is_that_of_the_whole_in_any_order(ms, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ms)), max_size=3)))
    parts = [LatencySketch().update(part) if len(part) else LatencySketch() for part in np.split(np.array(ms), cuts)]
    order = data.draw(st.permutations(range(len(parts))))
    merged = LatencySketch()
    for i in order: merged.merge(LatencySketch.from_dict(json.loads(json.dumps(parts[i].to_dict()))))
    assert merged.to_dict() == LatencySketch().update(ms).to_dict() and merged.n == len(ms)


def test_it_answers_as_ddsketch_does():
    ms = np.random.default_rng(0).lognormal(3, 1, 100_000)   # the answers of ddsketch 3.0.1, DDSketch(.01); see benchmarks/monitoring.py
    theirs = [19.88667024086647, 71.52824018719001, 206.46433277162913, 441.48895806268075]
    assert np.allclose([LatencySketch().update(ms).quantile(q) for q in (.5, .9, .99, .999)], theirs, rtol=1e-12, atol=0)


def test_no_answer_is_the_slowest_and_what_was_not_measured_is_counted_apart():
    sketch = LatencySketch().update([10] * 98 + [np.inf] * 2 + [np.nan, None])
    assert (sketch.n, sketch.unanswered, sketch.unmeasured) == (100, 2, 2) and sketch.quantile(.98) < 11 and sketch.quantile(.99) == np.inf
    for nothing in (LatencySketch(), LatencySketch().update([np.nan]), LatencySketch().update([])):
        with pytest.raises(ValueError, match="no latency is known"): nothing.quantile(.5)
    assert LatencySketch().update(0).quantile(.5) < 2e-6


def test_a_refused_latency_changes_nothing():
    sketch = LatencySketch().update([1, 2])
    before = sketch.to_dict()
    for bad in ([3, -1], ["3"], [[1, 2]], -np.inf):
        with pytest.raises(ValueError, match="latencies_ms"): sketch.update(bad)
    assert sketch.to_dict() == before
    with pytest.raises(ValueError, match="one width"): sketch.merge(LatencySketch(relative_error=.02))
    for q in (-.1, 1.1, np.nan, 99):
        with pytest.raises(ValueError, match="q="): sketch.quantile(q)


def test_what_no_sketch_wrote_is_refused():
    state = json.loads(json.dumps(LatencySketch().update([1, 2, np.inf, np.nan]).to_dict()))
    for bad in (None, {}, state | {"format": 2}, state | {"kind": "Alerts"}, state | {"counts": [[1, 0]]}, state | {"counts": [[1.5, 2]]}, state | {"counts": [3]},
                state | {"unanswered": -1}, state | {"unmeasured": None}, state | {"relative_error": 2}, {k: x for k, x in state.items() if k != "counts"}):
        with pytest.raises(ValueError, match="d: "): LatencySketch.from_dict(bad)


def test_the_memory_does_not_grow_with_the_requests():
    rng, sketch = np.random.default_rng(1), LatencySketch()
    sizes = [len(sketch.update(rng.lognormal(3, 1, 200_000)).counts) for _ in range(5)]
    assert sizes[-1] < 1.2 * sizes[0] < 800 and sketch.n == 10**6


def test_a_monitor_takes_the_merged_sketch_of_many_servers():
    rng, monitor = np.random.default_rng(2), ModelMonitor([0, 1])
    fleet = [rng.lognormal(3, .4, 1000) for _ in range(7)] + [rng.lognormal(3, .4, 2000) + np.where(rng.random(2000) < .08, 400, 0)]
    whole = LatencySketch()
    for ms in fleet: whole.merge(LatencySketch().update(ms))
    p99s = [np.quantile(ms, .99) for ms in fleet]
    assert np.mean(p99s) < 200 < np.quantile(np.concatenate(fleet), .99)
    finding, of_all = monitor.latency(whole), monitor.latency(np.concatenate(fleet))
    assert finding and finding.evidence == of_all.evidence == "99th percentile of 9,000 requests" and abs(finding.value / of_all.value - 1) <= .0101
    assert monitor.check_latency(whole) is True and ModelMetrics.measure([1.], [.5], whole).latency_p99 == finding.value
    with pytest.raises(ValueError, match="no latency is known"): monitor.check_latency(LatencySketch())


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_percentile_of_a_hundred_values_is_that_value_whatever_a_product_of_floats_is(percent):
    found = LatencySketch().update(np.arange(1., 101)).quantile(percent / 100)
    assert abs(found / percent - 1) <= .01
