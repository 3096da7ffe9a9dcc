"Artifacts: what is saved predicts what was trained, what was changed is refused, what is opened runs nothing."
import json
import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mlscale.artifacts import PARITY, ModelVersion, Signature, load_bundle, onnx_scorer, parity, read_card, read_pointer, read_skops, remove_pointer, save, to_onnx, write_pointer
from mlscale.storage import digest

COLUMNS = ["carrier", "temp", "delay"]
TREES = {"max_iter": 20, "min_samples_leaf": 5, "early_stopping": False}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 3)).astype(np.float32).astype(float)
    X[:, 0] = rng.integers(0, 12, len(X))
    X[rng.random(len(X)) < .2, 2] = np.nan
    return pd.DataFrame(X, columns=COLUMNS)


@pytest.fixture(scope="module")
def y(rows):
    noise = np.random.default_rng(1).normal(size=len(rows))
    return (rows.carrier.isin([1, 4, 9])*2 + rows.temp + rows.delay.fillna(0) + noise > .5).astype(int).to_numpy()


@pytest.fixture(scope="module")
def trees(rows, y): return HistGradientBoostingClassifier(**TREES).fit(rows, y)


@pytest.fixture(scope="module")
def sets(rows, y): return HistGradientBoostingClassifier(categorical_features=["carrier"], **TREES).fit(rows, y)


@pytest.fixture(scope="module")
def linear(rows, y): return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(rows, y)


@pytest.fixture
def bundle(tmp_path, trees, rows): return save(trees, tmp_path/"bundle", example=rows, lineage={"data": "made"}, metrics={"auc": .7})


# --- it predicts what was trained

@pytest.mark.parametrize("name", ["trees", "linear"])
def test_a_faithful_model_is_served_by_onnx_and_predicts_the_same(name, request, tmp_path, rows):
    model = request.getfixturevalue(name)
    b = save(model, tmp_path/"b", example=rows)
    assert b.engine == "onnx" and b.card["parity"]["faithful"]
    assert np.abs(b.predict(rows) - model.predict_proba(rows)[:, 1]).max() <= PARITY


def test_an_unfaithful_conversion_never_serves(tmp_path, sets, rows, caplog):
    wrong = onnx_scorer(to_onnx(sets, "probability", rows.to_numpy()))(rows.to_numpy())   # the test can fail: the converter does convert
    expected = sets.predict_proba(rows)[:, 1]
    assert np.abs(wrong - expected).max() > .1
    with caplog.at_level(logging.WARNING): b = save(sets, tmp_path/"b", example=rows)
    assert b.engine == "skops" and not (tmp_path/"b"/"model.onnx").exists() and "skops" in caplog.text
    assert not b.card["parity"]["faithful"] and b.card["parity"]["max_abs_difference"] > .1
    assert np.array_equal(b.predict(rows), expected)


@pytest.mark.parametrize("more, reason", [([StandardScaler()], "conversion failed"), ([], "not one for each row")])
def test_a_model_that_cannot_be_converted_is_served_exactly(tmp_path, rows, y, more, reason):
    model = make_pipeline(SimpleImputer(add_indicator=True), *more, GaussianNB()).fit(rows, y)
    b = save(model, tmp_path/"b", example=rows)
    assert b.engine == "skops" and reason in b.card["parity"]["reason"]
    assert np.array_equal(b.predict(rows), model.predict_proba(rows)[:, 1])


def test_what_float32_cannot_hold_fails_the_gate(tmp_path, y):
    seconds = pd.DataFrame({"seconds": 1_365_000_000. + np.arange(len(y))})
    b = save(HistGradientBoostingClassifier(**TREES).fit(seconds, y), tmp_path/"b", example=seconds)
    assert b.engine == "skops"


@pytest.mark.parametrize("got", [[.1, .2 + 2*PARITY], [.1, np.nan], [.1, np.inf]])
def test_the_gate_stops_differences_and_nan(got): assert not parity(np.array([.1, .2]), np.array(got))["faithful"]


def test_the_gate_passes_at_its_tolerance(): assert parity(np.zeros(2), np.array([0, PARITY]))["faithful"]


def test_labels_and_values(tmp_path, trees, rows, y):
    assert np.array_equal(save(trees, tmp_path/"label", example=rows, output="label").predict(rows), trees.predict(rows))
    three = HistGradientBoostingClassifier(**TREES).fit(rows, y + (rows.temp > 1))
    assert np.array_equal(save(three, tmp_path/"three", example=rows, output="label").predict(rows), three.predict(rows))
    value = HistGradientBoostingRegressor(**TREES).fit(rows, rows.temp)
    b = save(value, tmp_path/"value", example=rows)
    assert b.card["output"] == "value" and np.abs(b.predict(rows) - value.predict(rows)).max() <= PARITY


def test_a_score_does_not_depend_on_its_batch_or_thread(bundle, rows):
    whole = bundle.predict(rows)
    assert np.abs(np.concatenate([bundle.predict(rows.iloc[[i]]) for i in range(50)]) - whole[:50]).max() < 1e-6
    with ThreadPoolExecutor(8) as pool: pieces = list(pool.map(bundle.predict, [rows]*40))
    assert all(np.array_equal(p, whole) for p in pieces)


def test_arrays_lists_and_frames_are_the_same_rows(bundle, rows):
    lists = [[None if np.isnan(v) else v for v in r] for r in rows.to_numpy().tolist()]
    assert np.array_equal(bundle.predict(lists), bundle.predict(rows)) and np.array_equal(bundle.predict(rows.to_numpy()), bundle.predict(rows))
    assert bundle.predict(np.empty((0, 3))).shape == (0,)


def test_an_array_gives_named_columns(tmp_path, rows, y):
    X = rows[["temp"]].to_numpy()
    b = save(LinearRegression().fit(X, y), tmp_path/"b", example=X)
    assert b.columns == ["x0"] and b.name is None and b.version is None


# --- what was changed is refused

@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_refused(tmp_path_factory, data):
    folder, sha256 = _kept(tmp_path_factory)
    path = folder/data.draw(st.sampled_from(["model.onnx", "model.skops", "card.json"]))
    intact = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(intact) - 1)), data.draw(st.integers(0, 7))
    altered = bytearray(intact)
    altered[at] ^= 1 << bit
    path.write_bytes(altered)
    try:
        with pytest.raises(ValueError, match="was changed"): load_bundle(folder, sha256=sha256)
    finally: path.write_bytes(intact)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_card_is_a_value_error_or_still_a_card(tmp_path_factory, data):
    folder, _ = _kept(tmp_path_factory)
    path = folder/"card.json"
    intact = path.read_bytes()
    altered = bytearray(intact)
    for at in data.draw(st.lists(st.integers(0, len(intact) - 1), min_size=1, max_size=3)): altered[at] = data.draw(st.integers(0, 255))
    path.write_bytes(altered)
    try: load_bundle(folder)
    except ValueError: pass
    finally: path.write_bytes(intact)


_KEPT = []


def _kept(factory):
    "One bundle for all examples of a property."
    if not _KEPT:
        rng = np.random.default_rng(0)
        X, folder = rng.normal(size=(200, 2)), factory.mktemp("kept")/"bundle"
        _KEPT.append((folder, save(LogisticRegression().fit(X, X[:, 0] > 0), folder, example=X).sha256))
    return _KEPT[0]


def test_a_consistent_forgery_is_refused_by_the_digest_from_elsewhere(tmp_path, bundle, linear, rows):
    save(linear, tmp_path/"forged", example=rows)
    assert load_bundle(tmp_path/"forged")
    with pytest.raises(ValueError, match="was changed"): load_bundle(tmp_path/"forged", sha256=bundle.sha256)
    with pytest.raises(ValueError, match="was changed"): read_card(tmp_path/"forged", sha256=bundle.sha256)


@pytest.mark.parametrize("file", ["model.onnx", "model.skops", "card.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_missing_and_truncated_files_are_refused(bundle, file, damage):
    path = bundle.path/file
    if damage == "missing": path.unlink()
    else: path.write_bytes(path.read_bytes()[:path.stat().st_size//2] if damage == "half" else b"")
    with pytest.raises(ValueError, match=file): load_bundle(bundle.path)


@pytest.mark.parametrize("key, value", [("columns", []), ("columns", ["a"]), ("columns", "abc"), ("allow_missing", [1, 0, 0]), ("engine", "pickle"),
                                        ("files", []), ("output", "logit"), ("lineage", None), ("format", 3)])
def test_a_card_that_makes_no_sense_is_refused(bundle, key, value):
    path = bundle.path/"card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match="card.json"): load_bundle(bundle.path)


def test_a_card_cannot_name_files_elsewhere(bundle, tmp_path):
    (tmp_path/"model.onnx").write_bytes((bundle.path/"model.onnx").read_bytes())
    (bundle.path/"model.onnx").unlink()
    card = json.loads((bundle.path/"card.json").read_text())
    card["files"]["../model.onnx"] = card["files"].pop("model.onnx")
    (bundle.path/"card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="card.json is damaged"): load_bundle(bundle.path)


# --- what is opened runs nothing

class Gift:
    "Pickles to a call that makes a file."
    def __init__(self, marker): self.marker = marker
    def __reduce__(self): return Path.touch, (self.marker,)


def test_a_pickle_runs_and_a_skops_file_does_not(tmp_path, linear):
    marker = tmp_path/"marker"
    pickle.loads(pickle.dumps(Gift(marker)))
    assert marker.exists()   # the payload works
    marker.unlink()
    for payload in (pickle.dumps(Gift(marker)), skops.io.dumps(Gift(marker)), skops.io.dumps(make_pipeline(FunctionTransformer(Gift(marker)), linear))):
        with pytest.raises(ValueError): read_skops(payload)
    assert not marker.exists()


@pytest.mark.parametrize("function", [os.system, eval, partial(os.system, "true"), np.load, partial(np.fromfile, "x")])
def test_functions_that_are_not_listed_are_refused_when_saving_and_when_loading(tmp_path, function, linear, rows, sets):
    poisoned = make_pipeline(FunctionTransformer(function), linear)
    with pytest.raises(ValueError, match="not allowed"): read_skops(skops.io.dumps(poisoned))
    b = save(sets, tmp_path/"b", example=rows)
    (b.path/"model.skops").write_bytes(skops.io.dumps(poisoned))
    (b.path/"card.json").write_text(json.dumps({**b.card, "files": {"model.skops": digest(b.path/"model.skops")}}))
    with pytest.raises(ValueError, match="not allowed"): load_bundle(b.path)


def test_a_model_of_an_unknown_class_is_not_saved(tmp_path, rows, y):
    class Own(LogisticRegression): pass
    with pytest.raises(ValueError, match="not allowed.*Own"): save(Own().fit(rows[["temp"]], y), tmp_path/"b", example=rows[["temp"]])
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_skops_file(noise):
    with pytest.raises(ValueError): read_skops(noise)


def test_loading_imports_numpy_and_onnxruntime_only(bundle, rows):
    program = ("import sys; from mlscale.artifacts import load_bundle; b = load_bundle(sys.argv[1], sha256=sys.argv[2]); p = b.predict([[1., .5, None]])[0];"
               "print(repr(float(p)), *[m for m in ('sklearn', 'skops', 'skl2onnx', 'onnx', 'pandas', 'scipy', 'mlflow', 'pyarrow') if m in sys.modules])")
    out = subprocess.run([sys.executable, "-c", program, str(bundle.path), bundle.sha256], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [repr(float(bundle.predict([[1., .5, None]])[0]))] and out.stderr == ""


# --- bad input is an error at the door

@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.none() | st.floats(width=32, allow_infinity=False)]*2), min_size=1, max_size=8), st.tuples(st.booleans(), st.booleans()))
def test_a_signature_takes_exactly_what_it_says(values, allowed):
    s, missing = Signature(("a", "b"), allowed), np.array([[v is None or v != v for v in r] for r in values])
    if (missing & ~np.array(allowed)).any():
        i, j = np.argwhere(missing & ~np.array(allowed))[0]
        with pytest.raises(ValueError, match=rf"values\[{i}\], column '{'ab'[j]}'.*missing"): s.check(values)
    else:
        checked = s.check(values)
        assert checked.dtype == float and np.array_equal(np.isnan(checked), missing)
        assert np.array_equal(checked[~missing], [v for r, m in zip(values, missing, strict=True) for v, gone in zip(r, m, strict=True) if not gone])


@pytest.mark.parametrize("values, says", [
    (None, "shape"), (1., "shape"), ([], "shape"), ([1., 2., 3.], "shape"), ([[1., 2.]], "shape"), ([[[1., 2., 3.]]], "shape"), ([[1., 2., 3.], [1.]], "different lengths"),
    ([[1., "2", 3.]], "'temp'.*not a number"), ([["a", "b", "c"]], "'carrier'.*not a number"), ([[1., 2j, 3.]], "not a number"), ([[1., {}, 3.]], "'temp'.*not a number"),
    ([[1., np.inf, 3.]], "'temp'.*infinite"), ([[1., -1e39, 3.]], "'temp'.*too large"),
    ([[1., 2., 3.], [1., None, 3.]], r"values\[1\], column 'temp'.*missing"), ([[np.nan, 2., 3.]], "'carrier'.*missing")])
def test_bad_rows_are_refused_with_row_column_and_value(bundle, values, says):
    with pytest.raises(ValueError, match=says): bundle.predict(values)


def test_only_columns_with_gaps_in_the_example_may_be_missing(bundle): assert bundle.card["allow_missing"] == [False, False, True]


@pytest.mark.parametrize("change, error, says", [
    ({"model": "late.pkl"}, TypeError, "classifier or regressor"), ({"model": StandardScaler()}, TypeError, "StandardScaler"), ({"model": LogisticRegression}, TypeError, "classifier"),
    ({"model": LogisticRegression()}, ValueError, "not fitted"), ({"output": "logit"}, ValueError, "probability, label"), ({"output": "value"}, ValueError, "probability, label"),
    ({"metrics": {"auc": float("nan")}}, ValueError, "metrics"), ({"lineage": {"at": object()}}, ValueError, "lineage"), ({"example": pd.DataFrame()}, ValueError, "shape"),
    ({"example": [1., 2., 3.]}, ValueError, "shape"),
    ({"example": [[1., np.inf, 0.]]}, ValueError, "infinite"), ({"example": [["a", 1., 2.]]}, ValueError, "the model refuses this row .*could not convert string"),
    ({"example": pd.DataFrame([[1., 2., 3.]], columns=["temp", "carrier", "lateness"])}, ValueError, "missing are 'delay'; unknown are 'lateness'"),
    ({"example": pd.DataFrame([[1., 2., 3.]], columns=["a", "a", "b"])}, ValueError, "'a' are there twice")])
def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path, trees, rows, change, error, says):
    arguments = {"model": trees, "example": rows, **change}
    with pytest.raises(error, match=says): save(arguments.pop("model"), tmp_path/"b", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_classes_must_fit_the_output(tmp_path, rows, y):
    words = LogisticRegression().fit(rows[["temp"]], np.where(y, "late", "punctual"))
    with pytest.raises(ValueError, match="encode the target"): save(words, tmp_path/"b", example=rows[["temp"]], output="label")
    three = LogisticRegression().fit(rows[["temp"]], y + (rows.temp > 1))
    with pytest.raises(ValueError, match="needs two classes"): save(three, tmp_path/"b", example=rows[["temp"]])


def test_a_bundle_is_never_replaced(bundle, linear, rows):
    with pytest.raises(ValueError, match="never changed"): save(linear, bundle.path, example=rows)
    assert load_bundle(bundle.path, sha256=bundle.sha256)


def test_numpy_numbers_are_written_as_numbers(tmp_path, trees, rows):
    b = save(trees, tmp_path/"b", example=rows, metrics={"auc": np.float32(.5), "n": np.int64(3)})
    assert b.card["metrics"] == {"auc": .5, "n": 3}


def test_a_threshold_a_hair_below_a_value_keeps_its_answer_in_onnx():
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from mlscale.artifacts import onnx_scorer, round_down, sklearn_scorer, to_onnx
    rng = np.random.default_rng(0)
    x = rng.integers(0, 40, (2000, 1)).astype(np.float32) / np.float32(10)
    trees = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(x, rng.random(2000) < x[:, 0] / 4)
    for tree in (t for some in trees._predictors for t in some):   # each threshold just below the value that it lies under
        thresholds = tree.nodes["num_threshold"]
        tree.nodes["num_threshold"] = np.nextafter(np.float64(np.ceil(thresholds * 10).astype(np.float32) / np.float32(10)), -np.inf)
    for model in (trees, make_pipeline(FunctionTransformer(), trees)):
        expected = sklearn_scorer(model, "probability", ("x0",))(x.astype(float))
        before = trees._predictors[0][0].nodes["num_threshold"].copy()
        assert np.abs(onnx_scorer(to_onnx(model, "probability", x.astype(float)))(x.astype(float)) - expected).max() < 1e-5
        assert np.array_equal(before, trees._predictors[0][0].nodes["num_threshold"])
    assert np.array_equal(round_down(np.array([np.inf, -np.inf, 0., .1, -.1])), np.array([np.inf, -np.inf, 0, np.nextafter(np.float32(.1), np.float32(0)), np.float32(-.1)], np.float32))


# --- pointers

LATE = ModelVersion("late", 3, "ab"*32)
POINTER = {"name": "late", "version": 3, "path": "3", "sha256": "ab"*32}


@pytest.mark.parametrize("alias", ["production", "canary", "shadow", "eu-west_2"])
def test_a_pointer_is_read_as_it_was_written(tmp_path, alias):
    folder = tmp_path/"late"
    assert write_pointer(folder, alias, LATE) and not write_pointer(folder, alias, LATE)
    assert read_pointer(folder, alias) == LATE and json.loads((folder/f"{alias}.json").read_text()).items() >= POINTER.items()
    assert write_pointer(folder, alias, ModelVersion("late", 4, "ab"*32)) and read_pointer(folder, alias).version == 4
    assert [f.name for f in folder.iterdir()] == [f"{alias}.json"]
    assert remove_pointer(folder, alias) and not remove_pointer(folder, alias)
    with pytest.raises(FileNotFoundError, match=f"{alias}.json is missing; deploy"): read_pointer(folder, alias)


@pytest.mark.parametrize("change", [{"name": "early"}, {"name": None}, {"name": ""}, {"version": "3"}, {"version": 3.0}, {"version": True}, {"version": 0}, {"version": -3}, {"version": 2**63},
                                    {"path": ""}, {"path": "."}, {"path": "4"}, {"path": "03"}, {"path": "../late/3"}, {"path": "../../etc"}, {"path": "/etc"}, {"path": 3}, {"path": None},
                                    {"sha256": None}, {"sha256": ""}, {"sha256": "a"*63}, {"sha256": "a"*65}, {"sha256": "G"*64}, {"sha256": "A"*64}, {"sha256": "a"*64 + "\n"}], ids=str)
def test_a_pointer_that_cannot_be_right_is_refused_and_mended(tmp_path, change):
    folder = tmp_path/"late"
    write_pointer(folder, "canary", LATE)
    (folder/"canary.json").write_text(json.dumps({**POINTER, **change}))
    with pytest.raises(ValueError, match="canary.json .*; deploy again"): read_pointer(folder, "canary")
    assert write_pointer(folder, "canary", LATE) and read_pointer(folder, "canary") == LATE


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"["*9_000,
                                  *(json.dumps({k: v for k, v in POINTER.items() if k != left}).encode() for left in POINTER)], ids=lambda t: repr(t[:20]))
def test_a_damaged_pointer_is_a_short_value_error(tmp_path, text):
    (tmp_path/"late").mkdir()
    (tmp_path/"late"/"production.json").write_bytes(text)
    with pytest.raises(ValueError, match="production.json is damaged") as e: read_pointer(tmp_path/"late")
    assert len(str(e.value)) < 300


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(json.dumps(POINTER)) - 1), byte=st.integers(0, 255))
def test_a_pointer_with_any_byte_changed_is_refused_or_names_another_digest(tmp_path_factory, at, byte):
    folder = tmp_path_factory.mktemp("changed")/"late"
    folder.mkdir()
    text = bytearray(json.dumps(POINTER).encode())
    text[at] = byte
    (folder/"production.json").write_bytes(text)
    try: found = read_pointer(folder)
    except ValueError: return
    assert (found.name, found.version) == ("late", 3)   # both the version and its folder would have to change


@pytest.mark.parametrize("alias", ["", "..", "../x", "a/b", "Production", "a.b", "3", "production\n", "a"*65, None, 3])
def test_an_alias_is_a_word_and_not_a_path(tmp_path, alias):
    for call in (lambda: read_pointer(tmp_path/"late", alias), lambda: write_pointer(tmp_path/"late", alias, LATE), lambda: remove_pointer(tmp_path/"late", alias)):
        with pytest.raises(ValueError, match="alias="): call()
    assert list(tmp_path.iterdir()) == []


def test_a_pointer_is_not_written_into_the_folder_of_another_model(tmp_path):
    with pytest.raises(ValueError, match="'early' is not that of 'late'"): write_pointer(tmp_path/"early", "production", LATE)
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_pointer_or_the_new_one(tmp_path):
    folder, versions = tmp_path/"late", [ModelVersion("late", n, f"{n:064x}") for n in (1, 2)]
    write_pointer(folder, "production", versions[0])

    def write(_): return [write_pointer(folder, "production", v) for v in versions*50]

    def read(_): return {read_pointer(folder) for _ in range(1000)}
    with ThreadPoolExecutor(4) as pool: seen, _ = [pool.map(f, range(2)) for f in (read, write)]
    assert set.union(*seen) <= set(versions)


# --- in five years

OLD = Path(__file__).parent/"data"/"bundle_format_1"


@pytest.mark.parametrize("engine", ["onnx", "skops"])
def test_a_bundle_of_the_first_release_answers_as_it_did(engine):
    "Written by the first release of this package: a card without types and reference rows."
    expected = json.loads((OLD/"expected.json").read_text())
    old = load_bundle(OLD/engine, sha256=expected["sha256"][engine])
    assert old.card["format"] == 1 and old.engine == engine and not {"types", "reference", "evaluation"} & set(old.card)
    assert np.abs(old.predict(expected["values"]) - expected["predictions"][engine]).max() < PARITY
    assert old.signature == Signature(("hour", "wind"), (False, False))


def test_what_is_written_says_with_what(bundle):
    from importlib.metadata import version
    assert bundle.card["format"] == 2 and set(bundle.card["versions"]) == {"python", "mlscale", "numpy", "scikit-learn", "skops", "skl2onnx", "onnxruntime"}
    assert bundle.card["versions"]["scikit-learn"] == version("scikit-learn")


def test_a_model_that_answers_otherwise_names_the_versions_to_go_back_to(bundle):
    card = {**bundle.card, "versions": {**bundle.card["versions"], "onnxruntime": "1.0.0", "a package of then": "3"}}
    card["reference"] = {**card["reference"], "predictions": [.123]*len(card["reference"]["predictions"])}
    (bundle.path/"card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="answered.*; it was written with onnxruntime 1.0.0; restore the bundle"): load_bundle(bundle.path)
