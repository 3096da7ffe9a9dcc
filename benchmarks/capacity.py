"""What a server carries: waiting times in open loop at known loads, beside what its access log says of its work; and how the
work of several processes adds up.

    python benchmarks/capacity.py [queue] [scaling] [--patience SECONDS] [--others CORES]     both where none is named; some four minutes

A window of measurement counts only if other programs used less than `--others` cores meanwhile (default .05): that is decided by
what they used, never by what was measured. Until it has enough windows it waits, for `--patience` seconds at most (default 600).
"""
import argparse
import json
import multiprocessing
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from harness import store

from mlscale.artifacts import load_bundle, save
from mlscale.features import FEATURES, load_features
from mlscale.pointer import ModelVersion, write_pointer
from mlscale.prediction_log import Prediction, PredictionLog
from mlscale.training import fit_model

PACKAGES = ("numpy", "fastapi", "uvicorn", "onnxruntime")
WINDOW, WARM = 2.5, .5        # seconds of a window, and of those that are left out at its beginning
LOADS = (.5, .8, .95)
MIXES = {"one flight": {1: 1.}, "a flight or a page": {1: .9, 8: .1}, "also whole banks": {1: .97, 100: .03}}   # share by rows


def deployed(folder):
    "Boosted trees trained on June, deployed as production; and rows of July."
    table = load_features()
    month = table.event_timestamp.dt.tz_convert("America/New_York").dt.month
    june = table[(month == 6) & table.late.notna()]
    bundle = save(fit_model(june[FEATURES], june.late.astype(int), kind="boosted_trees"), folder / "late" / "1", example=june[FEATURES].head(2000))
    write_pointer(folder / "late", "production", ModelVersion("late", 1, bundle.sha256))
    return [[None if v != v else v for v in row] for row in table[month == 7][FEATURES].iloc[:300].to_numpy().tolist()]


# ---- what the machine does meanwhile

def used(pids):
    "Seconds of processor that these processes have used."
    return sum(int((task / "schedstat").read_text().split()[0]) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir())/1e9


class Others:
    "What programs other than these processes use of the machine, from here on."
    def __init__(self, *pids): self.pids, self.begin = pids, self._now(pids)

    def cores(self):
        "How many cores, in the mean."
        seconds, busy = (now - then for now, then in zip(self._now(self.pids), self.begin, strict=True))
        return busy/seconds

    @staticmethod
    def _now(pids):
        user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        return time.perf_counter(), (user + nice + system + irq + soft + steal)/os.sysconf("SC_CLK_TCK") - used(pids)


def alone(measure, windows, until, quiet):
    "Results of `measure`, which gives the cores that others used, too; so many of those in which they used next to nothing."
    kept = []
    while len(kept) < windows:
        if time.monotonic() > until: sys.exit(f"no quiet machine: {len(kept)} of {windows} windows were; nothing is stored")
        others = Others()
        time.sleep(.3)
        if others.cores() > quiet: continue
        cores, result = measure()
        if cores <= quiet: kept.append((cores, *result))
        print(f"others used {cores:.2f} cores; {len(kept)} of {windows} windows", file=sys.stderr, flush=True)
    return kept


# ---- an open loop

def request(rows):
    "A question as bytes."
    body = json.dumps({"values": rows}).encode()
    return b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def whole(answer):
    "Whether an answer has arrived completely."
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end: return False
    return len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])


def open_loop(port, requests, at, connections=100):
    """Send each request at its second, whatever became of those before; seconds from that moment until the answer was there,
    infinite where the server refused to answer because it had too much to do.

    It waits with `select`, whose time-out has no granularity of a millisecond as that of `epoll` has.
    """
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    for s in idle: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    busy, queue, took, i, start = {}, deque(), np.full(len(at), np.nan), 0, time.perf_counter() + .02
    while np.isnan(took[-1]) or busy or queue:
        while i < len(at) and at[i] <= time.perf_counter() - start:
            queue.append(i)
            i += 1
        while queue and idle:
            s, k = idle.pop(), queue.popleft()
            busy[s] = [k, b""]
            s.sendall(requests[k])
        wait = max(at[i] - (time.perf_counter() - start), 0) if i < len(at) else 1
        for s in select.select(list(busy), [], [], wait)[0]:
            busy[s][1] += s.recv(1 << 20)
            if whole(busy[s][1]):
                k, answer = busy.pop(s)
                status = int(answer[9:12])
                if status not in (200, 503): raise RuntimeError(answer[:200])
                took[k] = time.perf_counter() - start - at[k] if status == 200 else np.inf
                idle.append(s)
    for s in idle: s.close()
    return took


@contextmanager
def server(bundles, said):
    "A server with an access log, in a process of its own; its port and its process."
    with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("mlscale"), "serve", "--bundles", bundles, "--port", str(port), "--access-log"]
    with open(said, "w") as log, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}) as child:
        try:
            while True:
                try: urlopen(f"http://127.0.0.1:{port}/health/live").read()
                except OSError: time.sleep(.1)
                else: break
            yield port, child.pid
        finally: child.terminate()


def queue(until, quiet, windows=5):
    "Waiting times at known loads, and what the access log says of the same server when nobody waits."
    with tempfile.TemporaryDirectory() as box:
        rows, said, rng = deployed(Path(box) / "bundles"), Path(box) / "access.log", np.random.default_rng(0)
        with server(Path(box) / "bundles", said) as (port, pid):
            made = {n: [request(rows[i:i + n]) for i in range(0, 200, 10)] for n in (1, 8, 100)}

            def window(mix, rate):
                "The cores of others; milliseconds until the answers, in the log, and of processor a question."
                at = np.cumsum(rng.exponential(1/rate, int(rate*WINDOW)))
                sizes = rng.choice(list(mix), len(at), p=list(mix.values()))
                begin, mine, others = said.stat().st_size, used([pid]), Others(os.getpid(), pid)
                took = open_loop(port, [made[n][rng.integers(20)] for n in sizes], at)
                cpu, cores = (used([pid]) - mine)/len(at)*1e3, others.cores()
                with open(said) as log:
                    log.seek(begin)
                    logged = [line["ms"] for line in map(json.loads, log) if line.get("path") == "/predict"]
                return cores, (took[at > WARM]*1e3, np.array(logged), cpu)

            table, logs, share = [], {}, (np.arange(200) + .5)/200
            for mix, sizes in MIXES.items():
                window(sizes, 50.)   # warm
                calm = alone(lambda s=sizes: window(s, 100.), 2, until, quiet)
                logged, cpu = np.concatenate([c[2] for c in calm]), float(np.mean([c[3] for c in calm]))
                logs[mix], work = np.quantile(logged, share), max(cpu, float(logged.mean()))
                for load in LOADS:
                    runs = alone(lambda s=sizes, r=load/work*1e3: window(s, r), windows, until, quiet)
                    others, took, _, busy = zip(*runs, strict=True)
                    halves = [float(np.quantile(t[np.isfinite(t)], .99)) for t in (np.concatenate(took[k::2]) for k in (0, 1))]
                    known = {"logged mean ms": float(logged.mean()), "processor ms": cpu, "processor ms, at this load": float(np.mean(busy)), "work ms": work}
                    answers = np.concatenate(took)
                    refused, answers = float(np.isinf(answers).mean()), answers[np.isfinite(answers)]
                    waited = {"answers": len(answers), "refused": refused, "p50 ms": float(np.quantile(answers, .5)), "p99 ms": float(np.quantile(answers, .99))}
                    checks = {"p99 ms, half the windows": halves[0], "p99 ms, the other half": halves[1], "others, cores": max(others)}
                    table.append({"mix": mix, "load": load, "questions a second": load/work*1e3, **known, **waited, **checks})
    store("capacity_queue", table, PACKAGES)
    store("capacity_log", [{"share": float(p), **{mix: float(v[i]) for mix, v in logs.items()}} for i, p in enumerate(share)], PACKAGES)


# ---- several processes

def score(bundle, path, rows, seconds, ready, begin, end, counted):
    "Answer single rows and record each in a log that all share, until time is over."
    model, array = load_bundle(bundle), np.array(rows, float)
    with PredictionLog(path) as log:
        model.predict(array[:1])
        ready.release()
        begin.wait()
        over, n = time.monotonic() + seconds, 0
        while time.monotonic() < over:
            k = n % len(array)
            p = float(model.predict(array[k:k + 1])[0])
            log.append([Prediction(f"{os.getpid()}-{n}", "2013-07-01T00:00Z", "late", 1, None, None, p, rows[k])])
            n += 1
        counted.put(n)
        end.wait()   # what a process has used can be read while it lives


def scaling(until, quiet, seconds=1.5, windows=3):
    "Rows a second of 1 to 8 processes that share a machine and a log."
    with tempfile.TemporaryDirectory() as box:
        rows, table = deployed(Path(box) / "bundles"), []

        def run(workers):
            context = multiprocessing.get_context("spawn")
            ready, begin, end, counted = context.Semaphore(0), context.Event(), context.Event(), context.Queue()
            log = Path(box) / f"{time.monotonic_ns()}.db"
            with PredictionLog(log): pass
            children = [context.Process(target=score, args=(Path(box) / "bundles" / "late" / "1", log, rows, seconds, ready, begin, end, counted)) for _ in range(workers)]
            for child in children: child.start()
            for _ in children: ready.acquire()
            others = Others(*(c.pid for c in children))
            begin.set()
            done, cores = sum(counted.get() for _ in children), others.cores()
            end.set()
            for child in children: child.join()
            return cores, (done/seconds,)

        for workers in (1, 2, 3, 4, 6, 8):
            rates = alone(lambda n=workers: run(n), windows, until, quiet)
            others, done = zip(*rates, strict=True)
            table.append({"processes": workers, "rows a second": float(np.median(done)), "least": min(done), "most": max(done), "others, cores": max(others)})
    store("capacity_scaling", table, ("numpy", "onnxruntime"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*")
    parser.add_argument("--patience", type=float, default=600.)
    parser.add_argument("--others", type=float, default=.05)
    given = parser.parse_args()
    for job in given.what or ["queue", "scaling"]: {"queue": queue, "scaling": scaling}[job](time.monotonic() + given.patience, given.others)
