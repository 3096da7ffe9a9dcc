"Ordinary models: every classifier and regressor of scikit-learn, text beside numbers; saved, read back, served by name, logged, scored in a batch, equal each time."
import io
import json
import subprocess
import sys
import zipfile
from enum import StrEnum

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import BaggingClassifier, ExtraTreesClassifier, GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from mlscale.artifacts import ALLOWED, ModelVersion, Signature, load_bundle, read_skops, save, write_pointer
from mlscale.batch import batch_predict
from mlscale.ordinary_models import fitted_estimators, how_served
from mlscale.prediction_log import PredictionLog
from mlscale.serving import ReloadingModel, Service, read_features, read_rows, serving_process

RNG = np.random.default_rng(0)
N = 400
X = pd.DataFrame({"carrier": RNG.choice(["AA", "UA", "DL", "B6"], N), "temp": RNG.normal(size=N).astype(np.float32).astype(float),
                  "origin": RNG.choice(["JFK", "EWR"], N), "hour": RNG.integers(0, 24, N).astype(float)})
Y = ((X.carrier == "AA")*2 + X.temp + RNG.normal(size=N) > .8).astype(int)
TEXT, NUMBERS = ["carrier", "origin"], ["temp", "hour"]
UNSEEN = X.assign(carrier="ZZ").iloc[:20]


def pipeline(encoder, model): return make_pipeline(make_column_transformer((encoder, TEXT), remainder="passthrough"), model)


def answer(f, rows):
    try: return f(rows)
    except ValueError: return None


# --- the table

SEVERAL = {"ClassifierChain", "MultiOutputClassifier", "CCA", "MultiOutputRegressor", "MultiTaskElasticNet", "MultiTaskElasticNetCV",
           "MultiTaskLasso", "MultiTaskLassoCV", "PLSCanonical", "RegressorChain"}
EXACT = {"KNeighborsClassifier", "LinearDiscriminantAnalysis", "VotingClassifier", "GaussianNB", "KNeighborsRegressor", "PoissonRegressor"}
FAST = {"RandomForestClassifier", "ExtraTreesRegressor", "GradientBoostingRegressor", "DecisionTreeClassifier", "CalibratedClassifierCV",
        "RegressorChain", "SVC", "LinearSVC"} | EXACT


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("every", [pytest.param(True, marks=pytest.mark.slow), False], ids=["every estimator", "some"])
def test_every_estimator_of_scikit_learn_is_served_as_it_answers_or_refused_for_a_true_reason(every, monkeypatch):
    from sklearn import utils
    everyone, seen = utils.all_estimators, {}
    if not every: monkeypatch.setattr(utils, "all_estimators", lambda kind: [(n, c) for n, c in everyone(kind) if n in FAST])
    for kind in ("classifier", "regressor"):
        for name, model, rows in fitted_estimators(kind):
            output = None if kind == "regressor" or hasattr(model, "predict_proba") else "label"
            served = seen[name] = how_served(model, rows, output=output)   # raises where answers differ
            if name in SEVERAL: assert served.engine == "refused" and "2 values for each row (several targets)" in served.why, (name, served)
            else: assert served.engine == "onnx" and not served.why or served.engine == "skops" and served.why, (name, served)
            if name in EXACT: assert served.engine == "skops", (name, served)
    assert seen.keys() >= (FAST if not every else SEVERAL | FAST) and sum(s.engine == "onnx" for s in seen.values()) > len(seen)/3
    if every: assert seen.keys() == {n for kind in ("classifier", "regressor") for n, _ in everyone(kind)}


@pytest.mark.parametrize("name, model", [
    ("forest", RandomForestClassifier(10, random_state=0)),
    ("extra trees", ExtraTreesClassifier(10, random_state=0)), ("boosting", GradientBoostingClassifier(n_estimators=10)),
    ("histograms", HistGradientBoostingClassifier(max_iter=10)), ("tree", DecisionTreeClassifier(max_depth=4)), ("neighbours", KNeighborsClassifier()), ("logistic", LogisticRegression()),
    ("perceptron", MLPClassifier((4,), max_iter=20)), ("isotonic", CalibratedClassifierCV(LogisticRegression(), method="isotonic")),
    ("bagging", BaggingClassifier(max_features=.5, random_state=0)),
    ("temperature", CalibratedClassifierCV(LogisticRegression(), method="temperature")),
    ("soft vote", VotingClassifier([("a", LogisticRegression()), ("b", RandomForestClassifier(5))], voting="soft")),
    ("support vectors", CalibratedClassifierCV(SVC()))])
@pytest.mark.filterwarnings("ignore")
def test_text_and_numbers_in_any_model(tmp_path, name, model):
    model = pipeline(OneHotEncoder(handle_unknown="ignore", sparse_output=False), model).fit(X, Y)
    bundle = save(model, tmp_path/"b", example=X)
    for rows in (X, UNSEEN): np.testing.assert_allclose(bundle.predict(rows), model.predict_proba(rows)[:, 1], atol=1e-5)
    assert bundle.signature.types == ("text", "number", "text", "number")


ENCODERS = {"one-hot": OneHotEncoder(), "ignore": OneHotEncoder(handle_unknown="ignore"),
            "infrequent": OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=150), "drop": OneHotEncoder(drop="first", handle_unknown="ignore"),
            "ordinal": OrdinalEncoder(), "ordinal, -1": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), "target": TargetEncoder(),
            "imputed": make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENCODERS)
def test_unseen_text_is_answered_as_the_model_answers_it(tmp_path, name):
    model = pipeline(ENCODERS[name], LogisticRegression(max_iter=1000)).fit(X, Y)
    bundle = save(model, tmp_path/"b", example=X)
    for carrier in ("AA", "ZZ", "", "aa", "AA ", "None", "nan", "ü", "A\0A", "x"*1000):
        rows = X.assign(carrier=carrier).iloc[:20]
        want, got = answer(lambda r: model.predict_proba(r)[:, 1], rows), answer(bundle.predict, rows)
        assert (want is None) == (got is None), (bundle.engine, carrier)
        if want is None:
            with pytest.raises(ValueError, match=r"^values\[0\]: the model refuses this row \(.*(?i:unknown categor).{,150}$"): bundle.predict(rows)
        else: np.testing.assert_allclose(got, want, atol=1e-5, err_msg=carrier)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gap", [None, np.nan], ids=str)
@pytest.mark.parametrize("encoder", ["ignore", "one-hot", "ordinal, -1", "target", "imputed"])
def test_missing_text_is_what_the_model_knows_as_missing(tmp_path, gap, encoder):
    if encoder == "imputed" and gap is None: return   # scikit-learn's imputer knows NaN only
    holes = X.assign(carrier=np.where(np.arange(N) % 7 == 0, gap, X.carrier), temp=np.where(np.arange(N) % 5 == 0, np.nan, X.temp))
    model = pipeline(ENCODERS[encoder], HistGradientBoostingClassifier(max_iter=20)).set_params(columntransformer__sparse_threshold=0)
    if encoder == "imputed": model = make_pipeline(make_column_transformer((ENCODERS[encoder], TEXT), ("passthrough", ["hour"])), LogisticRegression())
    model.fit(holes, Y)
    bundle = save(model, tmp_path/"b", example=holes)
    assert bundle.card["allow_missing"] == [True, True, False, False]
    for missing in (None, np.nan, pd.NA):
        asked = holes.assign(carrier=pd.Series([missing if c is None or c != c else c for c in holes.carrier], dtype=object))
        np.testing.assert_allclose(bundle.predict(asked), model.predict_proba(holes)[:, 1], atol=1e-5)
    with pytest.raises(ValueError, match=r"values\[1\], column 'origin': None is missing, but it never was"): bundle.predict(holes.assign(origin=["JFK", None]*(N//2)))


def test_columns_by_selector_and_by_dtype(tmp_path):
    by_dtype = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include=object)), (StandardScaler(), make_column_selector(dtype_include=np.number)))
    model = make_pipeline(by_dtype, LogisticRegression()).fit(X, Y)
    np.testing.assert_allclose(save(model, tmp_path/"selector", example=X).predict(UNSEEN), model.predict_proba(UNSEEN)[:, 1], atol=1e-6)
    categories = X.astype(dict.fromkeys(TEXT, "category"))
    model = HistGradientBoostingClassifier(max_iter=10).fit(categories, Y)
    assert np.array_equal(save(model, tmp_path/"categories", example=categories).predict(X), model.predict_proba(categories)[:, 1])
    numbers = make_pipeline(make_column_transformer((StandardScaler(), ["hour"]), ("passthrough", ["temp"])), LogisticRegression()).fit(X[NUMBERS], Y)
    bundle = save(numbers, tmp_path/"names", example=X[NUMBERS])
    assert bundle.engine == "onnx"   # columns by name, though all are numbers
    np.testing.assert_allclose(bundle.predict(X[NUMBERS].to_numpy()), numbers.predict_proba(X[NUMBERS])[:, 1], atol=1e-6)


def test_a_large_value_is_compared_by_its_size(tmp_path):
    prices = 1e5 + 1e4*X[NUMBERS].to_numpy() @ [1., .1]
    assert save(LinearRegression().fit(X[NUMBERS], prices), tmp_path/"b", example=X[NUMBERS]).engine == "onnx"


# --- types

@pytest.fixture(scope="module")
def forest(): return pipeline(OneHotEncoder(handle_unknown="ignore"), RandomForestClassifier(10, random_state=0)).fit(X, Y)


@pytest.fixture(scope="module")
def bundle(forest, tmp_path_factory): return save(forest, tmp_path_factory.mktemp("forest")/"1", example=X, lineage={"name": "late", "version": 1})


class Carrier(StrEnum):
    AMERICAN = "AA"


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x[["hour", "origin", "temp", "carrier"]], pl.from_pandas, pa.Table.from_pandas, lambda x: x.to_dict("list"), lambda x: x.to_dict("records"),
                                  lambda x: x.to_numpy(), lambda x: x.to_numpy().tolist(), lambda x: x.astype(dict.fromkeys(TEXT, "category")),
                                  lambda x: x.astype(dict.fromkeys(TEXT, "string")), lambda x: x.astype({"carrier": "string[pyarrow]", "hour": "Int64"})])
def test_a_table_of_any_kind_is_the_same_rows(bundle, forest, form):
    assert np.array_equal(bundle.predict(form(X)), bundle.predict(X))
    assert Signature.of(form(X), list(X)) == bundle.signature
    assert bundle.predict([[Carrier.AMERICAN, 1., np.str_("JFK"), 3]])[0] == bundle.predict([["AA", 1., "JFK", 3.]])[0]


@pytest.mark.parametrize("row, says", [
    ([7, 1., "JFK", 3.], "column 'carrier': 7 is not text; give text, or None where missing"),
    (["AA", "1", "JFK", 3.], "column 'temp': '1' is not a number; give a float"), (["AA", "warm", "JFK", 3.], "column 'temp': 'warm' is not a number"),
    (["AA", 1., True, 3.], "column 'origin': True is not text"), ([b"AA", 1., "JFK", 3.], "column 'carrier': b'AA' is not text"),
    (["AA", 1., "JFK", None], "column 'hour': None is missing"), ([None, 1., "JFK", 3.], "column 'carrier': None is missing"),
    (["AA", np.inf, "JFK", 3.], "column 'temp': inf is infinite"), (["AA", 1e39, "JFK", 3.], "column 'temp': 1e.39 is infinite, or too large for float32"),
    (["A\ud800", 1., "JFK", 3.], "column 'carrier': .*half a surrogate pair; give plain text")])
def test_a_value_of_another_type_is_named_by_row_and_column(bundle, row, says):
    with pytest.raises(ValueError, match=rf"values\[1\], {says}"): bundle.predict([["AA", 1., "JFK", 3.], row])


def test_an_older_card_knows_numbers_only(tmp_path):
    old = save(LogisticRegression().fit(X[NUMBERS], Y), tmp_path/"b", example=X[NUMBERS])
    card = json.loads((old.path/"card.json").read_text())
    assert card.pop("types") == ["number", "number"] and card.pop("format") == 2
    card["format"] = 1
    (old.path/"card.json").write_text(json.dumps(card))
    assert np.array_equal(load_bundle(old.path).predict(X[NUMBERS]), old.predict(X[NUMBERS])) and load_bundle(old.path).signature == old.signature
    for types in (["number"], ["number", "word"], "number", [1, 2]):
        (old.path/"card.json").write_text(json.dumps({**card, "types": types}))
        with pytest.raises(ValueError, match="card.json is damaged"): load_bundle(old.path)


def test_the_server_of_a_text_model_needs_no_scikit_learn(bundle):
    program = ("import sys; from mlscale.artifacts import load_bundle; b = load_bundle(sys.argv[1]); p = b.predict({'carrier': ['AA'], 'origin': ['JFK'], 'temp': [1.], 'hour': [3]})[0];"
               "print(repr(float(p)), *[m for m in ('sklearn', 'skops', 'pandas', 'scipy', 'pyarrow') if m in sys.modules])")
    assert bundle.engine == "onnx"
    said = subprocess.run([sys.executable, "-c", program, str(bundle.path)], capture_output=True, text=True, check=True).stdout.split()
    assert said == [repr(float(bundle.predict([["AA", 1., "JFK", 3.]])[0]))]


# --- by name over HTTP, and in the log

@pytest.fixture
def deployed(bundle, tmp_path):
    folder = tmp_path/"bundles"/"late"
    (folder/"1").mkdir(parents=True)
    for f in bundle.path.iterdir(): (folder/"1"/f.name).write_bytes(f.read_bytes())
    write_pointer(folder, "production", ModelVersion("late", 1, bundle.sha256))
    return folder.parent


def test_features_go_by_name_and_are_logged_in_the_order_of_the_columns(deployed, bundle, tmp_path):
    rows = X.iloc[:3].to_dict("records")
    with serving_process(deployed, log=tmp_path/"log.db") as url:
        ask = lambda body: httpx.post(f"{url}/predict", json=body)
        first = ask({"features": rows, "ids": ["a", "b", "c"]})
        assert first.status_code == 200 and first.json()["prediction"] == bundle.predict(X.iloc[:3]).tolist()
        shuffled = [dict(reversed(row.items())) for row in rows]
        assert ask({"features": shuffled, "ids": ["a", "b", "c"]}).json() == first.json()
        assert ask({"values": X.iloc[:3].to_numpy().tolist(), "ids": ["a", "b", "c"]}).json() == first.json()
        assert ask({"features": rows[0]}).json()["prediction"] == first.json()["prediction"][:1]
        assert ask({"features": {**rows[0], "carrier": "ZZ"}}).json()["prediction"] == bundle.predict(UNSEEN.iloc[:1]).tolist()
        assert ask({"features": {**rows[0], "carrier": "ZZ"}, "ids": ["a"]}).status_code == 409
        for features, says in (({**rows[0], "carrier": 7}, "features[0], column 'carrier': 7 is not text; give text, or null"),
                               ([rows[0], {**rows[0], "temp": "1"}], "features[1], column 'temp': \"1\" is not a number; give a number"),
                               ({**rows[0], "carrier": None}, "features[0], column 'carrier': None is missing"),
                               ({"carrier": "AA", "temps": 1}, "features[0]: columns go by name, and missing are 'temp', 'origin', 'hour'; unknown are 'temps'"),
                               ([], "give one object"), ([3], "body.features"), ({**rows[0], "carrier": "\ud800"}, "half a surrogate pair")):
            refused = httpx.post(f"{url}/predict", content=json.dumps({"features": features}))
            assert refused.status_code == 422 and says in refused.json()["detail"], refused.text
        for body in ({}, {"features": rows, "values": [[1]]}): assert "either `values`" in ask(body).json()["detail"]
    with PredictionLog(tmp_path/"log.db") as log, log.transaction(write=False) as db:
        assert json.loads(db.execute("SELECT features FROM predictions WHERE request_id = 'a'")[0][0]) == X.iloc[0].tolist()
        assert json.loads(db.execute("SELECT columns FROM signatures")[0][0]) == list(X)


def test_names_reach_two_versions_that_order_their_columns_differently(deployed, tmp_path):
    other = pipeline(OneHotEncoder(handle_unknown="ignore"), RandomForestClassifier(5, random_state=1)).fit(X[["hour", "origin", "temp", "carrier"]], Y)
    second = save(other, deployed/"late"/"2", example=X[["hour", "origin", "temp", "carrier"]])
    write_pointer(deployed/"late", "canary", ModelVersion("late", 2, second.sha256))
    log = PredictionLog(tmp_path/"log.db")
    service = Service(lambda alias: ReloadingModel(deployed/"late", alias), log, lambda id: "canary")
    row = X.iloc[0].to_dict()
    given = service.answer(ids=["a"], features=row)
    assert given["versions"] == [2] and given["prediction"] == second.predict(X.iloc[:1]).tolist()
    with log.transaction(write=False) as db: assert json.loads(db.execute("SELECT features FROM predictions")[0][0]) == [row[c] for c in second.columns]
    with pytest.raises(ValueError, match=r"features\[1\], column 'origin': None is missing"): service.answer(features=[row, {**row, "origin": None}])
    log.close()


def test_two_aliases_of_one_version_answer_alike(deployed, bundle):
    write_pointer(deployed/"late", "canary", ModelVersion("late", 1, bundle.sha256))
    live = {alias: ReloadingModel(deployed/"late", alias) for alias in ("production", "canary")}
    service = Service(live.__getitem__, None, lambda id: "canary" if int(id) % 2 else "production")
    given = service.answer(X.to_numpy().tolist(), [str(i) for i in range(N)])
    assert given["prediction"] == bundle.predict(X).tolist()


def test_rows_of_a_request_become_typed_rows():
    columns, types = list(X), ("text", "number", "text", "number")
    rows = [["AA", 1, "JFK", None], [None, 2.5, None, 3]]
    assert read_rows(rows, columns, types).tolist() == [["AA", 1., "JFK", None], [None, 2.5, None, 3.]] == read_features([dict(zip(columns, r, strict=True)) for r in rows], columns, types).tolist()
    for value, says in ((float("nan"), "NaN is not JSON"), (10**400, "too large for a float"), (True, "true is not a number"), ([1], "is not a number")):
        with pytest.raises(ValueError, match=says): read_rows([["AA", value, "JFK", 1]], columns, types)


# --- in a batch

@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_in_parquet_is_scored_as_it_is_served(spark, bundle, tmp_path, kind):
    rows = pd.concat([X, UNSEEN], ignore_index=True)
    table = pa.table({"id": pa.array(range(len(rows))), **{c: pa.array(rows[c]).cast(kind) if c in TEXT else pa.array(rows[c]) for c in reversed(rows.columns)}})
    pq.write_table(table, tmp_path/"in.parquet")
    batch_predict(bundle.path, tmp_path/"in.parquet", tmp_path/"out", spark=spark)
    scored = pq.read_table((tmp_path/"out").resolve()).to_pandas().sort_values("id")
    assert np.array_equal(scored.prediction, bundle.predict(rows))


def test_a_batch_of_another_type_is_refused_by_name(spark, bundle, tmp_path):
    def score(frame):
        frame.to_parquet(tmp_path/"in.parquet")
        return batch_predict(bundle.path, tmp_path/"in.parquet", tmp_path/"out", spark=spark)
    rows = X.iloc[:9].assign(id=range(9))
    for frame, says in ((rows.assign(carrier=7), "'carrier' is of type int64; expected text"), (rows.assign(temp="warm"), "'temp' is of type .*string; expected numbers"),
                        (rows.assign(carrier=["AA"]*4 + [None]*5), "id 4: column 'carrier': None is missing"),
                        (rows[["id"]].assign(features=[[1., 2., 3., 4.]]*9), "takes text in 'carrier'; write a column for each name")):
        with pytest.raises(ValueError, match=says): score(frame)
    assert not (tmp_path/"out").exists() and score(rows).rows == 9


# --- what a file may build, and what it may not lead to

def with_arrays(data, change):
    "A skops file whose structured arrays are changed."
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".npy") and (array := np.load(io.BytesIO(content))).dtype.names:
                change(array)
                buffer = io.BytesIO()
                np.save(buffer, array)
                content = buffer.getvalue()
            new.writestr(name, content)
    return out.getvalue()


def put(field, at, value):
    def change(nodes):
        if field in (nodes.dtype.names or ()): nodes[field][at] = value
    return change


GRID = X[NUMBERS].to_numpy()
TREES = {"left_child": [10**9, 0, -7], "right_child": [10**9, 0], "feature": [2, 10**6, -5]}
HISTOGRAMS = {"left": [2**31, 0], "right": [10**6, 0], "feature_idx": [2, 10**6, -3]}


@pytest.mark.parametrize("model, fields", [(DecisionTreeClassifier(max_depth=3), TREES), (RandomForestClassifier(3), TREES), (GradientBoostingClassifier(n_estimators=3), TREES),
                                           (BaggingClassifier(n_estimators=3), TREES),
                                           (HistGradientBoostingClassifier(max_iter=3), HISTOGRAMS)], ids=lambda x: type(x).__name__)
def test_a_tree_that_leads_out_of_its_table_is_refused(model, fields):
    data = skops.io.dumps(model.fit(GRID, Y))
    for intact in (data, with_arrays(data, put("left", -1, 0))):   # a leaf's children are not followed
        assert np.array_equal(read_skops(intact).predict(GRID), model.predict(GRID))
    for field, values in fields.items():
        for value in values:
            with pytest.raises(ValueError, match="a tree of the model"): read_skops(with_arrays(data, put(field, 0, value)))


def test_a_set_of_categories_that_is_not_there_is_refused():
    codes = np.column_stack([RNG.integers(0, 9, N), GRID[:, 0]])
    model = HistGradientBoostingClassifier(max_iter=10, categorical_features=[0]).fit(codes, np.isin(codes[:, 0], [1, 4, 6]))
    data = skops.io.dumps(model)
    assert np.array_equal(read_skops(data).predict(codes), model.predict(codes))
    with pytest.raises(ValueError, match="a set of categories that is not there"): read_skops(with_arrays(data, put("bitset_idx", 0, 10**6)))

    def ask_the_other(nodes): nodes["feature_idx"][nodes["is_categorical"] == 1] = 1
    with pytest.raises(ValueError, match="a set of categories that is not there"): read_skops(with_arrays(data, ask_the_other))


def test_a_tree_in_a_forest_has_the_columns_of_the_forest():
    wide, narrow = RandomForestClassifier(3).fit(np.hstack([GRID]*4), Y), RandomForestClassifier(3).fit(GRID, Y)
    narrow.estimators_ = wide.estimators_   # the forest would hand over rows of two columns to trees of eight
    with pytest.raises(ValueError, match="another number of columns"): read_skops(skops.io.dumps(narrow))


def test_an_index_of_points_is_built_anew():
    for algorithm in ("kd_tree", "ball_tree", "brute"):
        model = KNeighborsClassifier(algorithm=algorithm).fit(GRID, Y)
        data = with_arrays(skops.io.dumps(model), lambda nodes: nodes["idx_end"].fill(10**9) if "idx_end" in nodes.dtype.names else None)
        assert np.array_equal(read_skops(data).predict_proba(GRID), model.predict_proba(GRID))


def test_every_type_on_the_list_has_a_reason_and_is_there():
    assert all(ALLOWED.values()) and not any(t.startswith(("os.", "posix.", "builtins.eval", "subprocess")) for t in ALLOWED)
    for name in ALLOWED:
        module, attribute = name.rsplit(".", 1)
        assert hasattr(__import__(module, fromlist=[attribute]), attribute), name
