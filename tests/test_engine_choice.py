"Which engine a join takes by itself: one that fits the memory, said with its reason, with the answer of the others."
import json
import logging
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlscale.join_engines import duckdb_session
from mlscale.point_in_time import View, available_memory, choose_engine, point_in_time_join
from mlscale.tables import in_pieces, open_table

DAY = 24 * 3600 * 10**6
KEYS = {"few": lambda rng, n: rng.integers(0, 1000, n), "many": lambda rng, n: pa.array(rng.integers(0, 2 * n, n)).cast(pa.string())}


def stamp(x): return pa.array(x, pa.timestamp("us", tz="UTC"))

def files(folder, facts, questions, keys="few", group=100_000):
    "Facts of a year with two clocks, and questions; the view of the facts."
    rng = np.random.default_rng(0)
    event = rng.integers(0, 365 * DAY, facts)
    known = {"key": KEYS[keys](rng, facts), "event_timestamp": stamp(event), "created_timestamp": stamp(event + rng.integers(0, DAY, facts)), "value": rng.random(facts)}
    pq.write_table(pa.table(known), folder / "facts.parquet", row_group_size=group)
    asked = {"key": KEYS[keys](rng, questions), "event_timestamp": stamp(rng.integers(0, 365 * DAY, questions)), "id": np.arange(questions)}
    pq.write_table(pa.table(asked), folder / "asked.parquet", row_group_size=group)
    return View("v", folder / "facts.parquet", "key", pd.Timedelta(days=30), "value")

@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return folder, files(folder, 400_000, 20_000)


# What is taken, and why

def test_the_engine_is_chosen_by_what_fits_and_the_answer_says_so(small, caplog, tmp_path):
    folder, view = small
    caplog.set_level(logging.INFO, "mlscale.point_in_time")
    expected = point_in_time_join(folder / "asked.parquet", view, engine="polars")
    assert expected.attrs["join"] == {"engine": "polars", "reason": "it was asked for", "memory": None}
    for memory, engine, words in ((5 * 10**7, "duckdb", "50 MB are allowed"), (10**9, "polars", "1,000 MB are allowed"), (None, "polars", "half of what is free")):
        out = point_in_time_join(folder / "asked.parquet", view, memory=memory)
        pd.testing.assert_frame_equal(out, expected)
        said = out.attrs["join"]
        assert said["engine"] == engine and words in said["reason"] and said["reason"].startswith("in memory the facts need about ")
        assert f"the engine {engine}: {said['reason']}" in caplog.messages[-1]
        to = point_in_time_join(folder / "asked.parquet", view, memory=memory, to=tmp_path / "out.parquet")
        again = pd.read_parquet(to)
        pd.testing.assert_frame_equal(again, expected)
        assert again.attrs["join"]["engine"] == engine

def test_tables_in_memory_say_it_too_also_in_the_file(small, tmp_path):
    folder, view = small
    entities = pd.read_parquet(folder / "asked.parquet")
    held = View("v", pd.read_parquet(folder / "facts.parquet"), "key", view.ttl, "value")
    outs = [point_in_time_join(entities, held, memory=memory) for memory in (5 * 10**7, 10**9)]
    pd.testing.assert_frame_equal(*outs)
    assert [out.attrs["join"]["engine"] for out in outs] == ["duckdb", "polars"]
    to = point_in_time_join(entities, held, memory=5 * 10**7, to=tmp_path / "out.parquet")
    assert pd.read_parquet(to).attrs["join"]["engine"] == "duckdb" and "join" not in entities.attrs

def test_a_session_that_is_given_is_taken(small, spark):
    folder, view = small
    entities = pd.read_parquet(folder / "asked.parquet").head(50)
    expected = point_in_time_join(entities, view)
    with duckdb.connect() as session:
        out = point_in_time_join(entities, view, session=session)
        assert out.attrs["join"]["reason"] == "a session of DuckDB was given" and session.sql("SELECT 1").fetchall() == [(1,)]
    pd.testing.assert_frame_equal(out, expected)
    out = point_in_time_join(entities, view, session=spark)
    assert out.attrs["join"]["engine"] == "spark" and "Spark" in out.attrs["join"]["reason"]
    pd.testing.assert_frame_equal(out, expected)

@pytest.mark.parametrize("options", [{"engine": "polars", "memory": 10**9}, {"engine": "pandas", "memory": 10**9}, {"memory": 0}, {"memory": "1GB"}, {"memory": True},
                                     {"memory": 10**9, "session": object()}])
def test_a_bound_that_nobody_would_keep_is_refused(small, options):
    with pytest.raises((TypeError, ValueError), match="memory"): point_in_time_join(small[0] / "asked.parquet", small[1], **options)

def test_too_little_even_for_the_disk_is_an_error_that_says_so_and_leaves_what_stood_there(small, tmp_path):
    (tmp_path / "out.parquet").write_bytes(b"as it was")
    with pytest.raises(ValueError, match="memory=2000000: too little for DuckDB.*give more") as e:
        point_in_time_join(small[0] / "asked.parquet", small[1], memory=2 * 10**6, to=tmp_path / "out.parquet")
    assert len(str(e.value)) < 300 and [p.read_bytes() for p in tmp_path.iterdir()] == [b"as it was"]

def test_one_limit_holds_for_all_views():
    with duckdb_session(2 * 10**8) as con:
        assert con.cursor().sql("SELECT current_setting('memory_limit')").fetchall() == con.sql("SELECT current_setting('memory_limit')").fetchall() == [("95.3 MiB",)]


# What is free, and what is needed

def test_what_is_free_is_the_least_that_machine_and_container_leave(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  9000000 kB\nMemFree:  100 kB\nMemAvailable:   4000000 kB\n")
    assert available_memory(tmp_path) == 4000000 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory.stat").write_text("file 900\ninactive_anon 3\nanon 700000000\n")
    for limit, free in (("max\n", 4000000 * 1024), ("1000000000\n", 300_000_000), ("600000000\n", 0), (f"{10**12}\n", 4000000 * 1024)):
        (group / "memory.max").write_text(limit)
        assert available_memory(tmp_path) == free
    (tmp_path / "proc/meminfo").unlink()
    (group / "memory.max").write_text("1000000000\n")
    assert available_memory(tmp_path) == 300_000_000   # all of a machine without such a file is more

def test_several_views_are_needed_together_and_a_table_as_much_as_its_file(small):
    _, view = small
    about = lambda *views: float(choose_engine(views, [v.open() for v in views], memory=1).reason.split()[6])
    held = View("v", pd.read_parquet(view.source), "key", None, "value")
    assert about(view, view) == pytest.approx(2 * about(view), rel=.1) and about(held) == pytest.approx(about(view), rel=.1)

def test_reading_a_file_in_pieces_takes_no_more_the_longer_it_is(tmp_path):
    files(tmp_path, 2_500_000, 1)
    source, most, before = open_table(tmp_path / "facts.parquet", ["key"], ["value"], "facts"), [], pa.total_allocated_bytes()
    for piece in in_pieces(source): most.append(pa.total_allocated_bytes() - before - piece.nbytes)
    assert max(most[-3:]) < 0.5 * (tmp_path / "facts.parquet").stat().st_size


# In a process of its own: the memory that a join adds

CHILD = """
import json, re, sys
from pathlib import Path
import duckdb, pandas as pd, polars, pyarrow.dataset
from mlscale.point_in_time import View, choose_engine, point_in_time_join
resident = lambda what: 1024*int(re.search(rf"{what}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
view = View("v", folder/"facts.parquet", "key", pd.Timedelta(days=30), "value")
before = resident("VmRSS")
to = point_in_time_join(folder/"asked.parquet", view, to=folder/"out.parquet", **options)
print(json.dumps({"grown": resident("VmHWM") - before, **json.loads(pyarrow.parquet.read_schema(to).metadata[b"PANDAS_ATTRS"])["join"]}))
"""

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")

def joined(folder, **options):
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder), json.dumps(options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), pq.read_table(folder / "out.parquet")

@linux
@pytest.mark.parametrize("facts, questions, memory, group", [(2_500_000, 100_000, 300 * 10**6, 100_000), pytest.param(10**7, 10**7, 10**9, 10**6, marks=pytest.mark.slow)])
def test_facts_larger_than_the_memory_that_is_allowed_are_joined_in_it(tmp_path, facts, questions, memory, group):
    files(tmp_path, facts, questions, group=group)
    bounded, out = joined(tmp_path, memory=memory)
    assert bounded["engine"] == "duckdb" and f"{memory / 1e6:,.0f} MB are allowed" in bounded["reason"]
    in_memory, expected = joined(tmp_path, engine="polars")
    assert bounded["grown"] <= memory < in_memory["grown"] and out.equals(expected) and len(out) == questions

@linux
@pytest.mark.parametrize("keys", KEYS)
def test_what_is_said_to_be_needed_is_what_is_taken(tmp_path, keys):
    view = files(tmp_path, 600_000, 1000, keys)
    need = 1e6 * float(choose_engine([view], [view.open()], memory=1).reason.split()[6].replace(",", ""))
    grown = joined(tmp_path, engine="polars")[0]["grown"]
    assert .4 * grown < need < 3 * grown
