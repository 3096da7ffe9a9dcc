"A file is whole or absent, whatever happens to its writer; a lock holds between processes."
import datetime
import os
import signal
import stat
import subprocess
import sys
import time
import zoneinfo

import pytest

from mlscale.storage import digest, home, iso_utc, locked, make_folder, needs, replacing


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(RuntimeError), replacing(file) as new:
        new.write_text("half")
        raise RuntimeError("the writer dies")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    code = "import sys,time; from mlscale.storage import replacing\nwith replacing(sys.argv[1]) as new: new.write_text('half'); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        writer.send_signal(signal.SIGKILL)
    assert file.read_text() == "old"
    with replacing(file) as new: new.write_text("new")
    assert file.read_text() == "new"


def test_a_folder_is_replaced_as_a_whole_and_an_empty_block_is_an_error(tmp_path):
    folder = tmp_path / "f"
    for text in ("one", "two"):
        with replacing(folder) as new:
            new.mkdir()
            (new / text).write_text(text)
    assert os.listdir(folder) == ["two"] and os.listdir(tmp_path) == ["f"]
    with pytest.raises(FileNotFoundError, match="nothing was written"), replacing(folder): pass
    assert os.listdir(folder) == ["two"]


def test_a_reader_never_sees_a_half_written_file(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"0" * 1_000_000)
    code = "import sys; from mlscale.storage import replacing\nfor i in range(60):\n with replacing(sys.argv[1]) as new: new.write_bytes(str(i % 10).encode()*1_000_000)"
    with subprocess.Popen([sys.executable, "-c", code, str(file)]) as writer:
        seen = set()
        while writer.poll() is None:
            content = file.read_bytes()
            assert len(content) == 1_000_000 and len(set(content)) == 1
            seen.add(content[:1])
    assert len(seen) > 1


def test_a_lock_excludes_other_processes_and_ends_with_its_holder(tmp_path):
    lock = tmp_path / "deep" / "lock"
    code = "import sys,time; from mlscale.storage import locked\nwith locked(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        waiter = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
        time.sleep(1)
        os.set_blocking(waiter.stdout.fileno(), False)
        assert not waiter.stdout.read()
        holder.kill()
    os.set_blocking(waiter.stdout.fileno(), True)
    assert waiter.stdout.readline() == b"held\n"
    waiter.kill()
    waiter.communicate()
    with locked(lock): pass


def test_who_does_not_want_to_wait_is_told_at_once(tmp_path):
    with locked(tmp_path / "lock"):
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False): pass
    with locked(tmp_path / "lock", wait=False): pass   # and it is free again


def test_home_follows_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "with space"))
    assert home() == tmp_path / "with space"
    monkeypatch.delenv("MLSCALE_HOME")
    assert home().name == ".mlscale"


def rights(path): return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("part", ["state", "runs"])
def test_what_is_kept_is_for_its_owner_alone_whatever_the_umask(tmp_path, monkeypatch, umask, part):
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to("real")
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home"))
    for folder in (tmp_path / "real" / part, tmp_path / "home" / part):   # by either name
        file, models, lock = folder / "log" / "a.json", folder / "models" / "m", folder / "locks" / "one"
        with replacing(file) as new: new.write_text("secret")
        with replacing(models) as new:
            (new / "deep").mkdir(parents=True)
            (new / "deep" / "program").write_text("secret")
            (new / "deep" / "program").chmod(0o755)
            (new / "outside").symlink_to(sys.executable)
        with locked(lock): pass
        assert make_folder(folder / "more" / "and more") == folder / "more" / "and more"
    seen = {path.relative_to(tmp_path / "real"): rights(path) for path in (tmp_path / "real").rglob("*") if not path.is_symlink()}
    assert seen.pop(models.relative_to(tmp_path / "home") / "deep" / "program") == 0o700 and len(seen) == 10
    assert all(mode == (0o700 if (tmp_path / "real" / path).is_dir() else 0o600) for path, mode in seen.items()), seen
    assert rights(models / "outside") & 0o005


def test_a_state_that_was_open_is_closed_and_the_cache_and_the_rest_are_as_the_umask_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path))
    before = os.umask(0o022)
    try:
        (tmp_path / "state" / "old").mkdir(parents=True)
        with locked(tmp_path / "state" / "old" / "lock"): pass
        assert rights(tmp_path / "state") == 0o700
        for folder in ("cache", "elsewhere", "state of the art"):
            with replacing(tmp_path / folder / "a") as new: new.write_text("public")
            with locked(tmp_path / folder / "lock"): pass
            assert [rights(tmp_path / folder / name) for name in (".", "a", "lock")] == [0o755, 0o644, 0o644]
            assert rights(make_folder(tmp_path / folder / "own", private=True)) == 0o700
            assert rights(make_folder(tmp_path / folder, private=True)) == 0o755   # it was there
    finally: os.umask(before)


def test_a_folder_cannot_be_made_where_a_file_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path))
    for path in (tmp_path / "a", tmp_path / "state" / "a"):
        make_folder(path.parent)
        path.write_text("a file")
        with pytest.raises(FileExistsError): make_folder(path)


def test_a_missing_extra_is_named():
    with pytest.raises(ImportError, match=r"no_such_package is missing: pip install 'mlscale\[spark\]'"), needs("spark"):
        import no_such_package  # noqa: F401


def test_digest_is_sha256(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_an_empty_variable_is_no_home(monkeypatch):
    monkeypatch.delenv("MLSCALE_HOME", raising=False)
    usual = home()
    monkeypatch.setenv("MLSCALE_HOME", "")
    assert home() == usual


WITHOUT_LOCKS = """
import sys
sys.modules["fcntl"] = None   # as on native Windows, or in a browser
import importlib
import numpy as np
from mlscale import drift, experiments, schedules, sequential, storage
for name in sys.argv[1:]: importlib.import_module(f"mlscale.{name}")
assert experiments.sample_size_proportions(.1, .2)[0] > 1000
assert schedules.inverse_time(.1, .1)(10) == .05
test = sequential.SequentialTest()
test.update([1, 0, 1], [0, 1, 1])
assert 0 < test.p_value <= 1
monitor = drift.DriftMonitor(drift.Reference.fit(np.arange(1000.)), false_alarms_per_year=1)
assert not monitor.update(np.arange(1000.)).drift_detected
try:
    with storage.locked("lock"): pass
except OSError as e: print(e)
"""


LIGHT = """arguments guesses storage bins drift drift_monitor experiments intervals planning effects analyzer sequential boundaries martingales
always_valid sequential_test duration schedules learning_rates page_hinkley
online_learning concept_drift rolling""".split()


def test_the_light_core_works_where_there_are_no_file_locks(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT_LOCKS, *LIGHT], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "Linux or macOS" in done.stdout, done.stderr


def test_the_hour_that_comes_twice_is_told_apart():
    zone = zoneinfo.ZoneInfo("America/New_York")
    first, second = (iso_utc(datetime.datetime(2013, 11, 3, 1, 30, tzinfo=zone, fold=fold)) for fold in (0, 1))
    assert first[11:16] == "05:30" and second[11:16] == "06:30"
