"""What features cost at scale: the point-in-time join and the online state against rows and keys, the price of the log, the store.

    python benchmarks/online.py                                 a few minutes
    python benchmarks/online.py [join] [state] [log] [feast]    parts of it

Each case of the join and of the state runs in a fresh process, whose peak memory is what the operating system reports at its end. (On Linux
that peak begins with the one of the process that started it, so this script itself stays small: tables are made in processes of their own.)
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import ROOT, seconds, store

from mlscale.durable_state import DurableState, PartitionedState
from mlscale.feature_store import repository
from mlscale.online import OnlineFeatures, materialize, read, write
from mlscale.point_in_time import View
from mlscale.rolling import Rolling

START = pd.Timestamp("2013-01-01", tz="UTC")
DAY = pd.Timedelta(days=1)
PACKAGES = ("numpy", "pandas", "polars", "pyarrow")

HEAD = """
import json, resource, sys, time
import numpy as np, pandas as pd
from mlscale.point_in_time import View, point_in_time_join
from mlscale.rolling import Rolling
case = json.loads(sys.argv[1])
begin = time.perf_counter()
"""
FOOT = """
answer["seconds"] = time.perf_counter() - begin
answer["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 2**20)
print(json.dumps(answer))
"""
JOIN = HEAD + """
answer = {}
views = [View(f"v{i}", case["facts"], "key", pd.Timedelta(days=30), "value") for i in range(3)]
if case["join"]: point_in_time_join(case["entities"], views, to=case["to"])
else:
    import pyarrow.parquet as pq
    source = pq.ParquetFile(case["entities"], pre_buffer=False)
    with pq.ParquetWriter(case["to"], source.schema_arrow) as sink:
        for batch in source.iter_batches(500_000): sink.write_batch(batch)
""" + FOOT
TABLE = HEAD + """
n, rng = case["n"], np.random.default_rng(case["seed"])
event = pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(np.sort(rng.integers(300*86_400, size=n)), unit="s")
created = event + pd.to_timedelta(rng.integers(3600, size=n), unit="s")
frame = pd.DataFrame({"key": rng.integers(case["keys"], size=n), "event_timestamp": event.as_unit("us"), "created_timestamp": created.as_unit("us"), "value": np.arange(n, dtype=float)})
frame.drop_duplicates(["key", "event_timestamp", "created_timestamp"]).to_parquet(case["to"], index=False, coerce_timestamps="us", row_group_size=500_000)
answer = {}
""" + FOOT
ONLINE = HEAD + """
n, keys, rng = case["rows"], case["keys"], np.random.default_rng(0)
rolling = Rolling("late", value="late", by="key", window=pd.Timedelta(days=30), agg="rate", prior=(.2, 10.))
state, took = rolling.online() if case["state"] else {}, 0.
first, step = pd.Timestamp("2013-01-01", tz="UTC"), pd.Timedelta(days=300)/n
for done in range(0, n, 100_000):
    chunk = rng.integers(keys, size=min(n, 100_000)).tolist()
    times = pd.date_range(first + done*step, periods=len(chunk), freq=step).tolist()
    begin = time.perf_counter()
    if case["state"]:
        for k, t in zip(chunk, times): state.update({"key": k, "created_timestamp": t, "late": 1.})
    else:
        for k, t in zip(chunk, times): state[k] = state.get(k, 0) + 1
    took += time.perf_counter() - begin
answer, at, begin = {"updates/s": n/took}, times[-1], time.perf_counter()
for k in chunk: state.get(k, at)
answer["reads/s"] = len(chunk)/(time.perf_counter() - begin)
""" + FOOT


def fresh(code, **case):
    "Run a case in a process of its own."
    done = subprocess.run([sys.executable, "-c", code, json.dumps(case)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode: raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def join(folder):
    "Seconds and memory of the join of three views, Parquet in and Parquet out."
    rows = []
    for n in (10_000, 100_000, 1_000_000, 10_000_000):
        for keys in (1_000, 100_000):
            entities, facts, out = (str(folder / f"{name}.parquet") for name in ("entities", "facts", "out"))
            fresh(TABLE, n=n, keys=keys, seed=1, to=entities)
            fresh(TABLE, n=max(n // 10, 1000), keys=keys, seed=2, to=facts)
            floor, ours = (fresh(JOIN, entities=entities, facts=facts, to=out, join=j) for j in (False, True))
            rows.append({"rows": n, "keys": keys, "seconds": ours["seconds"], "million rows/s": n/ours["seconds"]/1e6, "peak MB": ours["peak MB"],
                         "copying the file, seconds": floor["seconds"], "copying the file, peak MB": floor["peak MB"]})
    store("online_join", rows, PACKAGES)


def state():
    "Updates and reads of a rolling rate against a dict of counters."
    rows = []
    for n in (10_000, 100_000, 1_000_000, 10_000_000):
        for keys in (1_000, 100_000):
            floor, ours = (fresh(ONLINE, rows=n, keys=keys, state=s) for s in (False, True))
            rows.append({"rows": n, "keys": keys, "updates/s": ours["updates/s"], "reads/s": ours["reads/s"], "peak MB": ours["peak MB"],
                         "updates, share of a dict of counters": ours["updates/s"]/floor["updates/s"]})
    store("online_state", rows)


def events(n, keys=1_000):
    "Events in the order in which they became known."
    key = np.random.default_rng(0).integers(keys, size=n)
    return [{"event_id": i, "key": int(k), "created_timestamp": START + i*pd.Timedelta(seconds=1), "late": 1.} for i, k in enumerate(key)]


def log(folder):
    "What the log costs, by the number of events that share a wait for the disk; and how fast it starts again."
    rolling, rows = Rolling("late", value="late", by="key", window=30*DAY, agg="rate", prior=(.2, 10.)), []
    known = events(100_000)

    def bare():
        fresh_state = rolling.online()
        for e in known[:20_000]: fresh_state.update(e)

    floor = 20_000/seconds({"bare": bare}, rounds=3)["bare"]
    for group in (1, 10, 100, 1_000, 10_000):
        n = min(len(known), group*500, 20_000) if group < 10_000 else len(known)
        with DurableState(folder / f"group{group}", rolling) as durable:
            start = time.perf_counter()
            for i in range(0, n, group): durable.update(known[i:i + group])
            rate = n/(time.perf_counter() - start)
        rows.append({"events at once": group, "events/s": rate, "share of the state in memory": rate/floor})
    store("online_log", rows)

    def opened(): DurableState(folder / "group10000", rolling).close()

    replayed = seconds({"replay": opened}, rounds=3)["replay"]
    with DurableState(folder / "group10000", rolling) as durable: durable.snapshot()
    restored = seconds({"snapshot": opened}, rounds=3)["snapshot"]
    with PartitionedState(folder / "four", rolling, 4) as four:
        start = time.perf_counter()
        for i in range(0, len(known), 10_000): four.update(known[i:i + 10_000])
        dealt = time.perf_counter() - start
    store("online_restart", [{"events": len(known), "replay of the log, events/s": len(known)/replayed, "snapshot, events/s": len(known)/restored,
                              "snapshot, share of the time of a replay": restored/replayed, "four partitions in one process, events/s": len(known)/dealt}])


def feast(folder):
    "Our reads and writes against Feast's own, in SQLite."
    rows = []
    for keys in (1, 100, 10_000):
        at = pd.DatetimeIndex([START]*keys).as_unit("us")
        facts = pd.DataFrame({"key": np.arange(keys), "event_timestamp": at, "created_timestamp": at, "value": 1.})
        served = repository(folder / f"feast{keys}", View("v", facts, "key", DAY, "value"))
        materialize(served, START + DAY)
        generation = iter(range(1, 10**6))

        def later(facts=facts, generation=generation):
            step = next(generation)*pd.Timedelta(seconds=1)
            moved = facts.assign(event_timestamp=facts.event_timestamp + step, created_timestamp=facts.created_timestamp + step)
            return moved.assign(event_us=moved.event_timestamp.astype("int64"), created_us=moved.created_timestamp.astype("int64"))

        plain, one_by_one, when = OnlineFeatures(served), facts[["key"]].to_dict("records"), [(START + DAY).to_pydatetime()]*keys
        contenders = {"write, ours": lambda served=served, later=later: write(served, "v", later()),
                      "write, Feast": lambda served=served, later=later: served.write_to_online_store("v", later()),
                      "read, table, ours": lambda served=served, facts=facts: read(served, "v", facts[["key"]], START + DAY),
                      "read, plain values, ours": lambda plain=plain, each=one_by_one, when=when: plain.read(each, ["value"], when),
                      "read, Feast": lambda served=served, facts=facts: served.get_online_features(features=["v:value"], entity_rows={"key": facts.key.tolist()}).to_dict()}
        took = seconds(contenders, rounds=100 if keys < 10_000 else 3)
        rows.append({"keys at once": keys, **{f"{k}, keys/s": keys/t for k, t in took.items()}, "write, ours/Feast seconds": took["write, ours"]/took["write, Feast"],
                     **{f"read, {form}, ours/Feast seconds": took[f"read, {form}, ours"]/took["read, Feast"] for form in ("table", "plain values")}})
    store("online_store", rows, ("pandas", "feast"))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "2")
    (ROOT / ".mlscale").mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=ROOT / ".mlscale"))   # on the disk of the project, not in memory
    try:
        parts = {"join": lambda: join(place), "state": state, "log": lambda: log(place), "feast": lambda: feast(place)}
        for part in sys.argv[1:] or parts: parts[part]()
    finally: shutil.rmtree(place)
