"""Features: the point-in-time join, the rolling features and the online states, beside their peers and floors.

    python benchmarks/features.py [--all] [join memory facts rolling online]
"""
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from harness import ask, peer, seconds, store

from mlscale.data import HORIZON, load_flights, load_planes, load_weather
from mlscale.features import FEATURES, flight_features
from mlscale.point_in_time import View, point_in_time_join
from mlscale.rolling import Rolling

HOUR = pd.Timedelta(hours=1)
PACKAGES = ("numpy", "pandas", "polars", "duckdb", "feast")


def year():
    "All flights as questions and three views, each fact known first and corrected five hours later."
    flights = load_flights()
    departures = flights[["tailnum", "origin", "dest", "dep_delay"]].assign(event_timestamp=flights.actual_dep).dropna(subset=["event_timestamp", "tailnum"])
    corrected = departures.assign(dep_delay=departures.dep_delay + 1, created_timestamp=(departures.event_timestamp + 5 * HOUR).dt.as_unit("us"))
    both = pd.concat([departures.assign(created_timestamp=departures.event_timestamp), corrected], ignore_index=True)
    views = [View("weather", load_weather()[["origin", "event_timestamp", "created_timestamp", "temp"]], "origin", 6 * HOUR, "temp"),
             View("aircraft", both.drop_duplicates(["tailnum", "event_timestamp", "created_timestamp"]), "tailnum", 48 * HOUR, "dep_delay"),
             View("route", both.drop_duplicates(["origin", "dest", "event_timestamp", "created_timestamp"]), ["origin", "dest"], 24 * HOUR, "dep_delay")]
    return flights[["flight_id", "tailnum", "origin", "dest"]].assign(event_timestamp=(flights.sched_dep - HORIZON).dt.as_unit("us")), views


def plain_polars(entities, views):
    "The as-of join alone, by event time: no second clock, no time to live, no checks; DataFrame in, DataFrame out."
    out = pl.from_pandas(entities).with_row_index("row").sort("event_timestamp")
    for v in views:
        facts = pl.from_pandas(v.source[[*v.by, "event_timestamp", *v.features]]).rename({c: f"{v.name}__{c}" for c in v.features}).sort("event_timestamp")
        out = out.join_asof(facts, on="event_timestamp", by=list(v.by), check_sortedness=False)
    return out.sort("row").drop("row").to_pandas()


def feast_duckdb(entities, views, folder):
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64
    (folder / "feature_store.yaml").write_text("project: year\nprovider: local\nregistry: registry.db\noffline_store: {type: duckdb}\n"
                                               "online_store: {type: sqlite, path: online.db}\nentity_key_serialization_version: 3\n")
    feast_store = FeatureStore(repo_path=str(folder))
    keys = {c: Entity(name=c, join_keys=[c], value_type=ValueType.STRING) for c in ("origin", "tailnum", "dest")}
    for v in views:
        v.source.to_parquet(folder / f"{v.name}.parquet", coerce_timestamps="us", index=False)
        source = FileSource(name=v.name, path=str(folder / f"{v.name}.parquet"), timestamp_field="event_timestamp", created_timestamp_column="created_timestamp")
        schema = [Field(name=c, dtype=Float64) for c in v.features]
        feast_store.apply([*keys.values(), FeatureView(name=v.name, entities=[keys[c] for c in v.by], ttl=v.ttl.to_pytimedelta(), schema=schema, source=source)])
    names = [f"{v.name}:{c}" for v in views for c in v.features]
    return lambda: feast_store.get_historical_features(entity_df=entities, features=names, full_feature_names=True, filter_by_created_timestamp=True).to_df()


def join():
    "336,776 flights, three views, both clocks."
    entities, views = year()
    entities = entities.dropna(subset="tailnum")
    with tempfile.TemporaryDirectory() as folder:
        theirs = feast_duckdb(entities, views, Path(folder))
        times = seconds({"Polars, plain as-of join (floor)": lambda: plain_polars(entities, views), "mlscale, polars": lambda: point_in_time_join(entities, views),
                         "mlscale, duckdb": lambda: point_in_time_join(entities, views, engine="duckdb")})
        times |= seconds({"Feast, duckdb store": theirs}, rounds=2)
    floor, feast = times["Polars, plain as-of join (floor)"], times["Feast, duckdb store"]
    store("features_join", [{"join of the year, 3 views": name, "seconds": s, "times the floor": s / floor, "times faster than Feast": feast / s} for name, s in times.items()], PACKAGES)


GROW = """
import json, re, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq
from mlscale.point_in_time import View, point_in_time_join
folder, engine = Path(sys.argv[1]), sys.argv[2]
views = [View(f"v{i}", folder / f"facts{i}.parquet", "key", pd.Timedelta(days=30), "value") for i in range(3)]
start = time.perf_counter()
point_in_time_join(folder / "entities.parquet", views, engine=engine, to=folder / "out.parquet")
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024   # of this process alone; a child's ru_maxrss begins at that of its parent
print(json.dumps({"seconds": seconds, "peak_mb": peak, "rows": pq.read_metadata(folder / "out.parquet").num_rows}))
"""


def memory(rows=(10_000, 100_000, 1_000_000, 10_000_000), keys=(100, 10_000)):
    "Parquet in and Parquet out in a fresh process: seconds and peak memory against rows and keys; 300,000 facts a view, two clocks."
    import pyarrow as pa
    import pyarrow.parquet as pq
    rng, out = np.random.default_rng(0), []
    stamp = lambda x: pa.array(x, pa.timestamp("us", tz="UTC"))
    for k in keys:
        for n in rows:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                for i in range(3):
                    event = np.unique(rng.integers(0, 365 * 24 * 3600, 300_000)) * 10**6
                    facts = {"key": rng.integers(0, k, len(event)), "event_timestamp": stamp(event), "created_timestamp": stamp(event + rng.integers(0, 5 * 3600, len(event)) * 10**6)}
                    pq.write_table(pa.table({**facts, "value": rng.random(len(event))}), folder / f"facts{i}.parquet")
                with pq.ParquetWriter(folder / "entities.parquet", pa.schema({"key": pa.int64(), "event_timestamp": pa.timestamp("us", tz="UTC"), "id": pa.int64()})) as f:
                    for first in range(0, n, 1_000_000):
                        m = min(1_000_000, n - first)
                        f.write_table(pa.table({"key": rng.integers(0, k, m), "event_timestamp": stamp(rng.integers(0, 365 * 24 * 3600, m) * 10**6), "id": np.arange(first, first + m)}))
                done = json.loads(subprocess.run([sys.executable, "-c", GROW, name, "polars"], capture_output=True, text=True, check=True).stdout)
            assert done["rows"] == n
            out.append({"entities": n, "keys": k, "seconds": done["seconds"], "million rows a second": n / done["seconds"] / 1e6, "peak MB": done["peak_mb"]})
    store("features_growth", out, PACKAGES)


OUTGROW = """
import json, re, sys, time
from pathlib import Path
import duckdb, pandas as pd, polars, pyarrow.dataset, pyarrow.parquet as pq
from mlscale.point_in_time import View, point_in_time_join
folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
resident = lambda what: int(re.search(rf"{what}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000
view, before, start = View("v", folder / "facts.parquet", "key", pd.Timedelta(days=30), "value"), resident("VmRSS"), time.perf_counter()
to = point_in_time_join(folder / "asked.parquet", view, to=folder / "out.parquet", **options)
seconds, said = time.perf_counter() - start, json.loads(pq.read_schema(to).metadata[b"PANDAS_ATTRS"])["join"]
print(json.dumps({"seconds": seconds, "MB added at the peak": resident("VmHWM") - before, "engine": said["engine"], "reason": said["reason"]}))
"""


def facts(sizes=(1_000_000, 3_000_000, 10_000_000), allowed=10**9):
    "A million questions to ever more facts of 10,000 keys, from Parquet to Parquet: in memory by order, and by a join that may take a gigabyte."
    import pyarrow as pa
    import pyarrow.parquet as pq
    rng, out = np.random.default_rng(0), []
    stamp, year, m = lambda x: pa.array(x, pa.timestamp("us", tz="UTC")), 365 * 24 * 3600 * 10**6, 1_000_000
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder, event = Path(name), rng.integers(0, year, n)
            known = {"key": rng.integers(0, 10_000, n), "event_timestamp": stamp(event), "created_timestamp": stamp(event + rng.integers(0, 5 * 3600 * 10**6, n)), "value": rng.random(n)}
            pq.write_table(pa.table(known), folder / "facts.parquet")
            pq.write_table(pa.table({"key": rng.integers(0, 10_000, m), "event_timestamp": stamp(rng.integers(0, year, m)), "id": np.arange(m)}), folder / "asked.parquet")
            answers = []
            for join, options in (("engine='polars'", {"engine": "polars"}), (f"memory={allowed:,}", {"memory": allowed})):
                done = json.loads(subprocess.run([sys.executable, "-c", OUTGROW, name, json.dumps(options)], capture_output=True, text=True, check=True).stdout)
                answers.append(pq.read_table(folder / "out.parquet"))
                out.append({"facts": n, "join": join, **done})
            assert answers[0].equals(answers[1])
    store("features_facts", out, PACKAGES)


def rolling():
    "All 45 features of all flights, against one sort and one cumulative sum for each of them."
    flights, weather, planes = load_flights(), load_weather(), load_planes()
    landed = flights.dropna(subset="late")
    key, created, late = pd.factorize(landed.carrier + landed.origin)[0], landed.label_time.astype("int64").to_numpy(), landed.late.to_numpy(int)
    code = key * (created.max() - created.min() + 1) + created - created.min()
    times = seconds({"floor: lexsort by key and time, cumsum": lambda: [np.cumsum(late[np.lexsort((created, key))]) for _ in FEATURES],
                     "floor: argsort of key and time in one number, cumsum": lambda: [np.cumsum(late[np.argsort(code)]) for _ in FEATURES],
                     "floor: sort of that number alone, cumsum": lambda: [np.cumsum(np.sort(code)) for _ in FEATURES],
                     "mlscale, all features": lambda: flight_features(flights, weather, planes)})
    ours = times["mlscale, all features"]
    store("features_rolling", [{"45 features of 336,776 flights": name, "seconds": s, "all features / this": ours / s} for name, s in times.items()], PACKAGES)


RIVER = """
import datetime as dt, time
from river import stats, utils
events = [(k, dt.datetime.fromtimestamp(c, dt.timezone.utc).replace(tzinfo=None), x) for k, c, x in data["events"]]
def updates():
    states = {}
    for k, c, x in events:
        if k not in states: states[k] = utils.TimeRolling(stats.Mean(), period=dt.timedelta(days=7))
        states[k].update(x, t=c)
    return states
answer = {"update": [], "read": []}
for _ in range(3):
    start = time.perf_counter(); states = updates(); answer["update"].append(time.perf_counter() - start)
    start = time.perf_counter(); [states[k].get() for k, c, x in events]; answer["read"].append(time.perf_counter() - start)
"""


def online():
    "A mean over seven days by carrier and origin, event by event: updates and reads a second."
    flights = load_flights()
    landed = flights.dropna(subset="late").sort_values("label_time", kind="stable")[:200_000]
    events = list(zip(zip(landed.carrier, landed.origin, strict=True), landed.label_time, landed.arr_delay, strict=True))
    rows = [{"carrier": k[0], "origin": k[1], "created_timestamp": c, "delay": x} for k, c, x in events]
    definition, last = Rolling("mean", value="delay", by=["carrier", "origin"], window=pd.Timedelta(days=7), agg="mean"), events[-1][1]

    def counters():
        counts, sums = defaultdict(int), defaultdict(float)
        for k, _, x in events:
            counts[k] += 1
            sums[k] += x
        return counts, sums

    def ours():
        state = definition.online()
        for row in rows: state.update(row)
        return state

    (counts, sums), state = counters(), ours()
    update = seconds({"dict of counters (floor)": counters, "mlscale, RollingState": ours}, rounds=3)
    read = seconds({"dict of counters (floor)": lambda: [sums[k] / counts[k] for k, _, _ in events], "mlscale, RollingState": lambda: [state.get(k, last) for k, _, _ in events]}, rounds=3)
    theirs = ask(peer("river", ["river==0.22.0", "numpy<2.3", "pandas<3"]), RIVER, events=[[list(k)[0] + list(k)[1], c.timestamp(), x] for k, c, x in events])
    update["river 0.22.0, TimeRolling"], read["river 0.22.0, TimeRolling"] = sorted(theirs["update"])[1], sorted(theirs["read"])[1]
    n, floor, river = len(events), "dict of counters (floor)", "river 0.22.0, TimeRolling"
    store("features_online", [{"online": name, "updates a second": round(n / update[name]), "reads a second": round(n / read[name]), "update, times the floor": update[name] / update[floor],
                               "updates, times faster than river": update[river] / update[name], "reads, times faster than river": read[river] / read[name]} for name in update], PACKAGES)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    chosen = [w for w in sys.argv[1:] if not w.startswith("-")] or ["join", "memory", "facts", "rolling", "online"]
    start = time.monotonic()
    for part in chosen: {"join": join, "memory": memory, "facts": facts, "rolling": rolling, "online": online}[part]()
    print(f"\n{time.monotonic() - start:.0f} s on {os.cpu_count()} cores")
