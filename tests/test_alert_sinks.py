"A sink that is dead loses nothing: what waits for it is on a disk, is sent in order when it is back, and can be told from what came before."
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest

from mlscale.alert_sinks import Outbox, RefusedError, file_sink, log_sink, webhook
from mlscale.alerts import Alerts, Rule
from mlscale.drift_monitor import Finding

T0 = pd.Timestamp("2013-09-02 08:00", tz="UTC")


def troubles(n, notify=None, start=0):
    "A register in which n troubles fire and end: 2n messages."
    alerts = Alerts(notify=notify)
    for i in range(start, start + n):
        for minute, value in ((0, 9.), (1, 1.)): alerts.update(Finding(f"trouble {i}", value, 5, "min", T0 + pd.Timedelta(minutes=minute), value > 5, "é <why>"))
    return alerts


SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
port, heard, die_after = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
class Receiver(BaseHTTPRequestHandler):
    n = 0
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Idempotency-Key"] and body["text"]
        with open(heard, "a") as f: f.write(body["id"] + "\\n")
        Receiver.n += 1
        if Receiver.n == die_after: os._exit(1)   # it has the message, and nobody will know
        self.send_response(204); self.end_headers()
    def log_message(self, *args): pass
HTTPServer(("127.0.0.1", port), Receiver).serve_forever()
"""


@pytest.fixture
def receiver(tmp_path):
    "Starts a receiver on a port that stays the same, as often as it is asked to; gives the address and what was heard."
    with socket.create_server(("127.0.0.1", 0)) as s: port = s.getsockname()[1]
    heard, running = tmp_path / "heard", []

    def start(die_after=0):
        running.append(subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(heard), str(die_after)], stderr=subprocess.DEVNULL))
        for _ in range(600):
            try: return socket.create_connection(("127.0.0.1", port), .2).close()
            except OSError: time.sleep(.05)
        raise TimeoutError("the receiver does not listen")

    def stop():
        running[-1].kill()
        running[-1].wait()

    yield f"http://127.0.0.1:{port}/secret-token", start, stop, lambda: heard.read_text().splitlines() if heard.exists() else []
    for process in running:
        process.kill()
        process.wait()


def test_a_receiver_that_dies_and_returns_hears_everything_in_order(receiver, tmp_path):
    url, start, stop, heard = receiver
    outbox, now = Outbox(tmp_path / "outbox.db", {"hook": webhook(url, retries=0, timeout=10), "file": file_sink(tmp_path / "alerts.jsonl")}, seed=0), 1000.
    start()
    troubles(2, outbox.put)
    assert outbox.deliver(now=now) == (8, 0, 0)
    stop()
    sent = []
    troubles(6, lambda a: (outbox.put(a), sent.append(a.id)), start=2)
    assert outbox.deliver(now=now) == (12, 0, 12)   # the file has them
    sink, first, why = outbox.waiting()[0]
    assert (sink, first) == ("hook", sent[0]) and "did not answer" in why and "secret" not in why and b"secret" not in (tmp_path / "outbox.db").read_bytes()
    start(die_after=3)   # it comes back, and dies with a message in its hands
    assert outbox.deliver(now=now + 1000).delivered == 2
    start()
    again = Outbox(tmp_path / "outbox.db", {"hook": webhook(url, retries=0, timeout=10)}, seed=0)   # and so do we
    assert again.deliver(now=now + 2000) == (10, 0, 0) and again.deliver(now=now + 3000) == (0, 0, 0)
    later = heard()[4:]
    assert len(later) == 13 and later[2] == later[3] and list(dict.fromkeys(later)) == sent   # at least once, in order, with an id to tell
    assert [json.loads(line)["id"] for line in (tmp_path / "alerts.jsonl").read_text().splitlines()][4:] == sent


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_alert_sinks import Outbox, troubles
def slow(m): time.sleep(60)
outbox = Outbox(sys.argv[1], {"pager": slow})
troubles(20, outbox.put)
print("put", flush=True)
outbox.deliver()
"""


def test_a_process_that_is_killed_while_it_sends_loses_nothing_and_leaves_no_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "o.db"), os.path.dirname(__file__)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "put\n"
        time.sleep(.3)
        child.send_signal(signal.SIGKILL)
    got = []
    assert Outbox(tmp_path / "o.db", {"pager": got.append}).deliver() == (40, 0, 0)
    assert len({m["id"] for m in got}) == 40


def test_what_was_put_is_not_put_again_also_after_a_restart_of_the_register(tmp_path):
    got = []
    outbox = Outbox(tmp_path / "o.db", {"pager": got.append})
    alerts = Alerts({"slow": Rule()}, outbox.put)
    state = alerts.to_dict()
    finding = Finding("slow", float("inf"), 5, "ms", T0, True)
    alerts.update(finding)
    Alerts.from_dict(state, notify=outbox.put).update(finding)   # the register was not stored before the crash
    assert outbox.put(alerts.open[0]) is False and outbox.deliver() == (1, 0, 0) and got[0]["value"] == "inf" and got[0]["state"] == "firing"


def test_a_failing_sink_is_asked_ever_less_and_holds_up_no_other(tmp_path):
    asked, got = [], []
    def fails(m):
        asked.append(now)
        raise TimeoutError("slow")
    outbox = Outbox(tmp_path / "o.db", {"dead": fails, "alive": got.append}, most=300, seed=1)
    troubles(3, outbox.put)
    for now in [*range(0, 300, 5), *range(300, 8 * 3600, 60)]: outbox.deliver(now=float(now))
    gaps = [b - a for a, b in zip(asked, asked[1:])]
    assert len(got) == 6 and max(gaps) <= 360 and len(asked) < 8 * 3600 / 150 * 1.3 and min(gaps[-20:]) >= 120 > 10 > gaps[0]
    assert len(outbox.waiting()) == 6 and outbox.waiting()[0][2] == "TimeoutError: slow"
    outbox.sinks["dead"] = got.append
    assert outbox.deliver(now=1e6) == (6, 0, 0)   # and it is asked at once again
    troubles(1, outbox.put, start=9)
    assert outbox.deliver(now=1e6) == (4, 0, 0)


def test_what_a_receiver_refuses_is_kept_and_holds_up_nothing(tmp_path):
    got = []
    def picky(m):
        if m["name"] == "trouble 1": raise RefusedError("HTTP 400")
        got.append(m["name"])
    outbox = Outbox(tmp_path / "o.db", {"picky": picky})
    troubles(3, outbox.put)
    assert outbox.deliver() == (4, 2, 0) and outbox.deliver() == (0, 0, 0) and got == ["trouble 0"] * 2 + ["trouble 2"] * 2
    assert [why for _, _, why in outbox.waiting("refused")] == ["HTTP 400"] * 2 and repr(outbox) == "Outbox(picky; 0 waiting, 2 refused)"


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "deep" / "alerts.jsonl"
    append = file_sink(path)
    append({"id": "a"})
    with open(path, "a") as f: f.write('{"id": "b", "te')   # the disk was full
    append({"id": "b"})
    assert path.read_text() == '{"id": "a"}\n{"id": "b", "te\n{"id": "b"}\n'


def test_the_log_tells_severities_apart(caplog):
    with caplog.at_level(logging.INFO):
        for severity in ("info", "warning", "critical"): log_sink()({"severity": severity, "text": f"it is %s {severity}"})
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("INFO", "it is %s info"), ("WARNING", "it is %s warning"), ("ERROR", "it is %s critical")]


def test_an_outbox_of_the_future_and_one_without_sinks_are_refused(tmp_path):
    import sqlite3
    with pytest.raises(ValueError, match="sinks"): Outbox(tmp_path / "a.db", {})
    Outbox(tmp_path / "a.db", {"x": print})
    db = sqlite3.connect(tmp_path / "a.db")
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(ValueError, match="format 9"): Outbox(tmp_path / "a.db", {"x": print})


def test_a_sink_that_is_dead_for_weeks_holds_up_no_other(tmp_path):
    def dead(message): raise ConnectionError("down")
    outbox, now = Outbox(tmp_path / "outbox.db", {"pager": dead, "file": file_sink(tmp_path / "alerts.jsonl")}, seed=0), 0.
    troubles(1, outbox.put)
    for _ in range(1100):
        now += 400   # longer than it is ever left alone
        outbox.deliver(now=now)
    troubles(1, outbox.put, start=1)
    assert outbox.deliver(now=now + 400).delivered == 2 and len((tmp_path / "alerts.jsonl").read_text().splitlines()) == 4


ANSWERS = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(int(sys.argv[1])); self.send_header("Retry-After", "30"); self.send_header("Location", "/elsewhere"); self.end_headers()
    def log_message(self, *args): pass
server = HTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("status, kind", [(204, None), (429, ConnectionError), (401, ConnectionError), (403, ConnectionError),
    (408, ConnectionError), (500, ConnectionError), (301, ConnectionError), (307, ConnectionError),
    (404, ConnectionError), (405, ConnectionError), (410, ConnectionError), (400, RefusedError), (422, RefusedError)])
def test_a_receiver_does_not_decide_how_long_we_wait_and_secrets_stay_secret(status, kind, caplog):
    caplog.set_level(logging.DEBUG)
    with subprocess.Popen([sys.executable, "-c", ANSWERS, str(status)], stdout=subprocess.PIPE, text=True) as server:
        try:
            post, begun = webhook(f"http://127.0.0.1:{int(server.stdout.readline())}/SECRET", retries=1, headers={"Authorization": "Bearer SECRET"}), time.monotonic()
            with pytest.raises(kind, match=str(status)) if kind else contextlib.nullcontext() as e: post({"id": "a\nb é", "text": "slow"})
            assert time.monotonic() - begun < 15 and (not kind or "SECRET" not in str(e.value))
        finally: server.kill()
    assert not any("SECRET" in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def test_a_header_with_a_line_break_is_refused_when_the_sink_is_made_and_not_told():
    with pytest.raises(ValueError, match="Authorization") as e: webhook("http://127.0.0.1:9/x", headers={"Authorization": "Bearer SECRET\n"})
    assert "SECRET" not in str(e.value)
