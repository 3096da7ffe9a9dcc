"The service answers what the bundle answers, once an id; a wrong question is refused in one line; a model change loses nothing."
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres import where
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PowerTransformer
from threadpoolctl import threadpool_limits

from mlscale import limits
from mlscale.artifacts import load_bundle, save
from mlscale.contract import Contract
from mlscale.limits import make_key
from mlscale.serving import THREADS, PredictionLog, ReloadingModel, Service, UnavailableError, create_app, load_model_from_registry, read_rows, serving_process

K = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Three versions that differ; the second column may be missing."
    box = tmp_path_factory.mktemp("models")
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(500, K)), columns=["a", "b", "c"])
    x.loc[::5, "b"] = np.nan
    with threadpool_limits(1):
        for v in (1, 2, 3): save(HistGradientBoostingClassifier(max_iter=10 * v).fit(x, x.a > .2 * v), box / str(v), example=x)
    return box


@pytest.fixture
def bundles(tmp_path, models):
    "Deployed: versions 1 to 3, the pointer at 1."
    (tmp_path / "bundles" / "late").mkdir(parents=True)
    for v in (1, 2, 3):
        (tmp_path / "bundles" / "late" / str(v)).mkdir()
        for f in (models / str(v)).iterdir(): (tmp_path / "bundles" / "late" / str(v) / f.name).write_bytes(f.read_bytes())
    point(tmp_path / "bundles", 1)
    return tmp_path / "bundles"


def point(bundles, number, alias="production", **changed):
    "Replace the pointer as a deployment does."
    folder = bundles / "late" / str(number)
    pointer = {"name": "late", "version": number, "path": str(number), "sha256": load_bundle(folder).sha256 if folder.exists() else "0" * 64, **changed}
    (bundles / "late" / "new").write_text(json.dumps(pointer))
    os.replace(bundles / "late" / "new", bundles / "late" / f"{alias}.json")


@pytest.fixture
def client(bundles, tmp_path):
    with TestClient(create_app(bundles, log=tmp_path / "log.db")) as client: yield client


def logged(path, what="*"):
    with sqlite3.connect(path) as db: return db.execute(f"SELECT {what} FROM predictions ORDER BY request_id").fetchall()


ROWS = [[.5, None, -1.], [0., 2., 1e30], [-3, 1, 2]]


def test_the_service_answers_what_the_bundle_answers(client, bundles, tmp_path):
    truth = load_bundle(bundles / "late" / "1")
    answer = client.post("/predict", json={"values": ROWS, "ids": ["x", "y", "z"], "at": "2013-07-01T12:00:00+02:00"}).json()
    assert answer == {"prediction": truth.predict(ROWS).tolist(), "model": "late", "version": 1, "sha256": truth.sha256, "ids": ["x", "y", "z"], "versions": [1, 1, 1],
                      "digests": [truth.sha256] * 3, "aliases": ["production"] * 3}
    flat = client.post("/predict", json={"values": ROWS[0]}).json()
    assert flat["prediction"] == answer["prediction"][:1] and len(flat["ids"][0]) == 32
    first = logged(tmp_path / "log.db", "request_id, at, entity, model, version, sha256, alias, prediction, features")[-3]
    assert first == ("x", "2013-07-01T10:00:00.000000+00:00", None, "late", 1, truth.sha256, "production", answer["prediction"][0], "[0.5,null,-1.0]")


WRONG = {
    "": "Field required",
    "{": "JSON decode",
    "[]": "",
    "3": "",
    "null": "",
    "{}": "body: give either `values`.* or `features`",
    '{"values": 1}': "values",
    '{"values": null}': "values",
    '{"values": "1,2,3"}': "values",
    '{"values": []}': "give one row",
    '{"values": [[]]}': "0 values, the model takes 3",
    '{"values": [1, 2]}': "2 values, the model takes 3",
    '{"values": [[1, 2, 3], [1, 2, 3, 4]]}': r"values\[1\]: 4 values",
    '{"values": [[1, 2, 3], 1]}': r"values\[1\]: expected a row",
    '{"values": [1, [2], 3]}': "is not a number",
    '{"values": [1, "2", 3]}': r"values\[0\], column 'b': \"2\" is not a number; give a number",
    '{"values": [1, true, 3]}': "true is not a number",
    '{"values": [1, {"a": 1}, 3]}': "is not a number",
    '{"values": [1, NaN, 3]}': "NaN is not JSON",
    '{"values": [1, 2, Infinity]}': "'c': inf is infinite",
    '{"values": [-1e999, 2, 3]}': "'a': -inf is infinite",
    '{"values": [1e39, 2, 3]}': "too large for float32",
    '{"values": [1' + "0" * 400 + ", 2, 3]}": "too large",
    '{"values": [null, 2, 3]}': "'a': nan is missing",
    '{"values": [[1, 2, 3]], "ids": []}': "ids: 0 for 1 rows",
    '{"values": [1, 2, 3], "ids": ["a", "b"]}': "ids: 2 for 1",
    '{"values": [[1, 2, 3], [1, 2, 3]], "ids": ["a", "a"]}': "'a' stands there twice",
    '{"values": [1, 2, 3], "ids": [1]}': "ids.0",
    '{"values": [1, 2, 3], "ids": "a"}': "ids",
    '{"values": [1, 2, 3], "at": "soon"}': "no ISO 8601",
    '{"values": [1, 2, 3], "at": "2013-07-01T00:00:00"}': "no time zone",
    '{"values": [1, 2, 3], "at": 5}': "at",
    '{"values": [1, 2, 3], "at": "0001-01-01T00:00:00+14:00"}': "outside the calendar",
    '{"values": [1, 2, 3], "at": "9999-12-31T23:59:59-01:00"}': "outside the calendar",
    '{"values": [1, 2, 3], "at": "\\ud800"}': "no ISO 8601",
    '{"values": [1, 2, 3], "ids": ["a\\u0000b"]}': "holds a NUL",
    '{"values": [1, 2, 3], "at": []}': "at: 0 for 1 rows",
    '{"values": [1, 2, 3], "at": ["2013-07-01T00:00:00Z", "2013-07-01T00:00:00Z"]}': "at: 2 for 1 rows",
    '{"values": [1, 2, 3], "at": ["2013-07-01"]}': "no time zone",
    '{"values": [1, 2, 3], "at": [null]}': "at",
    '{"values": [1, 2, 3], "entities": "N14228"}': "entities",
    '{"values": [1, 2, 3], "entities": []}': "entities: 0 for 1 rows",
    '{"values": [1, 2, 3], "entities": [7]}': "entities.0",
    '{"values": [1, 2, 3], "entities": ["N\\u0000"]}': "entities: .*holds a NUL",
    '{"values": [1, 2, 3], "ids": ["\\ud800"]}': "half a surrogate pair",
    '{"values": [1, 2, 3], "\\ud800": 1}': "valid string",
    '{"values": [1, "\\udfff", 3]}': "is not a number",
    "[" * 100_000: "nested too deeply",
    '{"values": [1, 2, 3], "value": 1}': "value: Extra",
    '{"values": ' + json.dumps([[1, 2, 3]] * 10_001) + "}": "10001 rows, at most 10000",
}


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_a_wrong_question_is_refused_in_one_line_and_not_recorded(body, client, tmp_path):
    response = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    why = response.json()["detail"]
    assert response.status_code == 422 and "\n" not in why and re.search(WRONG[body], why), why
    assert logged(tmp_path / "log.db") == []


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(scalars, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=3), x, max_size=2), max_leaves=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(anything, st.lists(st.none() | st.floats() | st.integers(), min_size=K, max_size=K))
def test_no_question_breaks_the_service(client, something, row):
    for values in (something, row, [row, row]):
        response = client.post("/predict", content=json.dumps({"values": values}), headers={"Content-Type": "application/json"})
        assert response.status_code in (200, 422), response.text
        if response.status_code == 200: assert all(0 <= p <= 1 for p in response.json()["prediction"])


names = st.sampled_from(["values", "features", "ids", "a", "b:c"])
pieces = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3) | st.just("x:y"),
                      lambda inside: st.lists(inside, max_size=3) | st.lists(st.tuples(names, inside), max_size=3).map(tuple), max_leaves=8)


def spelled(x):
    "JSON in which a name may stand twice in an object."
    if isinstance(x, tuple): return "{" + ", ".join(f"{json.dumps(name)}: {spelled(v)}" for name, v in x) + "}"
    return "[" + ",".join(map(spelled, x)) + "]" if isinstance(x, list) else json.dumps(x)


@given(pieces, st.sampled_from(["", " ", "]", "\x00", "\ud800", ":", ",1"]), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_a_body_says_what_the_standard_library_reads_in_it_and_no_name_twice(x, more, coding):
    from mlscale import limits
    body = (spelled(x) + more).encode(coding, "surrogatepass")

    def read(how):
        try: return repr(how())
        except (ValueError, RecursionError): return "refused"
    assert read(lambda: limits.read_json(body)) == read(lambda: limits._json.decode(body.decode(json.detect_encoding(body), "surrogatepass")))


@given(st.lists(st.lists(st.none() | st.integers(-10**6, 10**6) | st.floats(allow_nan=False, allow_infinity=False), min_size=K, max_size=K), min_size=1, max_size=9))
def test_rows_become_the_same_numbers(rows):
    assert np.array_equal(read_rows(rows, "abc"), np.array([[np.nan if v is None else v for v in r] for r in rows], float), equal_nan=True)
    assert np.array_equal(read_rows(rows[0], "abc"), read_rows(rows[:1], "abc"), equal_nan=True)


def test_a_retry_is_recorded_once_and_an_id_with_other_features_is_a_conflict(client, tmp_path):
    question = {"values": ROWS, "ids": ["x", "y", "z"]}
    first = client.post("/predict", json=question)
    before = logged(tmp_path / "log.db")
    assert client.post("/predict", json=question).json() == first.json() and logged(tmp_path / "log.db") == before
    conflict = client.post("/predict", json={"values": [ROWS[0], ROWS[2]], "ids": ["new", "x"]})
    assert conflict.status_code == 409 and "'x' was asked before with other features" in conflict.json()["detail"] and f"{first.json()['prediction'][0]:.6g} by version 1" in conflict.json()["detail"]
    assert logged(tmp_path / "log.db") == before, "all of a request is recorded or nothing"


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_who_asks_again_after_a_deployment_gets_the_first_answer_with_its_version(engine, bundles, tmp_path):
    with TestClient(create_app(bundles, log=where(engine, tmp_path))) as client:
        first = client.post("/predict", json={"values": ROWS, "ids": ["x", "y", "z"]}).json()
        point(bundles, 2)
        assert client.post("/reload").json()["version"] == 2
        again = client.post("/predict", json={"values": [*ROWS, ROWS[0]], "ids": ["x", "y", "z", "new"]})
        truth = load_bundle(bundles / "late" / "2")
        assert again.status_code == 200 and again.json()["versions"] == [1, 1, 1, 2] and again.json()["version"] == 2
        assert again.json()["prediction"] == [*first["prediction"], truth.predict(ROWS[:1])[0]] != truth.predict([*ROWS, ROWS[0]]).tolist()
        assert metric(client, 'mlscale_predictions_total{version="1"}') == 6 and metric(client, 'mlscale_predictions_total{version="2"}') == 1


def test_ids_that_the_service_gives_are_new_and_sort_by_time(client):
    first, second = (client.post("/predict", json={"values": [[0.]*K]*100}).json()["ids"] for _ in range(2))
    assert len({*first, *second}) == 200 and max(first) < min(second)


def test_each_row_may_have_its_own_moment_and_entity(client, tmp_path):
    at = ["2013-07-01T00:00:00.5Z", "2013-07-01T02:00:00+01:00", "2013-06-30T00:00:00Z"]
    assert client.post("/predict", json={"values": ROWS, "ids": ["x", "y", "z"], "at": at, "entities": ["N1", None, "N2"]}).status_code == 200
    assert logged(tmp_path / "log.db", "at, entity") == [("2013-07-01T00:00:00.500000+00:00", "N1"), ("2013-07-01T01:00:00.000000+00:00", None), ("2013-06-30T00:00:00.000000+00:00", "N2")]
    before = datetime.now(UTC)
    client.post("/predict", json={"values": ROWS[0], "ids": ["zz"]})
    assert before <= datetime.fromisoformat(logged(tmp_path / "log.db", "at")[-1][0]) <= datetime.now(UTC)


def test_not_ready_until_something_good_is_deployed(bundles, tmp_path):
    pointer = bundles / "late" / "production.json"
    pointer.unlink()
    with TestClient(create_app(bundles)) as client:
        assert client.get("/health/live").status_code == 200
        refused = client.get("/health/ready")
        assert refused.status_code == 503 and refused.json() == {"ready": False, "error": "production.json is missing; deploy a model"}
        assert client.post("/predict", json={"values": ROWS}).status_code == 503
        point(bundles, 2)
        assert client.post("/reload").json()["version"] == 2 and client.get("/health/ready").status_code == 200
        assert client.post("/predict", json={"values": ROWS}).json()["version"] == 2


def test_a_new_pointer_is_noticed_within_about_a_second_without_reload(client, bundles):
    point(bundles, 2)
    deadline = time.monotonic() + 20
    while client.post("/predict", json={"values": ROWS}).json()["version"] == 1: assert time.monotonic() < deadline
    assert client.get("/health/ready").json()["sha256"] == load_bundle(bundles / "late" / "2").sha256


BAD = {
    "the weights were changed": lambda b: (point(b, 2), (b / "late" / "2" / "model.onnx").write_bytes(b"?")),
    "the card is not the recorded one": lambda b: point(b, 2, sha256="0" * 64),
    "the folder is missing": lambda b: point(b, 7),
    "another model": lambda b: point(b, 2, name="early"),
    "out of the folder": lambda b: (shutil.copytree(b / "late" / "2", b / "2"), point(b, 2, path="../2")),
    "no version": lambda b: point(b, 2, version=None),
    "no path": lambda b: point(b, 2, path=None),
    "a list": lambda b: (b / "late" / "production.json").write_text("[]"),
    "half a pointer": lambda b: (b / "late" / "production.json").write_text('{"name": "la'),
    "empty": lambda b: (b / "late" / "production.json").write_bytes(b""),
    "gone": lambda b: (b / "late" / "production.json").unlink(),
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_new_bundle_keeps_the_old_one_serving_and_is_reported(how, client, bundles):
    BAD[how](bundles)
    state = client.post("/reload")
    assert state.status_code == 200 and state.json()["version"] == 1 and state.json()["ready"] and state.json()["error"]
    assert client.post("/predict", json={"values": ROWS}).json()["version"] == 1
    assert metric(client, "mlscale_reload_failures_total") >= 1
    point(bundles, 3)
    state = client.post("/reload").json()
    assert state["version"] == 3 and state["error"] is None


def metric(client, name): return sum(float(line.split()[-1]) for line in client.get("/metrics").text.splitlines() if line.startswith(name))


def test_the_address_leads_to_a_page_that_needs_no_other_server(client):
    page = client.get("/")
    assert page.url.path == "/docs" and page.status_code == 200 and not re.search(r"""(src|href)=["']?(https?:)?//""", page.text)
    for name in re.findall(r"""(?:src|href)=["']([^"']+)""", page.text): assert client.get(name).status_code == 200, name
    assert {"/predict", "/outcomes", "/model", "/health/ready", "/metrics", "/reload"} <= set(client.get("/openapi.json").json()["paths"])
    document = client.get("/openapi.json").json()
    for place in set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))):   # the page must be able to follow it
        assert place.startswith("#/components/") and place.rpartition("/")[2] in document["components"][place.split("/")[2]], place


@pytest.mark.parametrize("named", [{"ids": ["x"*201]}, {"entities": ["x"*201]}])
def test_a_name_is_no_place_to_keep_things_in(client, named):
    refused = client.post("/predict", json={"values": ROWS[:1], **named})
    assert refused.status_code == 422 and "at most 200" in refused.json()["detail"]
    assert client.post("/predict", json={"values": ROWS[:1], **{k: ["y"*200] for k in named}}).status_code == 200


def test_the_model_says_what_it_takes(client, bundles, tmp_path):
    bundle = load_bundle(bundles / "late" / "1")
    said = client.get("/model").json()
    assert {k: said[k] for k in ("model", "version", "sha256", "output", "engine")} == {"model": "late", "version": 1, "sha256": bundle.sha256, "output": "probability", "engine": "onnx"}
    assert [{k: c[k] for k in ("name", "type", "may_be_missing")} for c in said["columns"]] == [{"name": n, "type": "number", "may_be_missing": n == "b"} for n in "abc"]
    assert said["card"]["created"] == bundle.card["created"] and "reference" not in said["card"] and said["card"]["versions"]["scikit-learn"]
    with TestClient(create_app(tmp_path / "none")) as empty: assert empty.get("/model").status_code == 503


def test_the_model_says_what_its_columns_usually_hold(tmp_path):
    x = pd.DataFrame({"a": [0., 1., 2., 3.], "b": [5., 5., 6., 6.]})
    bundle = save(LogisticRegression().fit(x, [0, 0, 1, 1]), tmp_path / "b" / "late" / "1", example=x, contract=Contract.learn(x))
    point(tmp_path / "b", 1)
    with TestClient(create_app(tmp_path / "b")) as client: told = client.get("/model").json()["columns"]
    assert [(c["low"], c["high"], c["null_share"]) for c in told] == [(r.low, r.high, r.null_share) for r in bundle.contract.columns]


OUTCOMES = {   # of x and y, which were asked, and z, which was not: the status, and what is said
    '{"outcomes": [{"request_id": "x", "label": 1}, {"request_id": "y", "label": 0.5, "known_at": "2013-07-01T12:00:00Z"}]}': (200, '{"recorded":1,"known_before":1}'),
    '{"outcomes": [{"request_id": "y", "label": 1}, {"request_id": "x", "label": 0}]}': (409, "request 'x' is known as 1"),
    '{"outcomes": [{"request_id": "y", "label": 1}, {"request_id": "y", "label": 0}]}': (409, "request 'y' is known as 1"),
    '{"outcomes": [{"request_id": "y", "label": 1}, {"request_id": "z", "label": 1}]}': (422, "request_id: 'z' has no prediction in this log;"),
    '{"outcomes": [{"request_id": "y", "label": true}]}': (422, "body.outcomes.0.label"),
    '{"outcomes": [{"request_id": "y", "label": "1"}]}': (422, "body.outcomes.0.label"),
    '{"outcomes": [{"request_id": "y", "label": NaN}]}': (422, "body.outcomes.0.label"),
    '{"outcomes": [{"request_id": 7, "label": 1}]}': (422, "body.outcomes.0.request_id"),
    '{"outcomes": [{"request_id": "y", "label": 1, "label": 0}]}': (422, "there twice"),
    '{"outcomes": [{"request_id": "y", "label": 1, "at": "2013-07-01T12:00:00Z"}]}': (422, "body.outcomes.0.at"),
    '{"outcomes": [{"request_id": "y", "label": 1, "known_at": "2013-07-01"}]}': (422, "known_at: 2013-07-01 has no time zone"),
    '{"outcomes": []}': (422, "body.outcomes"), "": (422, "body: "), "{": (422, "body: "), "[" * 100_000: (422, "body: "), "3": (422, "body"),
}


@pytest.mark.parametrize("body", OUTCOMES, ids=lambda b: b[:60])
def test_outcomes_are_recorded_once_all_or_none(body, client, tmp_path):
    client.post("/predict", json={"values": ROWS[:2], "ids": ["x", "y"]})
    assert client.post("/outcomes", json={"outcomes": [{"request_id": "x", "label": 1}]}).json() == {"recorded": 1, "known_before": 0}
    answer = client.post("/outcomes", content=body.encode(), headers={"content-type": "application/json"})
    status, said = OUTCOMES[body]
    assert answer.status_code == status and said in answer.text, answer.text
    with sqlite3.connect(tmp_path / "log.db") as db: known = dict(db.execute("SELECT request_id, label FROM outcomes"))
    assert known == ({"x": 1, "y": .5} if status == 200 else {"x": 1})


def test_without_a_log_outcomes_are_refused_and_told_why(bundles):
    with TestClient(create_app(bundles)) as client: answer = client.post("/outcomes", json={"outcomes": [{"request_id": "x", "label": 1}]})
    assert answer.status_code == 501 and "--log" in answer.json()["detail"]


def test_a_server_without_a_model_warns_and_names_the_others(bundles, tmp_path):
    from mlscale.server import _announcement
    live = ReloadingModel(bundles / "early")
    live.reload()
    with socket.create_server(("127.0.0.1", 0)) as listening: said = "\n".join(_announcement(listening, bundles, live, {"model": "early", "log": "postgresql://me:secret@host/db"}))
    assert "WARNING  nothing can be served: no good bundle of 'early'" in said and "deployed there: late" in said
    assert "secret" not in said and "postgresql://...@host/db (durable)" in said


def test_metrics_count_requests_rows_and_time(client):
    client.post("/predict", json={"values": ROWS})
    client.post("/predict", json={"values": []})
    client.post("/predict", content="{")
    assert metric(client, 'mlscale_requests_total{status="200"}') == 1 and metric(client, 'mlscale_requests_total{status="422"}') == 2
    assert metric(client, 'mlscale_predictions_total{version="1"}') == 3 and metric(client, "mlscale_request_seconds_count") == 3


def test_a_canary_answers_its_share_and_a_broken_one_takes_nobody_down(bundles, tmp_path):
    point(bundles, 2, alias="canary")
    app = create_app(bundles, log=tmp_path / "log.db", route=lambda id: "canary" if id.startswith("c") else "production")
    with TestClient(app) as client:
        answer = client.post("/predict", json={"values": ROWS, "ids": ["p1", "c1", "p2"]}).json()
        truth = {v: load_bundle(bundles / "late" / str(v)).predict(ROWS) for v in (1, 2)}
        assert answer["versions"] == [1, 2, 1] and answer["prediction"] == [truth[1][0], truth[2][1], truth[1][2]] and answer["version"] == 1
        assert logged(tmp_path / "log.db", "request_id, version, alias") == [("c1", 2, "canary"), ("p1", 1, "production"), ("p2", 1, "production")]
        assert metric(client, 'mlscale_predictions_total{version="2"}') == 1
    (bundles / "late" / "2" / "model.onnx").write_bytes(b"?")
    with TestClient(create_app(bundles, log=tmp_path / "other.db", route=lambda id: "canary")) as client:
        assert client.post("/predict", json={"values": ROWS}).json()["versions"] == [1, 1, 1]
        assert logged(tmp_path / "other.db", "DISTINCT version, alias") == [(1, "production")], "the alias that really answered"


def test_without_http_the_errors_are_exceptions(tmp_path):
    live = ReloadingModel(tmp_path / "late")
    with pytest.raises(UnavailableError): Service(lambda alias: live).answer(ROWS)


def test_the_models_name_or_alias_and_the_version_must_agree(bundles, models):
    same = lambda b, v: b.sha256 == load_bundle(models / str(v)).sha256
    assert same(load_model_from_registry("production", 1, bundles=bundles), 1) and same(load_model_from_registry("late", 1, bundles=bundles), 1) and same(load_model_from_registry(bundles=bundles), 1)
    point(bundles, 2)
    assert same(load_model_from_registry(bundles=bundles), 2)
    for name, version, complaint in (("production", 1, "is version 2"), ("late", 3, "is version 2"), ("champion", None, "deploy it first"),
                                     ("", None, "plain name"), ("../late", None, "plain name"), (".", None, "plain name")):
        with pytest.raises(ValueError, match=complaint): load_model_from_registry(name, version, bundles=bundles)
    (bundles / "late" / "2" / "model.onnx").write_bytes(b"?")
    with pytest.raises(ValueError, match="was changed"): load_model_from_registry(bundles=bundles)


def test_the_default_folder_is_the_homes(bundles, tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "state").mkdir(parents=True)
    bundles.rename(tmp_path / "home" / "state" / "bundles")
    assert load_model_from_registry("production", 1).columns == ["a", "b", "c"]


def test_a_regressor_is_served_as_well(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 2))
    with threadpool_limits(1): bundle = save(HistGradientBoostingRegressor(max_iter=5).fit(x, x[:, 0] * 1000), tmp_path / "b" / "late" / "1", example=x)
    point(tmp_path / "b", 1)
    with TestClient(create_app(tmp_path / "b")) as client: assert client.post("/predict", json={"values": [1, 2]}).json()["prediction"] == bundle.predict([[1, 2]]).tolist()


def test_the_serving_process_is_light(bundles):
    code = """if True:
        import json, sys
        from fastapi.testclient import TestClient
        from mlscale.serving import create_app
        with TestClient(create_app(sys.argv[1], log=sys.argv[1] + "/log.db")) as client: assert client.post("/predict", json={"values": [1, 2, 3]}).status_code == 200
        print(sorted({"mlflow", "sklearn", "pandas", "pyspark", "scipy", "skl2onnx"} & set(sys.modules)))"""
    run = subprocess.run([sys.executable, "-c", code, str(bundles)], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


@pytest.fixture
def server(bundles, tmp_path):
    with serving_process(bundles, log=tmp_path / "log.db") as url: yield url


def test_models_change_under_load_without_a_failed_or_wrong_answer(server, bundles):
    truth = {v: load_bundle(bundles / "late" / str(v)).predict(ROWS) for v in (1, 2, 3)}
    seen, over = [], threading.Event()

    def ask():
        with httpx.Client(base_url=server) as client:
            while not over.is_set():
                response = client.post("/predict", json={"values": ROWS})
                seen.append((response.status_code, response.json()))

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for c in clients: c.start()
    with httpx.Client(base_url=server) as client:
        for i in range(30):
            point(bundles, 1 + (i + 1) % 3)
            assert client.post("/reload").json()["version"] == 1 + (i + 1) % 3
    over.set()
    for c in clients: c.join()
    assert {status for status, _ in seen} == {200} and {a["version"] for _, a in seen} == {1, 2, 3}
    assert all(np.array_equal(a["prediction"], truth[a["version"]]) for _, a in seen)


def test_a_slow_answer_does_not_hold_up_the_others(server, tmp_path):
    "The log is locked, so an answer must wait for it. Health checks do not."
    with sqlite3.connect(tmp_path / "log.db", isolation_level=None) as db, ThreadPoolExecutor(1) as pool:
        db.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(httpx.post, f"{server}/predict", json={"values": ROWS}, timeout=30)
        time.sleep(.3)
        for path in ("/health/live", "/health/ready", "/metrics"): assert httpx.get(server + path, timeout=3).status_code == 200
        assert not waiting.done()
        db.execute("ROLLBACK")
        assert waiting.result().status_code == 200


def test_the_process_ends_with_its_block_and_its_log_is_complete(bundles, tmp_path):
    with serving_process(bundles, log=tmp_path / "log.db") as url:
        assert httpx.post(f"{url}/predict", json={"values": ROWS, "ids": ["a", "b", "c"]}).status_code == 200
    with pytest.raises(httpx.ConnectError): httpx.get(f"{url}/health/live")
    assert [r[0] for r in logged(tmp_path / "log.db")] == ["a", "b", "c"]


def test_a_process_that_cannot_start_says_why(bundles, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RuntimeError, match="a folder; give a file in it"), serving_process(bundles, log=tmp_path / "folder"): pass


def test_a_server_does_not_outlive_a_killed_parent(bundles):
    code = "import sys, time; from mlscale.serving import serving_process\nwith serving_process(sys.argv[1]) as url: print(url, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(bundles)], stdout=subprocess.PIPE, text=True) as parent:
        url = parent.stdout.readline().strip()
        assert httpx.get(f"{url}/health/ready").status_code == 200
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    with pytest.raises(httpx.ConnectError):
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError): httpx.get(f"{url}/health/live", timeout=5)   # it is just going down
            time.sleep(.1)


# --- a log that cannot be written

def blocked(path):
    "Somebody else writes to the log."
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    return contextlib.closing(db)


def test_available_answers_while_the_log_cannot_be_written_and_tells_how_many_answers_it_lost(bundles, tmp_path):
    with TestClient(create_app(bundles, log=tmp_path / "log.db", mode="available")) as client:
        assert client.get("/health/ready").json()["log"] == {"mode": "available", "unlogged": 0, "error": None}
        with blocked(tmp_path / "log.db"):
            for _ in range(3): assert len(client.post("/predict", json={"values": [ROWS[2]] * 4000}).json()["prediction"]) == 4000
            assert client.get("/health/ready").json()["log"]["unlogged"] == 4000 == metric(client, "mlscale_unlogged_predictions_total")
    assert len(logged(tmp_path / "log.db")) == 8000, "what waited was written at the end"


def test_durable_refuses_while_the_log_cannot_be_written_and_is_not_ready(bundles, tmp_path, monkeypatch):
    with TestClient(create_app(bundles, log=tmp_path / "log.db")) as client:
        with sqlite3.connect(tmp_path / "log.db") as db: db.execute("ALTER TABLE predictions RENAME TO gone")
        refused = client.post("/predict", json={"values": ROWS})
        assert refused.status_code == 503 and "the log cannot be read or written: no such table" in refused.json()["detail"]
        ready = client.get("/health/ready")
        state = ready.json()["log"]
        assert ready.status_code == 503 and not ready.json()["ready"], "it could only refuse"
        assert (state["mode"], state["unlogged"]) == ("durable", 0) and "no such table" in state["error"]
        monkeypatch.setattr("mlscale.service.BLOCKED", 0.)
        assert client.get("/health/ready").status_code == 200, "after some seconds the next question finds out"
        with sqlite3.connect(tmp_path / "log.db") as db: db.execute("ALTER TABLE gone RENAME TO predictions")
        assert client.post("/predict", json={"values": ROWS}).status_code == 200 and client.get("/health/ready").json()["log"]["error"] is None
    with TestClient(create_app(bundles)) as client: assert "log" not in client.get("/health/ready").json()


def test_two_servers_share_one_log_and_give_one_answer(bundles, tmp_path):
    url, other = where("postgres", tmp_path), tmp_path / "other"
    shutil.copytree(bundles, other)
    point(other, 2)
    with serving_process(bundles, log=url, synchronous="full") as one, serving_process(other, log=url) as two, ThreadPoolExecutor(8) as pool:
        ask = lambda i: [httpx.post(f"{server}/predict", json={"values": ROWS, "ids": [f"{i}-{j}" for j in range(3)]}).json() for server in ((one, two) if i % 2 else (two, one))]
        answers = list(pool.map(ask, range(40)))
    assert all(a["prediction"] == b["prediction"] and a["versions"] == b["versions"] for a, b in answers) and {a["versions"][0] for a, _ in answers} == {1, 2}


@pytest.mark.needs("ps")
def test_no_other_user_reads_the_password_of_a_log(bundles):
    with pytest.raises(RuntimeError, match="LogError"), serving_process(bundles, log="postgresql://me:secret@127.0.0.1:1/log"): pass
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:   # a database that accepts and says nothing
        def start():
            with serving_process(bundles, log=f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/log?connect_timeout=3"): pass
        waiting = pool.submit(start)
        silent.accept()[0].recv(8)   # it has the URL by now
        running = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout
        assert "serve_inherited" in running and "secret" not in running
        with pytest.raises(RuntimeError): waiting.result()


# --- who holds the server

@pytest.fixture
def impatient(bundles, tmp_path):
    with serving_process(bundles, log=tmp_path / "log.db", patience=1) as url: yield url


def raw(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


HALVES = {
    "nothing": b"",
    "half a head": b"POST /predict HTTP/1.1\r\nHost: x\r\n",
    "a letter": b"G",
    "half a body": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    "half a chunk": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    "half a second head": b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /health",
}


@pytest.mark.parametrize("half", HALVES)
def test_half_a_request_does_not_hold_a_connection(impatient, half):
    with raw(impatient) as connection:
        connection.sendall(HALVES[half])
        said = b"".join(iter(lambda: connection.recv(65536), b""))   # ends when the server closes
    assert half == "nothing" or b" 408 " in said or half == "half a second head" and b" 200 " in said
    assert httpx.get(f"{impatient}/health/live").status_code == 200


def test_whoever_is_slow_but_not_too_slow_is_served(impatient):
    body = json.dumps({"values": ROWS[2]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with raw(impatient) as connection:
        for part in (head[:20], head[20:], body[:5], body[5:]):
            connection.sendall(part)
            time.sleep(.2)
        assert b" 200 " in b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused_and_the_client_hears_it(impatient, declared):
    body = b'{"values": [' + b"1, " * 3_000_000 + b"1]}"
    response = httpx.post(f"{impatient}/predict", content=body if declared else iter([body[:5_000_000], body[5_000_000:]]), timeout=30)
    assert response.status_code == 413 and "8,000,000 bytes" in response.json()["detail"]
    assert httpx.post(f"{impatient}/predict", json={"values": ROWS}).status_code == 200
    assert 'mlscale_requests_total{status="413"} 1.0' in httpx.get(f"{impatient}/metrics").text


def test_all_bodies_that_arrive_at_once_have_a_bound(bundles):
    "Nine clients stay below the limit each; what the ninth sends is not kept, and it hears so."
    limited = limits.Limits(create_app(bundles), limits.ServiceMetrics(), max_bytes=1000)
    held = []

    async def client(n, all_here):
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        said, sent = [], iter([b"x"*500, b"x"*400])

        async def receive():
            body = next(sent)
            if body == b"x"*400:
                held.append(limited._held)
                await all_here.wait()
            return {"type": "http.request", "body": body, "more_body": body == b"x"*500}

        async def send(message): said.append(message)
        await limited(scope, receive, send)
        return said[0]["status"]

    async def story():
        all_here = asyncio.Event()
        asked = [asyncio.ensure_future(client(n, all_here)) for n in range(20)]
        await asyncio.sleep(.05)
        small, said = {"type": "http.request", "body": b"{}", "more_body": False}, []
        async def receive(): return small
        async def send(message): said.append(message)
        await limited({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)
        assert said[0]["status"] == 422   # what comes whole is answered, however many others hold their place
        all_here.set()
        return await asyncio.gather(*asked)

    statuses = asyncio.run(story())
    assert max(held) <= limits.AT_A_TIME * 1000 and statuses.count(503) >= 4 and limited._held == 0
    assert set(statuses) == {422, 503}


def test_a_stranger_fills_no_memory(bundles, tmp_path):
    "Without a key the body is not read: one that is too large draws 401, and the answer is counted."
    make_key("desk", tmp_path / "keys")
    with TestClient(create_app(bundles, keys=tmp_path / "keys", max_bytes=100)) as client:
        assert client.post("/predict", content=b"x"*1000).status_code == 401
    app = create_app(bundles, keys=tmp_path / "keys")
    assert b'mlscale_requests_total{status="401"}' not in app.state.metrics.text()
    assert TestClient(app).post("/predict", json={"values": ROWS}).status_code == 401
    assert b'mlscale_requests_total{status="401"} 1.0' in app.state.metrics.text()


@pytest.mark.parametrize("path", ["/predict/", "/health/live/", "/model/"])
def test_nobody_is_sent_where_a_header_of_his_own_says(bundles, path):
    with TestClient(create_app(bundles)) as client:
        assert client.get(path, headers={"Host": "elsewhere.example"}, follow_redirects=False).status_code == 404


def test_through_the_front_a_question_is_counted_limited_and_answered_as_through_the_application(bundles, tmp_path):
    make_key("desk", tmp_path / "keys")
    for locked in (False, True):
        app = create_app(bundles, max_bytes=20_000, keys=tmp_path / "keys" if locked else None)
        whole, front = TestClient(app), TestClient(app.state.front)
        questions = [{"json": {"values": ROWS}}, {"json": {"values": ROWS[:1]*300}}, {"content": b"x"*30_000}, {"content": b"{"}, {"json": {"values": ROWS}, "headers": {"Request-Timeout-Ms": "x"}},
                     {"json": {"values": ROWS}, "headers": {"Content-Encoding": "gzip"}}]
        with whole:
            for q in questions:
                a, b = whole.post("/predict", **q), front.post("/predict", **q)
                said = [{k: v for k, v in x.json().items() if k != "ids"} for x in (a, b)]
                assert a.status_code == b.status_code and said[0] == said[1] and a.headers["content-type"] == b.headers["content-type"]
            assert front.get("/model").json() == whole.get("/model").json() and front.get("/predict").status_code == (401 if locked else 405)
        counted = app.state.metrics.text().decode()
        for status in ({401} if locked else {200, 413, 415, 422}): assert f'mlscale_requests_total{{status="{status}"}} ' in counted


def test_health_does_not_wait_for_the_threads_that_answer(bundles, monkeypatch):
    busy, go = threading.Barrier(THREADS + 1), threading.Event()

    def answer(self, *question, **named):
        busy.wait(30)
        go.wait(30)
        raise UnavailableError("tired")

    monkeypatch.setattr(Service, "answer", answer)
    with TestClient(create_app(bundles)) as client, ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(client.post, "/predict", json={"values": ROWS[:1] * 1000}) for _ in range(THREADS)]
        busy.wait(30)   # all threads are taken
        try: answers = [client.get(path).status_code for path in ("/health/live", "/health/ready", "/metrics")]
        finally: go.set()
        assert answers == [200, 200, 200] and {job.result().status_code for job in jobs} == {503}


def test_sixty_slow_bodies_hold_nobody(bundles):
    with serving_process(bundles) as url, contextlib.ExitStack() as stack:
        for _ in range(60): stack.enter_context(raw(url)).sendall(HALVES["half a body"])
        assert httpx.post(f"{url}/predict", json={"values": ROWS}, timeout=5).status_code == 200
        assert httpx.get(f"{url}/health/live", timeout=5).status_code == 200


# --- the first question

def test_a_model_for_which_zeros_are_no_valid_row_is_served(tmp_path):
    x = np.column_stack([np.arange(600) % 7 + 1., np.exp(np.random.default_rng(0).normal(size=600))])
    encoder = make_column_transformer((OneHotEncoder(), [0]), remainder=PowerTransformer("box-cox"))
    model = make_pipeline(encoder, LogisticRegression()).fit(x, x[:, 0] > 3)
    with pytest.raises(ValueError): model.predict(np.zeros((1, 2)))
    save(model, tmp_path / "b" / "late" / "1", example=x)
    point(tmp_path / "b", 1)
    with TestClient(create_app(tmp_path / "b")) as client:
        assert client.get("/health/ready").json()["ready"]
        answer = client.post("/predict", json={"values": x[:2].tolist()})
        np.testing.assert_allclose(answer.json()["prediction"], model.predict_proba(x[:2])[:, 1], atol=1e-5)
        refused = client.post("/predict", json={"values": [*x[:2].tolist(), [0, 1]]})
        assert refused.status_code == 422 and "values[2]: the model refuses this row" in refused.json()["detail"]


def test_a_row_is_named_by_its_place_in_the_request_whoever_answers_it(bundles, tmp_path):
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=["a", "b", "c"])
    save(PoissonRegressor().fit(x, np.exp(x.a)), bundles / "late" / "4", example=x)
    point(bundles, 4, alias="canary")
    with TestClient(create_app(bundles, log=tmp_path / "log.db", route=lambda id: "canary" if id.startswith("c") else "production")) as client:
        response = client.post("/predict", json={"values": [[1, 2, 3], [1, 2, 3], [1e5, 2, 3]], "ids": ["p", "c1", "c2"]})
    assert response.status_code == 422 and response.json()["detail"].startswith("values[2]: the prediction is inf")
    assert logged(tmp_path / "log.db") == []


def test_a_canary_with_its_columns_in_another_order_is_asked_by_name_and_recorded_as_it_takes_them(bundles, tmp_path):
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=["c", "b", "a"])
    other = save(LogisticRegression().fit(x, x.a > 0), bundles / "late" / "4", example=x)
    save(LogisticRegression().fit(x.rename(columns={"b": "z"}), x.a > 0), bundles / "late" / "5", example=x.rename(columns={"b": "z"}))
    asked, routed = {"values": [[1, 2, 3], [1, 2, 3]], "ids": ["p", "c"]}, lambda id: "canary" if id == "c" else "production"
    with TestClient(create_app(bundles, log=tmp_path / "log.db", route=routed)) as client:
        point(bundles, 4, alias="canary")
        client.post("/reload")
        first = client.post("/predict", json=asked).json()
        assert first["prediction"][1] == other.predict(pd.DataFrame([[1, 2, 3]], columns=["a", "b", "c"]))[0]
        assert logged(tmp_path / "log.db", "features, sha256") == [("[3.0,2.0,1.0]", other.sha256), ("[1.0,2.0,3.0]", first["sha256"])]
    with sqlite3.connect(tmp_path / "log.db") as db: assert dict(db.execute("SELECT * FROM signatures")) == {other.sha256: '["c", "b", "a"]', first["sha256"]: '["a", "b", "c"]'}
    with TestClient(create_app(bundles, log=tmp_path / "log.db")) as client:   # the canary is gone, and its client asks again
        assert client.post("/predict", json=asked).json() == first
    with TestClient(create_app(bundles, route=routed)) as client:
        point(bundles, 5, alias="canary")
        client.post("/reload")
        answer = client.post("/predict", json=asked).json()   # a client knows nothing of 'z': production answers for both
        assert answer["digests"] == [first["sha256"]]*2 and answer["aliases"] == ["production"]*2


@pytest.mark.parametrize("body", [b'{"values": [0, 2, 3]}', b'{"values": [0, 2, 3]'])
def test_a_question_whose_client_has_gone_is_not_answered_and_not_recorded(bundles, tmp_path, body):
    with serving_process(bundles, log=tmp_path / "log.db") as url:
        with raw(url) as connection: connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + body)
        assert httpx.post(f"{url}/predict", json={"values": ROWS[2], "ids": ["whole"]}).status_code == 200
    assert [r[0] for r in logged(tmp_path / "log.db", "request_id")] == ["whole"]


def test_a_length_with_five_thousand_zeros_is_a_length(impatient):
    with raw(impatient) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + b"0" * 5000 + b"21\r\n\r\n" + b'{"values": [0, 2, 3]}')
        assert b" 500 " not in b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("version", [10**30, 0, 1.5, True, "1", None])
def test_a_pointer_names_a_version_that_can_be(bundles, version):
    point(bundles, 1, version=version)
    with TestClient(create_app(bundles)) as client: assert client.get("/health/ready").status_code == 503


def test_errors_stay_short_whatever_is_sent(client):
    for question in ({"values": [ROWS[2]] * 2, "ids": ["x" * 100_000] * 2}, {"values": ROWS[2], **{c * 300: 1 for c in "abc"}}):
        response = client.post("/predict", json=question)
        assert response.status_code == 422 and len(response.json()["detail"]) < 300
    assert "there twice" in client.post("/predict", content=b'{"values": [1, 2, 3], "values": [9, 9, 9]}').json()["detail"]
    assert "ISO 8601" in client.post("/predict", json={"values": ROWS[2], "at": "2020-01-01T00:00:00+00:00\0"}).json()["detail"]


def test_answering_three_hundred_rows_with_ids_is_not_much_more_work_than_reading_and_writing_them_as_json(tmp_path):
    x = np.random.default_rng(0).normal(size=(2000, 40))
    with threadpool_limits(1): save(HistGradientBoostingClassifier(max_iter=150, max_leaf_nodes=31).fit(x, x[:, 0] > 0), tmp_path / "b" / "late" / "1", example=x)
    point(tmp_path / "b", 1)
    live, rows, ours, floor = ReloadingModel(tmp_path / "b" / "late"), json.dumps(x[:300].tolist()), [], []
    with PredictionLog(tmp_path / "log.db") as log:
        service = Service(lambda alias: live, log)
        for i in range(15):
            start = time.process_time()
            json.dumps(json.loads(rows))
            between = time.process_time()
            service.answer(json.loads(rows), [f"{i}-{j}" for j in range(300)], "2013-07-01T00:00:00Z")
            floor.append(between - start)
            ours.append(time.process_time() - between)
    assert min(ours) < 5 * min(floor), (min(ours), min(floor))


async def ask_app(app, body, headers=()):
    "Status, headers and body of POST /predict, without a network."
    whole, said = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]), []

    async def receive(): return next(whole)
    async def send(message): said.append(message)
    await app({"type": "http", "http_version": "1.1", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b"", "root_path": "", "scheme": "http",
               "headers": [(b"content-type", b"application/json"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}, receive, send)
    return said[0]["status"], {k.decode(): v.decode() for k, v in said[0]["headers"]}, json.loads(b"".join(m.get("body", b"") for m in said[1:]))


def test_one_question_too_many_is_refused_at_once_and_the_next_is_welcome(bundles, monkeypatch):
    go, begun = asyncio.Event(), []
    answer = Service.answer_async

    async def slow(self, *question, **named):
        begun.append(1)
        await go.wait()
        return await answer(self, *question, **named)

    monkeypatch.setattr(Service, "answer_async", slow)
    app = create_app(bundles, most=2)

    async def story():
        first = [asyncio.create_task(ask_app(app, {"values": ROWS[2]})) for _ in range(2)]
        while len(begun) < 2: await asyncio.sleep(0)
        status, headers, problem = await ask_app(app, {"values": ROWS[2]})
        assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/problem+json")
        assert problem["status"] == 503 and "2 questions are in progress" in problem["detail"] and len(begun) == 2
        go.set()
        assert [status for status, *_ in await asyncio.gather(*first)] == [200, 200]
        assert (await ask_app(app, {"values": ROWS[2]}))[0] == 200
        text = app.state.metrics.text().decode()
        assert 'mlscale_shed_requests_total{reason="full"} 1.0' in text and "mlscale_requests_in_progress 0.0" in text
    asyncio.run(story())


@pytest.mark.parametrize("rows", [1, 2000], ids=["on the loop", "in a thread"])
def test_a_question_whose_time_is_over_costs_no_work(rows, bundles, tmp_path):
    with TestClient(create_app(bundles, log=tmp_path / "log.db")) as client:
        late = client.post("/predict", json={"values": [ROWS[2]] * rows}, headers={"Request-Timeout-Ms": "0"})
        assert late.status_code == 503 and late.headers["retry-after"] == "1" and "Request-Timeout-Ms" in late.json()["detail"]
        assert logged(tmp_path / "log.db") == [] and metric(client, 'mlscale_shed_requests_total{reason="deadline"}') == 1
        for bad in ("soon", "-1", "1.5", "", "9" * 30): assert client.post("/predict", json={"values": ROWS[2]}, headers={"Request-Timeout-Ms": bad}).status_code == 422
        assert client.post("/predict", json={"values": ROWS[2]}, headers={"Request-Timeout-Ms": "60000"}).status_code == 200


def test_a_question_whose_time_passes_during_the_work_is_answered_recorded_and_counted(bundles, tmp_path):
    with TestClient(create_app(bundles, log=tmp_path / "log.db")) as client, contextlib.closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(.8, other.execute, ["ROLLBACK"]).start()
        late = client.post("/predict", json={"values": ROWS[2], "ids": ["a"]}, headers={"Request-Timeout-Ms": "300"})
        assert late.status_code == 200 and [id for id, *_ in logged(tmp_path / "log.db")] == ["a"]
        assert metric(client, "mlscale_deadlines_missed_total") == 1 and metric(client, 'mlscale_shed_requests_total{reason="deadline"}') == 0


def test_every_answer_is_counted_those_that_are_our_fault_and_those_that_are_no_request(bundles, monkeypatch):
    async def broken(self, *question, **named): raise KeyError("a programming error")
    monkeypatch.setattr(Service, "answer_async", broken)
    with TestClient(create_app(bundles)) as client:
        answer = client.post("/predict", json={"values": ROWS[2]})
        assert answer.status_code == 500 and answer.json()["title"] == "Internal Server Error" and "programming" not in answer.text
        assert metric(client, 'mlscale_requests_total{status="500"}') == 1
    with serving_process(bundles) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as s:
            s.sendall(b"\x00 garbage\r\n\r\n")
            assert b"400" in s.recv(1000)
        assert 'mlscale_requests_total{status="400"} 1.0' in httpx.get(url + "/metrics").text


def test_every_refusal_is_a_problem_that_a_program_can_read(client):
    for response in (client.post("/predict", json={"values": []}), client.post("/outcomes", json={"outcomes": []}),
                     client.post("/predict", content=b"x" * 8_000_001)):
        problem = response.json()
        assert response.headers["content-type"] == "application/problem+json"
        assert problem["status"] == response.status_code and set(problem) == {"status", "title", "detail"}


def test_a_client_that_no_longer_waits_leaves_the_writer_alive(bundles, tmp_path):
    async def story():
        app = create_app(bundles, log=tmp_path / "log.db")
        async with app.router.lifespan_context(app):
            asked = [asyncio.create_task(ask_app(app, {"values": ROWS[2], "ids": [f"{i}"]})) for i in range(20)]
            await asyncio.sleep(.001)
            for task in asked[::2]: task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            assert (await ask_app(app, {"values": ROWS[2], "ids": ["last"]}))[0] == 200
    asyncio.run(story())
    assert "last" in {id for id, in logged(tmp_path / "log.db", "request_id")}


def test_no_question_waits_for_a_model_to_load(bundles, monkeypatch):
    "The look at the pointer takes its time, in a thread of its own."
    from mlscale import hot_swap
    load, begun, go = hot_swap.load_deployed, threading.Event(), threading.Event()

    def loading(*args, **named):
        begun.set()
        go.wait(30)
        return load(*args, **named)
    with TestClient(create_app(bundles)) as client:
        monkeypatch.setattr(hot_swap, "load_deployed", loading)
        point(bundles, 2)
        assert begun.wait(60)
        assert client.post("/predict", json={"values": ROWS[2]}).json()["version"] == 1 and client.get("/health/ready").status_code == 200
        go.set()
        deadline = time.monotonic() + 60
        while client.post("/predict", json={"values": ROWS[2]}).json()["version"] == 1: assert time.monotonic() < deadline


def test_a_canary_that_is_withdrawn_answers_nobody_any_more(bundles):
    point(bundles, 2, alias="canary")
    with TestClient(create_app(bundles, route=lambda id: "canary")) as client:
        versions = lambda: client.post("/predict", json={"values": ROWS[2]}).json()["versions"]
        assert versions() == [2]
        (bundles / "late" / "canary.json").write_text("half a poi")   # an accident: the last good one stays
        client.post("/reload")
        assert versions() == [2]
        (bundles / "late" / "canary.json").unlink()
        client.post("/reload")
        assert versions() == [1]
