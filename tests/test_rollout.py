"A new model is tried on some and in silence, and exchanged under load: nobody who did not ask for it notices."
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import httpx
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from mlscale.artifacts import ModelVersion, load_bundle, remove_pointer, save, write_pointer
from mlscale.hot_swap import WatchedModels
from mlscale.prediction_log import Prediction, PredictionLog
from mlscale.registry import Registry
from mlscale.rollout import Shadow, in_share, open_shadow, paired_answers
from mlscale.service import Service
from mlscale.serving import create_app

X = pd.DataFrame(np.random.default_rng(0).normal(size=(4000, 3)), columns=["a", "b", "c"])
Y = (X.a > 0).astype(int)
ROWS = X.head(6).to_numpy().tolist()
GREEDY, OTHER, FORGED = 7, 8, 9   # versions: one that wants memory, one of other columns, one whose card tells another story


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Versions of a model as they stand on a server; 1 and 2 weigh some megabytes each."
    box = tmp_path_factory.mktemp("models")
    for v in (1, 2): save(MLPClassifier((500, 500), max_iter=1, random_state=v).fit(X.head(200), Y.head(200)), box / str(v), example=X.head(50))
    for v in (3, 4): save(LogisticRegression(C=10.**-v).fit(X, Y), box / str(v), example=X.head(50))
    greedy = make_pipeline(RBFSampler(n_components=20_000, random_state=0), LogisticRegression())
    save(greedy.fit(X.head(100), Y.head(100)), box / str(GREEDY), example=X.head(20))
    other = X.set_axis(["a", "b", "z"], axis=1)
    save(LogisticRegression().fit(other, Y), box / str(OTHER), example=other.head(50))
    shutil.copytree(box / "4", box / str(FORGED))
    card = json.loads((box / str(FORGED) / "card.json").read_text())
    card["reference"]["predictions"] = [1 - p for p in card["reference"]["predictions"]]
    (box / str(FORGED) / "card.json").write_text(json.dumps(card))
    return box


@pytest.fixture
def folder(models, tmp_path):
    "`<bundles>/late`, with version 3 as production."
    shutil.copytree(models, tmp_path / "bundles" / "late")
    deploy(tmp_path / "bundles" / "late", 3)
    return tmp_path / "bundles" / "late"


def digest(folder, version):
    from mlscale.storage import digest
    return digest(folder / str(version) / "card.json")


def deploy(folder, version, alias="production"): write_pointer(folder, alias, ModelVersion("late", version, digest(folder, version)))


def logged(path, what="*"):
    with sqlite3.connect(path) as db: return db.execute(f"SELECT {what} FROM predictions ORDER BY request_id").fetchall()


def metric(text, name): return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def until(condition, within=60):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(.01)


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(x) for x in listed.split()]


def gone(pid):
    "Whether a process has ended; one that nobody has waited for yet has ended, too."
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return not state or state.startswith("Z")


def megabytes(pid): return int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True).stdout) / 1024


# ---- who is in the share

UNITS = [f"N{i}" for i in range(20_000)]


@pytest.mark.parametrize("share", [0, .001, .05, .5, 1])
def test_a_share_is_as_large_as_it_says(share):
    got = sum(in_share(u, share, "salt") for u in UNITS)
    assert abs(got - share * len(UNITS)) <= 5 * (share * (1 - share) * len(UNITS)) ** .5


def test_who_is_in_a_share_stays_in_a_larger_one_and_another_salt_draws_others():
    small, large, other = ({u for u in UNITS if in_share(u, share, salt)} for share, salt in ((.05, "one"), (.2, "one"), (.05, "two")))
    assert small < large and abs(len(small & other) - len(UNITS) / 400) < 5 * (len(UNITS) / 400) ** .5
    assert [in_share(f"1{u}", .5, "a") for u in UNITS[:50]] != [in_share(u, .5, "a1") for u in UNITS[:50]], "salt and unit do not run together"


def test_every_process_draws_the_same_units():
    program = "from mlscale.rollout import in_share; print([i for i in range(400) if in_share(f'é{i}', .3, 'salt')])"
    found = {subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout for seed in "12"}
    assert found == {f"{[i for i in range(400) if in_share(f'é{i}', .3, 'salt')]}\n"}


# ---- the canary

@pytest.fixture(params=["pointers", pytest.param("registry", marks=pytest.mark.slow)])
def released(request, folder, tmp_path):
    "Version 1 in production and version 2 as canary, and how the canary is withdrawn; the registry does the same, and takes longer."
    if request.param == "pointers":
        for v, alias in ((3, "production"), (4, "canary")): deploy(folder, v, alias)
        return folder.parent, (3, 4), lambda: remove_pointer(folder, "canary")
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", bundles=tmp_path / "released")
    for c in (1., .01): registry.register(LogisticRegression(C=c).fit(X, Y), name="late", example=X.head(50), lineage={}, metrics={})
    for v, alias, as_ in ((1, "champion", "production"), (2, "candidate", "canary")):
        registry.promote("late", v, alias)
        registry.deploy("late", alias, as_=as_)
    return tmp_path / "released", (1, 2), lambda: registry.withdraw("late", "canary")


def test_a_canary_answers_its_share_of_the_units_and_is_withdrawn(released, tmp_path):
    bundles, (old, new), withdraw = released
    digests = {v: digest(bundles / "late", v) for v in (old, new)}
    with TestClient(create_app(bundles, log=tmp_path / "log.db", canary=.3)) as client:
        units = [f"N{i}" for i in range(300)]
        ask = lambda prefix: client.post("/predict", json={"values": [ROWS[0]] * 300, "ids": [f"{prefix}{u}" for u in units], "entities": units}).json()
        first, again = ask("morning"), ask("evening")
        chosen = [in_share(u, .3, f"late {new}") for u in units]
        assert first["versions"] == again["versions"] == [new if c else old for c in chosen], "the unit decides, and not the request"
        assert first["digests"] == [digests[v] for v in first["versions"]] and first["sha256"] == digests[old] and first["aliases"] == ["canary" if c else "production" for c in chosen]
        truth = {v: load_bundle(bundles / "late" / str(v)).predict(ROWS[:1])[0] for v in (old, new)}
        assert first["prediction"] == [truth[v] for v in first["versions"]]
        assert {(alias, sha256) for alias, sha256 in logged(tmp_path / "log.db", "alias, sha256")} == {("production", digests[old]), ("canary", digests[new])}
        text = client.get("/metrics").text
        assert metric(text, 'mlscale_alias_predictions_total{alias="canary"}') == 2 * sum(chosen) and metric(text, "mlscale_alias_predictions_total") == 600
        alone = [client.post("/predict", json={"values": ROWS[0], "ids": [id]}).json()["versions"][0] for id in units[:20]]
        assert alone == [new if c else old for c in chosen[:20]], "where nobody is named the request id is the unit"
        assert client.get("/health/ready").json()["canary"] == {"version": new, "error": None}
        withdraw()
        client.post("/reload")
        assert set(ask("night")["versions"]) == {old} and ask("morning") == first, "an answer that was given stays"


@pytest.mark.parametrize("share", [-.1, 1.1, float("nan"), "half", True])
def test_a_share_is_from_0_to_1(share, folder):
    with pytest.raises((TypeError, ValueError), match="canary"): create_app(folder.parent, canary=share)


def test_either_a_route_or_a_share_decides(folder):
    with pytest.raises(ValueError, match="canary=0.1: the route decides"): create_app(folder.parent, canary=.1, route=lambda id: "canary")


def test_without_a_share_the_canary_is_not_even_loaded(folder):
    for alias in ("canary", "shadow"): deploy(folder, 4, alias)
    models = WatchedModels(folder)
    assert models("canary").current() is None and set(WatchedModels(folder, also=["canary"])._models) == {"production", "canary"}


def test_a_model_that_is_replaced_in_the_middle_of_a_request_does_not_answer_half_of_it(folder):
    deploy(folder, 1, "canary")
    models, seen = WatchedModels(folder, every_alias=True), []

    def route(id):
        seen.append(id)
        if len(seen) == 3:   # the watcher turns both pointers while the request is being answered
            for alias in ("canary", "production"): deploy(folder, 4, alias)
            models.look()
        return "canary" if int(id) % 2 else "production"
    answer = Service(models, route=route).answer(ROWS, ids=[*"012345"])
    assert len({d for d, alias in zip(answer["digests"], answer["aliases"]) if alias == "canary"}) == 1
    assert {d for d, alias in zip(answer["digests"], answer["aliases"]) if alias == "production"} == {answer["sha256"]} == {digest(folder, 3)}


# ---- the shadow

@pytest.fixture
def shadow(folder, tmp_path):
    "A shadow of version 4, and a way to offer it rows."
    deploy(folder, 4, "shadow")
    with Shadow(folder, tmp_path / "shadow.db", capacity=5_000) as shadow: yield shadow


def offer(shadow, ids, rows=None, columns=("a", "b", "c")):
    rows = X.head(len(ids)).to_numpy() if rows is None else rows
    shadow.offer([Prediction(id, "2013-07-01T12:00Z", "late", 3, "ab" * 32, "production", .5, []) for id in ids], columns, rows)


def test_a_shadow_answers_what_its_bundle_answers_under_its_own_alias(shadow, folder, tmp_path):
    truth = load_bundle(folder / "4")
    offer(shadow, ["x", "y"])
    offer(shadow, ["z"], X.iloc[2:3, ::-1].to_numpy(), ("c", "b", "a"))
    until(lambda: shadow.counts.total() == 3)
    assert dict(shadow.counts) == {"answered": 3, "failed": 0, "dropped": 0} and shadow.error is None
    rows = logged(tmp_path / "shadow.db", "request_id, version, sha256, alias, at, prediction, features")
    assert [row[:5] for row in rows] == [(id, 4, truth.sha256, "shadow", "2013-07-01T12:00:00.000000+00:00") for id in "xyz"]
    assert [row[5] for row in rows] == truth.predict(X.head(3)).tolist() and [json.loads(row[6]) for row in rows] == X.head(3).to_numpy().tolist()
    offer(shadow, ["x"])
    until(lambda: shadow.counts.total() == 4)
    assert len(logged(tmp_path / "shadow.db")) == 3, "what is asked again is recorded once"


def test_a_shadow_that_stands_still_costs_nobody_anything_and_what_has_no_room_is_counted(shadow, tmp_path):
    offer(shadow, ["first"])
    until(lambda: shadow.counts["answered"] == 1)
    (pid,) = [p for p in children(os.getpid()) if p == shadow._process.pid]
    os.kill(pid, signal.SIGSTOP)
    try:
        offer(shadow, ["second"])
        for i in range(100): offer(shadow, [f"{i}-{j}" for j in range(100)])
        assert shadow.counts["dropped"] == 100 * 51 and shadow.counts["answered"] == 1
    finally: os.kill(pid, signal.SIGCONT)
    until(lambda: shadow.counts.total() == 10_002)
    assert dict(shadow.counts) == {"answered": 4902, "failed": 0, "dropped": 5100} and len(logged(tmp_path / "shadow.db")) == 4902


def test_a_shadow_that_takes_too_long_is_ended_and_another_one_answers(folder, tmp_path):
    deploy(folder, 4, "shadow")
    with Shadow(folder, tmp_path / "shadow.db", patience=.5) as shadow:
        offer(shadow, ["first"])
        until(lambda: shadow.counts["answered"] == 1)
        os.kill(stopped := shadow._process.pid, signal.SIGSTOP)
        offer(shadow, ["second"])
        until(lambda: shadow.counts["failed"] == 1)
        assert "too long" in shadow.error
        shadow._patience = 30
        offer(shadow, ["third"])
        until(lambda: shadow.counts["answered"] == 2)
        assert shadow._process.pid != stopped and gone(stopped)
        last = shadow._process.pid
    assert gone(last), "nothing is left of it"


def test_a_shadow_that_refuses_rows_answers_the_others(shadow, folder, caplog):
    rows = X.head(4).to_numpy().copy()
    rows[2, 0] = np.nan
    offer(shadow, [*"abcd"], rows)
    until(lambda: shadow.counts.total() == 4)
    assert shadow.counts["answered"] == 3 and "'a': nan is missing" in shadow.error and "the shadow failed" in caplog.text
    deploy(folder, OTHER, "shadow")
    until(lambda: (offer(shadow, ["e"]), shadow.counts["failed"] > 1)[1])
    assert "'z'" in shadow.error


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits it")
def test_a_shadow_that_wants_too_much_memory_gets_none_and_this_process_does_not_grow(folder, tmp_path):
    deploy(folder, GREEDY, "shadow")
    big = np.tile(X.to_numpy(), (2, 1))[:6000]   # by 20,000 waves: 960 MB
    with Shadow(folder, tmp_path / "shadow.db", memory=900_000_000, patience=120) as shadow:
        offer(shadow, ["small"])
        until(lambda: shadow.counts["answered"] == 1)
        before = megabytes(os.getpid())
        offer(shadow, [f"{i}" for i in range(len(big))], big)
        until(lambda: shadow.counts.total() == 6001)
        assert shadow.counts["failed"] == 6000 and "Unable to allocate" in shadow.error, shadow.error
        assert megabytes(os.getpid()) < before + 60
        offer(shadow, ["after"])
        until(lambda: shadow.counts["answered"] == 2)


@pytest.mark.parametrize("log", ["a folder", "another file"])
def test_a_shadow_without_a_log_fails_and_says_why(log, folder, tmp_path):
    deploy(folder, 4, "shadow")
    (tmp_path / "shadow.db").mkdir() if log == "a folder" else (tmp_path / "shadow.db").write_text("a letter to nobody")
    with Shadow(folder, tmp_path / "shadow.db") as shadow:
        offer(shadow, ["x"])
        until(lambda: shadow.counts["failed"] == 1)
        assert "log" in shadow.error and shadow._process, "it is not started anew for that"


def test_without_a_pointer_nobody_is_asked_and_a_withdrawn_shadow_ends(folder, tmp_path):
    with Shadow(folder, tmp_path / "shadow.db") as shadow:
        offer(shadow, ["x"])
        time.sleep(.1)
        assert shadow._process is None and shadow.counts.total() == 0
        deploy(folder, 4, "shadow")
        until(lambda: (offer(shadow, ["y"]), shadow.counts["answered"] > 0)[1])
        pid = shadow._process.pid
        remove_pointer(folder, "shadow")
        until(lambda: (offer(shadow, ["z"]), gone(pid))[1])


def test_what_waits_is_answered_at_the_end_and_what_comes_later_is_dropped(folder, tmp_path):
    deploy(folder, 4, "shadow")
    shadow = Shadow(folder, tmp_path / "shadow.db")
    offer(shadow, ["x"])
    shadow.close(within=60)
    offer(shadow, ["y"])
    assert dict(shadow.counts) == {"answered": 1, "failed": 0, "dropped": 1} and logged(tmp_path / "shadow.db", "request_id") == [("x",)]


@pytest.mark.parametrize("missing", [0, 1], ids=["the log", "the shadow's"])
def test_pairs_of_a_log_that_is_not_there_are_an_error_and_no_empty_log(missing, tmp_path):
    places = [tmp_path / "given.db", tmp_path / "tried.db"]
    PredictionLog(places[1 - missing]).close()
    with pytest.raises(FileNotFoundError, match=f"log: there is no file {places[missing].name}"): paired_answers(*places)
    assert not places[missing].exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_counter_that_fails_costs_no_question_and_leaves_no_process(folder, tmp_path, caplog):
    def counted(outcome, n): raise KeyError(outcome)
    deploy(folder, 4, "shadow")
    with Shadow(folder, tmp_path / "shadow.db", capacity=2, counted=counted) as shadow:
        offer(shadow, ["x"])
        offer(shadow, [*"abcde"])   # no room: the caller hears nothing of it
        until(lambda: shadow.counts["answered"] == 1)
        offer(shadow, ["y"])
        until(lambda: shadow.counts["answered"] == 2)
        assert shadow.counts["dropped"] == 5 and "`counted` failed" in caplog.text
        pid, shadow._pointer = shadow._process.pid, None   # what nobody has foreseen
        offer(shadow, ["z"])
        until(lambda: gone(pid))


@pytest.mark.parametrize("shadow, log", [(True, None), (True, "postgresql://me:secret@host/db"), ("log.db", "log.db")])
def test_a_shadow_has_a_log_of_its_own(shadow, log, folder):
    with pytest.raises(ValueError, match="shadow=") as refused: open_shadow(shadow, folder, log)
    assert "secret" not in str(refused.value) and open_shadow(False, folder, log) is None


def test_pairs_hold_both_answers_and_the_outcome(tmp_path):
    given = [Prediction(id, f"2013-07-0{day}T00:00Z", "late", 1, "ab" * 32, "production", p, [p], who) for id, day, p, who in (("b", 2, .2, "N1"), ("a", 1, .1, None), ("c", 3, .3, None))]
    with PredictionLog(tmp_path / "given.db") as log, PredictionLog(tmp_path / "tried.db") as tried:
        log.append(given)
        log.append_later("outcomes", [("b", "2013-07-03T00:00:00.000000+00:00", 1.)])
        tried.append([row._replace(version=2, alias="shadow", prediction=.9) for row in given[:2]])
    pairs = paired_answers(tmp_path / "given.db", tmp_path / "tried.db")
    assert pairs.request_id.tolist() == ["a", "b"] and pairs.prediction.tolist() == [.1, .2] and pairs.shadow_prediction.tolist() == [.9, .9]
    assert pairs.version.tolist() == [1, 1] and pairs.shadow_version.tolist() == [2, 2] and pairs.label.isna().tolist() == [True, False] and pairs.entity.tolist() == [None, "N1"]


# ---- a real server

@contextlib.contextmanager
def serving(folder, *words):
    "`mlscale serve` in a process of its own; its port, the process, and the file of what it wrote."
    with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
    said = (folder.parent.parent / "said").open("w+")
    program = "import sys; from mlscale.cli import main; sys.exit(main())"
    child = subprocess.Popen([sys.executable, "-c", program, "serve", "--bundles", str(folder.parent), "--port", str(port), *words], stdout=said, stderr=said)

    def answers():
        assert child.poll() is None, (said.seek(0), said.read())
        with contextlib.suppress(httpx.TransportError): return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200
    try:
        until(answers)
        yield f"http://127.0.0.1:{port}", child, said
    finally:
        child.terminate()
        child.wait(30)
        said.close()


def clients(url, n, over, rows=ROWS):
    "n clients that ask one question after the other until it is over; each answer with what was asked."
    host, port = url.removeprefix("http://").split(":")

    def ask(who):
        connection, answers = HTTPConnection(host, int(port), timeout=60), []
        while not over.is_set():
            connection.request("POST", "/predict", json.dumps({"values": rows, "ids": [f"{who}-{len(answers)}-{i}" for i in range(len(rows))]}))
            response = connection.getresponse()
            answers.append((response.status, json.loads(response.read())))
        return answers
    pool = ThreadPoolExecutor(n)
    return [pool.submit(ask, who) for who in range(n)]


def swap(url, folder, version):
    deploy(folder, version)
    return httpx.post(f"{url}/reload", timeout=60).json()


def test_fifty_swaps_under_load_fail_no_request_mix_no_answer_and_leave_no_memory_behind(folder, tmp_path):
    truth = {digest(folder, v): (v, load_bundle(folder / str(v)).predict(ROWS)) for v in (1, 2)}
    deploy(folder, 1)
    with serving(folder, "--log", str(tmp_path / "log.db")) as (url, child, _):
        over = threading.Event()
        asked = clients(url, 4, over)
        for i in range(8): swap(url, folder, 2 - i % 2)   # what grows once and stays
        before, counted = megabytes(child.pid), metric(httpx.get(f"{url}/metrics").text, 'mlscale_model_swaps_total{alias="production"}')
        for i in range(50): assert swap(url, folder, 2 - i % 2)["version"] == 2 - i % 2
        time.sleep(.2)
        over.set()
        answers = [answer for client in asked for answer in client.result()]
        assert metric(httpx.get(f"{url}/metrics").text, 'mlscale_model_swaps_total{alias="production"}') == counted + 50
        assert megabytes(child.pid) < before + 30, "a model weighs several megabytes, and fifty came and went"
    assert {status for status, _ in answers} == {200} and len(answers) > 100
    for _, answer in answers:
        (given,) = set(answer["digests"])
        version, scores = truth[given]
        assert answer["sha256"] == given and set(answer["versions"]) == {version} and np.allclose(answer["prediction"], scores, rtol=0, atol=1e-12)
    assert len({answer["sha256"] for _, answer in answers}) == 2 and len(logged(tmp_path / "log.db", "1")) == len(answers) * len(ROWS)


def test_a_bad_bundle_is_refused_the_old_one_serves_on_and_metric_and_log_line_say_so(folder):
    weights = folder / "4" / "model.onnx"
    with serving(folder) as (url, _, said):
        over = threading.Event()
        asked = clients(url, 2, over)
        forged = swap(url, folder, FORGED)   # every digest fits, and it answers otherwise than when it was saved
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        damaged = swap(url, folder, 4)
        missing = [write_pointer(folder, "production", ModelVersion("late", 5, "0" * 64)), httpx.post(f"{url}/reload").json()][1]
        failures = metric(httpx.get(f"{url}/metrics").text, "mlscale_reload_failures_total")
        good = swap(url, folder, 1)
        time.sleep(.1)
        over.set()
        answers = [answer for client in asked for answer in client.result()]
        said.flush()
        lines = (folder.parent.parent / "said").read_text().splitlines()
    assert [x["version"] for x in (forged, damaged, missing, good)] == [3, 3, 3, 1] and good["error"] is None and failures >= 3
    for state, why in ((forged, "reference rows"), (damaged, "was changed"), (missing, "cannot be read")):
        assert why in state["error"] and sum(state["error"] in line for line in lines) == 1, "said once, however often it is tried"
    assert {status for status, _ in answers} == {200} and {v for _, answer in answers for v in answer["versions"]} <= {3, 1}


@pytest.mark.needs("ps")
def test_whatever_becomes_of_the_shadow_the_callers_of_a_server_never_notice(folder, tmp_path):
    deploy(folder, 4, "canary")
    deploy(folder, 4, "shadow")
    place = tmp_path / "log.db"
    with serving(folder, "--log", str(place), "--canary", ".5", "--shadow") as (url, child, said):
        over, counts = threading.Event(), lambda: httpx.get(f"{url}/health/ready", timeout=30).json()["shadow"]
        asked = clients(url, 2, over)
        until(lambda: counts()["answered"] > 50)
        (pid,) = children(child.pid)
        os.kill(pid, signal.SIGSTOP)   # slow without end
        time.sleep(.5)
        os.kill(pid, signal.SIGKILL)   # and a crash
        until(lambda: counts()["failed"] > 0)
        before = counts()["answered"]
        until(lambda: counts()["answered"] > before)
        deploy(folder, OTHER, "shadow")   # refuses every row
        failed = counts()["failed"]
        until(lambda: counts()["failed"] > failed + 50)
        over.set()
        answers = [answer for client in asked for answer in client.result()]
        text = httpx.get(f"{url}/metrics").text
        for outcome in ("answered", "failed"): assert metric(text, f'mlscale_shadow_predictions_total{{outcome="{outcome}"}}') > 0
        (left,) = children(child.pid)
        assert "canary   0.5 of the units" in (tmp_path / "said").read_text()
        child.kill()
        child.wait()
        until(lambda: gone(left)), "and it does not outlive the server"
    assert {status for status, _ in answers} == {200}
    given = [(id, v, alias) for _, a in answers for id, v, alias in zip(a["ids"], a["versions"], a["aliases"])]
    assert sorted(given) == logged(place, "request_id, version, alias"), "the callers' record is what they heard, and nothing else"
    assert {alias for *_, alias in given} == {"production", "canary"}
    assert all(v == (4 if in_share(id, .5, "late 4") else 3) for id, v, _ in given)
    silent = logged(f"{place}.shadow", "request_id, version, alias")
    assert {row[1:] for row in silent} == {(4, "shadow")} and {id for id, *_ in silent} < {id for id, *_ in given}


# ---- what cannot be is refused before anything is opened, and what breaks in passing ends nothing

@pytest.mark.parametrize("given, text", [({"canary": 2.}, "canary"), ({"canary": .1, "route": lambda id: "canary"}, "the route decides"), ({"shadow": True}, "the log is no file"),
                                         ({"shadow": ""}, "shadow"), ({"most": 0}, "most"), ({"max_bytes": "x"}, "max_bytes"), ({"patience": float("nan")}, "patience"),
                                         ({"on_violation": "x"}, "on_violation")])
def test_a_service_that_cannot_be_leaves_no_thread(folder, tmp_path, given, text):
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match=text): create_app(folder.parent, **{"log": None if given.get("shadow") is True else tmp_path / "log.db"} | given)
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("spelled", ["log.db", "./log.db", "{}/log.db"])
def test_a_shadow_never_writes_into_the_log_however_that_is_spelled(folder, tmp_path, monkeypatch, spelled):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="that is the log"): open_shadow(spelled.format(tmp_path), folder, "log.db")
    assert open_shadow(None, folder, "log.db") is None


def test_a_canary_of_other_columns_answers_nobody_and_says_why(folder):
    deploy(folder, OTHER, "canary")
    with TestClient(create_app(folder.parent, canary=1.)) as client:
        told = client.post("/predict", json={"values": ROWS}).json()
        assert set(told["aliases"]) == {"production"} and set(told["versions"]) == {3}
        assert "other columns" in client.get("/health/ready").json()["canary"]["error"]


def test_pointers_are_followed_again_after_a_look_that_failed(folder, monkeypatch):
    failed, fine = [], WatchedModels.look
    def look(self):
        if len(failed) < 2: raise OSError(24, "Too many open files")
        fine(self)
    models = WatchedModels(folder, every=.02, failed=lambda: failed.append(1))
    monkeypatch.setattr(WatchedModels, "look", look)
    with models.watching():
        deploy(folder, 4)
        deadline = time.monotonic() + 60
        while models("production").current().version != 4: assert time.monotonic() < deadline
    assert len(failed) == 2
