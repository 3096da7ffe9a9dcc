"A training can be repeated to the last bit, in any process, and says what it was made of."
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mlscale.flight_features import ROLLINGS
from mlscale.training_run import content_hash, train

PROGRAM = """
import numpy as np, pandas as pd
from mlscale.features import FEATURES, load_features
from mlscale.flight_features import LOOKUPS, ROLLINGS
from mlscale.training_run import content_hash, train
rows = load_features().dropna(subset="late").iloc[5000:65000:20]
for kind in ("boosted_trees", "logistic"):
    run = train(rows[FEATURES], rows.late, kind=kind, features=[FEATURES, ROLLINGS, LOOKUPS, {"a", "b", "c", "d"}], sample_weight=1. + (rows.origin == 1))
    print(run.digest, content_hash(run.model.predict_proba(rows[FEATURES])))
"""


def test_processes_with_other_hash_seeds_and_threads_train_the_same_model_to_the_last_bit():
    settings = [{"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "2"}, {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}]
    started = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=os.environ | s, stdout=subprocess.PIPE, text=True) for s in settings]
    said = [p.communicate()[0] for p in started]
    assert said[0] == said[1] and len(set(said[0].split())) == 4


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(500, 2)), columns=["a", "b"])
    return X, (rng.random(500) < 1/(1 + np.exp(-X.a))).astype(float)


def test_whatever_has_a_part_changes_the_digest_and_its_own_entry(rows):
    X, y = rows
    arguments = {"X": X, "y": y, "sample_weight": np.ones(500), "kind": "logistic", "features": ["a", "b"]}
    fit = lambda **change: train(**{**arguments, **change})
    first, other = fit(), y.copy()
    other[0] = 1 - other[0]
    tables = [X.assign(a=np.nextafter(X.a, 9)), X[["b", "a"]], X.rename(columns={"a": "c"})]
    changes = {"data": [*({"X": table} for table in tables), {"y": other}, {"sample_weight": np.full(500, 2.)}, {"X": X[::-1], "y": y[::-1]}],
               "features": [{"features": ["a"]}], "seed": [{"seed": 1}], "parameters": [{"kind": "boosted_trees"}]}
    for entry, several in changes.items():
        for change in several:
            run = fit(**change)
            assert run.digest != first.digest and run.lineage[entry] != first.lineage[entry], (entry, change)
    assert fit().digest == first.digest and fit(X=X.set_axis(range(7, 507))).digest == first.digest   # labels of rows are nobody's input


def test_to_judge_a_run_changes_nothing_but_what_is_said_of_it(rows):
    X, y = rows
    run = train(X, y, kind="logistic")
    judged = run.judged(X, y, days=np.arange(500)//10)
    assert run.evaluation is None and judged.digest == run.digest and judged.model is run.model
    assert judged.evaluation.intervals["log_loss"][0] < judged.evaluation.log_loss < judged.evaluation.intervals["log_loss"][1]
    assert judged.reliability.n.sum() == 500 and judged.parameters["kind"] == "logistic" and judged.parameters["seed"] == 0
    assert judged.plot().get_title() and "log loss" in repr(judged) and judged.digest[:12] in judged._repr_html_()
    with pytest.raises(ValueError, match="judged"): run.plot()


def test_content_is_what_an_object_holds_and_not_where_it_lies():
    same = [({"x": 1, "y": 2}, {"y": 2, "x": 1}), (np.arange(6.).reshape(2, 3), np.arange(6.).reshape(3, 2).T.copy().T.reshape(2, 3)), ({1, 2}, {2, 1}), (np.arange(9)[::2], np.arange(9)[::2].copy())]
    assert all(content_hash(a) == content_hash(b) for a, b in same)
    objects = [np.array([x, None], object) for x in "ab"]
    frames = [pd.DataFrame({x: [1.]}) for x in "ab"]
    other = [(1, True), (1, 1.), (0., -0.), ([1, 2], (1, 2)), (["ab", "c"], ["a", "bc"]), ([[1], 2], [1, [2]]), (np.zeros(4), np.zeros((2, 2))), ("1", 1), objects, frames,
             (np.zeros(2), np.zeros(2, np.float32)), ({"x": 1}, {"x": 2}), (None, "None"), (ROLLINGS, {}), (len, max)]
    assert all(content_hash(a) != content_hash(b) for a, b in other), [pair for pair in other if content_hash(pair[0]) == content_hash(pair[1])]


def test_what_lies_between_the_fields_of_records_is_no_content():
    padded = np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 8], "itemsize": 16})
    one, two = (np.frombuffer(bytearray([fill])*16*3, padded) for fill in (0, 255))
    for records in (one, two): records["a"], records["b"] = 1, 2.
    assert one.tobytes() != two.tobytes() and content_hash(one) == content_hash(two)
    two["b"][2] = 3.
    assert content_hash(one) != content_hash(two)


# ---- labels are known

def test_a_label_that_was_not_known_at_the_moment_of_training_is_refused(rows):
    X, y = rows
    at, known = pd.Timestamp("2013-02-01", tz="UTC"), pd.Series(pd.Timestamp("2013-01-31", tz="UTC"), X.index)
    run = train(X, y, kind="logistic", known_at=known.where(X.index > 0, at), at=at)
    assert run.lineage["known_until"] == run.lineage["trained_at"] == str(at)
    for late in (at + pd.Timedelta(seconds=1), pd.NaT):
        with pytest.raises(ValueError, match="1 of 500 labels were not known at 2013-02-01.* row 7;"): train(X, y, kind="logistic", known_at=known.where(X.index != 7, late), at=at)
    for arguments in ({"at": at}, {"known_at": known}):
        with pytest.raises(ValueError, match="both"): train(X, y, **arguments)
    with pytest.raises(ValueError, match="499 times for 500 rows"): train(X, y, known_at=known[1:], at=at)
