"""The service when half of what it can answer is asked, three times as much, and half again: in an open loop, with its door and without.

    python benchmarks/overload.py      about a minute, on a quiet machine: the server has one core and the clients another
"""
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import uvloop
from harness import store

from mlscale.artifacts import ModelVersion, save, write_pointer
from mlscale.features import FEATURES, load_features
from mlscale.limits import MOST_IN_PROGRESS
from mlscale.training import fit_model

PACKAGES = ("numpy", "onnxruntime", "fastapi", "uvicorn")
CONNECTIONS, SOON = 400, .1   # how many the clients have; seconds after which an answer is of no use
DOORS = {"as it comes": (MOST_IN_PROGRESS, "quick"), "refused as late as it can be": (MOST_IN_PROGRESS, "slow"), "all may enter": (10**6, "slow")}
PHASES = {"before": (.5, 4), "the rush": (3, 8), "after": (.5, 4)}   # times the peak, seconds
SERVER = """
import os, sys, uvicorn
os.sched_setaffinity(0, {0})
from mlscale.limits import PATIENCE, impatient_protocol
from mlscale.serving import create_app
bundles, log, most, quick, port = sys.argv[1:]
app = create_app(bundles, log=log, most=int(most))
protocol = impatient_protocol(PATIENCE, app.state.metrics, app.state.doors if quick == "quick" else None)
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


async def peak(port, request, seconds=4., clients=16):
    "Answers a second, where each client asks again when it has its answer."
    end, counts = time.perf_counter() + seconds, []
    async def client(connection):
        n = 0
        while time.perf_counter() < end: n += await connection.ask(request) == 200
        counts.append(n)
    await asyncio.gather(*map(client, await connected(port, clients)))
    return sum(counts) / seconds


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


def measured(name, most, quick, bundles, request):
    "The phases of one server, a row each."
    with socket.create_server(("127.0.0.1", 0)) as listening: port = listening.getsockname()[1]
    log = Path(tempfile.mkdtemp()) / "log.db"
    server = subprocess.Popen([sys.executable, "-c", SERVER, bundles, log, str(most), quick, str(port)])
    try:
        while True:
            try: socket.create_connection(("127.0.0.1", port), .5).close(); break
            except OSError: time.sleep(.1)
        uvloop.run(peak(port, request, 1))
        highest = uvloop.run(peak(port, request))
        print(f"{name}: peak {highest:.0f}/s", flush=True)
        seen = uvloop.run(open_loop(port, request, [(share * highest, s) for share, s in PHASES.values()]))
    finally:
        server.kill()
        server.wait()
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


if __name__ == "__main__":
    table = load_features()
    month = table.event_timestamp.dt.tz_convert("America/New_York").dt.month
    june = table[(month == 6) & table.late.notna()]
    box = Path(tempfile.mkdtemp())
    bundle = save(fit_model(june[FEATURES], june.late.astype(int)), box / "late" / "1", example=table[month < 7][FEATURES].sample(10_000, random_state=0))
    write_pointer(box / "late", "production", ModelVersion("late", 1, bundle.sha256))
    body = json.dumps({"values": [None if np.isnan(v) else v for v in june[FEATURES].iloc[0].tolist()]}).encode()
    request = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    store("overload", [row for name, door in DOORS.items() for row in measured(name, *door, box, request)], PACKAGES)
