"A state is written as JSON whatever its settings came from, and read back the same."

import importlib
import inspect
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlscale.drift import ChangeAlarm, DriftMonitor, Reference
from mlscale.monitoring import Alerts, Finding, ModelMonitor, PerformanceMonitor
from mlscale.schedules import (
    SCHEDULES,
    AdaGrad,
    Adaptive,
    OnlineLogistic,
    PageHinkley,
    Schedule,
    chain,
    constant,
    cosine,
    exponential,
    inverse_scaling,
    inverse_time,
    polynomial,
    step_decay,
    warm_restarts,
    warm_up,
)
from mlscale.sequential import SequentialTest

PACKAGE = Path(__file__).resolve().parent.parent / "mlscale"
ELSEWHERE = {"RollingState", "Comparison", "Contract", "ContractTally", "Evaluation", "Adwin", "Alert", "Cusum", "LatencySketch", "SLO", "FaultResult", "FeedLimits"}  # have tests of their own
INTS = {
    "int": int,
    "int64": np.int64,
    "int8": lambda x: np.int8(x) if x < 128 else np.int16(x),
    "uint16": np.uint16,
    "of a Series": lambda x: pd.Series([x]).max(),
    "0-dim": lambda x: np.array([x]).max(),
}
FLOATS = {
    "float": float,
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "longdouble": np.longdouble,
}

X = pd.DataFrame(
    {"a": np.arange(400.0), "c": pd.Categorical(np.arange(400) % 3), "t": ["x", "y"] * 200}
)
DAYS = np.repeat(np.arange(40), 10)
ROWS = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)


def drift(i, f):
    monitor = DriftMonitor(
        Reference.fit(X, days=DAYS, bins=i(10)),
        false_alarms_per_year=f(2),
        checks_per_year=f(52),
        block_days=i(2),
        min_rows=i(9),
        n_resamples=i(500),
        seed=i(3),
    )
    monitor.update(X[:50]).report()
    return monitor


def changes(i, f):
    table = X.assign(a=X.a * 37 % 400)
    alarm = ChangeAlarm(
        Reference.fit(table, days=DAYS),
        false_alarms_per_year=f(2),
        check_days=i(1),
        robust=np.bool_(True),
        recent_days=i(30),
        min_rows=i(9),
    )
    for day in range(41, 45):
        alarm.update(table[:50].assign(a=9e9)).end_day(i(day))
    assert alarm.drift_detected
    return alarm.update(table[:3])


def alerts(i, f):
    register = Alerts()
    for day in (1, 2):
        at = pd.Timestamp(f"2013-01-0{i(day)}", tz="UTC")
        register.update(Finding("loss", f(0.75), f(0.5), "nats", at, np.bool_(True)))
    return register


def sequential(method, **settings):
    def make(i, f):
        cast = {
            k: v if v is None or isinstance(v, str) else i(v) if isinstance(v, int) else f(v)
            for k, v in settings.items()
        }
        test = SequentialTest(np.str_(method), alpha=f(0.0625), share=f(0.5), **cast)
        outcomes = np.arange(400) % 2
        for k in range(0, 400, 100):
            if not test.finished:
                test.update(outcomes[k : k + 100], outcomes[k : k + 100].astype(np.int8))
        return test

    return make


def learner(rate):
    return lambda i, f: OnlineLogistic(
        i(2), rate(i, f), detector=PageHinkley(f(0.125), f(3), warm_up=i(9))
    ).update(ROWS, np.array([0, 1]), np.array([0.25, 0.5], np.float32))


MAKE = {
    Reference: [
        lambda i, f: Reference.fit(X, days=DAYS, bins=i(10)),
        lambda i, f: Reference(
            ("a",), ((f(0.5),),), (np.bool_(False),), np.zeros((1, 1, 3), int), np.bool_(True)
        ),
    ],
    DriftMonitor: [drift],
    ChangeAlarm: [changes],
    Alerts: [alerts],
    ModelMonitor: [
        lambda i, f: ModelMonitor(
            X.a.map(f),
            reference_predictions=[f(0.5), None],
            alpha=f(0.0625),
            min_effect={"x0": f(0.25)},
            min_prediction_effect=f(0.125),
        )
    ],
    PerformanceMonitor: [
        lambda i, f: (
            m := PerformanceMonitor(
                pd.Series([0.5, 0.4, 0.45, 0.6]).map(f), false_alarms_per_year=f(2)
            ),
            m.update(f(0.5)),
            m.update(np.array([0.25], np.float32)),
        )[0],
        lambda i, f: PerformanceMonitor([0.5, 0.4, 0.45, 0.6], false_alarms_per_year=i(1)),
    ],
    Schedule: [
        lambda i, f: constant(f(0.125)),
        lambda i, f: Schedule("constant", {"eta0": f(0.125)}, np.abs),
        lambda i, f: inverse_time(f(0.125), f(0.5)),
        lambda i, f: inverse_scaling(f(0.125), f(0.5)),
        lambda i, f: step_decay(f(0.125), f(0.5), i(9)),
        lambda i, f: exponential(f(0.125), f(0.5)),
        lambda i, f: polynomial(f(0.125), i(9), f(2), f(0.0625)),
        lambda i, f: cosine(f(0.125), i(9), f(0.0625)),
        lambda i, f: warm_up(constant(f(0.125)), i(9)),
        lambda i, f: chain(
            constant(f(0.5)), i(9), warm_restarts(cosine(f(0.125), i(9)), i(4), i(2))
        ),
    ],
    AdaGrad: [lambda i, f: AdaGrad(f(0.125), f(0.5))],
    Adaptive: [
        lambda i, f: (
            Adaptive(f(0.125), tol=f(0.5), patience=i(3), factor=f(2))
            .update(f(0.5))
            .update(f(0.25))
        )
    ],
    OnlineLogistic: [
        learner(lambda i, f: inverse_time(f(0.125), f(0.5))),
        learner(lambda i, f: AdaGrad(f(0.125))),
    ],
    PageHinkley: [
        lambda i, f: PageHinkley(f(0.125), f(3), warm_up=i(1)).update(f(0.5)).update(f(2))
    ],
    SequentialTest: [
        sequential("beta-binomial", k=64.0),
        sequential("paired", k=64),
        sequential("asymptotic", n_star=100, min_count=2.0),
        sequential("group-sequential", n_max=100),
        sequential(
            "group-sequential",
            n_max=100,
            spending=np.str_("power"),
            rho=2.0,
            spend=np.str_("total"),
        ),
        sequential("group-sequential", n_max=100, spending="hwang-shih-decani", gamma=-4.0),
    ],
}


def leaves(x):
    "The types in a state; plain ones only."
    if type(x) is dict:
        return {type(k) for k in x} | {t for v in x.values() for t in leaves(v)}
    if type(x) is list:
        return {t for v in x for t in leaves(v)}
    return {type(x)}


def test_every_class_with_a_state_is_tried():
    there = set()
    for path in PACKAGE.glob("*.py"):
        if "def to_dict(self)" not in path.read_text(encoding="utf-8"):
            continue
        module = importlib.import_module(f"mlscale.{path.stem}")
        there |= {
            name
            for name, cls in inspect.getmembers(module, inspect.isclass)
            if cls.__module__ == module.__name__
            and hasattr(cls, "to_dict")
            and not name.startswith("_")
        }
    assert there == {cls.__name__ for cls in MAKE} | ELSEWHERE
    kinds = json.dumps([make(int, float).to_dict() for make in MAKE[Schedule]])
    assert all(f'"{kind}"' in kinds for kind in SCHEDULES)


PAIRS = [(i, "float") for i in INTS] + [
    (i, f) for i in ("int", "int64") for f in FLOATS if f != "float"
]


@pytest.mark.parametrize(("ints", "floats"), PAIRS)
@pytest.mark.parametrize("cls", MAKE, ids=lambda cls: cls.__name__)
def test_settings_out_of_numpy_and_pandas_are_written_as_plain_json(cls, ints, floats):
    for make in MAKE[cls]:
        made, plain = make(INTS[ints], FLOATS[floats]), make(int, float)
        state = made.to_dict()
        assert leaves(state) <= {str, int, float, bool, type(None)}, state
        text = json.dumps(state, allow_nan=False)
        assert state == plain.to_dict() or floats in (
            "float16",
            "float32",
        )  # .4 in fewer bits is another number
        if hasattr(cls, "from_dict"):
            assert json.dumps(cls.from_dict(json.loads(text)).to_dict()) == text


@pytest.mark.parametrize(
    "bad", [2.5, np.float32(2.5), "3", None, np.nan, np.inf, [3], np.array([1, 2]), 1j], ids=repr
)
def test_what_is_no_whole_number_is_named(bad):
    reference = Reference.fit(X, days=DAYS)
    for name in ("block_days", "n_resamples", "seed") + (("min_rows",) if bad is not None else ()):
        with pytest.raises(ValueError, match=name):
            DriftMonitor(reference, false_alarms_per_year=1, **{name: bad})
    with pytest.raises(ValueError, match="bins"):
        Reference.fit(X, bins=bad)
