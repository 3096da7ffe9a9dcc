"Origins that roll through time: nothing is learned that was not known, nothing is judged twice; learning curves and the aircraft's turn count as they say."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale.data import HORIZON, load_flights
from mlscale.features import FEATURES
from mlscale.flight_features import TURN, turn_features
from mlscale.learning_curves import learning_curve
from mlscale.training import log_losses, rolling_origin

START = pd.Timestamp("2013-01-01", tz="UTC")
HOURS = st.integers(0, 240)


@settings(max_examples=50)
@given(st.lists(HOURS, min_size=1, max_size=60), st.lists(HOURS, min_size=2, max_size=5, unique=True).map(sorted), st.integers(0, 48), st.none() | st.integers(1, 100))
def test_a_row_is_learned_once_it_is_old_enough_and_judged_once(hours, origins, embargo, window):
    times = pd.Series(START + pd.to_timedelta(hours, unit="h"))
    at = START + pd.to_timedelta(origins, unit="h")
    reach = None if window is None else pd.Timedelta(hours=window)
    judged = np.zeros(len(times), int)
    try:
        for origin, end, (train, test) in zip(origins, origins[1:], rolling_origin(times, origins=at, embargo=pd.Timedelta(hours=embargo), window=reach)):
            newest = origin - embargo
            oldest = -1 if window is None else newest - window
            assert train.tolist() == [oldest <= hour < newest for hour in hours]
            assert test.tolist() == [origin <= hour < end for hour in hours]
            judged += test
    except ValueError as e: assert "empty" in str(e) or "no row is left" in str(e)
    assert judged.max() <= 1


def test_origins_that_cannot_roll_are_named():
    times = pd.Series(pd.date_range(START, periods=9))
    roll = lambda **how: list(rolling_origin(times, **how))
    with pytest.raises(ValueError, match="at least two"): roll(origins=times[:1])
    with pytest.raises(ValueError, match="each after the last"): roll(origins=times[[4, 4]])
    with pytest.raises(ValueError, match="embargo"): roll(origins=times[[4, 6]], embargo=pd.Timedelta(-1))
    with pytest.raises(ValueError, match="window"): roll(origins=times[[4, 6]], embargo=pd.Timedelta(hours=1), window=pd.Timedelta(hours=1))


class Share:
    "A model that knows the share of late rows and which rows it saw."
    def __init__(self, X, y): self.rows, self.p = np.asarray(X)[:, 0], np.mean(y)

    def predict_proba(self, X): return np.tile([1 - self.p, self.p], (len(X), 1))


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("of", [np.asarray, pd.DataFrame])
def test_a_curve_trains_on_the_rows_that_it_names(newest, of):
    X, y, models = np.arange(50.)[:, None], np.arange(50) % 3 == 0, []
    fit = lambda X, y: models.append(Share(X, y)) or models[-1]
    curve = learning_curve(fit, of(X), y, of(X), y, sizes=[5, 20, 50], newest=newest, seed=3)
    assert curve["rows"].tolist() == [5, 20, 50] == [len(m.rows) for m in models]
    for model, loss in zip(models, curve.log_loss):
        assert model.p == y[model.rows.astype(int)].mean() and (np.diff(model.rows) > 0).all()
        assert loss == pytest.approx(log_losses(y, np.full(50, model.p)).mean())
    assert set(models[0].rows) < set(models[1].rows) < set(models[2].rows)
    assert (models[0].rows.tolist() == [45, 46, 47, 48, 49]) == newest


def test_the_turn_sees_only_departures_known_at_the_prediction():
    flights = load_flights().head(6000)
    turn = turn_features(flights)
    before = flights.sort_values("sched_dep", kind="stable").groupby("tailnum")[["sched_dep", "actual_dep"]].shift().loc[flights.index]
    asked = flights.sched_dep - HORIZON
    still_here = flights[(before.sched_dep <= asked) & (asked < before.actual_dep)]   # due, and not gone when the prediction is made
    assert len(still_here) > 10
    for row in pd.concat([still_here, flights.sample(100, random_state=1)]).itertuples():
        when = row.sched_dep - HORIZON
        known = flights[(flights.tailnum == row.tailnum) & (flights.actual_dep <= when) & (flights.actual_dep >= when - pd.Timedelta(days=7))]
        if known.empty: assert turn.loc[row.Index].isna().all()
        else:
            last = known.sort_values(["actual_dep", "flight_id"]).iloc[-1]
            minutes = lambda span: span / pd.Timedelta(minutes=1)
            slack = minutes(row.sched_dep - last.sched_arr) - minutes(last.sched_arr - last.sched_dep)
            assert turn.loc[row.Index].tolist() == [minutes(row.sched_dep - last.sched_arr), slack, last.dep_delay - slack]
    assert turn.notna().all(axis=1).mean() > .3 and not set(TURN) & set(FEATURES)
    later = turn_features(flights.assign(actual_dep=flights.actual_dep.where(flights.actual_dep < flights.sched_dep.max() - HORIZON)))
    pd.testing.assert_series_equal(later.iloc[-1], turn.iloc[-1])
