"A question by key: the features come from a real online store, with their ages; what is too old or not there is told in words, and a retry has the first answer."
import itertools
import json
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from mlscale.artifacts import ModelVersion, save, write_pointer
from mlscale.entities import EntityService, entity_names
from mlscale.feature_store import repository
from mlscale.hot_swap import ReloadingModel
from mlscale.limits import MOST_IN_PROGRESS
from mlscale.online import OnlineFeatures, materialize, read, write
from mlscale.server import serve, serving_process
from mlscale.service import Service, create_app
from mlscale.tables import View

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
HOUR, US = timedelta(hours=1), timedelta(microseconds=1)
STRICT = ["hour", "drivers__rides"]
LENIENT = ["hour", "drivers__rides", "drivers__twin", "places__temp", "places__word"]

def fact(driver, rides, event=NOON, created=None):
    return pd.DataFrame({"driver_id": [driver], "event_timestamp": pd.DatetimeIndex([event]).as_unit("us"), "created_timestamp": pd.DatetimeIndex([created or event]).as_unit("us"),
                         "rides": [float(rides)], "twin": [int(rides)]})

def place(name, temp, event=NOON):
    clock = pd.DatetimeIndex([event]).as_unit("us")
    return pd.DataFrame({"city": [name], "quarter": [1], "event_timestamp": clock, "created_timestamp": clock, "temp": [temp], "word": [f"in {name}"], "wet": [True]})

@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    "Two views: drivers live a day, places six hours and have a key of two parts."
    folder = tmp_path_factory.mktemp("repo")
    store = repository(folder, [View("drivers", fact(1001, 8), "driver_id", pd.Timedelta(days=1), ["rides", "twin"]),
                                View("places", place("EWR", 79.), ["city", "quarter"], pd.Timedelta(hours=6), ["temp", "word", "wet"])])
    materialize(store, pd.Timestamp(NOON))
    return store

@pytest.fixture(scope="module")
def source(repo): return OnlineFeatures(repo)

fresh_drivers = itertools.count(2000)

@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    "`strict` knows no row with a gap, `lenient` does, and takes text."
    box, n, rng = tmp_path_factory.mktemp("bundles"), 400, np.random.default_rng(0)
    X = pd.DataFrame({"hour": rng.integers(0, 24, n).astype(float), "drivers__rides": rng.integers(0, 50, n).astype(float)})
    y = X.drivers__rides + X.hour > 30
    versions = {"strict": (LogisticRegression(max_iter=1000).fit(X, y), X)}
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder
    wide = X.assign(drivers__twin=X.drivers__rides, places__temp=rng.normal(70, 9, n), places__word=rng.choice(["in EWR", "in JFK"], n))
    model = make_pipeline(make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["places__word"]), remainder="passthrough"), LogisticRegression(max_iter=2000)).fit(wide, y)
    versions["wide"] = (model, wide)
    gaps = X.mask(rng.random(X.shape) < .2)
    versions["lenient"] = (HistGradientBoostingClassifier(max_iter=5).fit(gaps, y), gaps)
    for name, (model, example) in versions.items():
        bundle = save(model, box / name / "1", example=example)
        write_pointer(box / name, "production", ModelVersion(name, 1, bundle.sha256))
    return box

@pytest.fixture
def client(bundles, source, tmp_path):
    with TestClient(create_app(bundles, model="strict", entities=source, log=tmp_path / "log.db")) as c: yield c

def ask(client, keys, at=NOON, path="/predict/entity", **more):
    when = at.isoformat() if isinstance(at, datetime) else at
    return client.post(path, json={"keys": keys, "at": when, **more})

def logged(tmp_path):
    with sqlite3.connect(tmp_path / "log.db") as db: return db.execute("SELECT request_id, at, entity, features FROM predictions ORDER BY request_id").fetchall()

# The read

def test_plain_values_are_those_of_the_table_at_any_moment(repo, source):
    rng, drivers = np.random.default_rng(1), [next(fresh_drivers) for _ in range(12)]
    for driver in drivers[:10]:
        event = NOON + int(rng.integers(-40, 10))*HOUR
        write(repo, "drivers", fact(driver, rng.integers(99), event, event + int(rng.integers(0, 4))*HOUR))
    states = set()
    for hours in range(-45, 45, 3):
        at = NOON + hours*HOUR
        table = read(repo, "drivers", pd.DataFrame({"driver_id": drivers}), pd.Timestamp(at))
        rows = source.read([{"driver_id": d} for d in drivers], ["drivers__rides", "drivers__twin"], [at]*len(drivers))
        for (values, ages, state), (_, expected) in zip(rows, table.iterrows()):
            gone = pd.isna(expected.drivers__event_timestamp)
            assert (state["drivers"] == "fresh") == (not gone) and values == {"drivers__rides": None if gone else expected.drivers__rides, "drivers__twin": None if gone else expected.drivers__twin}
            if not gone: assert ages["drivers"] == (at - expected.drivers__event_timestamp).total_seconds()
            states.add(state["drivers"])
    assert states == {"fresh", "stale", "unknown"}

def test_a_fact_lives_exactly_as_long_as_its_time_to_live_and_its_age_is_told_after_that(source):
    one = lambda at: source.read([{"driver_id": 1001}], ["drivers__rides"], [at])[0]
    assert one(NOON + 24*HOUR) == ({"drivers__rides": 8.}, {"drivers": 86_400.}, {"drivers": "fresh"})
    assert one(NOON + 24*HOUR + US) == ({"drivers__rides": None}, {"drivers": 86_400.000001}, {"drivers": "stale"})
    assert one(NOON - US) == ({"drivers__rides": None}, {"drivers": None}, {"drivers": "unknown"})

def test_what_became_known_later_is_unknown_and_not_stale(repo, source):
    driver = next(fresh_drivers)
    write(repo, "drivers", fact(driver, 5, NOON, NOON + 2*HOUR))
    assert [source.read([{"driver_id": driver}], ["drivers__rides"], [NOON + k*HOUR])[0][2]["drivers"] for k in (1, 2)] == ["unknown", "fresh"]

def test_each_row_has_its_own_moment(source):
    rows = source.read([{"driver_id": 1001}]*3, ["rides"], [NOON - HOUR, NOON, NOON + 25*HOUR])
    assert [row[2]["drivers"] for row in rows] == ["unknown", "fresh", "stale"]

def test_columns_go_by_the_name_of_the_join_or_alone_where_one_view_has_it(repo, tmp_path):
    assert OnlineFeatures(repo).columns["temp"] == ("places", "temp") == OnlineFeatures(repo).columns["places__temp"]
    twice = repository(tmp_path, [View(name, fact(1, 2), "driver_id", None, ["rides", "twin"] if name == "a" else "rides") for name in "ab"])
    assert set(OnlineFeatures(tmp_path).columns) == {"a__rides", "b__rides", "a__twin", "twin"}
    assert set(OnlineFeatures(twice, "b").columns) == {"b__rides", "rides"}

def test_values_are_as_json_and_models_take_them(repo, source):
    write(repo, "drivers", fact(driver := next(fresh_drivers), 7))
    write(repo, "drivers", fact(endless := next(fresh_drivers), 7).assign(rides=np.inf))
    assert source.read([{"city": "EWR", "quarter": 1}], ["wet", "word"], [NOON])[0][0] == {"wet": 1, "word": "in EWR"}
    rows = source.read([{"driver_id": driver}, {"driver_id": endless}], ["rides", "twin"], [NOON]*2)
    assert [row[0] for row in rows] == [{"rides": 7., "twin": 7}, {"rides": None, "twin": 7}]
    assert type(rows[0][0]["twin"]) is int

@pytest.mark.parametrize("key", [{}, {"driver": 1}, {"driver_id": 1, "city": "EWR"}, *({"driver_id": v} for v in ("1001", 1001., True, 2**63, [1], float("nan")))])
def test_a_key_that_cannot_be_one_is_named(source, key):
    with pytest.raises(ValueError, match=r"^keys\[1\]"): source.read([{"driver_id": 1}, key], ["rides"], [NOON]*2)

def test_a_folder_that_is_no_repository_is_refused(tmp_path, bundles):
    with pytest.raises(ValueError, match="no feature_store.yaml"): OnlineFeatures(tmp_path)
    with pytest.raises(ValueError, match="features=.*no feature_store.yaml"): serve(bundles, features=tmp_path)

# The service

def test_the_answer_by_key_is_the_answer_with_the_features(client):
    by_key = ask(client, [{"driver_id": 1001}, {"driver_id": 1001}], at=(NOON + HOUR), features=[{"hour": 3}, {"hour": 23}])
    with_features = client.post("/predict", json={"features": [{"hour": 3, "drivers__rides": 8}, {"hour": 23, "drivers__rides": 8}]}).json()
    told = by_key.json()
    assert by_key.status_code == 200 and told["prediction"] == with_features["prediction"] and told["prediction"][0] != told["prediction"][1]
    assert told["features"] == [{"drivers__rides": 8.}]*2 and told["ages"] == [{"drivers": 3600.}]*2 and told["states"] == [{"drivers": "fresh"}]*2
    assert {k: told[k] for k in ("model", "version", "sha256", "versions")} == {k: with_features[k] for k in ("model", "version", "sha256", "versions")}

def test_the_description_of_the_model_says_which_columns_a_client_gives(client, bundles):
    assert [(c["name"], c["from_store"]) for c in client.get("/model").json()["columns"]] == [("hour", False), ("drivers__rides", True)]
    told = client.get("/openapi.json").json()["components"]["schemas"]["Model"]["properties"]["columns"]["items"]
    assert set(told["required"]) == {"name", "type", "may_be_missing"} and "from_store" in told["properties"]
    with TestClient(create_app(bundles, model="strict")) as c: assert all(set(told["required"]) <= set(x) <= set(told["properties"]) for x in c.get("/model").json()["columns"])

def test_keys_of_several_views_and_text_reach_a_model(bundles, source):
    with TestClient(create_app(bundles, model="wide", entities=source)) as c:
        told = ask(c, {"driver_id": 1001, "city": "EWR", "quarter": 1}, features={"hour": 5}).json()
        assert told["features"] == [{"drivers__rides": 8., "drivers__twin": 8, "places__temp": 79., "places__word": "in EWR"}]
        same = c.post("/predict", json={"features": {"hour": 5, **told["features"][0]}}).json()
        assert told["prediction"] == same["prediction"] and told["ages"] == [{"drivers": 0., "places": 0.}]
        half = ask(c, {"driver_id": 1001, "city": "EWR", "quarter": None}, features={"hour": 5}).json()
        assert half["prediction"] == [None] and half["states"] == [{"drivers": "fresh", "places": "unknown"}]

def test_one_unknown_key_of_three_is_two_predictions_and_a_word(client, tmp_path):
    told = ask(client, [{"driver_id": 1001}, {"driver_id": 4}, {"driver_id": 1001}], features=[{"hour": 1}, {"hour": 2}, {"hour": 3}], ids=["a", "b", "c"]).json()
    assert [p is None for p in told["prediction"]] == [False, True, False] and told["versions"] == [1, None, 1] and told["ids"] == ["a", "b", "c"]
    assert told["states"][1] == {"drivers": "unknown"} and told["ages"][1] == {"drivers": None} and told["features"][1] == {"drivers__rides": None}
    assert [row[0] for row in logged(tmp_path)] == ["a", "c"]

def test_stale_keys_only_are_answered_with_words_and_recorded_nowhere(client, tmp_path):
    told = ask(client, {"driver_id": 1001}, at=NOON + 30*HOUR, features={"hour": 1})
    assert told.status_code == 200 and told.json()["prediction"] == [None] and told.json()["states"] == [{"drivers": "stale"}] and told.json()["ages"] == [{"drivers": 108_000.}]
    assert told.json()["version"] == 1 and logged(tmp_path) == []

def test_a_model_that_knows_gaps_answers_for_an_unknown_key(bundles, source):
    with TestClient(create_app(bundles, model="lenient", entities=source)) as c:
        told = ask(c, {"driver_id": 4}, features={"hour": 9}).json()
        assert told["prediction"] == c.post("/predict", json={"values": [9, None]}).json()["prediction"] and told["states"] == [{"drivers": "unknown"}]

def test_the_log_holds_features_time_and_entity(client, tmp_path):
    ask(client, {"driver_id": 1001}, at=NOON + HOUR, features={"hour": 4}, ids=["mine"])
    ask(client, {"driver_id": 1001}, at=NOON + HOUR, features={"hour": 4}, ids=["named"], entities=["Ann"])
    at = "2013-07-01T13:00:00.000000+00:00"
    assert [(id, t, entity, json.loads(x)) for id, t, entity, x in logged(tmp_path)] == [("mine", at, "1001", [4., 8.]), ("named", at, "Ann", [4., 8.])]

def test_without_a_time_it_is_now(client, repo, tmp_path):
    write(repo, "drivers", fact(driver := next(fresh_drivers), 6, datetime.now(UTC) - HOUR))
    told = client.post("/predict/entity", json={"keys": {"driver_id": driver}, "features": {"hour": 1}}).json()
    assert 3600 <= told["ages"][0]["drivers"] < 3660 and abs(datetime.fromisoformat(logged(tmp_path)[0][1]) - datetime.now(UTC)) < timedelta(minutes=1)

def test_a_retry_has_the_first_answer_though_the_store_has_moved_on_or_grown_old(client, repo, tmp_path):
    write(repo, "drivers", fact(driver := next(fresh_drivers), 6))
    question = {"keys": [{"driver_id": driver}, {"driver_id": 1001}], "features": [{"hour": 4}, {"hour": 4}], "ids": ["one", "two"]}
    first = ask(client, **question).json()
    write(repo, "drivers", fact(driver, 40, NOON + HOUR))
    again = ask(client, at=NOON + HOUR, **question)
    assert again.status_code == 200 and again.json()["prediction"] == first["prediction"] and again.json()["features"] == first["features"]
    assert again.json()["states"] == [{"drivers": "recorded"}, {"drivers": "fresh"}] and again.json()["ages"] == [{"drivers": None}, {"drivers": 3600.}]
    late = ask(client, at=NOON + 60*HOUR, **question).json()
    assert late["prediction"] == first["prediction"] and late["states"] == [{"drivers": "recorded"}]*2
    assert len(logged(tmp_path)) == 2
    fresh = ask(client, at=NOON + HOUR, **{**question, "ids": ["three", "four"]}).json()
    assert fresh["prediction"][0] > first["prediction"][0]

@pytest.mark.parametrize("other", [{"keys": {"driver_id": 1001}}, {"features": {"hour": 5}}, {"entities": ["Ann"]}])
def test_another_question_under_a_known_id_is_a_conflict(client, repo, tmp_path, other):
    write(repo, "drivers", fact(driver := next(fresh_drivers), 6))
    question = {"keys": {"driver_id": driver}, "features": {"hour": 4}, "ids": ["one"]}
    ask(client, **question)
    write(repo, "drivers", fact(driver, 40, NOON + HOUR))
    refused = ask(client, at=NOON + HOUR, **{**question, **other})
    assert refused.status_code == 409 and "'one' was asked before with other features" in refused.json()["detail"] and len(logged(tmp_path)) == 1

def test_where_nobody_waits_for_the_log_a_log_that_cannot_be_read_does_not_matter(bundles, source, tmp_path):
    with TestClient(create_app(bundles, model="strict", entities=source, log=tmp_path / "log.db", mode="available")) as c, sqlite3.connect(tmp_path / "log.db") as locked:
        locked.execute("DROP TABLE signatures")
        assert ask(c, {"driver_id": 1001}, features={"hour": 1}, ids=["a"]).status_code == 200

ONE = {"driver_id": 1001}
BAD = [({}, "keys"), ({"keys": []}, "keys"), ({"keys": [1]}, "keys"), ({"keys": "1001"}, "keys"), ({"keys": [ONE, {}]}, "keys[1]"), ({"keys": [ONE, ONE]}, "2 keys"),
       ({"keys": {"driver_id": "x"}}, "keys[0]"),
       ({"keys": {**ONE, "city": "EWR"}}, "unknown are 'city'"), ({"keys": [ONE]*10_001}, "10001 rows"), ({"features": None}, "'hour'"), ({"features": []}, "features"),
       ({"features": [{"hour": 1}]*2}, "2 for 1 keys"), ({"features": {"hour": "1"}}, "features[0]"), ({"features": {"hour": None}}, "features[0], column 'hour'"),
       ({"features": {"hour": 1, "drivers__rides": 2}}, "unknown are 'drivers__rides'"), ({"features": {"hour": True}}, "features[0]"), ({"features": {"hour": 10**400}}, "too large"),
       ({"ids": ["a", "b"]}, "ids"), ({"ids": [1]}, "ids"), ({"at": "yesterday"}, "at"), ({"at": ["2013-07-01T12:00Z"]*2}, "at"), ({"at": "2013-07-01"}, "time zone"),
       ({"entities": ["a", "b"]}, "entities"), ({"values": [1]}, "values"), ({"keyz": 1}, "keyz")]

@pytest.mark.parametrize(("change", "words"), BAD, ids=range(len(BAD)))
def test_a_malformed_question_is_a_422_that_names_the_place(client, tmp_path, change, words):
    good = {"keys": ONE, "features": {"hour": 1}}
    refused = client.post("/predict/entity", json={**good, **change} if change else {})
    assert refused.status_code == 422 and refused.headers["content-type"] == "application/problem+json" and words in refused.json()["detail"], refused.text
    assert logged(tmp_path) == []

def test_an_error_names_the_row_of_the_request_and_not_of_those_that_were_scored(client):
    refused = ask(client, [{"driver_id": 4}, {"driver_id": 1001}], features=[{"hour": 1}, {"hour": "x"}])
    assert refused.status_code == 422 and refused.json()["detail"].startswith("features[1]")

def test_the_page_shows_a_question_about_nobody_and_the_answer_to_it(client, bundles):
    shown = client.get("/openapi.json").json()["paths"]["/predict/entity"]["post"]
    question = shown["requestBody"]["content"]["application/json"]["example"]
    told = shown["responses"]["200"]["content"]["application/json"]["example"]
    assert question["keys"] == {"driver_id": -1} and list(question["features"]) == ["hour"]
    assert told["states"] == [{"drivers": "unknown"}] and told["prediction"] == [None] and told["features"] == [{"drivers__rides": None}]
    answered = client.post("/predict/entity", json=question)
    assert answered.status_code == 200 and {k: v for k, v in answered.json().items() if k != "ids"} == {k: v for k, v in told.items() if k != "ids"}
    class Bare:   # a source that can give no example
        columns = ["drivers__rides"]
        def read(self, keys, columns, at): raise OSError("gone")
    bare = create_app(bundles, model="strict", entities=Bare()).openapi()["paths"]["/predict/entity"]["post"]
    assert "example" not in bare["requestBody"]["content"]["application/json"]

def test_no_body_draws_an_error_of_the_servers(client):
    rng = np.random.default_rng(0)
    odd = [None, 0, -1, 1.5, True, "", "x", "\0", "\ud800", [], {}, [[]], [{}], 2**70, "2013-07-01T12:00Z", {"driver_id": None}, {"driver_id": "\ud800"}, {"hour": 1}]
    names, seen = ["keys", "features", "ids", "at", "entities"], set()
    for _ in range(400):
        body = {"keys": {"driver_id": 1001}, "features": {"hour": 1}}
        for name in rng.choice(names, rng.integers(1, 3), replace=False):
            value = odd[rng.integers(len(odd))]
            body[str(name)] = [value]*int(rng.integers(1, 3)) if rng.random() < .4 else value
        seen.add(client.post("/predict/entity", content=json.dumps(body)).status_code)
    for raw in (b"", b"{", b"[" * 100_000, b'{"keys": {"driver_id": NaN}}', b'{"keys": {"driver_id": 1}, "keys": {"driver_id": 2}}', b'{"keys": {"driver_id": 1, "driver_id": 2}}'):
        seen.add(client.post("/predict/entity", content=raw).status_code)
    assert seen == {200, 422}

def test_a_model_whose_columns_the_store_does_not_have_is_for_predict(bundles, source, tmp_path):
    X = np.arange(8.).reshape(4, 2)
    bundle = save(LogisticRegression().fit(X, [0, 0, 1, 1]), tmp_path / "other" / "1", example=X)
    write_pointer(tmp_path / "other", "production", ModelVersion("other", 1, bundle.sha256))
    with TestClient(create_app(tmp_path, model="other", entities=source)) as c:
        refused = ask(c, {"driver_id": 1}, features={"x0": 1, "x1": 2})
        assert refused.status_code == 422 and "ask /predict" in refused.json()["detail"]

def test_without_a_store_it_says_so_and_without_a_model_too(bundles, source, tmp_path):
    with TestClient(create_app(bundles, model="strict")) as c:
        refused = ask(c, {"driver_id": 1001})
        assert refused.status_code == 501 and "--features" in refused.json()["detail"]
    with TestClient(create_app(tmp_path, entities=source)) as c: assert ask(c, {"driver_id": 1001}).status_code == 503

def test_a_route_sends_a_question_by_key_to_the_canary(bundles, source, tmp_path):
    live = lambda alias: ReloadingModel(bundles / ("strict" if alias == "production" else "lenient"), "production")
    service = Service(live, route=lambda id: "canary" if id == "b" else "production")
    told = EntityService(service.answer, source, live, dict).answer([{"driver_id": 1001}]*2, [{"hour": 9}]*2, ["a", "b"], NOON.isoformat())
    strict, lenient = (live(alias).current().bundle.predict({"hour": [9.], "drivers__rides": [8.]})[0] for alias in ("production", "canary"))
    assert np.allclose(told["prediction"], [strict, lenient], rtol=1e-6) and strict != lenient

def test_a_swap_to_other_columns_while_the_store_is_read_fails_no_question(bundles, source, tmp_path):
    live = {name: ReloadingModel(bundles / name) for name in ("strict", "wide")}
    now = ["strict"]
    class Slow:
        columns, reads = source.columns, 0
        def read(self, keys, columns, at):
            now[0], self.reads = "wide", self.reads + 1
            return source.read([{k: v for k, v in key.items() if k in ("driver_id", *(("city", "quarter") if "places__temp" in columns else ()))} for key in keys], columns, at)
    models = lambda alias: live[now[0]]
    told = EntityService(Service(models).answer, slow := Slow(), models, dict).answer({"driver_id": 1001, "city": "EWR", "quarter": 1}, {"hour": 9}, None, NOON.isoformat())
    assert slow.reads == 2 and told["model"] == "wide" and told["prediction"][0] is not None and set(told["features"][0]) == set(LENIENT) - {"hour"}

# The store fails

def test_a_store_that_cannot_be_read_is_a_503_and_heals(bundles, tmp_path):
    store = repository(tmp_path / "repo", View("drivers", fact(1001, 8), "driver_id", None, ["rides", "twin"]))
    materialize(store, pd.Timestamp(NOON))
    with TestClient(create_app(bundles, model="strict", entities=OnlineFeatures(tmp_path / "repo"))) as c, sqlite3.connect(tmp_path / "repo" / "online.db") as db:
        question = {"keys": {"driver_id": 1001}, "features": {"hour": 1}}
        assert ask(c, **question).status_code == 200
        db.execute("ALTER TABLE mlscale_drivers RENAME TO away")
        db.commit()
        refused = ask(c, **question)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1" and refused.json()["detail"].startswith("the online store cannot be read") and "Traceback" not in refused.text
        db.execute("ALTER TABLE away RENAME TO mlscale_drivers")
        db.commit()
        assert ask(c, **question).status_code == 200

def test_a_store_that_hangs_takes_nothing_from_those_who_have_their_features(bundles, tmp_path):
    "A Redis that takes connections and says nothing: who asks by key is refused after its timeout, and nobody else waits."
    repository(tmp_path, View("drivers", fact(1001, 8), "driver_id", None, ["rides", "twin"]))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = json.loads((tmp_path / "feature_store.yaml").read_text())
        address = f"127.0.0.1:{silent.getsockname()[1]},socket_timeout=1.5,retry=null"
        (tmp_path / "feature_store.yaml").write_text(json.dumps({**settings, "online_store": {"type": "redis", "connection_string": address}}))
        app = create_app(bundles, model="strict", entities=OnlineFeatures(tmp_path))
        with TestClient(app) as c, ThreadPoolExecutor(n := MOST_IN_PROGRESS + 8) as pool:
            asked = [pool.submit(ask, c, ONE, features={"hour": 1}) for _ in range(n)]   # more than may be in progress
            while sum(a.done() for a in asked) < 8: time.sleep(.01)   # those for whom there was no place
            assert [c.post("/predict", json={"values": [1, 8]}).status_code for _ in range(20)] == [200]*20
            hanging, answers = sum(not a.done() for a in asked), [a.result() for a in asked]
        assert {a.status_code for a in answers} == {503} and hanging > MOST_IN_PROGRESS/2
        assert sum("cannot be read" in a.text for a in answers) == MOST_IN_PROGRESS and sum("are in progress" in a.text for a in answers) == 8

# In a process, under load

def test_a_server_reads_the_store_of_a_folder_and_never_a_half_written_row(bundles, repo, tmp_path):
    drivers, stop = [next(fresh_drivers) for _ in range(8)], threading.Event()
    generation = lambda g: pd.concat([fact(d, g, NOON + g*US) for d in drivers])
    write(repo, "drivers", generation(1))
    def writing():
        for g in itertools.count(2):
            if stop.is_set(): return
            write(repo, "drivers", generation(g % 45 + 45*(g//45)).assign(rides=float(g), twin=g))
    place_ = {"city": "EWR", "quarter": 1}
    with serving_process(bundles, model="wide", log=tmp_path / "log.db", features=repo.repo_path) as url, httpx.Client(base_url=url) as http:
        writer = threading.Thread(target=writing)
        writer.start()
        question = lambda i: ask(http, [{"driver_id": d, **place_} for d in drivers], at=NOON + HOUR, features=[{"hour": 1}]*8)
        given, seen, deadline = [], set(), time.monotonic() + 60
        try:
            with ThreadPoolExecutor(6) as pool:
                while len(seen) < 3 or len(given) < 24:
                    given += pool.map(question, range(12))
                    seen |= {row["drivers__twin"] for g in given for row in g.json()["features"]}
                    assert time.monotonic() < deadline
        finally:
            stop.set()
            writer.join()
        assert {g.status_code for g in given} == {200}
        assert all(row["drivers__rides"] == row["drivers__twin"] for g in given for row in g.json()["features"])
        n = 8.*len(given)
        text = http.get("/metrics").text
    assert f'mlscale_feature_reads_total{{state="fresh",view="drivers"}} {n}' in text and f'mlscale_feature_age_seconds_count{{view="places"}} {n}' in text
    assert f'mlscale_feature_age_seconds_bucket{{le="3600.0",view="drivers"}} {n}' in text and f'mlscale_requests_total{{status="200"}} {n/8}' in text
    assert len(logged(tmp_path)) == n

def test_what_is_stale_or_unknown_is_counted_and_so_are_refusals(client):
    ask(client, [{"driver_id": 1001}, {"driver_id": 4}], at=NOON + 30*HOUR, features=[{"hour": 1}]*2)
    ask(client, {"driver_id": "x"}, features={"hour": 1})
    assert client.post("/predict/entity", json={"keys": {"driver_id": 1001}}, headers={"Request-Timeout-Ms": "0"}).status_code == 503
    text = client.get("/metrics").text
    for line in ('feature_reads_total{state="stale",view="drivers"} 1.0', 'feature_reads_total{state="unknown",view="drivers"} 1.0', 'feature_age_seconds_count{view="drivers"} 1.0',
                 'feature_age_seconds_sum{view="drivers"} 108000.0', 'requests_total{status="422"} 1.0', 'shed_requests_total{reason="deadline"} 1.0', "requests_in_progress 0.0"):
        assert f"mlscale_{line}" in text, line
    assert "predictions_total{" not in text   # none of these was one

def test_names_of_keys_are_found_again_and_can_be_stored():
    assert entity_names([{"a": 1}, {"b": "x", "a": None}, {"a": None}, {"a": "Zoë"}]) == ["1", '{"a":null,"b":"x"}', None, "Zoë"]
    for bad in ("\0", "\ud800"):
        with pytest.raises(ValueError, match="keys"): entity_names({"a": bad})


def test_an_empty_key_two_equal_ids_and_an_empty_time_are_refused_as_elsewhere(client):
    for question, words in (({"keys": {}}, "empty object"), ({"keys": [{"driver_id": 1001}, {}]}, r"keys[1]"),
                            ({"keys": [{"driver_id": 1001}, {"driver_id": 99_999}], "features": [{"hour": 1}] * 2, "ids": ["d", "d"]}, "twice"),
                            ({"keys": {"driver_id": 1001}, "features": {"hour": 1}, "at": ""}, "at")):
        answer = client.post("/predict/entity", json=question)
        assert answer.status_code == 422 and words in answer.json()["detail"], answer.text


def test_a_row_is_named_by_its_place_among_all(client):
    question = {"keys": [{"driver_id": 99_999}, {"driver_id": 1001}], "features": [{"hour": 1}, {"hour": 1e300}]}
    answer = ask(client, **question)
    assert answer.status_code == 422 and "features[1]" in answer.json()["detail"], answer.text
