"""The service when half of what it can answer is asked, three times as much, and half again, in an open loop: with several doors, and with none.

    python benchmarks/overload.py      some two minutes, on a quiet machine

The server has one core and the clients another, so that the work of the clients is not taken from the server. Two tables. `overload_costs`: the
processor, in microseconds, that an answer and a refusal take from the server and from the clients; refused are all questions, by a server whose door
is full. `overload`: the phases, with the seconds one by one.
"""
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import psutil
import uvloop
from harness import store

from mlscale.artifacts import ModelVersion, save, write_pointer
from mlscale.features import FEATURES, load_features
from mlscale.limits import MOST_IN_PROGRESS
from mlscale.training import fit_model

PACKAGES = ("numpy", "onnxruntime", "fastapi", "uvicorn", "uvloop", "httptools")
CONNECTIONS, SOON = 400, .1   # how many the clients have; seconds after which an answer is of no use
# how many may be in progress, and whether the protocol refuses before a request is made of the question
SERVICES = {"as it comes": (MOST_IN_PROGRESS, True), "twice as many may enter": (2*MOST_IN_PROGRESS, True), "half as many may enter": (MOST_IN_PROGRESS//2, True),
            "refused by the last layer": (MOST_IN_PROGRESS, False), "all may enter": (10**6, False)}
PHASES = {"before": (.5, 4), "the rush": (3, 8), "after": (.5, 4)}   # times the peak, seconds
SERVER = """
import os, sys, uvicorn
os.sched_setaffinity(0, {0})
from mlscale.server import impatient_protocol
from mlscale.serving import PATIENCE, create_app
bundles, log, most, quick, closed, port = sys.argv[1:]
app = create_app(bundles, log=log, most=int(most))
while closed == "True" and app.state.doors["/predict"].enter(): pass
protocol = impatient_protocol(PATIENCE, app.state.metrics, app.state.doors if quick == "True" else None)
uvicorn.run(app, port=int(port), http=protocol, log_level="critical", access_log=False)
"""


class Connection(asyncio.Protocol):
    "A connection that asks one question after the other."
    def connection_made(self, transport): self.transport, self.buffer, self.answer = transport, b"", None

    def ask(self, request):
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data):
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found: return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length: return
        self.buffer = body[length:]
        self.answer.set_result(int(head[9:12]))


async def connected(port, n):
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(n)]


async def closed_loop(port, request, seconds=4., clients=MOST_IN_PROGRESS):
    "The statuses of all answers, where each client asks again when it has one."
    end, seen = time.perf_counter() + seconds, []
    async def client(connection):
        while time.perf_counter() < end: seen.append(await connection.ask(request))
    await asyncio.gather(*map(client, await connected(port, clients)))
    return np.array(seen)


async def open_loop(port, request, plan):
    "Ask at rates, whatever the answers: a row a question with when it was due, seconds until its answer, and status."
    free, found = asyncio.Queue(), []
    for connection in await connected(port, CONNECTIONS): free.put_nowait(connection)
    async def one(due, connection):
        status = await connection.ask(request)
        found.append((due, time.perf_counter() - start - due, status))
        free.put_nowait(connection)
    times, begin = [], 0.
    for rate, seconds in plan:
        times.append(begin + np.arange(int(rate * seconds)) / rate)
        begin += seconds
    start, tasks = time.perf_counter() + .1, []
    for due in np.concatenate(times).tolist():
        if (left := start + due - time.perf_counter()) > 0: await asyncio.sleep(left)
        tasks.append(asyncio.ensure_future(one(due, await free.get())))
    await asyncio.gather(*tasks)
    return np.array(sorted(found))


@contextmanager
def server(bundles, most, quick, closed=False):
    "A server for the time of the block: its port, and its process."
    with socket.create_server(("127.0.0.1", 0)) as listening: port = listening.getsockname()[1]
    log = Path(tempfile.mkdtemp()) / "log.db"
    child = subprocess.Popen([str(x) for x in (sys.executable, "-c", SERVER, bundles, log, most, quick, closed, port)], stderr=subprocess.DEVNULL)   # it says once a second how many it refused
    try:
        while True:
            try: socket.create_connection(("127.0.0.1", port), .5).close(); break
            except OSError: time.sleep(.1)
        uvloop.run(closed_loop(port, request_of(bundles), 1))
        yield port, psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()


def costs(bundles, request):
    "What an answer costs, and a refusal: in turn, the median of three."
    ways = {"an answer": (MOST_IN_PROGRESS, True, False), "a refusal by the last layer": (1, False, True), "a refusal at the head": (1, True, True)}
    seen = {way: [] for way in ways}
    for _ in range(3):
        for way, told in ways.items():
            with server(bundles, *told) as (port, process):
                used, mine = sum(process.cpu_times()[:2]), time.process_time()
                n = len(uvloop.run(closed_loop(port, request, 2.)))
                seen[way].append((sum(process.cpu_times()[:2]) - used, time.process_time() - mine) / np.array(n) * 1e6)
    middle = {way: np.median(x, axis=0) for way, x in seen.items()}
    return [{"what": way, "server, us": ours, "of an answer": ours / middle["an answer"][0], "clients, us": theirs} for way, (ours, theirs) in middle.items()]


def measured(name, most, quick, bundles, request):
    "The phases of one server, a row each."
    with server(bundles, most, quick) as (port, _):
        highest = (uvloop.run(closed_loop(port, request, clients=min(most, MOST_IN_PROGRESS))) == 200).sum() / 4.
        print(f"{name}: peak {highest:.0f}/s", flush=True)
        seen = uvloop.run(open_loop(port, request, [(share * highest, s) for share, s in PHASES.values()]))
    rows, begin = [], 0
    for phase, (_, seconds) in PHASES.items():
        due, waited, status = seen[(begin <= seen[:, 0]) & (seen[:, 0] < begin + seconds)].T
        good = status == 200
        p50, p99 = np.quantile(waited[good], (.5, .99)) * 1e3 if good.any() else (None, None)
        by_second = [{"second": t, "answered": int((good & (waited <= SOON) & (due.astype(int) == t)).sum()), "slowest, ms": float(waited[good & (due.astype(int) == t)].max(initial=0)) * 1e3}
                     for t in range(begin, begin + seconds)]
        rows.append({"service": name, "phase": phase, "times the peak": len(due) / seconds / highest, "answered, share of the peak": good.sum() / seconds / highest,
                     f"within {SOON * 1e3:.0f} ms": (good & (waited <= SOON)).sum() / seconds / highest, "refused, share of the peak": (~good).sum() / seconds / highest,
                     "p50, ms": p50, "p99, ms": p99, "by the second": by_second})
        begin += seconds
    return rows


def request_of(bundles):
    body = (bundles / "question.json").read_bytes()
    return b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def prepare(box):
    table = load_features()
    month = table.event_timestamp.dt.tz_convert("America/New_York").dt.month
    june = table[(month == 6) & table.late.notna()]
    bundle = save(fit_model(june[FEATURES], june.late.astype(int)), box / "late" / "1", example=table[month < 7][FEATURES].sample(10_000, random_state=0))
    write_pointer(box / "late", "production", ModelVersion("late", 1, bundle.sha256))
    (box / "question.json").write_text(json.dumps({"values": [None if np.isnan(v) else v for v in june[FEATURES].iloc[0].tolist()]}))


if __name__ == "__main__":
    box = Path(os.environ.get("BENCH_PLACE") or tempfile.mkdtemp())
    if not (box / "question.json").exists(): prepare(box)
    os.sched_setaffinity(0, {1})
    store("overload_costs", costs(box, request_of(box)), PACKAGES)
    store("overload", [row for name, door in SERVICES.items() for row in measured(name, *door, box, request_of(box))], PACKAGES)
