"What was acknowledged is there, once, whatever was killed when; a contradiction hurts nobody else; on both engines."
import asyncio
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres import Server, programs, server, where

from mlscale import log_writer, storage
from mlscale.log_writer import Checked, LogWriter
from mlscale.prediction_log import FORMAT, BusyError, ConflictError, LogError, Prediction, PredictionLog, iso_utc

FORMAT_1 = Path(__file__).parent / "data" / "log_format_1.db"
AT = "2013-07-01T00:00:00.000000+00:00"
BOTH = pytest.mark.parametrize("engine", ["sqlite", "postgres"])


def row(id, features=(1.,), version=1, prediction=.5, entity=None, sha256="d1", alias="production", at=AT):
    return Prediction(id, at, "late", version, sha256, alias, prediction, list(features), entity)


@pytest.fixture(params=["sqlite", "postgres"])
def log(request, tmp_path):
    with PredictionLog(where(request.param, tmp_path)) as log: yield log


def held(log, what="request_id", table="predictions"):
    with log.transaction(write=False) as db: return db.execute(f"SELECT {what} FROM {table} ORDER BY 1")


def test_features_are_the_same_values_whoever_writes_them_as_json(tmp_path, monkeypatch):
    numbers = [float(f"{m}e{e}") for m in (1, -1.5, 3.333333333333333, 9.007199254740993) for e in range(-320, 308, 13)]
    rows = [row("numbers", [*numbers, -0., None]), row("texts", ["UA", "\ud800", 'é"', None, 1.])]
    read = []
    for missing in (False, True):
        if missing: monkeypatch.setitem(sys.modules, "pydantic_core", None)
        storage._json_writer.cache_clear()
        with PredictionLog(tmp_path / f"{missing}.db") as log:
            log.append(rows)
            read.append([json.loads(text) for text, in held(log, "features")])
    storage._json_writer.cache_clear()
    assert str(read[0]) == str(read[1]) == str([r.features for r in rows][:: 1 if read[0][0] == rows[0].features else -1])


def test_who_does_not_wait_hears_at_once_that_somebody_else_writes_and_nothing_is_recorded(tmp_path):
    with PredictionLog(tmp_path / "log.db") as log:
        with held_up(log.where):
            start = time.monotonic()
            with pytest.raises(BusyError): log.append_each([[row("a")]], wait=False)
            assert time.monotonic() - start < 5
        with log.transaction(), ThreadPoolExecutor(1) as pool, pytest.raises(BusyError): pool.submit(log.append_each, [[row("a")]], wait=False).result()
        assert held(log) == [] and log.append_each([[row("a")]], wait=False) == [[row("a")]]
        with ThreadPoolExecutor(1) as pool:
            with held_up(log.where):
                later = pool.submit(log.append, [row("b")])   # who waits afterwards waits again
                time.sleep(.3)
                assert not later.done()
            assert later.result() == [row("b")]


def test_a_checkpoint_sorts_all_into_the_file_while_others_read_and_write(tmp_path):
    with PredictionLog(tmp_path / "log.db") as log:
        log.append_each([[row(f"{i}")] for i in range(50)], wait=False)
        shutil.copy(tmp_path / "log.db", tmp_path / "before.db")
        with log.transaction() as db:
            db.execute("UPDATE predictions SET prediction = 0")
            log_writer._OnLoop(log, None, None)._sort_pages()
        shutil.copy(tmp_path / "log.db", tmp_path / "after.db")   # without what lies beside it
    count = lambda name: sqlite3.connect(tmp_path / name).execute("SELECT count(*), min(prediction) FROM predictions").fetchone()
    assert count("before.db") == (0, None) and count("after.db") == (50, .5)


# --- what is recorded

def test_a_row_is_given_back_as_it_is_held(log):
    given = log.append([Prediction("b", datetime(2013, 7, 1, 2, tzinfo=UTC), "late", 3, "d3", "canary", 1, [1, None, float("nan"), 1e-300], "N14228"),
                        Prediction("a", "2013-07-01T00:00:00.0000015-04:00", "late", 2**62, None, None, .1 + .2, [])])
    assert given == [Prediction("b", "2013-07-01T02:00:00.000000+00:00", "late", 3, "d3", "canary", 1., [1., None, None, 1e-300], "N14228"),
                     Prediction("a", "2013-07-01T04:00:00.000001+00:00", "late", 2**62, None, None, .1 + .2, [], None)]
    assert log.append([row("b", [1, None, None, 1e-300], prediction=0.), row("a", [], prediction=0.)]) == given
    assert held(log, "request_id, entity, features") == [("a", None, "[]"), ("b", "N14228", "[1.0,null,null,1e-300]")]


def test_asking_again_gives_the_first_answer_and_its_version(log):
    first = log.append([row("x", [1, 2]), row("y", [3, None])])
    again = log.append([row("y", [3, None], version=2, prediction=.9, sha256="d2", alias="canary"), row("new", [5]), row("x", [1, 2], 2, .9)])
    assert again == [first[1], row("new", [5.]), first[0]] and len(held(log)) == 3


def test_other_features_are_a_conflict_and_nothing_of_that_request_is_stored(log):
    log.append([row("x", [1, 2])])
    for other in ([1, 3], [1], [1, 2, 3], [1, None], []):
        with pytest.raises(ConflictError, match="'x' was asked before with other features and answered 0.5 by version 1"): log.append([row("new"), row("x", other)])
    with pytest.raises(ConflictError): log.append([row("twin", [1]), row("twin", [2])])
    assert log.append([row("twin", [1]), row("twin", [1], prediction=.7)]) == [row("twin", [1.])]*2
    assert held(log) == [("twin",), ("x",)]


def test_a_conflict_or_a_wrong_row_hurts_no_other_request_of_the_transaction(log):
    log.append([row("x", [1])])
    out = log.append_each([[row("a")], [row("b"), row("x", [2])], [row("b", [7])], [row("\0")], [row("c", prediction=float("nan"))], [row("a", prediction=.9), row("c")], []])
    assert [type(r) for r in out] == [list, ConflictError, list, ValueError, ValueError, list, list]
    assert out[2] == [row("b", [7.])] and out[5] == [row("a"), row("c")] and held(log) == [("a",), ("b",), ("c",), ("x",)]


WRONG = {"no text": (TypeError, row(5)), "NUL": (ValueError, row("a\0b")), "half a pair": (ValueError, row("\ud800")), "entity": (ValueError, row("a", entity="N\0")),
         "entity 2": (TypeError, row("a", entity=7)), "no zone": (ValueError, row("a", at="2013-07-01")), "nan": (ValueError, row("a", prediction=float("nan"))),
         "inf": (ValueError, row("a", [float("inf")])), "a list": (TypeError, row("a", [["b"]]))}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_stored_is_refused_before_anything_is(what, tmp_path):
    error, wrong = WRONG[what]
    with PredictionLog(tmp_path / "log.db") as log:
        with pytest.raises(error): log.append([row("good"), wrong])
        assert held(log) == []


def test_an_id_that_another_model_has_answered_is_a_conflict(log):
    first = log.append([row("x", [1, 2])])
    with pytest.raises(ConflictError, match="'x' was asked before and answered by another model, 'late'"): log.append([row("new"), row("x", [1, 2])._replace(model="other")])
    with pytest.raises(ConflictError): log.append([row("twin"), row("twin")._replace(model="other")])
    assert log.append([row("x", [1, 2], version=2)]) == first and held(log) == [("x",)]


def test_a_retry_is_recognised_by_name_when_another_version_orders_the_columns_anew(log):
    log.describe("d1", ["a", "b"])
    log.describe("d2", ["b", "a"])
    log.describe("d1", ["never", "again"])
    first = log.append([row("x", [1, 2])])
    assert log.append([row("x", [2, 1], 2, .9, sha256="d2")]) == first
    with pytest.raises(ConflictError): log.append([row("x", [1, 2], 2, .9, sha256="d2")])
    with pytest.raises(ConflictError): log.append([row("x", [2, 1], 2, .9, sha256="of an unknown model")])
    assert held(log, "sha256, columns", "signatures") == [("d1", '["a", "b"]'), ("d2", '["b", "a"]')]


def test_texts_sort_letter_by_letter_on_both_engines(log):
    ids = ["b", "A", "a", "B", "-c", "ä", "_", "Z-1", "Z1"]
    log.append([row(i) for i in ids])
    assert [i for i, in held(log)] == sorted(ids)


questions = st.tuples(st.sampled_from("abcde"), st.sampled_from([(1.,), (2.,), (1., None)]), st.integers(1, 3))
groups = st.lists(st.lists(st.lists(questions, max_size=4), max_size=4), max_size=4)


@BOTH
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(groups)
def test_any_sequence_of_requests_is_as_a_dictionary_would_have_it(engine, tmp_path_factory, groups):
    if engine not in OPEN: OPEN[engine] = PredictionLog(where(engine, tmp_path_factory.mktemp("model")))
    log, model = OPEN[engine], {}
    with log.transaction() as db: db.execute("DELETE FROM predictions")
    for requests in groups:
        requests = [[row(id, f, v, v / 10) for id, f, v in asked] for asked in requests]
        for asked, got in zip(requests, log.append_each(requests), strict=True):
            after = dict(model)
            for r in asked: after.setdefault(r.request_id, r)
            if any(after[r.request_id].features != r.features for r in asked): assert isinstance(got, ConflictError)
            else:
                model = after
                assert got == [model[r.request_id] for r in asked]
    assert held(log, "request_id, version, prediction") == sorted((id, r.version, r.prediction) for id, r in model.items())


OPEN = {}


def test_a_block_takes_effect_together_or_not_at_all(log):
    with pytest.raises(ZeroDivisionError), log.transaction() as db:
        db.execute("INSERT INTO erasures (at, proof) VALUES (?, ?)", [AT, "100 %"])
        1 / 0   # noqa: B018
    with pytest.raises(LogError, match="nowhere"), log.transaction() as db:
        db.execute("INSERT INTO erasures (at, proof) VALUES (?, ?)", [AT, "100 %"])
        db.execute("SELECT * FROM nowhere")
    assert held(log, "at, proof", "erasures") == []
    with log.transaction() as db:
        db.executemany("INSERT INTO erasures (at, proof) VALUES (?, ?)", [(AT, "a"), (AT, "b")])
        among, ids = db.among(["b", "c", "it's", "?"])
        assert db.execute(f"SELECT proof FROM erasures WHERE at = ? AND proof IN {among}", [AT, ids]) == [("b",)]
        among, none = db.among([])
        assert db.execute(f"SELECT proof FROM erasures WHERE proof IN {among}", [none]) == []


def test_a_reader_sees_one_state_and_no_writer_waits_for_it(log):
    log.append([row("a")])
    with PredictionLog(log.where) as other, log.transaction(write=False) as db:
        before = db.execute("SELECT count(*) FROM predictions")
        other.append([row("b")])
        assert db.execute("SELECT count(*) FROM predictions") == before == [(1,)]
    assert len(held(log)) == 2


def test_a_full_disk_is_an_error_and_the_log_goes_on_when_there_is_room(tmp_path):
    with PredictionLog(tmp_path / "log.db") as log:
        log.append([row("a")])
        with log.transaction() as db: db.execute("PRAGMA max_page_count = 20")
        with pytest.raises(LogError, match="full"): log.append([row(f"{i}", [.1] * 50) for i in range(1000)])
        assert held(log) == [("a",)]
        with log.transaction() as db: db.execute("PRAGMA max_page_count = 100000")
        assert len(log.append([row(f"{i}", [.1] * 50) for i in range(1000)])) == 1000


def test_a_closed_log_is_an_error(log):
    log.close()
    with pytest.raises(LogError): log.append([row("a")])


# --- which files and databases

def old(folder):
    "A log as the first format had it, readable by all."
    shutil.copy(FORMAT_1, folder / "log.db")
    (folder / "log.db").chmod(0o644)
    return folder / "log.db"


def test_the_first_format_is_migrated_with_all_its_rows(tmp_path):
    path = old(tmp_path)
    with sqlite3.connect(path) as db:
        same = "request_id, at, model, version, prediction, features"
        before = db.execute(f"SELECT {same} FROM predictions ORDER BY 1").fetchall(), db.execute("SELECT * FROM outcomes ORDER BY 1").fetchall()
    for _ in range(2):   # the second opening finds the present format
        with PredictionLog(path) as log:
            assert (held(log, same), held(log, "*", "outcomes")) == before and len(before[0]) == 200 and len(before[1]) == 50
            assert held(log, "format", "log_format") == [(FORMAT,)] and held(log, "DISTINCT entity, sha256, alias") == [(None, None, None)]
            first = log.append([row("flight-000", [0., -.5, 1e-300], version=9)])[0]
            assert (first.version, first.prediction) == (1, 0.)
            assert "predictions_1" not in {t for t, in held(log, "name", "sqlite_master")}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_migrated_log_is_made_as_a_new_one(tmp_path):
    shape = lambda log: held(log, "m.name, c.name, c.type, c.\"notnull\", c.pk", "sqlite_master m, pragma_table_info(m.name) c")
    with PredictionLog(old(tmp_path)) as migrated, PredictionLog(tmp_path / "new.db") as new:
        assert {r for r in shape(migrated) if r[0] != "outcomes"} == {r for r in shape(new) if r[0] != "outcomes"} and held(migrated, "name", "sqlite_master") == held(new, "name", "sqlite_master")


def test_a_newer_format_is_refused_in_one_line(log):
    with log.transaction() as db: db.execute("UPDATE log_format SET format = 3")
    with pytest.raises(ValueError, match=r"format 3 and this mlscale knows 2; take a newer mlscale") as refusal: PredictionLog(log.where)
    assert "\n" not in str(refusal.value) and held(log, "format", "log_format") == [(3,)]


def other_database(path):
    with closing(sqlite3.connect(path)) as db: db.executescript("CREATE TABLE accounts(id); INSERT INTO accounts VALUES (1); CREATE TABLE predictions(x)")


NO_LOGS = {"text": (lambda p: p.write_text("hello\n" * 500), "is no prediction log"), "short text": (lambda p: p.write_text("a"), "is no prediction log"),
           "other tables": (other_database, "accounts, predictions"), "folder": (lambda p: p.mkdir(), "a folder")}


@pytest.mark.parametrize("what", NO_LOGS)
def test_what_is_no_log_is_refused_and_left_as_it_is(what, tmp_path):
    make, why = NO_LOGS[what]
    make(tmp_path / "log.db")
    before = (tmp_path / "log.db").is_file() and ((tmp_path / "log.db").read_bytes(), (tmp_path / "log.db").stat().st_mode)
    with pytest.raises(ValueError, match=why) as refusal: PredictionLog(tmp_path / "log.db")
    assert "\n" not in str(refusal.value)
    assert before == ((tmp_path / "log.db").is_file() and ((tmp_path / "log.db").read_bytes(), (tmp_path / "log.db").stat().st_mode))
    assert [p.name for p in tmp_path.iterdir()] == ["log.db"]


def test_a_database_of_somebody_else_is_refused(tmp_path):
    url = where("postgres", tmp_path)
    with psycopg.connect(url, autocommit=True) as db: db.execute("CREATE TABLE accounts(id int)")
    with pytest.raises(ValueError, match="accounts"): PredictionLog(url)
    with psycopg.connect(url) as db: assert db.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (1,)


@pytest.mark.parametrize("url", ["mysql://localhost/log", "postgresql:/localhost/log"])
def test_a_url_of_something_else_is_no_path(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="postgresql://"): PredictionLog(url)
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_not_there_is_an_error_in_one_line(tmp_path):
    with pytest.raises(LogError) as refusal: PredictionLog(f"postgresql://user:secret@/log?host={tmp_path}")
    assert "\n" not in str(refusal.value) and "secret" not in str(refusal.value)


def test_only_its_owner_reads_a_log_and_a_mode_that_was_set_stays(tmp_path):
    previous = os.umask(0)
    try:
        with PredictionLog(tmp_path / "state" / "log.db") as log:
            log.append([row("a")])
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "state").iterdir()}
        assert modes == dict.fromkeys(["log.db", "log.db-wal", "log.db-shm"], 0o600) and stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        (tmp_path / "state" / "log.db").chmod(0o640)
        with PredictionLog(tmp_path / "state" / "log.db"): assert stat.S_IMODE((tmp_path / "state" / "log.db").stat().st_mode) == 0o640
    finally: os.umask(previous)


def test_the_default_place_is_the_state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path))
    with PredictionLog() as log: assert log.where == str(tmp_path / "state" / "predictions.db") and Path(log.where).exists()


def test_the_module_is_light_and_says_what_postgres_needs():
    code = """if True:
        import sys
        from mlscale.prediction_log import PredictionLog
        import mlscale.log_writer
        print(sorted({"pandas", "pyarrow", "psycopg"} & set(sys.modules)))
        sys.modules["psycopg"] = None
        try: PredictionLog("postgresql:///log")
        except ImportError as e: print(e)"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["[]", "psycopg is missing: pip install 'mlscale[postgres]'"], run.stderr


# --- many at once, and death

def child(work):
    "Start a process that does the work; its number."
    if pid := os.fork(): return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        __import__("traceback").print_exc()
        os._exit(1)


def end(pid):
    "How a process ended: 0, or minus the signal that ended it."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@BOTH
def test_processes_and_threads_agree_on_every_answer(engine, tmp_path):
    place, answers = where(engine, tmp_path), tmp_path / "answers"
    answers.mkdir()

    def work(me):
        with PredictionLog(place) as log, ThreadPoolExecutor(4) as pool:   # all open a new log at once
            some = lambda t: [log.append([row(f"{i}", [i], me, (me + t) / 100) for i in ids]) for ids in ([j, 59 - j] for j in range(t, 60, 2))]
            given = {r.request_id: (r.version, r.prediction) for done in pool.map(some, range(4)) for rows in done for r in rows}
        (answers / str(me)).write_text(json.dumps(given, sort_keys=True))

    assert [end(pid) for pid in [child(lambda me=me: work(me)) for me in range(5)]] == [0]*5
    given = {p.read_text() for p in answers.iterdir()}
    with PredictionLog(place) as log: assert len(given) == 1 and json.loads(given.pop()) == {i: [v, p] for i, v, p in held(log, "request_id, version, prediction")} and len(held(log)) == 60


def test_processes_may_migrate_at_once(tmp_path):
    for i in range(5):
        (tmp_path / str(i)).mkdir()
        path = old(tmp_path / str(i))
        def work(me, path=path):
            with PredictionLog(path) as log: log.append([row(f"new {me}")])
        assert [end(pid) for pid in [child(lambda me=me: work(me)) for me in range(6)]] == [0]*6
        with PredictionLog(path) as log: assert len(held(log)) == 206 and held(log, "format", "log_format") == [(FORMAT,)]


def die_at(n):
    "From here on this process ends by SIGKILL before its n-th statement."
    left = [n]
    def step(*_):
        left[0] -= 1
        if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
    class Watched(sqlite3.Connection):
        def __init__(self, *words, **named):
            super().__init__(*words, **named)
            self.set_trace_callback(step)
    connect, execute, many = sqlite3.connect, psycopg.Connection.execute, psycopg.Cursor.executemany
    sqlite3.connect = lambda *words, **named: connect(*words, factory=Watched, **named)
    psycopg.Connection.execute = lambda self, *words, **named: step() or execute(self, *words, **named)
    psycopg.Cursor.executemany = lambda self, *words, **named: step() or many(self, *words, **named)


def at_each_step(work, check):
    "Kill a process before its first, second, ... statement, until it gets through."
    for n in range(200):
        status = end(child(lambda n=n: (die_at(n), work(n))))
        check(n)
        if status == 0: return n
        assert status == -signal.SIGKILL
    raise AssertionError("it never got through")


@BOTH
def test_a_process_that_is_killed_at_any_step_of_writing_leaves_whole_requests_and_loses_none_it_acknowledged(engine, tmp_path):
    place, told = where(engine, tmp_path), tmp_path / "told"

    def work(n):
        with PredictionLog(place) as log, told.open("a") as acknowledged:
            for k in range(3):
                log.append_each([[row(f"{n}-{k}-{part}-{i}") for i in range(3)] for part in range(2)])
                acknowledged.write(f"{n}-{k}\n")
                acknowledged.flush()

    def check(n):
        with PredictionLog(place) as log: there = {i for i, in held(log)}
        acknowledged = told.read_text().split() if told.exists() else []
        for k in range(3):
            mine = {i for i in there if i.startswith(f"{n}-{k}-")}
            assert len(mine) in ((6,) if f"{n}-{k}" in acknowledged else (0, 6))

    assert at_each_step(work, check) > 10


def test_a_process_that_is_killed_at_any_step_of_migrating_leaves_one_format_or_the_other(tmp_path):
    def look(path):
        with closing(sqlite3.connect(path)) as db:
            tables = {t for t, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            count = db.execute("SELECT count(*), sum(version) FROM predictions").fetchone()
            return tables, count, db.execute("SELECT count(*) FROM outcomes").fetchone()

    first = look(old(tmp_path))
    with PredictionLog(old(tmp_path)): pass
    second = look(tmp_path / "log.db")
    seen = []

    def check(n):
        seen.append(look(tmp_path / "log.db"))
        with PredictionLog(tmp_path / "log.db") as log: assert len(held(log)) == 200
        old(tmp_path)

    old(tmp_path)
    assert at_each_step(lambda n: PredictionLog(tmp_path / "log.db"), check) > 10
    assert seen[0] == first and seen[-1] == second and all(s in (first, second) for s in seen) and first != second


@pytest.mark.parametrize("engine, how", [("sqlite", "normal"), ("sqlite", "full"), ("postgres", "normal")])
def test_a_process_that_is_killed_at_any_moment_loses_nothing_it_acknowledged(engine, how, tmp_path):
    place, told = where(engine, tmp_path), tmp_path / "told"

    def work(turn):
        with PredictionLog(place, synchronous=how) as log, told.open("a") as acknowledged:
            for k in range(100_000):
                log.append([row(f"{turn}-{k}-{i}", [.5] * 40) for i in range(5)])
                acknowledged.write(f"{turn}-{k}\n")
                acknowledged.flush()

    for turn in range(6):
        pid = child(lambda turn=turn: work(turn))
        time.sleep(.1 + turn * .0371)
        os.kill(pid, signal.SIGKILL)
        assert end(pid) == -signal.SIGKILL
    with PredictionLog(place) as log: there = [i.rsplit("-", 1)[0] for i, in held(log)]
    acknowledged = told.read_text().split()
    assert len(acknowledged) > 20 and set(acknowledged) <= set(there) and len(set(there)) <= len(acknowledged) + 6
    assert all(there.count(request) == 5 for request in list(set(there))[:200]) and len(there) == 5 * len(set(there))


@pytest.fixture
def own():
    "A server that a test may end."
    if programs() is None: pytest.skip("not installed: postgres")
    mine = Server()
    yield mine
    mine.remove()


def test_the_database_server_may_restart_or_be_killed(own):
    with PredictionLog(own.database()) as log:
        log.append([row("a")])
        own.stop()
        with pytest.raises(LogError): log.append([row("b")])
        own.start()
        log.append([row("c")])
        own.stop("SIGKILL")
        (own.folder / "data" / "postmaster.pid").unlink()   # what an operator does who has seen that nothing runs
        own.start()
        log.append([row("d")])
        assert [i for i, in held(log)] == ["a", "c", "d"]


def test_a_connection_that_was_cut_between_two_requests_is_made_anew(tmp_path):
    with PredictionLog(where("postgres", tmp_path)) as log, psycopg.connect(server().url("postgres"), autocommit=True) as db:
        log.append([row("a")])
        name = psycopg.conninfo.conninfo_to_dict(log.where)["dbname"]
        assert db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]).fetchall() == [(True,)]
        log.append([row("b")])
        assert len(held(log)) == 2


# --- times

@given(st.datetimes(timezones=st.timezones()), st.datetimes(timezones=st.timezones()))
def test_times_as_text_sort_as_times(a, b):
    try: one, two = a.astimezone(UTC), b.astimezone(UTC)
    except OverflowError: return
    assert (iso_utc(a) < iso_utc(b)) == (one < two) and iso_utc(iso_utc(a)) == iso_utc(a)


# --- the writer

@pytest.mark.parametrize("mode", ["durable", "available"])
def test_a_writer_records_what_the_log_would(mode, log):
    with closing(LogWriter(log, mode)) as writer:
        writer.describe("d1", ["a"])
        assert writer.append(iter([row("x"), row("y")])) == [row("x"), row("y")]
    assert held(log) == [("x",), ("y",)] and held(log, "sha256, columns", "signatures") == [("d1", '["a"]')] and writer.unlogged == 0 and writer.error is None
    with pytest.raises(LogError, match="closed"): writer.append([row("z")])


def held_up(path):
    "A database that somebody else is writing to."
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    return closing(db)


def test_durable_answers_come_after_the_commit_and_those_who_wait_share_one(tmp_path):
    with PredictionLog(tmp_path / "log.db") as log, closing(LogWriter(log)) as writer, ThreadPoolExecutor(12) as pool:
        log.append([row("known")])
        with held_up(log.where):
            asked = [pool.submit(writer.append, [row(f"{i}-{j}") for j in range(3)]) for i in range(10)]
            asked += [pool.submit(writer.append, [row("conflict"), row("known", [2])]), pool.submit(writer.append, [row("known", version=7)])]
            time.sleep(.3)
            assert not any(a.done() for a in asked)
        assert [a.result() for a in asked[:10]] == [[row(f"{i}-{j}") for j in range(3)] for i in range(10)] and asked[11].result() == [row("known")]
        with pytest.raises(ConflictError): asked[10].result()
        assert len(held(log)) == 31
    statements = []
    with PredictionLog(tmp_path / "log.db") as log, closing(LogWriter(log)) as writer, ThreadPoolExecutor(12) as pool:
        log._db._db.set_trace_callback(statements.append)
        with held_up(log.where):
            asked = [pool.submit(writer.append, [row(f"again {i}")]) for i in range(10)]
            time.sleep(.3)
        for a in asked: a.result()
    assert 1 <= statements.count("COMMIT") <= 2, "the first may have gone alone, the others waited together"


def test_a_failed_commit_reaches_everyone_who_waits_and_the_next_may_succeed(tmp_path, caplog):
    with PredictionLog(tmp_path / "log.db") as log, closing(LogWriter(log)) as writer, ThreadPoolExecutor(8) as pool:
        writer.append([row("a")])
        limit(log, 20)
        asked = [pool.submit(writer.append, [row(f"{i}-{j}", [.1] * 50) for j in range(300)]) for i in range(8)]
        errors = [a.exception() for a in asked]
        assert all(isinstance(e, LogError) and "full" in str(e) for e in errors) and "full" in writer.error and writer.unlogged == 0
        assert held(log) == [("a",)]
        limit(log, 100_000)
        assert writer.append([row("b")]) == [row("b")] and writer.error is None
    assert [(r.name, r.levelname) for r in caplog.records][:1] == [("mlscale.log_writer", "ERROR")] and "full" in caplog.text


def limit(log, pages):
    "A disk with so much room."
    with log.transaction() as db: db.execute(f"PRAGMA max_page_count = {pages}")


def test_available_does_not_wait_and_counts_what_does_not_fit(tmp_path, caplog):
    lost = []
    with PredictionLog(tmp_path / "log.db") as log, closing(LogWriter(log, "available", capacity=10, lost=lost.append)) as writer:
        with held_up(log.where):
            start = time.monotonic()
            for i in range(9): assert writer.append([row(f"{i}-{j}") for j in range(3)]) == [row(f"{i}-{j}") for j in range(3)]
            assert time.monotonic() - start < 5 and writer.unlogged == sum(lost) == 18   # three requests of three fit into ten
        writer.append([row("later")]) if wait_for(lambda: len(held(log)) == 9) else None
    with PredictionLog(tmp_path / "log.db") as log: assert [i for i, in held(log)] == sorted(f"{i}-{j}" for i in range(3) for j in range(3)) + ["later"]
    assert writer.unlogged == 18 and "not in the log" in caplog.text and all(r.levelname == "ERROR" for r in caplog.records)


def test_who_counts_the_losses_may_fail_and_the_writer_goes_on(tmp_path, caplog):
    def lost(n): raise KeyError(n)
    with PredictionLog(tmp_path / "log.db") as log, closing(LogWriter(log, "available", capacity=1, lost=lost)) as writer:
        assert writer.append([row("a"), row("b")]) == [row("a"), row("b")]   # no room, and the answer is given
        log.append([row("x", [1])])
        writer.append([row("x", [2])])   # known with other features: counted by the thread that writes
        assert wait_for(lambda: writer.unlogged == 3)
        writer.append([row("later")])
        assert wait_for(lambda: ("later",) in held(log)) and "`lost` failed" in caplog.text


def wait_for(true):
    deadline = time.monotonic() + 30
    while not true(): assert time.monotonic() < deadline
    return True


def test_available_waits_for_room_on_the_disk_and_says_what_it_loses_in_the_end(tmp_path, caplog):
    big = lambda name: [row(f"{name}-{j}", [.1] * 50) for j in range(300)]
    with PredictionLog(tmp_path / "log.db") as log:
        with closing(LogWriter(log, "available")) as writer:
            limit(log, 20)
            writer.append(big("waits"))
            assert wait_for(lambda: writer.error) and "full" in writer.error and writer.unlogged == 0
            limit(log, 100_000)
            assert wait_for(lambda: writer.error is None) and len(held(log)) == 300
            limit(log, 1)
            writer.append(big("lost"))
        assert writer.unlogged == 300 and len(held(log)) == 300 and "300 predictions are not in the log" in caplog.text


def test_available_counts_answers_that_the_log_holds_otherwise(tmp_path):
    with PredictionLog(tmp_path / "log.db") as log:
        log.append([row("x", [1]), row("y", [1]), row("z", [1])])
        with closing(LogWriter(log, "available")) as writer:
            writer.append([row("x", [2]), row("new")])              # other features: neither is recorded
            writer.append([row("y", [1], version=2), row("other")])   # answered by version 2, recorded as answered by version 1
            writer.append([row("z", [1], prediction=.5 + 1e-9)])   # the same answer
        assert writer.unlogged == 3 and held(log) == [("other",), ("x",), ("y",), ("z",)]


def test_available_survives_a_database_server_that_is_away_for_a_while(own):
    with PredictionLog(own.database()) as log, closing(LogWriter(log, "available")) as writer:
        writer.append([row("before")])
        wait_for(lambda: len(held(log)) == 1)
        own.stop()
        writer.append([row("meanwhile")])
        assert wait_for(lambda: writer.error)
        own.start()
        assert wait_for(lambda: writer.error is None) and [i for i, in held(log)] == ["before", "meanwhile"] and writer.unlogged == 0


@pytest.mark.parametrize("word", ["fast", None, ["durable"]])
def test_a_mode_is_one_of_two(word, tmp_path):
    with PredictionLog(tmp_path / "log.db") as log, pytest.raises(ValueError, match="durable, available"): LogWriter(log, word)


@BOTH
def test_a_writer_that_is_killed_loses_nothing_it_acknowledged(engine, tmp_path):
    place, told = where(engine, tmp_path), tmp_path / "told"

    def work():
        with PredictionLog(place) as log, told.open("a", buffering=1) as acknowledged, ThreadPoolExecutor(8) as pool:
            writer = LogWriter(log)
            def client(me):
                for k in range(100_000):
                    writer.append([row(f"{os.getpid()}-{me}-{k}-{i}") for i in range(3)])
                    acknowledged.write(f"{os.getpid()}-{me}-{k}\n")
            list(pool.map(client, range(8)))

    for turn in range(4):
        pid = child(work)
        time.sleep(.15 + turn * .0671)
        os.kill(pid, signal.SIGKILL)
        assert end(pid) == -signal.SIGKILL
    with PredictionLog(place) as log: there = [i.rsplit("-", 1)[0] for i, in held(log)]
    acknowledged = {line for line in told.read_text().split("\n")[:-1]}
    assert len(acknowledged) > 20 and acknowledged <= set(there) and len(there) == 3 * len(set(there))


# --- the writer on an event loop

class Watched(PredictionLog):
    "Notes for each transaction of rows which thread made it, how many rows it held, and whether it would have waited."
    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.made = []

    def append_each(self, requests, *, wait=True, checked=False):
        requests = list(requests)
        out = super().append_each(requests, wait=wait, checked=checked)
        self.made.append((threading.current_thread().name, sum(map(len, requests)), wait))
        return out


LOOP, THREAD = threading.main_thread().name, "log writer"


async def all_told(writer, requests):
    "What each request is told, all of one turn."
    return await asyncio.gather(*(writer.append_async(rows) for rows in requests), return_exceptions=True)


def in_order(log):
    with log.transaction(write=False) as db: return [id for id, in db.execute("SELECT request_id FROM predictions ORDER BY rowid")]


def test_what_comes_in_a_turn_of_the_loop_is_one_transaction_on_it_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(log_writer, "TOO_SLOW", 60.)   # on a busy machine a commit may take longer
    async def story(log, writer):
        for turn in range(3):
            asked = [[row(f"{turn}-{i}")] for i in range(10)]
            assert await all_told(writer, asked) == asked
        told = await all_told(writer, [[row("0-0", prediction=.9)], [row("0-1", [2])], [row("new")]])
        assert told[0] == [row("0-0")] and isinstance(told[1], ConflictError) and told[2] == [row("new")]
    with Watched(tmp_path / "log.db") as log, closing(LogWriter(log)) as writer:
        writer.describe("d1", ["a"])
        asyncio.run(story(log, writer))
        assert log.made == [(LOOP, 10, False)] * 3 + [(LOOP, 3, False)]
        assert in_order(log) == [f"{turn}-{i}" for turn in range(3) for i in range(10)] + ["new"] and held(log, "sha256", "signatures") == [("d1",)]


@pytest.mark.parametrize("how", ["many rows", "full", "postgres"])
def test_what_could_take_long_is_written_by_the_thread(how, tmp_path):
    n = log_writer.ON_LOOP + 1 if how == "many rows" else 1
    place = where("postgres" if how == "postgres" else "sqlite", tmp_path)
    with Watched(place, synchronous="full" if how == "full" else "normal") as log, closing(LogWriter(log)) as writer:
        asked = [[row(f"{i}") for i in range(n)]]
        assert asyncio.run(all_told(writer, asked)) == asked
        assert log.made == [(THREAD, n, True)]


@contextmanager
def another_process_writes(path):
    "A process that holds the lock of an SQLite file, as long as the block lasts."
    code = f"import sqlite3; db = sqlite3.connect({str(path)!r}, isolation_level=None); db.execute('BEGIN IMMEDIATE'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        try: yield
        finally: other.communicate("\n")


def test_while_another_process_writes_the_loop_goes_on_and_the_thread_waits(tmp_path):
    async def story(log, writer):
        await all_told(writer, [[row("first")]])
        with another_process_writes(log.where):
            early = [asyncio.ensure_future(writer.append_async([row(f"early {i}")])) for i in range(5)]
            start = time.monotonic()
            for _ in range(20): await asyncio.sleep(.01)
            assert time.monotonic() - start < 5, "the loop was held"
            late = [asyncio.ensure_future(writer.append_async([row(f"late {i}")])) for i in range(5)]   # they stand behind
            await asyncio.sleep(.01)
            assert not any(a.done() for a in early + late) and writer.lag > 0
        assert await asyncio.gather(*early, *late) == [[row(f"{when} {i}")] for when in ("early", "late") for i in range(5)]
        await asyncio.to_thread(wait_for, writer._queue.idle)
        await all_told(writer, [[row("last")]])
    with Watched(tmp_path / "log.db") as log, closing(LogWriter(log)) as writer:
        asyncio.run(story(log, writer))
        assert in_order(log) == ["first", *(f"{when} {i}" for when in ("early", "late") for i in range(5)), "last"]
        assert [who for who, *_ in log.made] == [LOOP, THREAD, THREAD, LOOP] and writer.error is None


def test_a_full_disk_reaches_everyone_of_the_turn_and_the_next_may_succeed(tmp_path, monkeypatch):
    monkeypatch.setattr(log_writer, "TOO_SLOW", 60.)
    big = lambda name: [row(f"{name}-{j}", [.1] * 50) for j in range(15)]
    async def story(log, writer):
        limit(log, 20)
        told = await all_told(writer, [big(f"{i}") for i in range(8)])
        assert all(isinstance(e, LogError) and "full" in str(e) for e in told) and "full" in writer.error and writer.failed_at > 0
        assert held(log) == []
        limit(log, 100_000)
        assert await all_told(writer, [big("b")]) == [big("b")] and writer.error is None
    with Watched(tmp_path / "log.db") as log, closing(LogWriter(log)) as writer:
        asyncio.run(story(log, writer))
        assert log.made == [(LOOP, 15, False)]


def test_a_row_that_is_checked_already_is_recorded_by_itself_once_and_contradicted_as_any(tmp_path):
    one = Checked([row("a")])
    with PredictionLog(tmp_path / "log.db") as log:
        for _ in range(2): assert log.append_each([one], wait=False, checked=True) == [one]
        (again,) = log.append_each([Checked([row("a", prediction=.9)])], wait=False, checked=True)
        assert again == [row("a")]
        (refused,) = log.append_each([Checked([row("a", [9.])])], wait=False, checked=True)
        assert isinstance(refused, ConflictError) and held(log) == [("a",)]
        with PredictionLog(tmp_path / "log.db") as other, other.transaction(), pytest.raises(BusyError):
            log.append_each([Checked([row("b")])], wait=False, checked=True)


def test_a_disk_that_held_the_loop_too_long_has_the_thread_for_a_second(tmp_path, monkeypatch):
    async def story(log, writer):
        monkeypatch.setattr(log_writer, "TOO_SLOW", -1.)
        await all_told(writer, [[row("slow")]])
        monkeypatch.setattr(log_writer, "TOO_SLOW", 60.)
        await all_told(writer, [[row("after")]])
        await asyncio.sleep(1.1)
        await all_told(writer, [[row("later")]])
    with Watched(tmp_path / "log.db") as log, closing(LogWriter(log)) as writer:
        asyncio.run(story(log, writer))
        assert [who for who, *_ in log.made] == [LOOP, THREAD, LOOP]


def test_what_has_come_when_the_writer_is_closed_is_written_and_what_comes_later_refused(tmp_path):
    async def story(writer):
        waits = [asyncio.ensure_future(writer.append_async([row(f"{i}")])) for i in range(3)]
        await asyncio.sleep(0)   # they have put down what they have
        writer.close()
        assert await asyncio.gather(*waits) == [[row(f"{i}")] for i in range(3)]
        with pytest.raises(LogError, match="closed"): await writer.append_async([row("later")])
    with Watched(tmp_path / "log.db") as log:
        asyncio.run(story(LogWriter(log)))
        assert log.made == [(THREAD, 3, True)] and in_order(log) == ["0", "1", "2"]


def test_pages_are_sorted_into_the_file_now_and_then_and_not_on_the_loop(tmp_path, monkeypatch):
    sorted_by = []
    async def story(writer):
        for times in (1, 2):      # one at a time: who sorts while another does finds the file busy and lets it be
            for i in range(5): await writer.append_async([row(f"{times}-{i}")])
            await asyncio.to_thread(wait_for, lambda upto=times: len(sorted_by) == upto)
    with Watched(tmp_path / "log.db") as log, closing(LogWriter(log)) as writer:
        monkeypatch.setattr(log_writer, "COMMITS", 5)
        monkeypatch.setattr(log_writer, "TOO_SLOW", float("inf"))
        real = log_writer._OnLoop._sort_pages
        monkeypatch.setattr(log_writer._OnLoop, "_sort_pages", lambda self: (real(self), sorted_by.append(threading.current_thread().name)))
        asyncio.run(story(writer))
        shutil.copy(tmp_path / "log.db", tmp_path / "copy.db")
    assert LOOP not in sorted_by and sqlite3.connect(tmp_path / "copy.db").execute("SELECT count(*) FROM predictions").fetchone()[0] == 10


def test_a_process_that_answers_on_its_loop_and_is_killed_loses_nothing_it_acknowledged(tmp_path):
    place, told = tmp_path / "log.db", tmp_path / "told"

    async def client(me, writer, acknowledged):
        for k in range(100_000):
            await writer.append_async([row(f"{os.getpid()}-{me}-{k}-{i}") for i in range(3)])
            acknowledged.write(f"{os.getpid()}-{me}-{k}\n")

    def work():
        with PredictionLog(place) as log, told.open("a", buffering=1) as acknowledged:
            async def clients(writer): await asyncio.gather(*(client(me, writer, acknowledged) for me in range(8)))
            asyncio.run(clients(LogWriter(log)))

    for turn in range(4):
        pid = child(work)
        time.sleep(.15 + turn * .0671)
        os.kill(pid, signal.SIGKILL)
        assert end(pid) == -signal.SIGKILL
    with PredictionLog(place) as log: there = [i.rsplit("-", 1)[0] for i, in held(log)]
    acknowledged = {line for line in told.read_text().split("\n")[:-1]}
    assert len(acknowledged) > 20 and acknowledged <= set(there) and len(there) == 3 * len(set(there))
