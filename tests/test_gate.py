"The gate between scikit-learn and ONNX tries what the reference rows do not hold; a bundle never answers where its model would not."
import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.linear_model import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    MultiTaskLasso,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler, TargetEncoder
from sklearn.svm import SVC, LinearSVC, NuSVC

from mlscale.artifacts import PARITY, adversarial_rows, disagreement, load_bundle, onnx_scorer, save, spread
from mlscale.storage import digest

RNG = np.random.default_rng(0)
CODES = RNG.choice(np.arange(1., 11), 2000, p=[.3, .3, .2, .1, .05, .02, .01, .01, .005, .005])
X = np.column_stack([CODES, RNG.normal(size=2000).astype(np.float32)])
Y = (np.isin(CODES, [2, 5, 7, 9])*2 + X[:, 1] + RNG.normal(size=2000) > 1).astype(int)
COUNTS = RNG.poisson(np.exp(.5*X[:, 1]))
ENCODERS = {
    "one-hot": OneHotEncoder(), "one-hot, ignore": OneHotEncoder(handle_unknown="ignore"), "one-hot, drop": OneHotEncoder(drop="first", handle_unknown="ignore"),
    "one-hot, infrequent": OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=50), "one-hot, at most 4": OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=4),
    "ordinal": OrdinalEncoder(), "ordinal, -1": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), "bins": KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"),
    "target": TargetEncoder(random_state=0)}
PROBES = {"known": CODES[:200], **{f"all {v:g}": np.full(200, float(v)) for v in (11, 0, -1, 2.5, 1.5, 1e6, -1e10)}}


def answer(f, rows):
    try: return f(rows)
    except ValueError as e:
        assert len(str(e)) < 300
        return None


@pytest.mark.parametrize("seen", ["every category", "the frequent ones"])
@pytest.mark.parametrize("name", [*ENCODERS, "sets"])
def test_encoders_answer_as_their_model_does_whatever_the_category(tmp_path, name, seen):
    model = make_pipeline(make_column_transformer((clone(ENCODERS[name]), [0]), remainder="passthrough"), LogisticRegression()) if name in ENCODERS else \
        HistGradientBoostingClassifier(max_iter=20, categorical_features=[0])
    model.fit(X, Y)
    bundle = save(model, tmp_path/"b", example=X if seen == "every category" else X[CODES < 6][:500])
    for what, codes in PROBES.items():
        rows = np.column_stack([codes, X[:200, 1]])
        want, got = answer(lambda r: model.predict_proba(r)[:, 1], rows), answer(bundle.predict, rows)
        assert (want is None) == (got is None), f"{bundle.engine}, {what}: scikit-learn {want}, the bundle {got}"
        if want is not None: np.testing.assert_allclose(got, want, atol=1e-4, err_msg=what)


def test_the_converter_alone_would_answer_for_a_category_nobody_knows(tmp_path):
    "What the gate is there for: without these rows the strict encoder passes."
    model = make_pipeline(make_column_transformer((OrdinalEncoder(), [0]), remainder="passthrough"), LogisticRegression()).fit(X, Y)
    bundle = save(model, tmp_path/"b", example=X)
    assert bundle.engine == "skops" and bundle.card["parity"]["max_abs_difference"] < PARITY and "'x0' that never occurred" in bundle.card["parity"]["reason"]
    with pytest.raises(ValueError, match=r"values\[2\]: the model refuses this row.*unknown categories"): bundle.predict([*X[:2], [99, 0], *X[:5], [98, 0]])


def test_adversarial_rows_hold_what_they_promise():
    rows = np.array([[1., np.nan], [3., 7.], [3., 9.]])
    first, second = adversarial_rows(rows, rows[:1])
    assert {1., 3., 1.5, 3.5, 4., 0., -1., 1e3, -1e20} <= set(first[:, 0]) and np.isnan(first[:, 1]).all() and not np.isnan(first[:, 0]).any()
    assert {7., 9., 10., 6.} <= set(second[:, 1]) and np.isnan(second[:, 1]).any() and (second[:, 0] == 1).all()
    assert len(next(adversarial_rows(np.arange(5000.)[:, None], rows[:1, :1]))) < 100
    assert spread(np.array([.3, .1, .9])).tolist() == [1, 0, 2] and len(spread(np.arange(100.))) == 4


def refuse_five(rows):
    if (rows[:, 0] == 5).any(): raise RuntimeError("five")
    return rows[:, 0]


def test_two_scorers_agree_where_they_answer_alike_or_neither_answers():
    rows = np.arange(10.)[:, None]
    assert disagreement(refuse_five, refuse_five, rows) is None
    assert disagreement(refuse_five, lambda r: r[:, 0], rows) == "scikit-learn gives no answer, ONNX answers 5"
    assert disagreement(lambda r: r[:, 0], lambda r: np.where(r[:, 0] == 7, np.nan, r[:, 0]), rows) == "scikit-learn answers 7, ONNX gives no answer"
    assert disagreement(lambda r: r[:, 0], lambda r: r[:, 0] + (r[:, 0] == 2)*.01, rows) == "scikit-learn answers 2, ONNX answers 2.01"
    assert disagreement(lambda r: 1e9*r[:, 0], lambda r: 1e9*r[:, 0] + 1, rows + 1) is None   # the tolerance is relative above 1
    assert disagreement(lambda r: r[:, 0]/0*0, lambda r: np.full(len(r), np.inf), rows) is None


# --- several outputs

TARGETS = X @ RNG.normal(size=(2, 3))
SEVERAL = [LinearRegression(), Ridge(), MLPRegressor(hidden_layer_sizes=(4,), max_iter=3), MultiOutputRegressor(Ridge()), RegressorChain(Ridge()), MultiTaskLasso(), PLSRegression(2)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", [2, 3])
@pytest.mark.parametrize("model", SEVERAL, ids=lambda m: type(m).__name__)
def test_a_regressor_with_several_targets_is_refused(tmp_path, model, targets):
    with pytest.raises(ValueError, match=f"{targets} values for each row"): save(clone(model).fit(X, TARGETS[:, :targets]), tmp_path/"b", example=X)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("output", [None, "label"])
@pytest.mark.parametrize("model", [MLPClassifier(hidden_layer_sizes=(4,), max_iter=3), MultiOutputClassifier(LogisticRegression())], ids=lambda m: type(m).__name__)
def test_a_classifier_with_several_labels_is_refused(tmp_path, model, output):
    with pytest.raises(ValueError, match="2 values for each row"): save(clone(model).fit(X, TARGETS[:, :2] > 0), tmp_path/"b", example=X, output=output)


def test_one_target_in_a_column_of_its_own_is_one_target(tmp_path):
    model = LinearRegression().fit(X, TARGETS[:, :1])
    np.testing.assert_allclose(save(model, tmp_path/"b", example=X).predict(X[:5]), model.predict(X[:5]).ravel(), rtol=1e-5)


# --- a bundle that was made otherwise

def graph(width, weights=None):
    "An ONNX model that gives `width` values a row."
    w = numpy_helper.from_array(np.ones((2, width), np.float32), "w") if weights is None else weights
    shape = lambda name, k: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, k])
    made = helper.make_graph([helper.make_node("MatMul", ["X", "w"], ["Y"])], "g", [shape("X", 2)], [shape("Y", width)], [w])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def forge(bundle, data=None, **changes):
    "Exchange the ONNX model and keys of the card, with all digests made to fit."
    if data is not None: (bundle.path/"model.onnx").write_bytes(data)
    files = {name: digest(bundle.path/name) for name in bundle.card["files"]}
    card = {**bundle.card, "files": files, **changes}
    (bundle.path/"card.json").write_text(json.dumps({k: v for k, v in card.items() if k not in changes or v is not None}))
    return bundle.path


@pytest.fixture
def regression(tmp_path): return save(LinearRegression().fit(X, X.sum(1)), tmp_path/"regression", example=X)


@pytest.fixture
def classification(tmp_path): return save(LogisticRegression().fit(X, Y), tmp_path/"classification", example=X)


@pytest.mark.parametrize("width", [2, 3])
def test_a_model_that_gives_several_values_a_row_is_refused_when_it_is_loaded(regression, width):
    assert load_bundle(forge(regression, graph(1))).predict([[1, 2]]) == [3]   # the forgery works
    with pytest.raises(ValueError, match="does not answer its reference rows.*not one for each row"): load_bundle(forge(regression, graph(width)))
    with pytest.raises(ValueError, match="not one for each row"): load_bundle(forge(regression, graph(width), reference=None, format=1)).predict([[1, 2]])


def test_another_model_does_not_answer_the_reference_rows(classification, regression, tmp_path):
    other = save(LogisticRegression().fit(X, 1 - Y), tmp_path/"other", example=X)
    with pytest.raises(ValueError, match="answers .* to its reference rows and answered"): load_bundle(forge(classification, (other.path/"model.onnx").read_bytes()))


def test_a_bundle_without_reference_rows_is_still_read(classification):
    assert load_bundle(forge(classification, reference=None, format=1)).predict(X[:5]).tolist() == classification.predict(X[:5]).tolist()


@pytest.mark.parametrize("reference", [{}, [], {"values": [[1, 2]]}, {"values": [[1, 2]], "predictions": ["x"]}, {"values": [[1]], "predictions": [.5]}, {"values": [[1, 2]], "predictions": [.5, .5]}])
def test_reference_rows_that_make_no_sense_are_refused(classification, reference):
    with pytest.raises(ValueError, match="classification"): load_bundle(forge(classification, reference=reference))


@pytest.mark.parametrize("wrong", [None, "", "0"*63, "0"*65, "g"*64, 0, ["0"*64], {}])
def test_a_digest_is_64_hexadecimal_digits_or_nothing_is_loaded(classification, wrong):
    (classification.path/"model.onnx").write_bytes(graph(2))
    card = {**classification.card, "files": {**classification.card["files"], "model.onnx": wrong}}
    (classification.path/"card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="card.json is damaged"): load_bundle(classification.path)
    if wrong is not None:
        with pytest.raises(ValueError, match="64 hexadecimal digits"): load_bundle(classification.path, sha256=wrong)


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "../w.bin", "{here}/w.bin"])
def test_numbers_in_another_file_are_refused(regression, tmp_path, monkeypatch, location):
    monkeypatch.chdir(tmp_path)
    w = numpy_helper.from_array(np.full((2, 1), 5, np.float32), "w")
    for folder in (tmp_path, tmp_path.parent): (folder/"w.bin").write_bytes(w.raw_data)
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value=location.format(here=tmp_path))
    data = graph(1, w)
    assert onnx.load_from_string(data).graph.initializer[0].data_location == TensorProto.EXTERNAL
    with pytest.raises(ValueError, match="not an ONNX model that can be used .*External data path validation"): onnx_scorer(data, "value")
    with pytest.raises(ValueError): load_bundle(forge(regression, data))


def test_numbers_in_another_file_would_have_been_read_from_the_working_directory(tmp_path, monkeypatch):
    import onnxruntime
    monkeypatch.chdir(tmp_path)
    w = numpy_helper.from_array(np.full((2, 1), 5, np.float32), "w")
    (tmp_path/"w.bin").write_bytes(w.raw_data)
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value="w.bin")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert onnxruntime.InferenceSession(graph(1, w), options).run(None, {"X": np.ones((1, 2), np.float32)})[0] == 10


@pytest.mark.parametrize("data", [b"", b"noise", b"\x08\x08" + os.urandom(100)])
def test_what_the_runtime_cannot_read_is_our_error(regression, data):
    with pytest.raises(ValueError, match="not an ONNX model"): load_bundle(forge(regression, data))


# --- answers that are no numbers

@pytest.mark.parametrize("model, target", [(PoissonRegressor(), COUNTS), (GammaRegressor(), np.exp(X[:, 1])), (make_pipeline(PolynomialFeatures(2), LinearRegression()), X[:, 1]),
                                           (GaussianNB(), Y), (make_pipeline(StandardScaler(), LogisticRegression()), Y), (LinearRegression(), X[:, 1])], ids=str)
def test_a_prediction_is_that_of_the_model_or_the_row_is_named(tmp_path, model, target):
    clone_ = clone(model).fit(X, target)
    bundle = save(clone_, tmp_path/"b", example=X)
    exact = lambda rows: (clone_.predict_proba(rows)[:, 1] if bundle.card["output"] == "probability" else clone_.predict(rows))
    for row in ([1e3, 1e3], [1e4, -1e4], [500, 500], [1e10, 1e10], [1e20, -1e20], [3e38, 3e38], [3e38, -3e38], [-3e38, -3e38]):
        with np.errstate(all="ignore"): want = exact(np.array([row]))[0]
        try: got = bundle.predict([X[0], row])[1]
        except ValueError as e: assert str(e).startswith("values[1]: ") and len(str(e)) < 300
        else: np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4, err_msg=f"{bundle.engine} {row}")
    assert np.isfinite(bundle.predict(X)).all()


def test_where_32_bits_overflow_and_64_do_not_the_exact_model_serves(tmp_path):
    model = PoissonRegressor().fit(X, COUNTS)
    bundle = save(model, tmp_path/"b", example=X)
    assert bundle.engine == "skops"
    assert bundle.predict([[1, 400.]])[0] == model.predict([[1, 400.]])[0] > 1e38
    with pytest.raises(ValueError, match=r"values\[1\]: the prediction is inf; .* its largest value is 5000 in 'x1'"): bundle.predict([[1, 0], [1, 5000]])


# --- the reason is true

@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [LinearSVC(), SVC(), NuSVC(nu=.1), Perceptron(), RidgeClassifier(), SGDClassifier(), NearestCentroid(), VotingClassifier([("a", LogisticRegression())]),
                                   make_pipeline(StandardScaler(), LinearSVC())], ids=str)
def test_a_classifier_without_probabilities_says_so(tmp_path, model):
    if isinstance(model, NearestCentroid) and hasattr(model, "predict_proba"): return   # newer releases have it
    model = clone(model).fit(X, Y)
    with pytest.raises(ValueError, match="gives no probabilities; ask for output='label'"): save(model, tmp_path/"b", example=X)


def test_the_way_out_for_one_without_probabilities_works(tmp_path):
    svc = LinearSVC().fit(X, Y)
    assert save(svc, tmp_path/"label", example=X, output="label").predict(X[:50]).tolist() == svc.predict(X[:50]).tolist()
    calibrated = CalibratedClassifierCV(LinearSVC()).fit(X, Y)
    np.testing.assert_allclose(save(calibrated, tmp_path/"b", example=X).predict(X[:50]), calibrated.predict_proba(X[:50])[:, 1], atol=1e-6)


def test_a_row_that_the_model_refuses_is_named_in_any_batch(tmp_path):
    model = make_pipeline(make_column_transformer((OneHotEncoder(), [0]), remainder="passthrough"), LogisticRegression()).fit(X, Y)
    bundle = save(model, tmp_path/"b", example=X)
    for n, at in ((1, 0), (2, 1), (7, 3), (1000, 999), (1000, 0), (1000, 511)):
        rows = X[:n].copy()
        rows[at, 0] = 77
        with pytest.raises(ValueError, match=rf"values\[{at}\]: the model refuses this row"): bundle.predict(rows)


# --- cards that agree with themselves and make no sense

@pytest.mark.parametrize("change", [{"columns": ["a", "a"]}, {"columns": ["a", ""]}, {"kind": []}, {"kind": {}}, {"kind": "regressor"}, {"output": "value"}, {"format": True}, {"format": 1.0}])
def test_a_card_that_contradicts_itself_is_refused(classification, change):
    with pytest.raises(ValueError, match="card.json"): load_bundle(forge(classification, **change))


def test_a_card_nested_without_end_is_refused(classification):
    (classification.path/"card.json").write_text("["*200_000)
    with pytest.raises(ValueError, match="card.json is damaged"): load_bundle(classification.path)


def test_an_exact_model_that_gives_several_values_a_row_is_refused_too(tmp_path):
    import skops.io
    bundle = save(PoissonRegressor().fit(X, COUNTS), tmp_path/"b", example=X)
    assert bundle.engine == "skops"
    (bundle.path/"model.skops").write_bytes(skops.io.dumps(LinearRegression().fit(X, TARGETS)))
    with pytest.raises(ValueError, match="not one for each row"): load_bundle(forge(bundle))
    with pytest.raises(ValueError, match="not one for each row"): load_bundle(forge(bundle, reference=None, format=1)).predict(X[:2])
