"Waiting times are what queueing theory and another simulator say, and plans keep what they promise."
import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale import capacity as c

TIMES = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=40)


def by_hand(arrivals, work, servers):
    "Waiting times by a heap of the moments at which servers are free."
    free, waits = [-math.inf] * servers, []
    for at, takes in zip(arrivals, work, strict=True):
        begin = max(heapq.heappop(free), at)
        heapq.heappush(free, begin + takes)
        waits.append(begin - at)
    return waits


def poisson(rng, rate, shape): return rng.exponential(1 / rate, shape).cumsum(-1)


# ---- the simulation

@given(TIMES, st.integers(1, 4))
def test_a_simulation_is_what_a_heap_says(times, servers):
    gaps, work = np.array(times).T
    assert np.allclose(c.simulate_queue(gaps.cumsum(), work, servers), by_hand(gaps.cumsum(), work, servers), atol=1e-9)


def test_rows_are_runs_of_their_own():
    rng = np.random.default_rng(0)
    at, work = poisson(rng, 1.5, (5, 200)), rng.exponential(1, (5, 200))
    for servers in (1, 2): assert np.allclose(c.simulate_queue(at, work, servers), [by_hand(a, w, servers) for a, w in zip(at, work, strict=True)])


@pytest.mark.parametrize("servers", [1, 3])
def test_ciw_agrees_question_by_question(servers):
    import ciw
    rng, n = np.random.default_rng(servers), 2000
    gaps, work = rng.exponential(1 / .9 / servers, n), rng.lognormal(-.5, 1, n)
    network = ciw.create_network(arrival_distributions=[ciw.dists.Sequential([*gaps.tolist(), math.inf])], service_distributions=[ciw.dists.Sequential(work.tolist())], number_of_servers=[servers])
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(n)
    theirs = [r.waiting_time for r in sorted(simulation.get_all_records(), key=lambda r: r.id_number)]
    assert len(theirs) >= n - servers
    assert np.allclose(c.simulate_queue(gaps.cumsum(), work, servers)[:len(theirs)], theirs, atol=1e-8) and max(theirs) > 5


# ---- the formulas

def test_erlangs_tables():
    assert c.mmc_wait(2, 1, 3).probability == pytest.approx(4 / 9)          # 2 erlangs on 3 servers
    assert c.mmc_wait(5, 1, 8).probability == pytest.approx(.1673, abs=1e-4)
    assert c.mmc_wait(.8, 1).mean == pytest.approx(4) and c.mmc_wait(800, .001).quantile(.5) == pytest.approx(math.log(.8 / .5) / 200)


@pytest.mark.parametrize(("load", "servers"), [(.3, 1), (.8, 1), (.95, 1), (.7, 2), (.9, 10), (.99, 200)])
def test_mmc_solves_the_equations_of_balance(load, servers):
    k = np.arange(1, servers + int(60 / (1 - load)))
    p = np.concatenate([[0.], np.cumsum(np.log(load * servers / np.minimum(k, servers)))])
    p = np.exp(p - p.max()) / np.exp(p - p.max()).sum()
    wait, queued = c.mmc_wait(load * servers * 7, 1 / 7, servers), np.maximum(np.arange(len(p)) - servers, 0) @ p
    assert wait.probability == pytest.approx(p[servers:].sum()) and wait.mean * load * servers * 7 == pytest.approx(queued)


@pytest.mark.parametrize("load", [.1, .5, .8, .95])
def test_mg1_is_mm1_for_exponential_work_and_erlangs_series_for_constant_work(load):
    u = (np.arange(20_000) + .5) / 20_000
    exponential = -np.log1p(-u)
    wait, exact = c.mg1_wait(load / exponential.mean(), exponential), c.mmc_wait(load, 1)
    for share in (.5, .9, .99): assert wait.response_quantile(share, exponential) == pytest.approx(-math.log(1 - share) / (1 - load), rel=.01)
    assert wait.mean == pytest.approx(exact.mean, rel=.01)
    constant = c.mg1_wait(load, [1.])
    for t in (.3, 1., 2.5, 4.):   # Erlang 1909; its terms alternate, so t stays small
        below = (1 - load) * sum((load * (k - t))**k / math.factorial(k) * math.exp(-load * (k - t)) for k in range(int(t) + 1))
        assert float(constant.tail(np.array(t))) == pytest.approx(1 - below, abs=.004)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(.01, 20), min_size=1, max_size=30), st.floats(.05, .97), st.floats(.001, 1000))
def test_mg1_has_the_mean_of_its_tail_and_knows_no_unit(takes, load, unit):
    takes = np.array(takes)
    wait, scaled = c.mg1_wait(load / takes.mean(), takes), c.mg1_wait(load / takes.mean() / unit, takes * unit)
    assert scaled.mean == pytest.approx(wait.mean * unit) and scaled.quantile(.99) == pytest.approx(wait.quantile(.99) * unit, rel=1e-6, abs=1e-9 * unit)
    t = np.linspace(0, 25 * wait.mean / load + 4 * takes.max(), 200_001)
    tail = wait.tail(t)
    assert np.trapezoid(tail, t) == pytest.approx(wait.mean, rel=.01) and (np.diff(tail) <= 1e-12).all() and 0 <= tail.min() and tail.max() <= 1


@pytest.mark.parametrize("takes", [np.where(np.arange(1000) < 970, .5, 17.), np.random.default_rng(0).lognormal(0, 1, 2000)], ids=["banks", "lognormal"])
def test_mg1_predicts_the_slow_answers_that_a_simulation_sees(takes):
    rng, takes = np.random.default_rng(1), takes / takes.mean()
    drawn = rng.choice(takes, (60, 20_000))
    total = (c.simulate_queue(poisson(rng, .8, drawn.shape), drawn) + drawn)[:, 3000:]
    wait = c.mg1_wait(.8, takes)
    for share in (.5, .9, .99): assert wait.response_quantile(share, takes) == pytest.approx(np.quantile(total, share), rel=.06)


def test_kingman_is_erlang_without_bursts_and_near_in_heavy_traffic_with_them():
    for servers in (1, 4): assert c.kingman_wait(.9 * servers, 1, servers).quantile(.99) == pytest.approx(c.mmc_wait(.9 * servers, 1, servers).quantile(.99))
    rng, shape = np.random.default_rng(0), (200, 10_000)   # gamma: 1/shape is the squared coefficient of variation
    at, work = rng.gamma(.25, 4 / .9, shape).cumsum(-1), rng.gamma(2, .5, shape)
    waits = c.simulate_queue(at, work)[:, 3000:]
    wait = c.kingman_wait(.9, 1, arrival_cv2=4, service_cv2=.5)
    assert wait.mean == pytest.approx(waits.mean(), rel=.1) and wait.quantile(.99) == pytest.approx(np.quantile(waits, .99), rel=.1)
    assert c.mmc_wait(.9, 1).mean < .5 * waits.mean()      # the formula that knows of no bursts


def test_an_answer_takes_at_least_the_work_and_without_load_no_more():
    takes = np.array([1., 2., 10.])
    nobody = c.mg1_wait(1e-9, takes)
    assert [nobody.response_quantile(q, takes) for q in (.3, .6, .99)] == pytest.approx([1, 2, 10], abs=.01)
    assert c.mmc_wait(.5, 1).quantile(.4) == 0             # half do not wait at all


# ---- plans

@settings(max_examples=30, deadline=None)
@given(st.floats(.01, 300), st.floats(1.3, 20), st.integers(1, 8), st.integers(0, 3))
def test_a_plan_keeps_its_promise_and_one_machine_less_breaks_it(rate, within, processes, spare):
    takes = np.array([.5, .5, 1.2])
    machines = c.machines_needed(rate, takes, within=within, processes=processes, spare=spare)
    def slow(working): return c.kingman_wait(rate / working, takes.mean(), processes, service_cv2=takes.var() / takes.mean()**2).response_quantile(.99, takes)
    working = machines - spare
    assert working >= 1 and slow(working) <= within
    assert working == 1 or rate / (working - 1) * takes.mean() / processes >= 1 or slow(working - 1) > within
    assert c.machines_needed(2 * rate, takes, within=within, processes=processes, spare=spare) >= machines


def test_a_plan_holds_in_a_simulation_of_the_fleet():
    rng, takes = np.random.default_rng(0), np.array([.2, .3, .5, 1.])
    working = c.machines_needed(40, takes, within=2.5, processes=2, spare=0)
    def p99(machines):
        drawn = rng.choice(takes, (machines, 20_000))
        return np.quantile(c.simulate_queue(poisson(rng, 40 / machines, drawn.shape), drawn, 2) + drawn, .99)
    assert p99(working) <= 2.5 * 1.05 and p99(working - 1) > 2.5


def test_the_law_is_found_again_and_is_never_negative():
    true = c.ScalabilityLaw(120., .04, .0008)
    law = c.fit_usl([1, 2, 3, 4, 6], true.throughput([1, 2, 3, 4, 6]))
    assert (law.one, law.contention, law.coherence) == pytest.approx((120, .04, .0008))
    assert law.throughput(round(law.peak)) >= max(law.throughput(round(law.peak) + k) for k in (-2, 2))
    better = c.fit_usl([1, 2, 3, 4], [100, 205, 315, 430])   # more than proportional
    assert better.contention == 0 == better.coherence and better.peak == math.inf


def test_dollars():
    assert c.cost_per_million(1e6 / 3600, 3, dollars_per_hour=.5) == pytest.approx(1.5)   # a million in an hour, three machines


# ---- the autoscaler

def minute_by_minute(asked, capacity, target, start, settle, least, planned):
    "The same as a loop."
    needed, paid, rows, left = [], [], [], 0.
    for m in range(len(asked)):
        if planned is None: seen = asked[m - 1] if m else 0
        else: seen = planned[m + start] if m + start < len(planned) else 0
        needed.append(max(least, math.ceil(seen / capacity / target)))
        paid.append(max(needed[-settle - 1:]))
        ready = min(paid[-start - 1:])
        left = max(left + asked[m] - ready * capacity, 0)
        rows.append((paid[-1], ready, left, left / ready / capacity * 60))
    return np.array(rows)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60), st.integers(0, 5), st.integers(0, 8), st.integers(1, 3), st.booleans())
def test_the_autoscaler_is_what_a_loop_says(asked, start, more, least, ahead):
    planned = asked if ahead else None
    run = c.autoscale(asked, 100., target=.5, start=start, settle=start + more, least=least, planned=planned)
    assert np.allclose(run[["paid", "ready", "backlog", "wait"]], minute_by_minute(asked, 100., .5, start, start + more, least, planned), atol=1e-6)
    if ahead: assert (run.backlog[start:] == 0).all() or max(asked[:start], default=0) > 100   # what is known in time does not wait


def test_an_autoscaler_is_late_by_its_lag_and_no_longer():
    asked = np.r_[np.full(30, 100.), np.full(60, 1000.)]
    longest = [c.autoscale(asked, 100., start=start).wait.max() for start in (0, 2, 5)]
    assert longest[0] < longest[1] < longest[2] and c.autoscale(asked, 100., start=5).wait.iloc[-1] == 0
    assert c.autoscale(asked, 100., start=5, planned=asked).wait.max() == 0


# ---- what is refused

@pytest.mark.parametrize(("call", "says"), [
    (lambda: c.simulate_queue([0, 2, 1], [1, 1, 1]), "arrivals: one comes before"),
    (lambda: c.simulate_queue([0, 1], [1]), r"service_times: shape \(1,\)"),
    (lambda: c.simulate_queue([], []), "service_times: shape"),
    (lambda: c.simulate_queue([0, 1], [1, -1]), "service_times: finite numbers, 0 or above"),
    (lambda: c.simulate_queue([0, 1], [1, 1], servers=0), "servers=0"),
    (lambda: c.mmc_wait(10, .1), "carry less than 10; .* grows for ever"),
    (lambda: c.mmc_wait(0, .1), "arrival_rate=0"),
    (lambda: c.mmc_wait(1, .1, 1.5), "servers=1.5"),
    (lambda: c.mg1_wait(1, [0, 0]), "the mean of service_times=0.0: a number above 0"),
    (lambda: c.mg1_wait(1, [.5, math.nan]), "service_times: finite"),
    (lambda: c.mg1_wait(2, [.4, .6]), "grows for ever"),
    (lambda: c.kingman_wait(1, .5, arrival_cv2=0, service_cv2=0), "arrival_cv2"),
    (lambda: c.mmc_wait(1, .5).quantile(99), r"share=99: .*99 % is 0.99"),
    (lambda: c.machines_needed(10, [.5, 2], within=1), "the work alone takes"),
    (lambda: c.machines_needed(10, [.5], within=0), "within=0"),
    (lambda: c.fit_usl([1, 2, 2], [1, 2, 2]), "2 of them different"),
    (lambda: c.fit_usl([1, 2, 4], [1, 2]), "2 values for 3"),
    (lambda: c.fit_usl([0, 1, 2], [1, 2, 3]), "workers: finite numbers, 1 or above"),
    (lambda: c.cost_per_million(0, 1, dollars_per_hour=1), "arrival_rate=0"),
    (lambda: c.cost_per_million(1, 1, dollars_per_hour=-1), "dollars_per_hour=-1"),
    (lambda: c.autoscale([1, 2], 10, start=5, settle=3), "settle=3"),
    (lambda: c.autoscale([1, 2], 10, planned=[1]), "planned: 1 minutes, expected 2"),
    (lambda: c.autoscale([1, -2], 10), "per_minute: finite numbers, 0 or above"),
    (lambda: c.autoscale([1, 2], 10, target=60), r"target=60"),
])
def test_what_cannot_be_is_refused_by_name(call, says):
    with pytest.raises(ValueError, match=says): call()
