"A server on a network asks for a key, its processes share the work, and one that is told to stop loses nothing that it accepted."
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sklearn.linear_model import LogisticRegression

from mlscale.artifacts import ModelVersion, save, write_pointer
from mlscale.limits import KEPT, make_key, read_keys
from mlscale.server import AccessLog, impatient_protocol, serve
from mlscale.serving import create_app


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    box = tmp_path_factory.mktemp("bundles")
    X = np.arange(40.).reshape(20, 2)
    bundle = save(LogisticRegression().fit(X, X[:, 0] > 18), box / "late" / "1", example=X)
    write_pointer(box / "late", "production", ModelVersion("late", 1, bundle.sha256))
    return box


@contextlib.contextmanager
def running(bundles, **options):
    "`serve` in a process of its own; its port and the process, whose errors may be read."
    with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
    program = f"import sys; from mlscale.server import serve; serve({str(bundles)!r}, port={port}, say=lambda line: print(line, file=sys.stderr), **{options!r})"
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while True:
        try: socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError: assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
        else: break
        time.sleep(.05)
    try: yield port, child
    finally:
        child.terminate()
        child.wait(30)
        child.stderr.close()


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(x) for x in listed.split()]


def gone(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return True
    return False


ASK = {"values": [1, 2]}


def test_without_a_key_nothing_that_matters_is_answered(bundles, tmp_path):
    key, other = make_key("desk", tmp_path / "keys"), make_key("job", tmp_path / "keys")
    assert key not in (tmp_path / "keys").read_text() and (tmp_path / "keys").stat().st_mode & 0o77 == 0
    with TestClient(create_app(bundles, log=tmp_path / "log.db", keys=tmp_path / "keys")) as client:
        assert {client.get(path).status_code for path in ("/health/live", "/health/ready", "/docs")} == {200}
        calls = [("POST", "/predict"), ("POST", "/predict/entity"), ("POST", "/outcomes"), ("POST", "/reload"), ("GET", "/model"), ("GET", "/metrics")]
        assert {path for _, path in calls} == KEPT
        for method, path in calls:
            for header in ({}, {"Authorization": key}, {"Authorization": f"Basic {key}"}, {"Authorization": f"Bearer {key}x"},
                           {"Authorization": f"Bearer {read_keys(tmp_path / 'keys')['desk']}"}, {"Authorization": "Bearer é".encode()}):
                refused = client.request(method, path, json=ASK, headers=header)
                assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer" and key not in refused.text
        for good in (key, other): assert client.post("/predict", json=ASK, headers={"authorization": f"bearer  {good}"}).status_code == 200
    with sqlite3.connect(tmp_path / "log.db") as db: assert db.execute("SELECT count(*) FROM predictions").fetchone() == (2,)


@pytest.mark.parametrize("text", ["", "# nothing\n", "desk", "desk secret", f"desk {'a' * 63}", f"desk {'A' * 64}", f"desk {'a' * 64}\ndesk {'b' * 64}"])
def test_a_file_of_keys_that_is_none_is_refused_and_not_shown(text, bundles, tmp_path):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ValueError, match="keys") as refused: create_app(bundles, keys=tmp_path / "keys")
    assert "secret" not in str(refused.value) and "mlscale key NAME FILE" in str(refused.value)


def test_an_empty_name_of_a_file_of_keys_does_not_open_the_door(bundles):
    "As a variable of the shell is that nobody has set."
    with pytest.raises(ValueError, match="keys"): create_app(bundles, keys="")
    with pytest.raises(ValueError, match="keys"): serve(bundles, keys="")


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "-a", "a\n"])
def test_a_key_has_a_name(name, tmp_path):
    with pytest.raises(ValueError, match="name="): make_key(name, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


def test_a_name_has_one_key(tmp_path):
    make_key("desk", tmp_path / "keys")
    before = (tmp_path / "keys").read_text()
    with pytest.raises(ValueError, match="has a key"): make_key("desk", tmp_path / "keys")
    assert (tmp_path / "keys").read_text() == before


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "example.org"])
def test_a_network_wants_keys_or_the_word_that_everybody_may_ask(host, bundles):
    with pytest.raises(ValueError, match="host=.*keys"): serve(bundles, host=host)


def test_a_certificate_is_two_files(bundles, tmp_path):
    with pytest.raises(ValueError, match="certificate"): serve(bundles, certificate=tmp_path / "c.pem")
    with pytest.raises(ValueError, match="no such file"): serve(bundles, certificate=tmp_path / "c.pem", private_key=tmp_path / "k.pem")


@pytest.mark.needs("openssl")
def test_with_a_certificate_it_speaks_tls_and_nothing_else(bundles, tmp_path):
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "k.pem"), "-out", str(tmp_path / "c.pem")]
    subprocess.run(made, check=True, capture_output=True)
    with running(bundles, certificate=str(tmp_path / "c.pem"), private_key=str(tmp_path / "k.pem")) as (port, _):
        trusted = ssl.create_default_context(cafile=tmp_path / "c.pem")
        assert httpx.post(f"https://127.0.0.1:{port}/predict", json=ASK, verify=trusted, timeout=30).json()["version"] == 1
        with pytest.raises(httpx.ConnectError): httpx.get(f"https://127.0.0.1:{port}/health/live", timeout=30)
        with pytest.raises(httpx.HTTPError): httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=30)


def test_each_request_writes_one_line_that_names_it(caplog):
    app = FastAPI()

    @app.get("/broken")
    def broken(): raise KeyError("a programming error")
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    with caplog.at_level("INFO", "mlscale.access"):
        client = TestClient(AccessLog(app), raise_server_exceptions=False)
        first = client.get("/docs", headers={"X-Request-Id": "q7", "traceparent": trace})
        assert first.headers["x-request-id"] == "q7" and first.headers["traceparent"] == trace
        for bad in ("", "two words", "x" * 200): assert re.fullmatch("[0-9a-f]{32}", client.get("/docs", headers={"X-Request-Id": bad}).headers["x-request-id"])
        assert "traceparent" not in client.get("/docs", headers={"traceparent": "00-zz"}).headers
        for state, back in (("a=1,b=2", "a=1,b=2"), ("x" * 513, None), ("", None)):
            assert client.get("/docs", headers={"traceparent": trace, "tracestate": state}).headers.get("tracestate") == back
        assert "tracestate" not in client.get("/docs", headers={"tracestate": "a=1"}).headers
        client.get("/broken")
    lines = lambda: [json.loads(r.getMessage()) for r in caplog.records if r.name == "mlscale.access"]
    deadline = time.monotonic() + 30
    while len(lines()) < 10: assert time.monotonic() < deadline       # a line is written after its answer is out
    lines = lines()
    assert len(lines) == 10 and lines[0]["x-request-id"] == "q7" and lines[0]["traceparent"] == trace
    assert [line["status"] for line in lines] == [200] * 9 + [500] and all(line["ms"] > 0 and line["method"] == "GET" for line in lines)


def asking(port, ids, answered, broken):
    "A client that asks one question after the other until it is turned away."
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    for id in ids:
        try:
            connection.request("POST", "/predict", json.dumps({**ASK, "ids": [id]}))
            response = connection.getresponse()
            if response.status != 200: return broken.append(response.status)
            response.read()
        except (OSError, HTTPException): return broken.append(id)
        answered.add(id)


def test_told_to_stop_it_answers_what_it_accepted_and_every_answer_is_recorded(bundles, tmp_path):
    with running(bundles, log=str(tmp_path / "log.db"), workers=2) as (port, child):
        answered, broken = set(), []
        clients = [threading.Thread(target=asking, args=(port, [f"{c}-{i}" for i in range(100_000)], answered, broken)) for c in range(4)]
        for client in clients: client.start()
        while len(answered) < 100: time.sleep(.01)
        processes = children(child.pid)
        child.send_signal(signal.SIGTERM)
        for client in clients: client.join(60)
        child.wait(30)
    with sqlite3.connect(tmp_path / "log.db") as db: recorded = {id for id, in db.execute("SELECT request_id FROM predictions")}
    assert answered <= recorded and len(recorded - answered) <= 4 and len(broken) == 4, "each client found the door closed once"
    assert not any(isinstance(why, int) for why in broken) and len(processes) == 2 and all(map(gone, processes))


@pytest.mark.needs("ps")
def test_processes_share_the_work_and_the_counters_and_a_killed_one_is_replaced(bundles, tmp_path):
    with running(bundles, log=str(tmp_path / "log.db"), workers=2) as (port, child):
        ask = lambda: httpx.post(f"http://127.0.0.1:{port}/predict", json=ASK, timeout=30)   # a connection each
        for _ in range(40): assert ask().status_code == 200
        counted = lambda: {float(x) for x in re.findall(r'mlscale_requests_total\{status="200"\} (\S+)', httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text)}
        assert [counted() for _ in range(6)] == [{40.}] * 6, "whichever process is met, it tells of all"
        victim = children(child.pid)[0]
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(now := children(child.pid)) < 2 or victim in now: assert time.monotonic() < deadline
        answers = []
        while len(answers) < 20:
            assert time.monotonic() < deadline
            with contextlib.suppress(httpx.TransportError): answers.append(ask().status_code)
        assert set(answers) == {200}
        left = children(child.pid)
        child.kill()   # and the processes do not outlive the one that started them
        while not all(map(gone, left)): assert time.monotonic() < deadline


def test_below_a_prefix_the_same_keys_and_bounds_hold(bundles, tmp_path):
    make_key("desk", tmp_path / "keys")
    outer = FastAPI()
    outer.mount("/api", create_app(bundles, keys=tmp_path / "keys"))
    within, alone = (create_app(bundles, keys=tmp_path / "keys") for _ in range(2))
    for client, before in ((TestClient(outer), "/api"), (TestClient(within, root_path="/api"), "/api"), (TestClient(alone), "")):
        for path in ("/predict", "/reload"): assert client.post(before + path, json={"values": [1., 2.]}).status_code == 401
        assert client.get(f"{before}/model").status_code == 401 and client.get(f"{before}/health/live").status_code == 200


@pytest.mark.parametrize("given", [{"canary": 2.}, {"shadow": True}, {"mode": "x"}, {"synchronous": "x"}, {"on_violation": "x"}])
def test_several_processes_are_not_started_for_what_cannot_be(bundles, given):
    said = []
    with pytest.raises(ValueError, match=next(iter(given))): serve(bundles, port=0, workers=2, say=said.append, **given)
    assert not said


# ---- refused at the head

@contextlib.contextmanager
def full(bundles, most=1, patience=5.):
    "A service in a thread, all whose places are taken: its port, its application, what reached that, and how to stop the loop for a while."
    app, reached, loop = create_app(bundles, most=most), [], []

    async def layers(scope, receive, send):
        loop[:] = [asyncio.get_running_loop()]
        reached.append(scope.get("path"))
        await app(scope, receive, send)
    settings = uvicorn.Config(layers, http=impatient_protocol(patience, app.state.metrics, app.state.doors), log_level="error")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            httpx.get(f"http://127.0.0.1:{listening.getsockname()[1]}/health/live", timeout=60)
            while app.state.doors["/predict"].enter(): pass
            reached.clear()
            yield listening.getsockname()[1], app, reached, lambda seconds: loop[0].call_soon_threadsafe(time.sleep, seconds)
        finally:
            server.should_exit = True
            thread.join()


def heard(connection, n=1):
    "The statuses of n answers on a connection, or of those that came before it ended; with what came."
    text = b""
    while text.count(b"HTTP/1.1 ") < n or not text.endswith(b"}"):
        if not (more := connection.recv(65536)): break
        text += more
    return [int(x) for x in re.findall(rb"HTTP/1.1 (\d+)", text)], text


ASKED = b'POST /predict HTTP/1.1\r\nHost: x\r\n%sContent-Length: 18\r\n\r\n{"values": [1, 2]}'
ALIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_question_without_a_place_is_refused_at_its_head_and_its_connection_stays_good(bundles):
    with full(bundles, patience=.4) as (port, app, reached, _), socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        for i in range(12):   # for longer than a head may take; and a body is no head, however large
            s.sendall(ASKED % b"" if i % 2 else b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000)
            statuses, text = heard(s)
            assert statuses == [503] and b"retry-after: 1\r\n" in text and b"application/problem+json" in text and b"1 questions are in progress" in text
            time.sleep(.05)
        text = app.state.metrics.text().decode()
        assert reached == [] and app.state.doors["/predict"].refused == 12
        assert 'mlscale_shed_requests_total{reason="full"} 12.0' in text and 'mlscale_requests_total{status="503"} 12.0' in text
        app.state.doors["/predict"].leave()
        s.sendall(ASKED % b"")
        assert heard(s)[0] == [200] and reached == ["/predict"]
        s.sendall(b"POST /pre")   # and a head that does not end is still ended
        assert heard(s)[0] == [408]


@pytest.mark.parametrize("sent, statuses, came", [
    (ALIVE + ASKED % b"", [200, 503], ["/health/live", "/predict"]), (ASKED % b"" + ALIVE, [503, 200], ["/health/live"]), (ASKED % b"" * 3, [503] * 3, []),
    (ASKED % b"Connection: close\r\n", [503], ["/predict"]), (ASKED % b"Expect: 100-continue\r\n", [503], ["/predict"]), (ASKED.replace(b"1.1", b"1.0") % b"", [503], ["/predict"]),
    (ASKED.replace(b"predict ", b"predict?a=1 ") % b"", [503], ["/predict"]), (b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", None, None)],
    ids=["after another", "before another", "three ahead", "to be closed", "asks first", "an old client", "with a query", "wants a websocket"])
def test_what_is_not_plain_is_refused_as_well_and_answers_keep_their_order(sent, statuses, came, bundles):
    with full(bundles) as (port, app, reached, _):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
            s.sendall(sent)
            found, text = heard(s, len(statuses or [1]))
            assert statuses in (None, [x for x in found if x != 100]) and 200 <= found[-1] < 504 and b"Internal" not in text
        assert came in (None, reached)
        assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200


def test_of_a_heap_that_comes_at_once_only_so_many_are_let_as_far_as_the_door_as_there_are_places(bundles):
    with full(bundles, most=3) as (port, app, reached, stop), contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(12)]
        for s in connections:   # each is known to the server
            s.sendall(ALIVE)
            assert heard(s)[0] == [200]
        for _ in range(3): app.state.doors["/predict"].leave()
        reached.clear()
        stop(.5)
        time.sleep(.1)
        for s in connections: s.sendall(ASKED % b"")
        assert sorted(heard(s)[0][0] for s in connections) == [200] * 3 + [503] * 9 and reached == ["/predict"] * 3
        connections[0].sendall(ASKED % b"")
        assert heard(connections[0])[0] == [200], "who was announced is forgotten"


def test_how_many_were_refused_is_said_once_a_second_and_not_each_time(bundles, caplog):
    with full(bundles) as (port, app, _, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(40): assert client.post("/predict", json={"values": [1, 2]}).status_code == 503
        deadline = time.monotonic() + 30
        said = lambda: [record.args for record in caplog.records if "refused" in record.getMessage()]
        while sum(n for _, n in said()) < 40:
            assert time.monotonic() < deadline
            time.sleep(.05)
        time.sleep(1.2)   # and not again
        assert sum(n for _, n in said()) == 40 and len(said()) < 5 and {path for path, _ in said()} == {"/predict"}
