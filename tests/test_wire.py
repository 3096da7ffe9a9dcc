"What travels over the wire: the document says every answer there is, what is malformed or slow is ended and counted, and a line of the log can be joined with others."
import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from http.client import HTTPConnection

import httpx
import numpy as np
import pandas as pd
import pytest
import requests
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.generation import GenerationMode
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlscale.artifacts import ModelVersion, load_bundle, save, write_pointer
from mlscale.contract import Contract
from mlscale.conversion import PARITY, read_skops
from mlscale.features import FEATURES, load_features
from mlscale.limits import make_key
from mlscale.registry import Registry
from mlscale.server import MAX_HEAD, AccessLog
from mlscale.serving import create_app, serving_process


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    "A model of a text, a number that may be missing, and one that may not; with its contract."
    box, rng = tmp_path_factory.mktemp("bundles"), np.random.default_rng(0)
    x = pd.DataFrame({"carrier": rng.choice(["UA", "B6", "DL"], 600), "temp": rng.normal(15, 9, 600), "hour": rng.integers(5, 24, 600).astype(float)})
    x.loc[::5, "temp"] = np.nan
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["carrier"]), remainder="passthrough")
    model = make_pipeline(columns, HistGradientBoostingClassifier(max_iter=20)).fit(x, x.hour > 15)
    bundle = save(model, box / "late" / "1", example=x, contract=Contract.learn(x, bounds={"hour": (0, 24)}))
    assert bundle.engine == "onnx"
    write_pointer(box / "late", "production", ModelVersion("late", 1, bundle.sha256))
    return box


@pytest.fixture(scope="module")
def url(bundles, tmp_path_factory):
    "A real server with a log, whose patience is short."
    with serving_process(bundles, log=tmp_path_factory.mktemp("log") / "log.db", patience=2.) as url: yield url


WANTED = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
OFTEN = {("/predict", "positive"): 100, ("/predict", "negative"): 40, ("/outcomes", "positive"): 40, ("/outcomes", "negative"): 20}


def place(url): return "127.0.0.1", int(url.rpartition(":")[2])


def document(url): return httpx.get(f"{url}/openapi.json").json()


def metric(url, name): return sum(float(line.split()[-1]) for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(name))


@pytest.mark.parametrize("operation", ["POST /predict", "POST /outcomes", "POST /reload", "GET /model", "GET /metrics", "GET /health/ready", "GET /health/live"])
def test_no_question_that_a_machine_thinks_of_draws_an_answer_that_the_document_does_not_know(operation, url, request):
    "Such as the document allows and such as it forbids; and each of them cut short, and with a byte changed."
    method, path = operation.split()
    asked, statuses, rng = schemathesis.openapi.from_url(f"{url}/openapi.json")[path][method], [], np.random.default_rng(0)
    named, session = set(document(url)["paths"][path][method.lower()]["responses"]), requests.Session()
    connection = HTTPConnection(*place(url), timeout=60)

    def try_it(case):
        response = case.call(session=session, timeout=60)
        hurried = "Request-Timeout-Ms" in (case.headers or {})
        assert response.status_code < 500 or response.status_code == 503 and hurried, (response.status_code, response.text)
        case.validate_response(response, checks=WANTED)
        statuses.append(response.status_code)
        body = response.request.body if isinstance(response.request.body, bytes) else b""
        cut, changed = rng.integers(len(body) or 1, size=2)
        for damaged in (body[:cut], body[:changed] + rng.bytes(1) + body[changed + 1:]) if body else ():
            connection.request(method, path, damaged, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status < 500 and str(answer.status) in named and json.loads(answer.read()), (answer.status, damaged)
            statuses.append(answer.status)
    for mode in GenerationMode:
        if mode is GenerationMode.NEGATIVE and method == "GET": continue   # there is nothing to be wrong in it
        n = OFTEN.get((path, mode.value), 5) * (100 if request.config.getoption("--slow") else 1)
        if path == "/reload" and mode is GenerationMode.NEGATIVE: continue
        repeat = settings(max_examples=n, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        repeat(given(asked.as_strategy(mode))(try_it))()
    if (path, "positive") in OFTEN: assert {200, 422} <= set(statuses) and len(statuses) > 2 * OFTEN[path, "positive"]


def test_the_examples_of_the_document_are_true_and_follow_the_model(url, bundles, tmp_path):
    told = document(url)["paths"]["/predict"]["post"]
    said = told["responses"]["200"]["content"]["application/json"]["example"]
    by_hand = load_bundle(bundles / "late" / "1").predict([told["requestBody"]["content"]["application/json"]["examples"]["by position"]["value"]["values"]])
    assert said["prediction"] == pytest.approx(by_hand.tolist(), abs=1e-9)
    for example in told["requestBody"]["content"]["application/json"]["examples"].values():
        assert httpx.post(f"{url}/predict", json={**example["value"], "ids": [os.urandom(8).hex()]}).json()["prediction"] == said["prediction"]
    wrong = told["responses"]["422"]["content"]["application/problem+json"]["example"]
    assert "2 values, the model takes 3" in wrong["detail"]
    by_name = told["requestBody"]["content"]["application/json"]["schema"]["properties"]["features"]["anyOf"][0]
    assert by_name["required"] == ["carrier", "temp", "hour"] and by_name["properties"]["carrier"] == {"type": "string"}
    assert by_name["properties"]["temp"]["type"] == ["number", "null"] and by_name["properties"]["hour"]["type"] == "number"
    x = np.arange(8.).reshape(4, 2)
    box = tmp_path / "late"
    for version, columns in ((1, ["a", "b"]), (2, ["c", "d"])):
        frame = pd.DataFrame(x, columns=columns)
        save(LogisticRegression().fit(frame, [0, 0, 1, 1]), box / str(version), example=frame)
    app = create_app(tmp_path)
    assert "examples" not in json.dumps(app.openapi()["paths"]["/predict"]["post"]["requestBody"])
    for version, columns in ((1, ["a", "b"]), (2, ["c", "d"])):
        write_pointer(box, "production", ModelVersion("late", version, load_bundle(box / str(version)).sha256))
        app.state.live.reload()
        shown = app.openapi()["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
        assert list(shown["examples"]["by name"]["value"]["features"]) == columns and app.openapi() is app.openapi()


def test_without_a_key_the_document_tells_nothing_of_the_model(bundles, tmp_path):
    make_key("desk", tmp_path / "keys")
    told = create_app(bundles, keys=tmp_path / "keys").openapi()
    assert "carrier" not in json.dumps(told) and told["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    kept = {path for path, operations in told["paths"].items() for o in operations.values() if "401" in o["responses"] and o["security"] == [{"key": []}]}
    assert kept == {"/predict", "/predict/entity", "/outcomes", "/model", "/reload", "/metrics"}


def test_every_refusal_that_there_is_is_in_the_document_and_has_its_form(url, bundles):
    paths = document(url)["paths"]
    ask = lambda method="POST", path="/predict", headers=(), **body: httpx.request(method, url + path, headers=dict(headers), timeout=60, **body)
    good = {"values": ["UA", 1, 2]}
    for status, answer in {
            404: ask("GET", "/nowhere"), 405: ask("GET"), 413: ask(content=b"x" * 9_000_000), 422: ask(json={"values": [1]}), 503: ask(json=good, headers={"Request-Timeout-Ms": "0"}),
            415: ask(content=json.dumps(good), headers={"Content-Type": "text/plain"}), 409: (ask(json=good | {"ids": ["twice"]}), ask(json={"values": ["DL", 1, 2], "ids": ["twice"]}))[1]}.items():
        assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json", answer.text
        assert set(answer.json()) == {"status", "title", "detail"} and answer.json()["status"] == status
        if status not in (404, 405): assert str(status) in paths["/predict"]["post"]["responses"]
    assert ask("GET").headers["allow"] == "POST" and {"400", "408", "431", "500"} <= set(paths["/predict"]["post"]["responses"])
    with TestClient(create_app(bundles)) as client:
        assert client.post("/outcomes", json={"outcomes": [{"request_id": "a", "label": 1}]}).status_code == 501 and "501" in paths["/outcomes"]["post"]["responses"]


KINDS = {"": 200, "application/json; charset=utf-8": 200, "APPLICATION/JSON": 200, "application/ld+json": 200, "text/plain": 415, "text/plain; a=application/json": 415,
         "application/x-www-form-urlencoded": 415, "multipart/form-data; boundary=x": 415, "application/jsonx": 415}


@pytest.mark.parametrize("headers, status", [*(({"Content-Type": kind} if kind else {}, status) for kind, status in KINDS.items()),
                                             ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415), ({"Content-Encoding": "identity"}, 200)])
def test_what_a_foreign_page_can_send_through_a_browser_is_not_read(headers, status, url):
    for path, body in (("/predict", {"values": ["UA", 1, 2]}), ("/outcomes", {"outcomes": [{"request_id": "unknown", "label": 1}]})):
        answer = httpx.post(url + path, content=json.dumps(body), headers=headers, timeout=60)
        assert answer.status_code == (422 if path == "/outcomes" and status == 200 else status), answer.text


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def talk(url, *pieces, pause=0., read=1):
    "Send pieces over one connection; the status lines that come back until the server ends it, or `read` of them."
    with socket.create_connection(place(url), timeout=60) as s:
        heard = b""
        try:
            for piece in pieces:
                s.sendall(piece)
                time.sleep(pause)
        except OSError: pass
        try:
            while len(re.findall(rb"HTTP/1.1 \d+", heard)) < read or not heard.count(b"}") >= read:
                more = s.recv(65536)
                if not more: break
                heard += more
        except OSError: pass
    return [int(x) for x in re.findall(rb"HTTP/1.1 (\d+)", heard)]


def question(values): return HEAD % len(body := json.dumps({"values": values}).encode()) + body


def serves(url):
    answer = httpx.post(f"{url}/predict", json={"values": ["UA", 1, 2]}, timeout=60)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"hello\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "PREDICT /é HTTP/1.1\r\n\r\n".encode(),
                                     b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                                     b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX y\r\n\r\n"], ids=range(10))
def test_what_is_no_http_is_told_so_counted_and_forgotten(garbage, url):
    before = metric(url, 'mlscale_malformed_requests_total{what="not HTTP"}'), metric(url, 'mlscale_requests_total{status="400"}')
    assert talk(url, garbage) == [400]
    assert (metric(url, 'mlscale_malformed_requests_total{what="not HTTP"}'), metric(url, 'mlscale_requests_total{status="400"}')) == (before[0] + 1, before[1] + 1)
    serves(url)


def test_a_head_without_an_end_is_ended_and_costs_no_memory(url):
    before = metric(url, 'mlscale_malformed_requests_total{what="long head"}')
    assert talk(url, b"GET / HTTP/1.1\r\nX: ", *[b"a" * 1_000_000] * 50)[:1] in ([431], [])   # who still sends may not hear it
    assert talk(url, b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD, pause=.2) == [431]
    assert metric(url, 'mlscale_malformed_requests_total{what="long head"}') == before + 2
    assert talk(url, b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (MAX_HEAD // 2) + b"\r\n\r\n") == [200], "half of that is fine"


def test_questions_that_are_sent_ahead_are_answered_in_their_order(url):
    with socket.create_connection(place(url), timeout=60) as s:
        sent = [{"values": [["UA", None, i]], "ids": [f"ahead-{i}"]} for i in range(5, 24)]
        s.sendall(b"".join(HEAD % len(body := json.dumps(x).encode()) + body for x in sent))
        heard = b""
        while heard.count(b"ahead-") < len(sent): heard += s.recv(65536)
    assert re.findall(rb"ahead-\d+", heard) == [x["ids"][0].encode() for x in sent] and heard.count(b"HTTP/1.1 200") == len(sent)


def test_a_question_byte_by_byte_is_answered_and_half_a_one_is_ended(url):
    assert talk(url, *(bytes([b]) for b in question(["UA", 1, 2])), pause=.002) == [200]
    counted = lambda what: metric(url, f'mlscale_slow_clients_total{{what="{what}"}}')
    before = {what: counted(what) for what in ("nothing", "head", "body")}
    half = question(["UA", 1, 2])
    found = {}
    ended = [threading.Thread(target=lambda what=what, pieces=pieces: found.update({what: talk(url, *pieces)})) for what, pieces in
             (("nothing", []), ("head", [half[:30]]), ("body", [half[:-5]]), ("a byte a second", [half[:30], *[b"x"] * 5]))]
    for t in ended: t.start()
    for t in ended: t.join()
    assert found == dict.fromkeys(found, [408]) and len(found) == 4
    assert {what: counted(what) - n for what, n in before.items()} == {"nothing": 1, "head": 2, "body": 1}


def test_a_thousand_idle_connections_hold_nobody_and_are_ended(url):
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(place(url), timeout=60)) for _ in range(1000)]
        for s in idle[::2]: s.sendall(b"POST /predict HTTP/1.1\r\n")
        serves(url)
        assert all(s.recv(20).startswith(b"HTTP/1.1 408") for s in idle)
        serves(url)


def test_who_does_not_read_holds_no_place_among_the_questions(bundles):
    "Clients send questions ahead whose answers are large, and read none of them."
    rows = {"values": [["UA", 1., 2.]] * 10_000, "ids": [f"{i:0200}" for i in range(10_000)]}
    body = json.dumps(rows).encode()
    with serving_process(bundles, patience=2.) as url, ExitStack() as stack:
        for _ in range(8):
            s = stack.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            s.connect(place(url))
            s.settimeout(.2)
            with contextlib.suppress(OSError): s.sendall((HEAD % len(body) + body) * 8)
        deadline = time.monotonic() + 60
        while (ended := metric(url, 'mlscale_slow_clients_total{what="answer"}')) < 8: assert time.monotonic() < deadline, ended
        while metric(url, "mlscale_requests_in_progress "): assert time.monotonic() < deadline
        serves(url)


def test_the_server_answers_what_the_exact_model_of_the_registry_answers(tmp_path, request):
    "scikit-learn's own trees, on flights from after their training."
    table, n = load_features(), 100_000 if request.config.getoption("--slow") else 5_000
    known = table[table.late.notna()].head(4000)
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", bundles=tmp_path / "bundles")
    model = HistGradientBoostingClassifier(max_iter=30).fit(known[FEATURES], known.late.astype(int))
    registry.register(model, name="late", example=(example := table[FEATURES].sample(1000, random_state=0)), lineage={"data": "flights"}, metrics={})
    registry.promote("late", 1)
    registry.deploy("late")
    rows = table[FEATURES].dropna(subset=example.columns[example.notna().all()]).sample(n, random_state=1)   # others are refused
    exact = read_skops((registry.load("late", 1).path / "model.skops").read_bytes()).predict_proba(rows)[:, 1]
    texts = rows.to_json(orient="values", double_precision=15)[1:-1].replace("],[", "]\n[").split("\n")
    with serving_process(tmp_path / "bundles") as url, httpx.Client(timeout=120) as client:
        ask = lambda some: client.post(f"{url}/predict", content=f'{{"values": [{",".join(some)}]}}', headers={"Content-Type": "application/json"}).json()
        answers = [ask(texts[i:i + 5000]) for i in range(0, n, 5000)]
    served = np.concatenate([a["prediction"] for a in answers])
    assert len(served) == n and np.abs(served - exact).max() < PARITY and {a["sha256"] for a in answers} == {registry.load("late", "production").sha256}
    assert len(np.unique(exact)) > n / 10, "the trees tell the rows apart"


def test_what_is_so_at_the_moment_stands_in_the_metrics(bundles, tmp_path):
    "Which version serves; how far the log is behind, while another program holds it; whose client no longer waits."
    with serving_process(bundles, log=tmp_path / "log.db", mode="available") as url:
        serves(url)
        sha256 = load_bundle(bundles / "late" / "1").sha256
        assert metric(url, f'mlscale_serving{{sha256="{sha256[:12]}",version="1"}}') == 1 and metric(url, "mlscale_log_lag_seconds") == 0
        assert httpx.post(f"{url}/predict", json={"values": ["UA", 1, 2]}, headers={"Request-Timeout-Ms": "0"}).status_code == 503
        assert metric(url, "mlscale_deadlines_missed_total") == 1
        with contextlib.closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            serves(url)
            deadline = time.monotonic() + 60
            while (lag := metric(url, "mlscale_log_lag_seconds")) < 1: assert time.monotonic() < deadline, lag
            other.execute("ROLLBACK")
        while metric(url, "mlscale_log_lag_seconds"): assert time.monotonic() < deadline


def test_each_line_that_a_server_writes_is_json_and_names_its_request(bundles, tmp_path):
    (tmp_path / "late").symlink_to(bundles / "late")
    with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
    mistake = "import mlscale.service as s; s._understood = None; from mlscale.server import serve"   # of our own
    program = f"{mistake}; serve({str(tmp_path)!r}, port={port}, access_log=True)"
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 60
        while True:
            try: broken = httpx.post(f"http://127.0.0.1:{port}/predict", json={}, headers={"X-Request-Id": "q7", "traceparent": trace}); break
            except httpx.TransportError: assert time.monotonic() < deadline and child.poll() is None
        assert talk(f"http://127.0.0.1:{port}", b"garbage\r\n\r\n") == [400]
        child.terminate()
        lines = [json.loads(line) for line in child.stderr]
    assert broken.status_code == 500 and "Traceback" not in broken.text and (broken.headers["x-request-id"], broken.headers["traceparent"]) == ("q7", trace)
    error = [line for line in lines if "Traceback" in line.get("error", "")]
    assert [line["x-request-id"] for line in error] == ["q7"] and any(line.get("status") == 500 and line["traceparent"] == trace for line in lines)
    assert any("Invalid HTTP" in line.get("message", "") for line in lines)


BAD = ["00-{t}-{p}-01-more"], ["ff-{t}-{p}-01"], ["00-{z}-{p}-01"], ["00-{t}-{y}-01"], ["00-{T}-{p}-01"], ["00-{t}-{p}-01"] * 2, ["cc-{t}-{p}-01-" + "x" * 5000], [" 00-{t}-{p}-01 "], []


@pytest.mark.parametrize("given, passed", [(["00-{t}-{p}-00"], "00-{t}-{p}-00"), (["cc-{t}-{p}-01-more"], "00-{t}-{p}-01"), *((bad, None) for bad in BAD)])
def test_a_trace_is_passed_on_in_one_form_or_not_at_all(given, passed):
    names = {"t": "a" * 32, "p": "b" * 16, "z": "0" * 32, "y": "0" * 16, "T": "A" * 32}
    headers = [("traceparent", value.format(**names).encode()) for value in given]
    answer = TestClient(AccessLog(FastAPI())).get("/docs", headers=headers)
    assert answer.headers.get("traceparent") == (passed and passed.format(**names)) and re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
