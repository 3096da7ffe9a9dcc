"""Evaluation: how often its intervals hold the truth, in made worlds and on real days, and what they cost beside scikit-learn's metrics.

    python benchmarks/training.py [coverage] [speed]     both where none is named; some ten minutes
"""
import sys

import numpy as np
import pandas as pd
from harness import seconds, store
from sklearn import metrics

from mlscale.data import HORIZON
from mlscale.evaluation import compare, evaluate, log_losses
from mlscale.features import FEATURES, load_features
from mlscale.training import fit_model

ZONE, PACKAGES = "America/New_York", ("numpy", "pandas", "scikit-learn")


def predictions():
    "Day, label and the probabilities of two models for every flight of the year from 8 January on; each half of the year is predicted by models of the other."
    f = load_features()
    f["day"] = (f.event_timestamp + HORIZON).dt.tz_convert(ZONE).dt.normalize()
    f = f[f.late.notna() & (f.day >= "2013-01-08")].reset_index(drop=True)
    second = (f.day >= "2013-07-01").to_numpy()
    for kind, column in (("boosted_trees", "p"), ("logistic", "q")):
        f[column] = np.nan
        for half in (second, ~second): f.loc[~half, column] = fit_model(f.loc[half, FEATURES], f.late[half], kind=kind).predict_proba(f.loc[~half, FEATURES])[:, 1]
    return f[["day", "late", "p", "q"]].sort_values("day", kind="stable").reset_index(drop=True)


def weekly_blocks(total, n, rng, draws=400):
    "The textbook's interval of a mean: the middle 95 % of the means of weeks that are drawn with replacement."
    first = rng.integers(len(n), size=(draws, len(n)//7, 1))
    drawn = ((first + np.arange(7)) % len(n)).reshape(draws, -1)
    return np.quantile(total[drawn].sum(1)/n[drawn].sum(1), [.025, .975])


def made(worlds=2000, flights=20):
    "Days whose rate of late flights resembles that of the day before; nothing is predicted."
    rate = lambda mu: 1/(1 + np.exp(1.3 - .8*mu))
    truth = rate(np.random.default_rng(1).standard_normal(4_000_000)).mean()
    rows = []
    for memory in (0, .3, .6, .8):
        for days in (60, 140, 300):
            rng, held = np.random.default_rng(0), np.zeros(2)
            for world in range(worlds):
                mu = rng.standard_normal(days)
                for d in range(1, days): mu[d] = memory*mu[d - 1] + np.sqrt(1 - memory**2)*mu[d]
                late = rng.random((days, flights)) < rate(mu)[:, None]
                ours = evaluate(late.ravel(), np.full(late.size, .25), days=np.repeat(np.arange(days), flights), seed=world).intervals["rate"]
                theirs = weekly_blocks(late.sum(1), np.full(days, flights), rng)
                held += [low <= truth <= high for low, high in (ours, theirs)]
            rows.append({"days are": f"made, memory {memory}", "number of days": days, "measure": "rate", "worlds": worlds, "evaluate": held[0]/worlds, "weekly blocks": held[1]/worlds})
    return rows


def real(worlds=2000, days=140, thin=8):
    "Twenty weeks dealt from pieces of the real year; the truth is the year. Every eighth flight."
    f = predictions().iloc[::thin]
    whole, difference = evaluate(f.late, f.p), float((log_losses(f.late, f.p) - log_losses(f.late, f.q)).mean())
    by_day = [part[["late", "p", "q"]].to_numpy() for _, part in f.groupby("day")]
    truth = {**{k: v for k, v in whole.to_dict().items() if k != "n"}, "difference": difference}
    rows = []
    for piece in (1, 7, 14, 28):
        rng, ours, theirs = np.random.default_rng(piece), dict.fromkeys(truth, 0), dict.fromkeys(("rate", "log_loss", "brier", "difference"), 0)
        for world in range(worlds):
            first = rng.integers(len(by_day), size=(days//piece, 1))
            chosen = [by_day[d] for d in ((first + np.arange(piece)) % len(by_day)).ravel()]
            (y, p, q), size = np.concatenate(chosen).T, np.array([len(c) for c in chosen])
            day = np.repeat(np.arange(days), size)
            found = compare(y, p, q, days=day, seed=world)
            intervals = {**evaluate(y, p, days=day, seed=world).intervals, "difference": (found.low, found.high)}
            for name, (low, high) in intervals.items(): ours[name] += low <= truth[name] <= high
            losses = log_losses(y, p)
            for name, x in {"rate": y, "log_loss": losses, "brier": (p - y)**2, "difference": losses - log_losses(y, q)}.items():
                low, high = weekly_blocks(np.bincount(day, x), size, rng)
                theirs[name] += low <= truth[name] <= high
        for name, n in ours.items():
            blocks = theirs[name]/worlds if name in theirs else None
            rows.append({"days are": f"real, in pieces of {piece}", "number of days": days, "measure": name, "worlds": worlds, "evaluate": n/worlds, "weekly blocks": blocks})
    return rows


def coverage():
    "Share of worlds in which an interval of 95 % holds the truth."
    store("training_coverage", made() + real(), packages=(*PACKAGES, "scipy"))


def speed(rounds=7):
    "All measures with intervals from 1,000 draws on the test of chapter 02, beside scikit-learn's three metrics without any interval."
    f = predictions()
    f = f[f.day >= "2013-08-01"]
    y, p, q, day = f.late.to_numpy(), f.p.to_numpy(), f.q.to_numpy(), pd.factorize(f.day)[0]
    contenders = {"scikit-learn: log loss, AUC, Brier": lambda: (metrics.log_loss(y, p), metrics.roc_auc_score(y, p), metrics.brier_score_loss(y, p)),
                  "evaluate, no interval": lambda: evaluate(y, p), "evaluate, 1,000 draws": lambda: evaluate(y, p, days=day, n_resamples=1000),
                  "evaluate, 10,000 draws": lambda: evaluate(y, p, days=day, n_resamples=10_000), "compare, 1,000 draws": lambda: compare(y, p, q, days=day, n_resamples=1000)}
    for run in contenders.values(): run()
    took = seconds(contenders, rounds)
    floor = took["scikit-learn: log loss, AUC, Brier"]
    store("training_speed", [{"job": name, "rows": len(y), "seconds": t, "times scikit-learn's metrics": t/floor} for name, t in took.items()], packages=(*PACKAGES, "scipy"))


if __name__ == "__main__":
    jobs = {"coverage": coverage, "speed": speed}
    for name in sys.argv[1:] or jobs: jobs[name]()
