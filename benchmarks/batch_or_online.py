"""The same model asked by question and by job: what a row costs, how long it takes, and what the score is worth by its age.

    python benchmarks/batch_or_online.py          both tables, some three minutes of processor
    python benchmarks/batch_or_online.py rows     one of them: rows or ages
"""
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
from harness import store
from sklearn.metrics import roc_auc_score

from mlscale.artifacts import ModelVersion, load_bundle, save, write_pointer
from mlscale.data import MATURE, load_flights, load_planes, load_weather
from mlscale.features import FEATURES, load_features
from mlscale.flight_features import flight_features
from mlscale.serving import serving_process
from mlscale.training import fit_model, time_split

JULY, AUGUST = (pd.Timestamp(day, tz="America/New_York") for day in ("2013-07-01", "2013-08-01"))
MINUTES = (0, 15, 60, 180, 360, 720, 1440)
PACKAGES = ("numpy", "pandas", "scikit-learn", "onnxruntime", "fastapi", "uvicorn")


def worth(minutes):
    "The AUC of August to December where a job refreshes the features every so many minutes; 0: they are fresh."
    flights = load_flights()
    refresh = pd.Timedelta(minutes=minutes) if minutes else None
    features = flight_features(flights, load_weather(), load_planes(), refresh=refresh)
    arrived = flights.late.notna()
    train, test = (rows & arrived.to_numpy() for rows in time_split(features.event_timestamp, train_until=JULY - MATURE, test_from=AUGUST))
    model = fit_model(features.loc[train, FEATURES], flights.late[train])
    found = roc_auc_score(flights.late[test], model.predict_proba(features.loc[test, FEATURES])[:, 1])
    return {"minutes between refreshes": minutes, "AUC": round(found, 5)}


def of_children():
    "Seconds of processor of the processes that we started and that have ended."
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def waits(url, body, n):
    "Milliseconds that one client waits, n times."
    connection, found = HTTPConnection(url.removeprefix("http://")), []
    for _ in range(n):
        start = time.perf_counter()
        connection.request("POST", "/predict", body)
        assert connection.getresponse().read()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def asked(bundles, log, body, clients, n):
    "Seconds of processor of a server from its start to its end, and the waits of its clients."
    before = of_children()
    with serving_process(bundles, log=log) as url, ThreadPoolExecutor(clients) as pool:
        found = [w for some in pool.map(lambda _: waits(url, body, n), range(clients)) for w in some]
    return of_children() - before, found


def rows():
    "A row by a question and by a job."
    table = load_features()
    month = table.event_timestamp.dt.tz_convert("America/New_York").dt.month
    june, july = table[(month == 6) & table.late.notna()], table[month == 7][FEATURES].to_numpy()
    model, box = fit_model(june[FEATURES], june.late.astype(int)), Path(tempfile.mkdtemp())
    bundle = save(model, box / "late" / "1", example=table[month < 7][FEATURES].sample(10_000, random_state=0))
    write_pointer(box / "late", "production", ModelVersion("late", 1, bundle.sha256))
    body = json.dumps({"values": [None if np.isnan(v) else v for v in july[0].tolist()]})
    idle = median(asked(box, box / "idle.db", body, 8, 1)[0] for _ in range(3))
    crowd = median((asked(box, box / f"{i}.db", body, 8, 1001)[0] - idle) / 8000 for i in range(3))
    _, alone = asked(box, box / "alone.db", body, 1, 2000)
    program = "import sys; from mlscale.artifacts import load_bundle; load_bundle(sys.argv[1])"
    starts, calls = [], []
    for _ in range(5):
        before, begun = of_children(), time.process_time()
        subprocess.run([sys.executable, "-c", program, box / "late" / "1"], check=True)
        starts.append(of_children() - before)
        begun = time.process_time()
        load_bundle(box / "late" / "1").predict(july)
        calls.append((time.process_time() - begun) / len(july))
    return [{"way": "online", "start, s of processor": median(starts), "a row, ms of processor": crowd * 1e3, "one client waits, ms": median(alone)},
            {"way": "job", "start, s of processor": median(starts), "a row, ms of processor": median(calls) * 1e3, "one client waits, ms": None}]


TABLES = {"rows": lambda: rows(), "ages": lambda: [worth(minutes) for minutes in MINUTES]}

if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES: store(f"batch_or_online_{name}", TABLES[name](), PACKAGES)
