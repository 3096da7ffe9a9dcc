"A month leaves the log in one step, whatever is killed when; and who is forgotten is gone from every place, with a proof."
import hashlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from postgres import server, where

from mlscale import log_archive
from mlscale.data import MATURE
from mlscale.log_archive import Erasure, archived_months, as_of, drop_months, erasures, find_archived, forget, read_log, rotate
from mlscale.outcomes import labelled, logged_predictions, record_actions, record_outcome, record_outcomes, record_training
from mlscale.prediction_log import LogError, Prediction, PredictionLog

T = lambda text: pd.Timestamp(text, tz="UTC")
APRIL = T("2013-04-03")   # then March is mature
AIRCRAFT = ["N100AA", "N101AA", None, "N103AA", "N10"]   # one has no name, one is the beginning of others


def predictions(since="2013-01-05", days=90, every="7h13min"):
    for i, at in enumerate(pd.date_range(T(since), periods=int(timedelta(days=days) / pd.Timedelta(every)), freq=every)):
        entity = AIRCRAFT[i % 5]
        yield Prediction(f"{entity}/{at:%m%d%H}", at + pd.Timedelta(i, "us"), "late", 1 + i // 200, f"digest {i // 200}", "canary" if i % 9 == 0 else "production", i / 1000, [i, None, .1 * i], entity)


def fill(place, **how):
    "A log of a quarter: outcomes of all but every seventh, actions on every third, a training at the end of January and one of March."
    rows = list(predictions(**how))
    with PredictionLog(place) as log:
        for i in range(2): log.describe(f"digest {i}", ["a", "b", "c"])
        log.append(rows)
    at = [r.at for r in rows]
    known = pd.DataFrame({"request_id": [r.request_id for r in rows], "label": np.arange(len(rows)) % 2., "known_at": [t + pd.Timedelta(hours=5) for t in at]})
    record_outcomes(known[np.arange(len(rows)) % 7 > 0], log=place)
    done = pd.DataFrame({"request_id": known.request_id, "at": at, "action": np.where(np.arange(len(rows)) % 2, "none", "crew"), "propensity": .25})
    record_actions(done[::3], log=place)
    record_training("late", 1, at=T("2013-02-01"), log=place)
    record_training("late", 2, at=T("2013-02-01"), since=T("2013-01-20"), until=T("2013-01-20 01:00"), log=place)
    record_training("late", 3, at=T("2013-04-01"), since=T("2013-03-01"), log=place)
    return place


@pytest.fixture(scope="module")
def template(tmp_path_factory): return fill(tmp_path_factory.mktemp("template") / "log.db")


@pytest.fixture(params=["sqlite", "postgres"])
def log(request, tmp_path, template):
    "A filled log and the folder of its months."
    if request.param == "sqlite": return shutil.copy(template, tmp_path / "log.db"), tmp_path / "months"
    return fill(where("postgres", tmp_path)), tmp_path / "months"


@pytest.fixture
def path(tmp_path, template): return shutil.copy(template, tmp_path / "log.db")


def same(a, b): return pd.testing.assert_frame_equal(a, b)


def counts(place):
    with PredictionLog(place) as log, log.transaction(write=False) as db: return [db.execute(f"SELECT count(*) FROM {t}")[0][0] for t in ("predictions", "actions", "outcomes")]


def files(folder): return {f for f in Path(folder).rglob("*.parquet")}


def clean(place, folder):
    "Whether the folder holds what the log lists, and nothing else."
    return files(folder) == {m.path for m in archived_months(place)} and not [b for b in Path(folder).rglob(".*")]


# ---- months

def test_a_month_is_moved_whole_when_all_of_it_is_mature_and_readers_see_no_difference(log):
    place, folder = log
    whole = read_log(place, features=True)
    assert rotate(place, T("2013-02-01") + MATURE - pd.Timedelta("1us"), folder=folder) == [] and not folder.exists()
    [january] = rotate(place, T("2013-02-01") + MATURE, folder=folder)
    assert january.month == "2013-01" and january.path.parent == folder / "month=2013-01" and january.rows == (whole["at"] < T("2013-02-01")).sum() == len(pq.read_table(january.path))
    same(read_log(place, features=True), whole)
    assert [m.month for m in rotate(place, APRIL, folder=folder)] == ["2013-02", "2013-03"] and rotate(place, APRIL, folder=folder) == []
    same(read_log(place, features=True), whole)
    left = whole[whole["at"] >= T("2013-04-01")]
    assert counts(place) == [len(left), left.action.notna().sum(), left.label.notna().sum()] and [m.month for m in archived_months(place)] == ["2013-01", "2013-02", "2013-03"]
    assert clean(place, folder)


def test_the_views_of_the_log_are_the_same_after_rotation(log):
    place, folder = log
    views = [lambda: labelled(place, T("2013-03-10")), lambda: labelled(place, APRIL, since=T("2013-01-31 20:00"), until=T("2013-03-01 00:00:00.000001")), lambda: read_log(place, entity="N10"),
             lambda: logged_predictions(place, since=T("2013-02-27"), until=T("2013-04-03")), lambda: read_log(place, since=T("2014-01-01")), lambda: labelled(place, T("2012-01-01"))]
    before = [view() for view in views]
    assert all(len(b) for b in before[:4])
    rotate(place, APRIL, folder=folder)
    for view, b in zip(views, before, strict=True): same(view(), b)
    assert logged_predictions(place).columns.tolist()[-3:] == ["a", "b", "c"] and logged_predictions(place).b.isna().all()


def test_the_files_are_read_by_polars_and_duckdb(path):
    whole = read_log(path, features=True)
    rotate(path, APRIL)
    paths = [str(m.path) for m in archived_months(path)]
    [(n, late, first, b)] = duckdb.sql(f"SELECT count(*), sum(label), min(\"at\"), count(features[2]) FROM read_parquet({paths})").fetchall()
    old = whole[whole["at"] < T("2013-04-01")]
    assert (n, late, pd.Timestamp(first), b) == (len(old), old.label.sum(), old["at"].min(), 0)
    seen = pl.read_parquet(paths)
    assert seen["request_id"].to_list() == old.request_id.tolist() and np.allclose(seen["features"].list.get(2), [f[2] for f in old.features])
    assert seen["features"].list.get(1).null_count() == len(old)
    assert pq.read_schema(paths[0]).metadata[b"mlscale"] == b'{"digest 0": ["a", "b", "c"], "digest 1": ["a", "b", "c"]}'


def test_the_files_are_read_by_spark(path, spark):
    whole = read_log(path)
    rotate(path, APRIL)
    row = spark.read.parquet(*[str(m.path) for m in archived_months(path)]).selectExpr("count(*) n", "sum(label) late", "sum(features[2]) c").first()
    old = whole[whole["at"] < T("2013-04-01")]
    assert (row.n, row.late) == (len(old), old.label.sum()) and row.c == pytest.approx(.1 * sum(range(len(old))))


DAMAGE = {"a row is missing": lambda t: t[:-1], "another number": lambda t: t.set_column(7, "prediction", [[*t["prediction"].to_pylist()[:-1], .123]]),
          "another order": lambda t: t.set_column(13, t.schema.field(13), t["known_at"].take(list(range(len(t)))[::-1]))}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_does_not_hold_what_the_log_holds_is_never_counted(log, damage, monkeypatch):
    place, folder = log
    whole, write = read_log(place, features=True), pq.ParquetWriter.write_table
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda self, t, **how: write(self, damage(t) if t["at"][0].as_py().day == 20 else t, **how))
    with pytest.raises(OSError, match="does not hold what was written; nothing was removed"): rotate(place, APRIL, folder=folder)
    monkeypatch.undo()
    assert counts(place)[0] == len(whole) and archived_months(place) == [] and not files(folder)
    same(read_log(place, features=True), whole)
    assert len(rotate(place, APRIL, folder=folder)) == 3 and clean(place, folder)


def test_what_is_known_later_is_recorded_and_joined_and_a_contradiction_is_refused(log):
    place, folder = log
    rotate(place, APRIL, folder=folder)
    whole = read_log(place)
    without = whole[whole.label.isna() & whole.action.isna()].request_id.iloc[0]
    with_ = whole[whole.label.notna() & whole.action.notna()].iloc[0]
    assert record_outcome(without, 1, T("2013-04-05"), log=place) is True and record_outcome(without, 1, T("2013-04-06"), log=place) is False
    assert record_actions(pd.DataFrame({"request_id": [without], "at": [T("2013-02-01")], "action": ["crew"], "propensity": [.5]}), log=place) == 1
    row = read_log(place).set_index("request_id").loc[without]
    assert (row.label, row.known_at, row.action, row.action_at, row.propensity) == (1, T("2013-04-05"), "crew", T("2013-02-01"), .5)
    assert without not in labelled(place, T("2013-04-04")).request_id.tolist() and without in labelled(place, T("2013-04-05")).request_id.tolist()
    assert record_outcome(with_.request_id, with_.label, T("2014-01-01"), log=place) is False
    with pytest.raises(ValueError, match="is known as"): record_outcome(with_.request_id, 1 - with_.label, T("2014-01-01"), log=place)
    same_action = {"request_id": [with_.request_id], "at": [T("2014-01-01")], "action": [with_.action], "propensity": [.25]}
    assert record_actions(pd.DataFrame(same_action), log=place) == 0
    with pytest.raises(ValueError, match="is known as"): record_actions(pd.DataFrame(same_action | {"propensity": [.3]}), log=place)
    assert find_archived(place, [with_.request_id, "never asked", whole.request_id.iloc[-1]]).request_id.tolist() == [with_.request_id]


def test_a_repeated_id_is_recognised_as_long_as_its_month_is_in_the_database_and_counts_once_after(log):
    place, folder = log
    first = next(predictions())
    again = first._replace(prediction=.9, version=7)
    with PredictionLog(place) as book: assert book.append([again])[0].version == first.version
    rotate(place, APRIL, folder=folder)
    before = read_log(place)
    with PredictionLog(place) as book: assert book.append([again._replace(at=T("2013-04-20"))])[0].version == 7
    same(read_log(place), before)


def test_an_archived_request_keeps_its_later_outcome_when_its_id_is_asked_again(log):
    place, folder = log
    rotate(place, APRIL, folder=folder)
    whole = read_log(place)
    id = whole[whole.label.isna() & (whole["at"] < T("2013-02-01"))].request_id.iloc[0]
    record_outcome(id, 1, T("2013-04-05"), log=place)
    with PredictionLog(place) as book: book.append([Prediction(id, T("2013-04-20"), "late", 7, None, None, .9, [], None)])
    assert id in labelled(place, T("2013-05-01")).request_id.tolist()   # the first one
    assert id in read_log(place, since=T("2013-04-10")).request_id.tolist()


def test_a_row_of_an_archived_month_gets_a_second_file(log):
    place, folder = log
    rotate(place, APRIL, folder=folder)
    late = Prediction("late", T("2013-01-15"), "late", 1, None, "production", .5, [], None)
    with PredictionLog(place) as book: book.append([late])
    whole = read_log(place, features=True)
    [second] = rotate(place, APRIL, folder=folder)
    same(read_log(place, features=True), whole)
    assert (second.month, second.rows) == ("2013-01", 1) and [m.month for m in archived_months(place)] == ["2013-01", "2013-01", "2013-02", "2013-03"] and clean(place, folder)


@pytest.mark.parametrize("what", ["prediction", "outcome", "action"])
def test_what_is_recorded_between_copy_and_removal_is_not_lost(log, what, monkeypatch):
    place, folder = log
    write, again = log_archive._write, []

    def write_and_be_overtaken(path, *rest):
        rows = write(path, *rest)
        if not again and "2013-02" in str(path):
            again.append(1)
            overtake()
        return rows

    def overtake():
        with PredictionLog(place) as book, book.transaction() as db:
            first = "FROM predictions WHERE at > '2013-02-10' AND request_id NOT IN (SELECT request_id FROM {}) ORDER BY at LIMIT 1"
            if what == "prediction": db.execute("INSERT INTO predictions VALUES ('new', '2013-02-10T00:00:00.000000+00:00', 'N', 'late', 1, NULL, NULL, .5, '[]')")
            elif what == "outcome": db.execute(f"INSERT INTO outcomes SELECT request_id, 1, at {first.format('outcomes')}")
            else: db.execute(f"INSERT INTO actions SELECT request_id, at, 'gate', .5 {first.format('actions')}")

    monkeypatch.setattr(log_archive, "_write", write_and_be_overtaken)
    before = read_log(place)
    rotate(place, APRIL, folder=folder)
    after = read_log(place)
    new = len(after) - len(before), after.label.notna().sum() - before.label.notna().sum(), after.action.notna().sum() - before.action.notna().sum()
    assert again and new == {"prediction": (1, 0, 0), "outcome": (0, 1, 0), "action": (0, 0, 1)}[what] and clean(place, folder)


def test_a_month_that_never_rests_is_an_error(path, monkeypatch):
    monkeypatch.setattr(log_archive, "_move", lambda *_: None)
    with pytest.raises(LogError, match="2013-01: somebody keeps writing"): rotate(path, APRIL)


def test_a_reader_sees_each_row_once_while_months_leave_and_an_aircraft_is_forgotten(path):
    whole = read_log(path)
    expected, seen, stop = {len(whole), (whole.entity != "N101AA").sum()}, [], threading.Event()

    def reader():
        while not stop.is_set(): seen.append(len(read_log(path)))
    readers = [threading.Thread(target=reader) for _ in range(2)]
    for r in readers: r.start()
    code = f"from mlscale.log_archive import *; rotate({str(path)!r}, '2013-04-03T00:00:00Z'); print(forget({str(path)!r}, 'N101AA').rows)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    stop.set()
    for r in readers: r.join()
    assert run.returncode == 0, run.stderr
    assert set(seen) <= expected and len(seen) > 3 and len(read_log(path)) == min(expected)


def test_a_changed_or_missing_file_is_named(path):
    [month, *_] = rotate(path, APRIL)
    content = month.path.read_bytes()
    month.path.write_bytes(content[:-1] + b"x")
    for read in (lambda: read_log(path), lambda: forget(path, "N10"), lambda: drop_months(path, APRIL)):
        with pytest.raises(ValueError, match="the file of 2013-01 was changed or damaged"): read()
    assert len(read_log(path, since=T("2013-02-01")))
    month.path.unlink()
    with pytest.raises(FileNotFoundError): read_log(path)
    month.path.write_bytes(content)
    assert len(read_log(path))


def test_a_log_moves_with_its_months_and_nobody_else_reads_them(path, tmp_path):
    whole = read_log(path)
    [month, *_] = rotate(path, APRIL)
    assert month.path.stat().st_mode & 0o777 == 0o600 and month.path.parent.stat().st_mode & 0o777 == 0o700
    (tmp_path / "elsewhere").mkdir()
    for f in (path, tmp_path / "log.months"): shutil.move(f, tmp_path / "elsewhere")
    same(read_log(tmp_path / "elsewhere" / "log.db"), whole)


def test_a_log_in_postgresql_is_told_where(tmp_path):
    place = fill(where("postgres", tmp_path))
    with pytest.raises(ValueError, match="folder: None.*give a folder"): rotate(place, APRIL)
    assert len(rotate(place, APRIL, folder=tmp_path / "months")) == 3


def test_only_months_that_are_over_and_archived_are_dropped(log):
    place, folder = log
    whole = read_log(place)
    missing = whole[whole.label.isna()].request_id.iloc[0]
    assert drop_months(place, APRIL) == [] and len(read_log(place)) == len(whole)
    rotate(place, T("2013-03-20"), folder=folder)
    record_outcome(missing, 1, T("2013-03-21"), log=place)
    record_outcome("of somebody else", 1, T("2013-03-21"), log=place)
    assert [m.month for m in drop_months(place, T("2013-02-28 23:59"))] == ["2013-01"]
    same(read_log(place), whole[whole["at"] >= T("2013-02-01")].reset_index(drop=True))
    with PredictionLog(place) as book, book.transaction(write=False) as db:
        assert db.execute("SELECT request_id FROM outcomes WHERE request_id IN (?, ?)", [missing, "of somebody else"]) == [("of somebody else",)]
    assert clean(place, folder) and [m.month for m in drop_months(place, "2013-03-01T00:00:00Z")] == ["2013-02"] and clean(place, folder)


def test_the_weights_are_those_of_the_moment():
    rows = pd.DataFrame({"at": [T("2013-01-01")] * 5, "known_at": [T("2013-01-01 05:00")] * 4 + [T("2013-01-09")],
                         "action_at": [pd.NaT, T("2013-01-01"), T("2013-01-01"), T("2013-01-02 12:00"), T("2013-01-01")],
                         "action": [None, "none", "crew", "crew", "none"], "propensity": [np.nan, .25, .25, .25, .5], "label": 1.})
    at = lambda t: as_of(rows, T(t)).weight.tolist()
    assert at("2013-01-02 11:59") == [1, 4, 0, 1] and at("2013-01-02 12:00") == [1, 4, 0, 0] and at("2013-01-09") == [1, 4, 0, 0, 2]
    assert not as_of(rows, T("2013-01-02 11:59")).mature.any() and as_of(rows, T("2013-01-02 12:00")).mature.all()


# ---- forgetting

def traces(folder, text):
    "In which files a text is: in the bytes, or in what a Parquet file holds."
    inside = lambda f: pq.read_table(f, partitioning=None).to_pandas().to_csv().encode() if f.suffix == ".parquet" else b""
    return [f.name for f in Path(folder).rglob("*") if f.is_file() and text.encode() in f.read_bytes() + inside(f)]


def rows_of(place, entity, folder):
    whole = read_log(place)
    mine = whole[whole.entity == entity]
    here = mine[mine["at"] >= (T("2013-03-01") if folder else T("2000-01-01"))]
    rows = {"predictions": len(here), "actions": int(here.action.notna().sum()), "outcomes": int(here.label.notna().sum())}
    return whole, rows | ({f"month=2013-0{m}": int((mine["at"].dt.month == m).sum()) for m in (1, 2)} if folder else {})


@pytest.mark.parametrize("entity", ["N101AA", "N10"])
@pytest.mark.parametrize("rotated", [False, True])
def test_who_is_forgotten_is_gone_from_every_place_and_nobody_else_is(log, entity, rotated):
    place, folder = log
    if rotated: rotate(place, T("2013-03-20"), folder=folder)
    whole, rows = rows_of(place, entity, rotated)
    late = whole[(whole.entity == entity) & whole.label.isna()].request_id.iloc[0]
    record_outcome(late, 1, T("2013-03-30"), log=place)   # of an archived prediction, if there are any
    whole = read_log(place, features=True)
    proof = forget(place, entity, reason="asked")
    assert proof.rows == rows | {"outcomes": rows["outcomes"] + 1} and proof.reason == "asked" and proof.at <= proof.finished
    assert proof.entity_sha256 == hashlib.sha256(entity.encode()).hexdigest() and entity not in proof.to_json() and Erasure.from_json(proof.to_json()) == proof
    same(read_log(place, features=True), whole[whole.entity != entity].reset_index(drop=True))
    with PredictionLog(place) as book, book.transaction(write=False) as db:
        left = [db.execute(f"SELECT count(*) FROM {t} WHERE request_id LIKE ?", [f"{entity}/%"])[0][0] for t in ("predictions", "actions", "outcomes")]
    assert left == [0, 0, 0] and erasures(place) == [proof] and (clean(place, folder) if rotated else not folder.exists())
    for text in (f"{entity}/", f'"{entity}"', f",{entity},"): assert not traces(folder.parent, text)
    assert forget(place, entity).rows == {"predictions": 0, "actions": 0, "outcomes": 0} and len(erasures(place)) == 2


def test_no_byte_is_left_also_of_rows_that_left_the_database_before(path, tmp_path):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:   # as SQLite comes, deleted rows stay in the file
        db.execute("PRAGMA secure_delete=OFF")
        ids = [id for (id,) in db.execute("SELECT request_id FROM predictions WHERE entity = 'N103AA'")]
        db.execute("DELETE FROM predictions WHERE entity = 'N103AA' AND at < '2013-02'")
        db.execute("DELETE FROM outcomes WHERE request_id LIKE 'N103AA%' AND request_id NOT IN (SELECT request_id FROM predictions)")
        db.execute("DELETE FROM actions WHERE request_id LIKE 'N103AA%' AND request_id NOT IN (SELECT request_id FROM predictions)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert traces(tmp_path, ids[0]) == ["log.db"]
    with PredictionLog(path) as server:   # a server that has the log open
        forget(path, "N103AA")
        assert not [id for id in [*ids, "N103AA"] if traces(tmp_path, id)] and traces(tmp_path, "N101AA")
        server.append([Prediction("next", T("2013-05-01"), "late", 1, None, None, .5, [])])


def test_the_proof_names_the_versions_that_learned_from_the_rows(log):
    place, folder = log
    rotate(place, T("2013-03-20"), folder=folder)
    trained = {}
    for name, at, bounds in (("1", T("2013-02-01"), {}), ("2", T("2013-02-01"), {"since": T("2013-01-20"), "until": T("2013-01-20 01:00")}), ("3", T("2013-04-01"), {"since": T("2013-03-01")})):
        rows = labelled(place, at, **bounds)
        trained[int(name)] = set(rows[rows.mature & (rows.weight > 0)].entity.dropna())
    assert trained[1] == {"N100AA", "N101AA", "N103AA", "N10"} and trained[2] == {"N100AA"}
    for entity in ("N100AA", "N103AA"): assert forget(place, entity).trained == tuple(("late", v) for v in trained if entity in trained[v])
    more = [("young", T("2013-01-31 20:00"), "NEW"), ("acted", T("2013-01-10"), "ACTED")]
    with PredictionLog(place) as book: book.append(Prediction(id, at, "late", 1, None, None, .5, [], entity) for id, at, entity in more)
    record_outcomes(pd.DataFrame({"request_id": ["young", "acted"], "label": 1., "known_at": T("2013-01-31 23:00")}), log=place)
    record_actions(pd.DataFrame({"request_id": ["acted"], "at": [T("2013-01-10")], "action": ["crew"], "propensity": [.5]}), log=place)
    assert forget(place, "NEW").trained == ()   # immature
    assert forget(place, "ACTED").trained == (("late", 1),)   # a loop that learns from all it sees learned from it


def test_a_reader_of_an_old_state_delays_the_end_and_forgetting_again_finishes(path, monkeypatch):
    monkeypatch.setattr(log_archive.sqlite3, "connect", lambda *a, timeout, **k: CONNECT(*a, timeout=.1, **k))
    with closing(CONNECT(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM predictions").fetchall()
        with pytest.raises(LogError, match="forget is not finished"): forget(path, "N10")
        assert read_log(path, entity="N10").empty and [p.finished for p in erasures(path)] == [None]
    proof = forget(path, "N10")
    assert proof.finished and proof.rows["predictions"] > 0 and erasures(path) == [proof]


CONNECT = sqlite3.connect


@pytest.mark.parametrize(("entity", "reason", "error"), [("", "", ValueError), ("N10", "owner of N10 asked", ValueError), (None, "", TypeError), ("a\0", "", ValueError)])
def test_what_cannot_be_forgotten_is_refused(path, entity, reason, error):
    with pytest.raises(error, match="entity"): forget(path, entity, reason=reason)
    assert erasures(path) == []


# ---- kill -9

WORK = """
import itertools, os, shutil, signal, sys, time
from contextlib import contextmanager
from pathlib import Path
import psycopg, pyarrow.parquet as pq
from mlscale import log_archive
from mlscale.prediction_log import PredictionLog

def die_at(n):
    "From here on this process ends by SIGKILL at its n-th step."
    steps = itertools.count()
    def step():
        if next(steps) == n: os.kill(os.getpid(), signal.SIGKILL)
    def around(owner, name):
        f = getattr(owner, name)
        def stepped(*a, **k):
            step()
            out = f(*a, **k)
            step()
            return out
        setattr(owner, name, stepped)
    for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree"), (pq.ParquetWriter, "write_table"), (log_archive, "_rewrite")): around(owner, name)
    transaction = PredictionLog.transaction
    @contextmanager
    def stepped(self, *, write=True):
        with transaction(self, write=write) as db:
            yield db
            if write: step()
        if write: step()
    PredictionLog.transaction = stepped

def first(place, folder): log_archive.rotate(place, "2013-03-20T00:00:00Z", folder=folder/"months")
def rotate(place, folder): log_archive.rotate(place, "2013-04-03T00:00:00Z", folder=folder/"months")
def forget(place, folder): log_archive.forget(place, "N101AA")
def drop(place, folder): log_archive.drop_months(place, "2013-03-01T00:00:00Z")
def both(place, folder): rotate(place, folder); forget(place, folder)

work, template, out, engine, how = globals()[sys.argv[1]], sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5]
def copy(n):
    (out/str(n)).mkdir()
    if engine == "sqlite": return shutil.copy(template, out/str(n)/"log.db")
    base, _, rest = template.partition("?")
    server, name = base.rsplit("/", 1)
    with psycopg.connect(f"{server}/postgres?{rest}", autocommit=True) as db: db.execute(f"CREATE DATABASE {name}_{sys.argv[1]}_{n} TEMPLATE {name}")
    return f"{base}_{sys.argv[1]}_{n}?{rest}"
def forked(work, *words):
    if pid := os.fork(): return pid
    try:
        work(*words)
        os._exit(0)
    except BaseException: __import__("traceback").print_exc()
    os._exit(1)
def child(n, die):
    place = copy(n)
    if work in (forget, drop): assert code(forked(first, place, out/str(n))) == 0
    return forked(lambda: (die and die_at(n), work(place, out/str(n))))
code = lambda pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if how == "steps":
    for n in range(200):
        status = code(child(n, True))
        print(n, status, flush=True)
        if status != -signal.SIGKILL: break
else:
    start = time.perf_counter()
    assert code(child("whole", False)) == 0
    whole = time.perf_counter() - start
    for n in range(int(how)):
        pid = child(n, False)
        time.sleep(whole*(n + .5)/int(how))
        os.kill(pid, signal.SIGKILL)
        print(n, code(pid), flush=True)
"""


def killed(work, template, out, engine, how="steps"):
    "Processes that were killed, each in a copy of its own: the copies."
    out.mkdir()
    run = subprocess.run([sys.executable, "-c", WORK, work, str(template), str(out), engine, how], capture_output=True, text=True)
    assert run.returncode == 0 and not run.stderr, run.stderr
    status = [int(line.split()[1]) for line in run.stdout.splitlines()]
    assert set(status) <= {-signal.SIGKILL, 0}
    if how == "steps": assert status[-1] == 0 and set(status[:-1]) == {-signal.SIGKILL}
    base, _, rest = str(template).partition("?")
    return [(out / str(n) / "log.db" if engine == "sqlite" else f"{base}_{work}_{n}?{rest}", out / str(n)) for n in range(len(status))]


def start(engine, tmp_path):
    "A log that is copied for each process; with few rows, as each day that has some is a step."
    return fill(tmp_path / "log.db" if engine == "sqlite" else server().database(), every="103h")


KILLED = pytest.mark.parametrize(("engine", "how"), [("sqlite", "steps"), ("sqlite", "5"), ("postgres", "5"), pytest.param("postgres", "steps", marks=pytest.mark.slow)])


@KILLED
def test_a_rotation_that_is_killed_leaves_the_log_as_it_was_for_every_reader_and_the_next_finishes(engine, how, tmp_path):
    place = start(engine, tmp_path)
    whole = read_log(place, features=True)
    copies = killed("rotate", place, tmp_path / "copies", engine, how)
    assert how != "steps" or len(copies) > 40
    for place, folder in copies:
        same(read_log(place, features=True), whole)
        months = archived_months(place)
        assert counts(place)[0] == len(whole) - sum(m.rows for m in months)   # in one place each
        rotate(place, APRIL, folder=folder / "months")
        same(read_log(place, features=True), whole)
        assert [m.month for m in archived_months(place)] == ["2013-01", "2013-02", "2013-03"] and clean(place, folder / "months")
        assert counts(place)[0] == (whole["at"] >= T("2013-04-01")).sum()


@KILLED
def test_a_forgetting_that_is_killed_leaves_all_or_nothing_and_the_next_finishes_with_the_whole_proof(engine, how, tmp_path):
    place = start(engine, tmp_path)
    whole, rows = rows_of(place, "N101AA", True)
    others = whole[whole.entity != "N101AA"].reset_index(drop=True)
    copies = killed("forget", place, tmp_path / "copies", engine, how)
    assert how != "steps" or len(copies) > 40
    outcomes = set()
    for place, folder in copies:
        got = read_log(place)
        outcomes.add(len(got))
        same(got, whole if len(got) == len(whole) else others)
        begun = erasures(place)
        assert len(begun) == (len(got) < len(whole))
        proof = begun[0] if begun and begun[0].finished else forget(place, "N101AA")
        assert proof.rows == rows and proof.finished and proof.trained and erasures(place) == [proof]
        same(read_log(place), others)
        assert clean(place, folder / "months") and not traces(folder, "N101AA")
    assert outcomes == {len(whole), len(others)} or how != "steps"


def test_a_drop_that_is_killed_leaves_all_or_nothing(tmp_path):
    place = start("sqlite", tmp_path)
    whole = read_log(place)
    left = whole[whole["at"] >= T("2013-03-01")].reset_index(drop=True)
    for copy, folder in killed("drop", place, tmp_path / "copies", "sqlite"):
        got = read_log(copy)
        same(got, whole if len(got) == len(whole) else left)
        drop_months(copy, T("2013-03-01"))
        same(read_log(copy), left)
        assert clean(copy, folder / "months")


def test_who_was_forgotten_does_not_come_back_from_a_rotation_that_was_killed(tmp_path):
    place = start("sqlite", tmp_path)
    others = read_log(place).query("entity != 'N101AA'").reset_index(drop=True)
    copies = killed("both", place, tmp_path / "copies", "sqlite", "6") + killed("rotate", place, tmp_path / "more", "sqlite")[::7]
    for copy, folder in copies:
        forget(copy, "N101AA")
        same(read_log(copy), others)
        assert not traces(folder, "N101AA")
        rotate(copy, APRIL, folder=folder / "months")
        same(read_log(copy), others)
        assert not traces(folder, "N101AA") and clean(copy, folder / "months")


def test_two_processes_rotate_and_forget_at_once(path):
    whole = read_log(path)
    code = f"from mlscale.log_archive import *; p = {str(path)!r}; rotate(p, '2013-04-03T00:00:00Z'); forget(p, 'N10')"
    children = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        _, err = child.communicate()
        assert child.returncode == 0, err
    same(read_log(path), whole[whole.entity != "N10"].reset_index(drop=True))
    assert clean(path, path.parent) and sum(p.rows["predictions"] + sum(v for k, v in p.rows.items() if k[0] == "m") for p in erasures(path)) == (whole.entity == "N10").sum()


def test_features_that_are_text_survive_rotation_and_erasure_and_older_months_stay_readable(tmp_path, monkeypatch):
    place = tmp_path / "log.db"
    at = lambda month: f"2013-0{month}-03T12:00:00Z"
    with PredictionLog(place) as log:
        log.describe("typed", ["carrier", "hour"])
        log.describe("plain", ["hour"])
        log.append([Prediction(f"{month}-{i}", at(month), "late", 1, "typed", "production", .3, [carrier, hour], f"N{i}")
                    for month in (5, 6) for i, (carrier, hour) in enumerate([("UA", 7.), (None, 8.), ("B6", None)])])
        log.append([Prediction("plain", at(5), "late", 2, "plain", "production", .3, [7.], "N9")])
    before = logged_predictions(place)
    assert before.carrier.isna().tolist()[:3] == [False, True, False]
    assert before.hour.dtype == float and before.hour.isna().sum() == 2
    rotate(place, "2013-06-08T00:00:00Z")
    rotate(place, "2013-07-08T00:00:00Z")
    pd.testing.assert_frame_equal(logged_predictions(place), before)
    forget(place, "N0")
    pd.testing.assert_frame_equal(logged_predictions(place), before[before.entity != "N0"].reset_index(drop=True))

    older = tmp_path / "older.db"
    with PredictionLog(older) as log: log.append([Prediction(f"r{i}", at(5), "late", 1, "plain", "production", .3, [7.], f"N{i}") for i in range(2)])
    with monkeypatch.context() as m:
        m.delitem(log_archive._COLUMNS, "texts")   # as months were written before features could be text
        (month,) = rotate(older, "2013-06-08T00:00:00Z")
    assert "texts" not in pq.read_schema(month.path).names
    assert [x.tolist() for x in read_log(older, features=True).features] == [[7.], [7.]]
    forget(older, "N1")
    assert [x.tolist() for x in read_log(older, features=True).features] == [[7.]]
