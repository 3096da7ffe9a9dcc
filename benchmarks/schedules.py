"""Online learning: a step beside river's and scikit-learn's, the iterates of river, rates chosen fairly and in hindsight, and
restarted schedules in many worlds.

    python benchmarks/schedules.py [speed] [iterates] [year] [restarts]     all four where none is named; some five minutes
"""
import sys

import numpy as np
import pandas as pd
from harness import ask, peer, seconds, store, waiting
from scipy.special import expit
from sklearn.linear_model import SGDClassifier

from mlscale.features import FEATURES, SCHEDULE, WEATHER, load_features
from mlscale.schedules import (
    AdaGrad,
    OnlineLogistic,
    PageHinkley,
    best_fixed,
    choose,
    constant,
    cosine,
    excess,
    inverse_scaling,
    inverse_time,
    optimal,
    page_hinkley_path,
    progressive,
    restart_threshold,
    simulate_labels,
    standardise_known,
    step_decay,
)

ZONE = "America/New_York"
RIVER = ("river==0.26.1",)
DELTA, MARGIN = .1, 1.5   # of the detector: its tolerance in nats, and its threshold in quantiles of the winter


def flights(columns=SCHEDULE + WEATHER):
    "Inputs and times of the flights in the order of prediction, as in chapter 11."
    f = load_features()
    f["day"] = (f.event_timestamp.dt.tz_convert(ZONE) - pd.Timestamp("2013-01-01", tz=ZONE)).dt.days
    f = f[f.late.notna()].reset_index(drop=True)
    codes = ["carrier", "origin", "weekday"]
    numbers = standardise_known(f[[c for c in columns if c not in [*codes, "dest"]]], f.day)
    X, keep = np.hstack([numbers, *(f[c].to_numpy()[:, None] == np.unique(f[c]) for c in codes)]), (f.day >= 7).to_numpy()
    return X[keep], f[keep].reset_index(drop=True)


# river keeps the intercept and its rate apart; a column of ones in its place makes the steps the same for every optimizer.
# Its dictionaries leave out the zeros, as they are made to.
RIVER_SPEED = """
from river import linear_model, optim
d = len(data["X"][0]) + 1
rows, labels = [{j: v for j, v in enumerate(x + [1.]) if v} for x in data["X"]], [bool(v) for v in data["y"]]
optimizers = {"constant": lambda: optim.SGD(.01), "AdaGrad": lambda: optim.AdaGrad(.1)}
def turn(name):
    model = linear_model.LogisticRegression(optimizer=optimizers[name](), intercept_lr=0.)
    for x, y in zip(rows, labels): model.learn_one(x, y)
    weights = dict(model.weights)
    return [weights.get(j, 0.) for j in range(d)]
"""


def speed(n=8192, rounds=7):
    "The same steps, timed, all contenders in turns: one row a call, and batches whose rows are learned one after the other."
    X, f = flights()
    X, y = X[:n], f.late.to_numpy()[:n]

    def ours(batch, rate):
        model = OnlineLogistic(X.shape[1], rate)
        if batch == 1:
            for x, label in zip(X, y, strict=True): model.update(x, label)
        else:
            for k in range(0, n, batch): model.update(X[k:k + batch], y[k:k + batch])
        return np.append(model.weights, model.intercept)

    def sklearns(batch):
        model = SGDClassifier(loss="log_loss", penalty=None, learning_rate="constant", eta0=.01, shuffle=False)
        for k in range(0, n, batch): model.partial_fit(X[k:k + batch], y[k:k + batch], classes=[0, 1])
        return np.append(model.coef_[0], model.intercept_)

    batches, rates = (1, 8, 32, 128, 512), {"constant": constant(.01), "AdaGrad": AdaGrad(.1)}
    pairs = [(batch, rate, "river") for rate in rates for batch in (1, 32)] + [(batch, "constant", "scikit-learn") for batch in batches]
    with waiting(peer("river", RIVER), RIVER_SPEED, X=X.tolist(), y=y.tolist()) as river:
        mine = {(batch, rate): lambda b=batch, r=rate: ours(b, rates[r]) for batch, rate, _ in pairs}
        peers = {("river", rate): lambda r=rate: river(r) for rate in rates} | {("scikit-learn", batch): lambda b=batch: sklearns(b) for batch in batches}
        contenders = mine | peers
        weights = {name: np.array(run()) for name, run in contenders.items()}   # and all are warm
        took = seconds(contenders, rounds)
    rows = []
    for batch, rate, name in pairs:
        us, them = (batch, rate), (name, rate if name == "river" else batch)
        job, how = "one row a call" if batch == 1 else f"batches of {batch}", ", row by row" if name == "river" and batch > 1 else ""
        rows.append({"job": job if rate == "constant" else f"{rate}, {job}", "peer": name + how,
                     "us a row, ours": took[us]/n*1e6, "us a row, peer": took[them]/n*1e6, "ratio": took[them]/took[us], "largest gap": float(np.abs(weights[us] - weights[them]).max())})
    store("schedules", rows, packages=("numpy", "scipy", "scikit-learn"))


RIVER_ITERATES = """
from river import drift, linear_model, optim
rows, labels = [dict(enumerate(x + [1.])) for x in data["X"]], [bool(v) for v in data["y"]]
schedulers, log = optim.schedulers, optim.losses.Log()
optimizers = {"constant": ("SGD(Constant(.05))", optim.SGD(schedulers.Constant(.05))), "inverse_scaling": ("SGD(InverseScaling(.1))", optim.SGD(schedulers.InverseScaling(.1))),
              "optimal": ("SGD(Optimal(Log(), .01))", optim.SGD(schedulers.Optimal(log, .01))), "AdaGrad": ("AdaGrad(.1)", optim.AdaGrad(.1))}
answer = []
for name, (what, optimizer) in optimizers.items():
    model, iterates = linear_model.LogisticRegression(optimizer=optimizer, intercept_lr=0.), []
    for x, y in zip(rows, labels):
        model.learn_one(x, y)
        iterates.append([model.weights[j] for j in range(len(rows[0]))])
    answer.append([name, what, iterates])
test, at = drift.PageHinkley(min_instances=1, delta=data["delta"], threshold=data["threshold"], alpha=1., mode="up"), None
for k, v in enumerate(data["stream"]):
    test.update(v)
    if test.drift_detected:
        at = k
        break
answer = [answer, at]
"""


def iterates(steps=60, features=3, seed=0):
    "River's weights after every step on rows made from a seed, so that they can be compared without river; and its Page-Hinkley test."
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((steps, features))
    y = (rng.random(steps) < expit(X[:, 0] - 1)).astype(float)
    stream = np.concatenate([rng.normal(0, 1, 500), rng.normal(1, 1, 200)])
    found, at = ask(peer("river", RIVER), RIVER_ITERATES, X=X.tolist(), y=y.tolist(), stream=stream.tolist(), delta=.2, threshold=20.)
    rates = {"constant": constant(.05), "inverse_scaling": inverse_scaling(.1), "optimal": optimal(.01), "AdaGrad": AdaGrad(.1)}
    rows = []
    for name, what, theirs in found:
        model = OnlineLogistic(features, rates[name])
        ours = np.array([np.append(model.weights, model.intercept) for x, label in zip(X, y, strict=True) if model.update(x, label)])
        rows.append({"schedule": name, "river": what, "seed": seed, "steps": steps, "features": features, "largest gap": float(np.abs(ours - theirs).max()), "iterates": theirs})
    detector = PageHinkley(.2, 20.)
    ours_at = next(k for k, v in enumerate(stream) if detector.update(v).drift_detected)
    rows.append({"schedule": "PageHinkley", "river": "PageHinkley(alpha=1)", "seed": seed, "steps": len(stream), "features": 0, "largest gap": float(abs(ours_at - at)), "iterates": [at]})
    store("schedules_river", rows, packages=("numpy", "scipy"))


def candidates(winter):
    "The rates that are tried for each of six schedules, as in chapter 11; cosine's length is what the flights of the winter say of the year."
    start = pd.Timestamp("2013-01-08")
    steps = round(winter.sum()*(pd.Timestamp("2014-01-01") - start)/(pd.Timestamp("2013-04-01") - start))
    return {"constant": [constant(e) for e in (.0003, .001, .003, .01)],
            "inverse time": [inverse_time(e, g) for e, g in [(.01, 1e-4), (.01, 1e-3), (.03, 1e-3), (.03, 3e-3), (.1, 1e-3), (.1, 3e-3)]],
            "1/√t": [inverse_scaling(e) for e in (.03, .1, .3, 1)], "step decay": [step_decay(e, .5, 20_000) for e in (.001, .003, .01, .03)],
            "cosine": [cosine(e, steps) for e in (.0003, .001, .003, .01)], "AdaGrad": [AdaGrad(e) for e in (.02, .05, .1, .2)]}


def year():
    "Log loss from April to December on the real labels, the rate chosen on January to March or in hindsight."
    rows = []
    for name, columns in (("schedule and weather", SCHEDULE + WEATHER), ("all", FEATURES)):
        X, f = flights(columns)
        y, predicted, known = f.late.to_numpy(), f.event_timestamp, f.label_time
        april = pd.Timestamp("2013-04-01", tz=ZONE)
        winter, judged = (known < april).to_numpy(), (predicted >= april).to_numpy()
        weights, intercept = best_fixed(X[judged], y[judged])
        z = X[judged] @ weights + intercept
        fixed = (np.logaddexp(0, z) - y[judged]*z).mean()
        for schedule, rates in candidates(winter).items():
            losses = [progressive(OnlineLogistic(X.shape[1], rate), X, y, predicted, known).loss for rate in rates]
            fair, hindsight = (int(np.argmin([loss[part].mean() for loss in losses])) for part in (winter, judged))
            rows.append({"features": name, "schedule": schedule, "rate chosen fairly": repr(rates[fair]), "log loss, fair": losses[fair][judged].mean(),
                         "rate chosen in hindsight": repr(rates[hindsight]), "log loss, hindsight": losses[hindsight][judged].mean(), "best fixed": fixed})
    store("schedules_year", rows, packages=("numpy", "scipy", "pandas"))


def restarts(worlds=5):
    "The excess over the oracle from April to December, in worlds that differ in their labels, by the size of the jump."
    X, f = flights()
    y, predicted, known = f.late.to_numpy(), f.event_timestamp, f.label_time
    april, settled = pd.Timestamp("2013-04-01", tz=ZONE), pd.Timestamp("2013-01-15", tz=ZONE)
    winter, judged = (known < april).to_numpy(), (predicted >= april).to_numpy()
    august = int((predicted < pd.Timestamp("2013-08-01", tz=ZONE)).sum())
    rates_of = candidates(winter)
    real = progressive(OnlineLogistic(X.shape[1], choose(rates_of["AdaGrad"], X, y, predicted, known, rows=winter).rate), X, y, predicted, known)
    reference = real.learned[((known >= settled) & (known < april))[real.learned].to_numpy()]
    day = (known.dt.tz_convert(ZONE) - pd.Timestamp("2013-01-01", tz=ZONE)).dt.days.to_numpy()
    limit = MARGIN*restart_threshold(real.surprise[reference], day[reference], delta=DELTA, run_days=275)
    weights, intercept = best_fixed(X, y)
    outcomes = []
    for seed in range(worlds):
        rates, best = None, {}
        for size in (0, .25, .5, .75, 1):
            labels, truth = simulate_labels(X, weights, intercept, jump_at=august, size=size, seed=seed)
            rates = rates or {name: choose(c, X, labels, predicted, known, rows=winter).rate for name, c in rates_of.items()}
            for name, rate in [*rates.items(), ("step decay, restarted", rates["step decay"]), ("AdaGrad, restarted", rates["AdaGrad"])]:
                detector = PageHinkley(DELTA, limit, warm_up=10_000) if "restarted" in name else None
                run = progressive(OnlineLogistic(X.shape[1], rate, detector=detector), X, labels, predicted, known)
                delays = [int((run.learned == i).argmax() - august) for i in run.restarts]
                false = delays if size == 0 else [d for d in delays if d < 0]
                peak = page_hinkley_path(run.surprise[run.learned[10_000:]], DELTA).max()/limit
                outcomes.append({"size": size, "schedule": name, "excess": excess(truth, run.p)[judged].mean(), "fired": bool(delays), "peak": np.nan if delays else peak,
                                 "false": len(false), "delay": min((d for d in delays if d not in false), default=np.nan)})
                best[size, name] = outcomes[-1]["excess"]
            for out in outcomes[-len(rates) - 2:]:
                out |= {"wins": out["excess"] == min(best[size, name] for name in rates), "ratio": out["excess"]/min(best[size, name] for name in ("inverse time", "AdaGrad"))}
        print(f"world {seed + 1} of {worlds}", flush=True)
    groups = pd.DataFrame(outcomes).groupby(["size", "schedule"], sort=False)
    table = pd.DataFrame({"excess": groups.excess.mean(), "smallest": groups.excess.min(), "largest": groups.excess.max(), "false restarts a run": groups.false.mean(),
                          "share of runs that restart": groups.fired.mean(), "median delay, flights": groups.delay.median(),
                          "highest statistic of a run without restart, of the threshold": groups.peak.max(), "share of worlds won among the six": groups.wins.mean(),
                          "largest ratio to the better of inverse time and AdaGrad": groups.ratio.max()})
    rows = table.reset_index().assign(worlds=worlds, threshold=limit)
    store("schedules_restart", rows.astype(object).where(rows.notna(), None).to_dict("records"), packages=("numpy", "scipy", "pandas"))


if __name__ == "__main__":
    for part in sys.argv[1:] or ("speed", "iterates", "year", "restarts"): {"speed": speed, "iterates": iterates, "year": year, "restarts": restarts}[part]()
