"A client asks again only what that can mend, as the same question, within its time and its budget; a hedge is bounded, too."
import json
import random
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlscale.artifacts import ModelVersion, save, write_pointer
from mlscale.overload import Client, RefusedError, RetryBudget, backoff, hedged
from mlscale.server import serving_process

ANSWER = {"prediction": [.5], "ids": ["a"]}
PROBLEM = {"status": 503, "detail": "32 questions are in progress; ask again"}


@contextmanager
def server(replies):
    "A server that gives these replies (status, body, headers, seconds) one after the other, the last one for ever; what it was asked."
    asked, left, lock = [], iter(replies), threading.Lock()
    last = [None]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.append((time.monotonic(), dict(self.headers), body))
                last[0] = next(left, last[0])
                status, said, headers, seconds = last[0]
            time.sleep(seconds)
            if status is None: return self.connection.close()
            said = said if isinstance(said, bytes) else json.dumps(said).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(said)), **headers}.items(): self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said)
            except OSError: pass   # the client has gone

        def log_message(self, *_): pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(.01,))
        thread.start()
        try: yield f"http://127.0.0.1:{http.server_port}", asked
        finally:
            http.shutdown()
            thread.join()


def full(seconds=0., **headers): return 503, PROBLEM, headers, seconds
def good(): return 200, ANSWER, {}, 0.


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    X = np.arange(40.).reshape(20, 2)
    bundle = save(LogisticRegression().fit(X, X[:, 0] > 20), folder / "late" / "1", example=X)
    write_pointer(folder / "late", "production", ModelVersion("late", 1, bundle.sha256))
    return folder


def test_a_refused_question_is_asked_again_as_the_same_question_with_what_is_left_of_its_time():
    with server([full(), full(), good()]) as (url, asked):
        assert Client(url, key="secret", seconds=60, seed=0).predict({"values": [[1., 2.], [3., 4.]]}) == ANSWER
    ids = [body["ids"] for _, _, body in asked]
    assert len(asked) == 3 and ids[0] == ids[1] == ids[2] and len(set(ids[0])) == 2
    left = [int(headers["Request-Timeout-Ms"]) for _, headers, _ in asked]
    assert 60_000 >= left[0] > left[1] > left[2] > 30_000
    assert all(headers["Authorization"] == "Bearer secret" for _, headers, _ in asked)


@pytest.mark.parametrize("question, rows", [({"values": [1.]}, 1), ({"values": [[1.], [2.]]}, 2), ({"features": {"x": 1.}}, 1), ({"features": [{"x": 1.}] * 3}, 3), ({"values": []}, 1)])
def test_each_row_has_an_id(question, rows):
    with server([good()]) as (url, asked): Client(url).predict(question)
    assert len(set(asked[0][2]["ids"])) == rows and {k: v for k, v in asked[0][2].items() if k != "ids"} == question


def test_ids_that_are_given_are_kept():
    with server([good()]) as (url, asked): Client(url).predict({"values": [1.], "ids": ["mine"]})
    assert asked[0][2]["ids"] == ["mine"]


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 415, 422, 501])
def test_a_wrong_question_is_asked_once(status):
    with server([(status, {"detail": "wrong"}, {}, 0.), good()]) as (url, asked), pytest.raises(RefusedError, match=f"{status}: wrong") as e: Client(url).predict({"values": [1.]})
    assert len(asked) == 1 and e.value.status == status


@pytest.mark.parametrize("reply", [(408, PROBLEM, {}, 0.), (429, PROBLEM, {}, 0.), (502, b"<html>", {}, 0.), (504, PROBLEM, {}, 0.), (None, b"", {}, 0.)])
def test_what_may_be_mended_is_asked_again(reply):
    with server([reply, good()]) as (url, asked): assert Client(url, seconds=60, seed=0).predict({"values": [1.]}) == ANSWER
    assert len(asked) == 2


@pytest.mark.parametrize("said", [b"<html>not ours</html>", b"[1]", b'{"other": 1}', b"\xff"])
def test_what_is_no_answer_is_not_taken_for_one(said):
    with server([(200, said, {}, 0.)]) as (url, _), pytest.raises(RefusedError): Client(url).predict({"values": [1.]})


def test_it_waits_as_long_as_the_server_says_and_not_beyond_its_own_time():
    with server([full(**{"Retry-After": "1"}), good()]) as (url, asked): Client(url, seconds=60, seed=0).predict({"values": [1.]})
    assert asked[1][0] - asked[0][0] >= 1
    with server([full(**{"Retry-After": "30"}), good()]) as (url, asked):
        start = time.monotonic()
        with pytest.raises(RefusedError, match="503"): Client(url, seconds=20).predict({"values": [1.]})
        assert len(asked) == 1 and time.monotonic() - start < 15


def test_a_server_that_says_nothing_is_left_in_time():
    with server([full(seconds=8.)]) as (url, _):
        start = time.monotonic()
        with pytest.raises(RefusedError, match="no answer") as e: Client(url, seconds=.3).predict({"values": [1.]})
        assert time.monotonic() - start < 6 and e.value.status == 0


def test_where_all_is_refused_a_hundred_clients_ask_a_tenth_more():
    budget = RetryBudget(.1, most=5)
    with server([full()]) as (url, asked), ThreadPoolExecutor(16) as pool:
        def once(i):
            with pytest.raises(RefusedError): Client(url, seconds=60, tries=10, budget=budget, seed=i).predict({"values": [1.]})
        list(pool.map(once, range(100)))
    assert 100 < len(asked) <= 115


def test_it_gives_up_after_so_many_tries():
    with server([full()]) as (url, asked), pytest.raises(RefusedError): Client(url, seconds=60, tries=3, budget=RetryBudget(1, most=50), seed=0).predict({"values": [1.]})
    assert len(asked) == 3


def test_a_question_that_was_answered_to_nobody_is_in_the_log_once(bundles, tmp_path):
    "The first time its client leaves without hearing the answer, which is recorded; the second time it has the same answer."
    question = {"values": [[1., 2.], [30., 31.]], "ids": ["a", "b"]}
    body = json.dumps(question).encode()
    recorded = lambda: dict(sqlite3.connect(tmp_path / "log.db").execute("SELECT request_id, prediction FROM predictions"))
    with serving_process(bundles, log=tmp_path / "log.db") as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as deaf:
            deaf.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            deadline = time.monotonic() + 30
            while len(held := recorded()) < 2 and time.monotonic() < deadline: time.sleep(.02)
        again = Client(url, seconds=60).predict(question)
    assert held == recorded() == dict(zip("ab", again["prediction"]))


def test_the_time_to_wait_doubles_is_drawn_evenly_and_has_a_bound():
    rng = random.Random(0)
    for tries in (0, 1, 5, 30):
        bound = min(10, .1 * 2**tries)
        drawn = np.array([backoff(tries, rng=rng) for _ in range(4000)]) / bound
        assert 0 <= drawn.min() and drawn.max() <= 1 and abs(drawn.mean() - .5) < .03 and abs(drawn.std() - 12**-.5) < .02
    assert backoff(3, rng=random.Random(1)) == backoff(3, rng=random.Random(1))


@pytest.mark.parametrize("share", [.05, .1, 1 / 3, 1])
def test_a_budget_is_a_share_exactly_however_it_is_interleaved(share):
    budget, spent = RetryBudget(share, most=7), 0
    while budget.spend(): spent += 1
    assert spent == 7
    spent = 0
    for _ in range(6000):
        budget.earn()
        spent += budget.spend()
    assert abs(spent - 6000 * share) < 1.01
    budget = RetryBudget(share, most=7)
    def ask(_):
        budget.earn()
        return budget.spend()
    with ThreadPoolExecutor(8) as pool: assert 0 <= sum(pool.map(ask, range(3000))) - 3000 * share <= 8


def test_what_is_saved_up_has_a_bound():
    budget = RetryBudget(.5, most=3)
    for _ in range(100): budget.earn()
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("make, what", [
    (lambda: RetryBudget(0), "share"), (lambda: RetryBudget(1.5), "share"), (lambda: RetryBudget(most=.5), "most"), (lambda: backoff(-1), "tries"), (lambda: backoff(0, base=0), "base"),
    (lambda: Client("localhost:8000"), "url"), (lambda: Client("ftp://host"), "url"), (lambda: Client("http://host", seconds=0), "seconds"), (lambda: Client("http://host", tries=0), "tries")])
def test_what_makes_no_sense_is_refused_by_name(make, what):
    with pytest.raises((ValueError, TypeError), match=what): make()


# ---- hedges

def slow(): return threading.Event().wait(1.) or "slow"
def quick(): return "quick"
def broken(): raise OSError("gone")


def test_the_first_answer_counts_and_who_is_quick_is_not_asked_twice():
    asked = []
    def other(): return asked.append(1) or "other"
    with ThreadPoolExecutor(4) as pool:
        budget = RetryBudget(.05)
        assert hedged(slow, quick, after=.01, budget=budget, pool=pool) == "quick"
        assert hedged(quick, other, after=30, budget=budget, pool=pool) == "quick" and not asked


def test_without_a_budget_left_it_waits():
    budget = RetryBudget(.05, most=1)
    assert budget.spend()
    with ThreadPoolExecutor(4) as pool: assert hedged(slow, quick, after=.01, budget=budget, pool=pool) == "slow"


def test_an_error_counts_only_if_nobody_answers():
    def late_error(): return time.sleep(.2) or broken()
    with ThreadPoolExecutor(4) as pool:
        assert hedged(slow, broken, after=.01, budget=RetryBudget(), pool=pool) == "slow"
        assert hedged(late_error, slow, after=.01, budget=RetryBudget(), pool=pool) == "slow"
        with pytest.raises(OSError, match="gone"): hedged(late_error, broken, after=.01, budget=RetryBudget(), pool=pool)
        with pytest.raises(OSError, match="gone"): hedged(broken, slow, after=30, budget=RetryBudget(), pool=pool)


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://h:abc", "http://h:99999", "http://h:0", 5, None])
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(ValueError, match="url="): Client(url)


def test_a_refusal_is_never_an_answer_whatever_it_holds():
    with server([(404, {"detail": {"a": 1}}, {"Retry-After": "²".encode().decode("latin-1")}, 0.)]) as (url, _), pytest.raises(RefusedError, match="404"): Client(url).predict({"values": [1.]})
    for said in (b"5", b"null"):
        with server([(200, said, {}, 0.)]) as (url, _), pytest.raises(RefusedError): Client(url, tries=1).predict({"values": [1.]})


def test_a_slash_after_the_address_and_rows_as_tuples_are_taken(bundles):
    with serving_process(bundles) as url: assert len(Client(f"{url}/").predict({"values": ((1., 2.), (3., 4.))})["prediction"]) == 2
