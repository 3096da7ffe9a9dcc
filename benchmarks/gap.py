"""What moves the score of chapter 02: what each family of features is worth, what other choices of the training would give, and which choices rolling origin would make.

    python benchmarks/gap.py             everything, some ten minutes of processor
    python benchmarks/gap.py families    one table: families, changes or origins
"""
import sys
from functools import cache

import numpy as np
import pandas as pd
from harness import store
from sklearn.ensemble import HistGradientBoostingClassifier

from mlscale.data import HORIZON, MATURE, load_flights, load_weather
from mlscale.features import AIRCRAFT, CONGESTION, FEATURES, RATES, SCHEDULE, WEATHER, load_features
from mlscale.flight_features import TURN, WAITING, flight_facts, turn_features
from mlscale.point_in_time import View, point_in_time_join
from mlscale.rolling import rolling_features
from mlscale.training import compare, evaluate, fit_model, rolling_origin, time_split

ZONE = "America/New_York"
PACKAGES = ("numpy", "pandas", "scikit-learn")
JULY, AUGUST = (pd.Timestamp(day, tz=ZONE) for day in ("2013-07-01", "2013-08-01"))
MONTHLY = [r.name for r in RATES if r.window == pd.Timedelta(days=30)]
FEW = [c for c in FEATURES if c not in MONTHLY]
FAMILIES = {"schedule": SCHEDULE, "weather": WEATHER, "late rates": [r.name for r in RATES], "congestion": CONGESTION, "aircraft": AIRCRAFT}


@cache
def table():
    "The flights that arrived and were not of the first week, with the columns of the turn."
    rows = load_features().reset_index(drop=True)
    rows[TURN] = turn_features(load_flights()).to_numpy()
    rows["day"] = (rows.event_timestamp + HORIZON).dt.tz_convert(ZONE).dt.normalize()
    return rows[rows.late.notna() & (rows.day >= "2013-01-08")]


def scored(rows, columns, until=JULY - MATURE, fit=fit_model):
    "Labels, days and probabilities of August to December."
    train, test = time_split(rows.event_timestamp, train_until=until, test_from=AUGUST)
    model = fit(rows.loc[train, columns], rows.late[train])
    return rows.late[test].to_numpy(), rows.day[test].to_numpy(), model.predict_proba(rows.loc[test, columns])[:, 1]


@cache
def base(): return scored(table(), FEATURES)


def row(what, columns, p):
    late, day, ours = base()
    found, paired = evaluate(late, p), compare(late, p, ours, days=day)
    print(f"{what}: {found.auc:.4f} {found.log_loss:.4f}", flush=True)
    return {"what": what, "columns": columns, "AUC": found.auc, "log loss": found.log_loss, "more log loss than all 45": paired.difference, "low": paired.low, "high": paired.high}


def families():
    rows = [row("all 45", len(FEATURES), base()[2])]
    without = {**FAMILIES, "rates of 30 days": MONTHLY}
    for name, family in without.items():
        kept = [c for c in FEATURES if c not in family]
        rows.append(row(f"without {name}", len(kept), scored(table(), kept)[2]))
    rows.append(row("with the turn", len(FEATURES + TURN), scored(table(), FEATURES + TURN)[2]))
    rows.append(row("with the turn, without rates of 30 days", len(FEW + TURN), scored(table(), FEW + TURN)[2]))
    store("gap_families", rows, PACKAGES)


def weather_at(lag, at):
    "The weather known at some time, if a record is known `lag` after its hour."
    weather = load_weather()
    weather = weather.assign(created_timestamp=(weather.event_timestamp + lag).dt.as_unit("us"))
    asked = load_flights()[["origin"]].assign(event_timestamp=at.dt.as_unit("us"))
    view = View("weather", weather, "origin", pd.Timedelta(hours=6), WEATHER)
    return point_in_time_join(asked, [view])[[f"weather__{c}" for c in WEATHER]].to_numpy(np.float32)


def waiting_for_cancelled(hours):
    "The queue at the airport if nobody tells it for some hours that a flight is cancelled."
    flights, facts = load_flights(), flight_facts(load_flights(), load_weather())
    gone = flights[flights.cancelled]
    joined = gone[["origin"]].assign(created_timestamp=gone.sched_dep, step=1.)
    left = joined.assign(created_timestamp=(gone.sched_dep + pd.Timedelta(hours=hours)).dt.as_unit("us"), step=-1.)
    asked = flights[["origin"]].assign(event_timestamp=(flights.sched_dep - HORIZON).dt.as_unit("us"))
    return rolling_features([WAITING], pd.concat([facts["steps"], joined, left]), asked)["waiting"].to_numpy(np.float32)


def categories(X, y):
    return HistGradientBoostingClassifier(max_iter=150, max_leaf_nodes=31, learning_rate=.06, min_samples_leaf=100, l2_regularization=1,
                                          early_stopping=False, random_state=0, categorical_features=["carrier", "origin"]).fit(X, y)


def changes():
    rows, flights = table(), load_flights()
    other = lambda columns, values: rows.assign(**dict(zip(columns, np.atleast_2d(values.T)[:, rows.index])))
    weeks = ((rows.event_timestamp - rows.event_timestamp.min())//pd.Timedelta(days=7)).to_numpy()
    found = [row("as in the chapter", len(FEATURES), base()[2])]
    cases = {
        **{f"weeks {week + 1} and {week + 2} not trained on": (rows[~np.isin(weeks, (week, week + 1))], {}) for week in (5, 15)},
        "labels of the last 36 hours taken from the future": (rows, {"until": JULY}),
        "July trained on as well": (rows, {"until": AUGUST - MATURE}),
        "airline and origin as categories": (rows, {"fit": categories}),
        "cancelled flights waited for, 3 hours": (other(["waiting"], waiting_for_cancelled(3)), {}),
        "weather known at its hour": (other(WEATHER, weather_at(pd.Timedelta(0), flights.sched_dep - HORIZON)), {}),
        "weather of the departure (a leak)": (other(WEATHER, weather_at(pd.Timedelta(0), flights.sched_dep)), {}),
    }
    for what, (changed, how) in cases.items(): found.append(row(what, len(FEATURES), scored(changed, FEATURES, **how)[2]))
    store("gap_changes", found, PACKAGES)


def origins():
    "The choice that the months before August would have made."
    rows = table()
    sets = {"all 45": FEATURES, "without rates of 30 days": FEW, "with the turn, without rates of 30 days": FEW + TURN}
    months, found = pd.date_range("2013-04-01", "2013-08-01", freq="MS", tz=ZONE), []
    for what, columns in sets.items():
        losses, days = [], []
        for train, test in rolling_origin(rows.event_timestamp, origins=months):
            p = fit_model(rows.loc[train, columns], rows.late[train]).predict_proba(rows.loc[test, columns])[:, 1]
            losses.append((rows.late[test].to_numpy(), p))
            days.append(rows.day[test].to_numpy())
        late, p = (np.concatenate(part) for part in zip(*losses))
        if what == "all 45": ours = p
        paired = compare(late, p, ours, days=np.concatenate(days))
        found.append({"what": what, "columns": len(columns), **{f"{month:%B}": evaluate(*one).log_loss for month, one in zip(months, losses)},
                      "log loss": evaluate(late, p).log_loss, "more log loss than all 45": paired.difference, "low": paired.low, "high": paired.high})
        print(found[-1], flush=True)
    store("gap_origins", found, PACKAGES)


TABLES = {f.__name__: f for f in (families, origins, changes)}

if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES: TABLES[name]()
