"Whatever dies, fills up or changes in mid-job: the answer is complete and right, or absent and what was scored is kept."
import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pyspark
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from mlscale import batch_engines, batch_job, resume
from mlscale.artifacts import load_bundle, save
from mlscale.batch import batch_predict, java_home, open_predictions, read_manifest, upload_predictions, uploaded_predictions
from mlscale.parquet import input_files

COLUMNS = ["a", "b", "month"]
APART = multiprocessing.get_context("forkserver")   # processes that start with what one has imported


@pytest.fixture(scope="module", autouse=True)
def imported():
    "One process imports what the others need, while the models are made."
    APART.set_forkserver_preload(["test_batch_faults", "onnxruntime", "pyarrow.parquet", "pyarrow.dataset", "tqdm.auto"])
    with pytest.MonkeyPatch.context() as m:
        m.setenv("PYTHONPATH", str(Path(__file__).parent))
        forkserver.ensure_running()


def table(n, seed=0, first=0):
    "Rows with ids; b may be missing, a may not."
    x = pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32).astype(float), columns=COLUMNS)
    x.loc[::7, "b"] = np.nan
    return x.assign(month=np.arange(n)%12 + 1., id=np.arange(first, first + n))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Trees, others that were there before, trees that take their time, and a logistic regression that wants every number."
    box, x = tmp_path_factory.mktemp("models"), table(2000)
    y, x = (x.a + np.random.default_rng(1).normal(size=len(x)) > 0).astype(int), x[COLUMNS]
    x.loc[::11, "month"] = np.nan
    with threadpool_limits(1):
        for name, n in (("trees", 20), ("old", 2), ("slow", 300)): save(HistGradientBoostingClassifier(max_iter=n, max_leaf_nodes=31, early_stopping=False).fit(x, y), box/name, example=x)
    x = x.fillna(0)
    save(LogisticRegression().fit(x, y), box/"logistic", example=x)
    return box


def files_of(folder, n, rows, seed=0):
    "n files of some rows each, in a new folder."
    folder.mkdir(parents=True)
    for i in range(n): table(rows, seed=seed + i, first=i*rows).to_parquet(folder/f"f{i:03d}.parquet", index=False)
    return folder


def answer(out):
    "What a reader sees: predictions by id, each there once."
    manifest = read_manifest(out)
    got = pd.concat([pq.ParquetFile(f).read().to_pandas() for f in sorted(out.resolve().rglob("part-*.parquet"))])
    assert len(got) == manifest.rows and not got["id"].duplicated().any()
    return got.set_index("id").prediction.sort_index()


def is_right(out, bundle, rows):
    "Every row of the input has the bundle's own prediction, and there are no others."
    got, rows = answer(out), rows.sort_values("id")
    assert got.index.tolist() == rows.id.tolist()
    assert np.abs(got.to_numpy() - load_bundle(bundle).predict(rows[COLUMNS].to_numpy())).max() < 1e-6
    return True


def rows_of(*paths): return pd.concat([pq.ParquetFile(f.path).read().to_pandas() for path in paths for f in input_files(path)])


def versions(out): return out.with_name(f".{out.name}.versions")
def staged(out): return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in (versions(out)/"staging").glob("*.parquet")}
def inodes(folder): return {(f.stat().st_ino, f.stat().st_mtime_ns) for f in folder.resolve().rglob("part-*.parquet")}


def leaves_nothing_behind(out, answers=2):
    "No half-written thing, no staging, and no more answers than are kept."
    left = [f.name for f in versions(out).iterdir()]
    assert "staging" not in left and not [f for f in left if f[0] == "."] and len(set(left) - {"lock"}) <= answers


def apart(work, *args):
    "Start a function in a process of its own."
    process = APART.Process(target=work, args=args)
    process.start()
    return process


def ended(process, code):
    process.join(60)
    assert process.exitcode == code


# ---------------------------------------------------------------- the driver is killed


def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)


def die_after(function, n=1):
    "A function that works n times, after which its process is no more."
    counter = itertools.count(1)

    def works(*args, **kwargs):
        result = function(*args, **kwargs)
        return die() if next(counter) >= n else result
    return works


def die_in(module, name, how):
    "Where a process will die: at a call of a name of a module, or after it."
    function = getattr(module, name)
    setattr(module, name, die if how == "at" else die_after(function, 1 if how == "after" else how))


DEATHS = {
    "before anything is scored": (batch_job, "plan_units", "at"),
    "when ids are checked": (batch_job, "score_here", "at"),
    "when 90 of 100 files are scored": (batch_engines, "score_unit", 90),
    "when all are scored": (batch_job, "_score", "after"),
    "before the manifest is written": (batch_job, "_check_rows", "at"),
    "when the manifest is written": (batch_job, "_seal", "after"),
    "before the link turns": (batch_job, "_point", "at"),
    "when the link has turned": (batch_job, "_point", "after"),
}


def job_that_dies(death, *args, **options):
    die_in(*DEATHS[death])
    batch_predict(*args, **options)


def dies(death, *args): ended(apart(job_that_dies_here, death, *args), -signal.SIGKILL)
def job_that_dies_here(death, *args): job_that_dies(death, *args, engine="arrow", partitions=100)


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    return files_of(tmp_path_factory.mktemp("hundred")/"in", 100, 100)


@pytest.mark.parametrize("death", DEATHS)
def test_a_job_that_is_killed_leaves_the_old_answer_or_the_new_one_and_the_next_run_goes_on(death, models, hundred, tmp_path):
    out = tmp_path/"out"
    batch_predict(models/"old", files_of(tmp_path/"old", 1, 50), out, engine="arrow")
    old, before = read_manifest(out), answer(out)
    dies(death, models/"trees", hundred, out)
    if death == "when the link has turned": assert is_right(out, models/"trees", rows_of(hundred))
    else: assert read_manifest(out) == old and answer(out).equals(before)
    left = {name: seen for name, seen in staged(out).items() if name[0] != "_"}
    many = {"before anything is scored": 0, "when ids are checked": 0, "when 90 of 100 files are scored": 90}.get(death, 100)
    assert many <= len(left) <= many + 2*(many == 90)   # each core may have had one more
    done = batch_predict(models/"trees", hundred, out, engine="arrow", partitions=100)
    assert is_right(out, models/"trees", rows_of(hundred)) and done == read_manifest(out)
    assert set(left.values()) <= inodes(out)            # what was scored was not scored again
    leaves_nothing_behind(out)


def test_ids_that_were_checked_in_one_column_are_not_said_to_be_in_another(models, tmp_path):
    table(60).assign(key=[7, 7, *range(100, 158)]).to_parquet(tmp_path/"in.parquet", index=False)
    out = tmp_path/"out"
    ended(apart(job_that_dies_with, "when ids are checked", models/"trees", tmp_path/"in.parquet", out, {"ignore": ["key"]}), -signal.SIGKILL)
    with pytest.raises(ValueError, match="7 stands there 2 times"): batch_predict(models/"trees", tmp_path/"in.parquet", out, engine="arrow", id="key", ignore=["id"])


def job_that_dies_with(death, model, source, out, options): job_that_dies(death, model, source, out, engine="arrow", **options)


def test_what_a_kill_left_is_not_kept_in_place_of_an_answer(models, tmp_path):
    source, out, seen = files_of(tmp_path/"in", 1, 50), tmp_path/"out", []
    for name in ("trees", "slow"):
        batch_predict(models/name, source, out, engine="arrow", keep=2)
        seen.append(out.resolve())
    dies("when the manifest is written", models/"old", source, out)
    batch_predict(models/"slow", source, out, engine="arrow")     # which is there already
    leaves_nothing_behind(out)
    assert all(read_manifest(folder).rows == 50 for folder in seen)


# ---------------------------------------------------------------- Ctrl-C


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(.002)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    "Enough rows that whoever wants to stop a job has time for it."
    return files_of(tmp_path_factory.mktemp("long")/"in", 40, 1500)


def goes_on(out, models, source, left, **options):
    "The next run is right, and used what the last one left."
    batch_predict(models/"slow", source, out, partitions=40, **options)
    assert is_right(out, models/"slow", rows_of(source)) and left and set(left.values()) <= inodes(out)
    leaves_nothing_behind(out)


def slow_job(*args): batch_predict(*args, engine="arrow", partitions=40)


def test_ctrl_c_leaves_nothing_half_visible_and_the_next_run_goes_on(models, long, tmp_path):
    out = tmp_path/"out"
    job = apart(slow_job, models/"slow", long, out)
    wait_for(lambda: len(staged(out)) >= 3)
    os.kill(job.pid, signal.SIGINT)
    ended(job, 1)
    left = staged(out)
    assert not os.path.lexists(out) and 3 <= len(left) < 40 and not list((versions(out)/"staging").glob(".*"))
    goes_on(out, models, long, left, engine="arrow")


def test_ctrl_c_of_a_job_on_spark(spark, models, long, tmp_path):
    if threading.current_thread() is not threading.main_thread(): pytest.skip("a signal reaches the main thread only")
    out = tmp_path/"out"

    def interrupt():
        wait_for(lambda: len(staged(out)) >= 3)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=interrupt)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        batch_predict(models/"slow", long, out, spark=spark, partitions=40)
        presser.join()
        time.sleep(5)     # the job was faster: the signal belongs to this test all the same
    presser.join()
    left = staged(out)
    assert not os.path.lexists(out) and 3 <= len(left) < 40
    goes_on(out, models, long, left, spark=spark)


# ---------------------------------------------------------------- a full disk


@contextmanager
def disk(folder, size):
    "A disk of its own, and a function that changes its size."
    folder.mkdir()
    mount = lambda *options: subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if shutil.which("mount") is None or (said := mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")).returncode:
        pytest.skip(f"no disk can be mounted here: {said.stderr.strip() if shutil.which('mount') else 'no mount'}")
    try: yield lambda size: mount("-o", f"remount,size={size}").check_returncode()
    finally: subprocess.run(["umount", "--lazy", folder], check=True)   # an error that is kept keeps its files open


def fill(folder):
    "Write until nothing fits any more."
    with (folder/"ballast").open("wb", buffering=0) as f:
        for size in (65536, 1):
            try:
                while f.write(b"x"*size): pass
            except OSError: pass


@pytest.mark.parametrize("engine", ["arrow", pytest.param("spark", marks=pytest.mark.slow)])
def test_a_full_disk_is_said_in_one_line_and_the_next_run_goes_on(engine, models, hundred, tmp_path, spark):
    options = {"engine": engine, "spark": spark if engine == "spark" else None, "partitions": 100}
    with disk(tmp_path/"disk", "300k") as resize:
        out = tmp_path/"disk"/"out"
        with pytest.raises(RuntimeError, match="[Nn]o space left on device") as e: batch_predict(models/"trees", hundred, out, **options)
        left = staged(out)
        assert "\n" not in str(e.value) and len(str(e.value)) < 300 and not os.path.lexists(out) and 10 < len(left) < 100
        resize("8m")
        batch_predict(models/"trees", hundred, out, **options)
        assert is_right(out, models/"trees", rows_of(hundred)) and set(left.values()) <= inodes(out)
        leaves_nothing_behind(out)


@pytest.mark.parametrize("when", ["_seal", "check_ids_here"])
def test_a_disk_that_is_full_at_the_end_leaves_the_old_answer(when, models, hundred, tmp_path, monkeypatch):
    with disk(tmp_path/"disk", "4m"):
        out, step = tmp_path/"disk"/"out", getattr(batch_job, when)
        batch_predict(models/"old", hundred, out, engine="arrow")
        old = read_manifest(out)

        def full(*args):
            fill(tmp_path/"disk")
            return step(*args)

        with monkeypatch.context() as m:
            m.setattr(batch_job, when, full)
            with pytest.raises(RuntimeError, match="[Nn]o space left on device") as e: batch_predict(models/"trees", hundred, out, engine="arrow")
        assert "\n" not in str(e.value) and read_manifest(out) == old
        (tmp_path/"disk"/"ballast").unlink()
        batch_predict(models/"trees", hundred, out, engine="arrow")
        assert is_right(out, models/"trees", rows_of(hundred))
        leaves_nothing_behind(out)


def job_with_small_files(model, source, out):
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try: batch_predict(model, source, out, engine="arrow", partitions=4)
    except RuntimeError as e: sys.exit(0 if "too large" in str(e).lower() and "\n" not in str(e) else 2)


def test_a_file_that_may_not_grow_is_a_full_disk_too(models, tmp_path):
    source, out = files_of(tmp_path/"in", 4, 1000), tmp_path/"out"
    ended(apart(job_with_small_files, models/"trees", source, out), 0)
    assert not os.path.lexists(out) and staged(out) == {}
    batch_predict(models/"trees", source, out, engine="arrow", partitions=4)
    assert is_right(out, models/"trees", rows_of(source))


# ---------------------------------------------------------------- files that change


class Swap:
    "A file, and another one of the same size that takes its place and gives it back."

    def __init__(self, box, n=500):
        box.mkdir()
        self.file, self.aside = box/"f.parquet", box/"aside"
        plain = lambda seed, file: pq.write_table(pa.Table.from_pandas(table(n, seed), preserve_index=False), file, compression="none", use_dictionary=False, write_statistics=False)
        plain(1, self.file)
        plain(2, box/"other")
        self.rows, self.other = rows_of(self.file), (box/"other").read_bytes()
        assert len(self.other) == self.file.stat().st_size

    def take(self, keep_time=False):
        self.file.rename(self.aside)
        self.file.write_bytes(self.other)
        if keep_time: os.utime(self.file, ns=(0, self.aside.stat().st_mtime_ns))

    def back(self): self.aside.replace(self.file)


CHANGES = {
    "deleted": lambda swap: swap.file.rename(swap.aside),
    "replaced by a shorter one": lambda swap: swap.file.rename(swap.aside) and table(5).to_parquet(swap.file, index=False),
    "replaced by one of its size": lambda swap: swap.take(),
    "replaced by one of its size and time": lambda swap: swap.take(keep_time=True),
}


def before_and_after(monkeypatch, module, name, before=lambda: None, after=lambda: None):
    "Let something happen around a call."
    function = getattr(module, name)

    def around(*args, **kwargs):
        before()
        result = function(*args, **kwargs)
        after()
        return result
    monkeypatch.setattr(module, name, around)


@pytest.mark.parametrize(("change", "engine", "on_bad"), [
    *itertools.product(CHANGES, ["arrow"], ["fail", "quarantine"]), ("deleted", "spark", "quarantine"), ("replaced by one of its size", "spark", "fail")])
def test_a_file_that_changes_after_the_plan_gives_no_answer(change, engine, on_bad, models, tmp_path, monkeypatch, spark):
    swap, out = Swap(tmp_path/"in"), tmp_path/"out"
    run = lambda: batch_predict(models/"trees", tmp_path/"in", out, engine=engine, spark=spark if engine == "spark" else None, check_ids=False, on_bad=on_bad)
    with monkeypatch.context() as m:
        before_and_after(m, batch_job, "plan_units", after=lambda: CHANGES[change](swap))
        with pytest.raises(ValueError, match="^input_path: .*f.parquet.* (changed while|is not a readable|cannot be read)|^input_path: 'in' changed") as e: run()
    assert "\n" not in str(e.value) and not os.path.lexists(out)
    swap.back()
    run()
    assert is_right(out, models/"trees", swap.rows)


def swapped(swap, monkeypatch, at):
    "Another content at a time, and the first one again before anybody looks."
    if at == "before the plan": before_and_after(monkeypatch, batch_job, "plan_units", before=swap.take)
    else: before_and_after(monkeypatch, batch_job, "plan_units", after=swap.take)
    if at == "while it is read": before_and_after(monkeypatch, resume, "_check_unchanged", before=swap.back)


@pytest.mark.parametrize("at", ["before the plan", "while it is read"])
def test_a_content_that_was_there_for_a_moment_is_in_no_answer(at, models, tmp_path, monkeypatch):
    swap, out = Swap(tmp_path/"in"), tmp_path/"out"
    with monkeypatch.context() as m:
        swapped(swap, m, at)
        before_and_after(m, batch_job, "_seal", before=lambda: swap.aside.exists() and swap.back())
        with pytest.raises(ValueError, match="'f.parquet' changed while it was scored"): batch_predict(models/"trees", tmp_path/"in", out, engine="arrow")
    assert not os.path.lexists(out)
    if swap.aside.exists(): swap.back()
    batch_predict(models/"trees", tmp_path/"in", out, engine="arrow")
    assert is_right(out, models/"trees", swap.rows)


def swapped_job_that_dies(swap, at, model, source, out):
    with pytest.MonkeyPatch.context() as m:
        swapped(swap, m, at)
        job_that_dies("when all are scored", model, source, out, engine="arrow")


@pytest.mark.parametrize("at", ["before the plan", "after the plan"])
def test_what_was_scored_of_another_content_is_not_used_when_the_first_one_is_back(at, models, tmp_path):
    swap, out = Swap(tmp_path/"in"), tmp_path/"out"
    job = apart(swapped_job_that_dies, swap, at, models/"trees", tmp_path/"in", out)
    job.join(60)
    assert job.exitcode and staged(out) == {}
    swap.back()
    batch_predict(models/"trees", tmp_path/"in", out, engine="arrow")
    assert is_right(out, models/"trees", swap.rows)


# ---------------------------------------------------------------- several at once


def job_at_once(start, said, *args):
    start.wait(60)
    manifest = batch_predict(*args, engine="arrow", partitions=40)
    said.put((manifest.model, manifest.created))


def test_processes_that_want_the_same_output_at_once(models, long, tmp_path):
    out, start, said, names = tmp_path/"out", APART.Barrier(4), APART.Queue(), ["trees", "old", "trees", "old"]
    jobs = [apart(job_at_once, start, said, models/name, long, out) for name in names]
    for job in jobs: ended(job, 0)
    answers = {said.get(timeout=10) for _ in jobs}
    assert len(answers) == 2                            # each question was answered once
    now = read_manifest(out).model
    for folder in versions(out).iterdir():
        if folder.is_dir():
            name = next(n for n in names if load_bundle(models/n).sha256 == read_manifest(folder).model)
            assert is_right(folder, models/name, rows_of(long)) and (folder != out.resolve() or load_bundle(models/name).sha256 == now)
    leaves_nothing_behind(out)


# ---------------------------------------------------------------- rows and files that are set aside


def flip(file, column, group=0, back=3):
    "One bit of a page of numbers, which stay numbers."
    where = pq.read_metadata(file).row_group(group).column(COLUMNS.index(column))
    assert where.path_in_schema == column and where.compression == "UNCOMPRESSED"
    with open(file, "r+b") as f:
        f.seek(where.data_page_offset + where.total_compressed_size - back)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 1]))


def checked(x, file, **options):
    "A file with a checksum for each page."
    pq.write_table(pa.Table.from_pandas(x, preserve_index=False), file, compression="none", use_dictionary=False, write_page_checksum=True, **options)


def test_a_flipped_byte_that_gives_a_plausible_value_is_noticed_by_the_checksum(models, tmp_path):
    file, x = tmp_path/"in.parquet", table(50)
    for checksums in (False, True):
        (checked if checksums else lambda x, file: pq.write_table(pa.Table.from_pandas(x, preserve_index=False), file, compression="none", use_dictionary=False))(x, file)
        flip(file, "a")
        assert (pq.ParquetFile(file).read().to_pandas().a != x.a).sum() == 1     # read without a look at checksums: another number
        if not checksums: batch_predict(models/"trees", file, tmp_path/"out", engine="arrow")
    with pytest.raises(ValueError, match="^input_path: 'in.parquet' cannot be read on a worker .*CRC") as e: batch_predict(models/"trees", file, tmp_path/"out 2", engine="arrow")
    assert "\n" not in str(e.value) and not os.path.lexists(tmp_path/"out 2")


def nested(x): return pd.DataFrame({"id": x.id, "features": x[COLUMNS].to_numpy().tolist()})


def cut(file): file.write_bytes(file.read_bytes()[:-100])


def bad_rows(folder):
    "Files with every kind of bad row; for each its rows and those of them that can be scored, by place."
    folder.mkdir()
    said, first = {}, itertools.count(0, 1000)

    def make(name, good, change=lambda x: x, write=lambda x, file: x.to_parquet(file, index=False), spoil=lambda file: None):
        x = table(50, seed=len(said), first=next(first))
        write(change(x), folder/f"{name}.parquet")
        spoil(folder/f"{name}.parquet")
        said[f"{name}.parquet"] = x.iloc[[i for i in range(50) if good(i)]]

    make("0 good", lambda i: True)
    make("1 infinite", lambda i: i != 7, lambda x: x.assign(a=x.a.where(x.index != 7, np.inf)))
    make("2 missing", lambda i: i not in (3, 4), lambda x: x.assign(a=x.a.where(~x.index.isin([3, 4]))))
    make("3 null id", lambda i: i != 9, lambda x: x.assign(id=x.id.astype("Int64").where(x.index != 9)))
    make("4 footer", lambda i: False, spoil=cut)
    make("5 page", lambda i: i//20 != 1, write=lambda x, file: checked(x[[*COLUMNS, "id"]], file, row_group_size=20), spoil=lambda file: flip(file, "a", 1))
    make("6 column", lambda i: False, lambda x: x.drop(columns="b"))
    make("7 type", lambda i: False, lambda x: x.assign(a="1"))
    make("8 more", lambda i: False, lambda x: x.assign(z=1))
    return said


def bad_lists(folder):
    folder.mkdir()
    said = {}
    for n, (name, value) in enumerate([("0 good", [1., 2., 3.]), ("1 short", [1., 2.]), ("2 long", [1.]*4), ("3 null", None), ("4 missing", [None, 2., 3.]), ("5 infinite", [np.inf, 2., 3.])]):
        x = table(50, seed=n, first=1000*n)
        lists = nested(x)
        if n: lists.at[5, "features"] = value
        lists.to_parquet(folder/f"{name}.parquet", index=False)
        said[f"{name}.parquet"] = x.drop(index=[5]*bool(n))
    return said


@pytest.mark.parametrize("make", [bad_rows, bad_lists])
def test_bad_rows_are_set_aside_file_by_file_and_by_both_engines_alike(make, models, tmp_path, spark):
    said, seen = make(tmp_path/"in"), {}
    for engine in ("arrow", "spark"):
        out = tmp_path/engine
        done = batch_predict(models/"trees", tmp_path/"in", out, engine=engine, spark=spark if engine == "spark" else None, on_bad="quarantine")
        assert is_right(out, models/"trees", pd.concat(said.values()))
        known = {name: 50 if name != "4 footer.parquet" else None for name in said}
        assert done.inputs == {name: {"rows": n, "scored": len(said[name]), "quarantined": n and n - len(said[name])} for name, n in known.items()}
        aside = pd.read_parquet(out/"_quarantine.parquet").sort_values(["file", "row"], ignore_index=True)
        assert aside.groupby("file").rows.sum().astype(int).to_dict() == {name: n or 0 for name, counts in done.inputs.items() if (n := counts["quarantined"]) != 0}
        assert aside.reason.str.len().min() > 10 and not aside.reason.str.contains("\n", regex=False).any()
        seen[engine] = done.inputs, aside, answer(out)
    assert seen["arrow"][0] == seen["spark"][0] and seen["arrow"][1].equals(seen["spark"][1]) and seen["arrow"][2].equals(seen["spark"][2])
    single = seen["arrow"][1].query("rows == 1 and id == id")
    assert len(single) == {bad_rows: 3, bad_lists: 5}[make] and (single.id.astype(int)%1000 == single.row).all()
    with pytest.raises(ValueError, match="^input_path"): batch_predict(models/"trees", tmp_path/"in", out, engine="arrow")


def test_an_answer_with_rows_set_aside_depends_on_what_was_ignored(models, tmp_path):
    (tmp_path/"in").mkdir()
    table(20).to_parquet(tmp_path/"in"/"a.parquet", index=False)
    table(20, first=10).assign(z=1).to_parquet(tmp_path/"in"/"b.parquet", index=False)
    run = lambda **options: batch_predict(models/"trees", tmp_path/"in", tmp_path/"out", engine="arrow", on_bad="quarantine", **options)
    assert run().quarantined == 20
    with pytest.raises(ValueError, match="40 rows have 30 different ids"): run(ignore=["z"])
    assert run().quarantined == 20


def test_ids_behind_a_page_that_cannot_be_read_are_checked(models, tmp_path):
    (tmp_path/"in").mkdir()
    checked(table(50)[[*COLUMNS, "id"]], tmp_path/"in"/"a.parquet")
    with open(tmp_path/"in"/"a.parquet", "r+b") as f:
        f.seek(pq.read_metadata(f).row_group(0).column(3).data_page_offset + 40)
        f.write(b"\xff"*50)
    for name, first in (("b", 100), ("c", 149)): table(50, first=first).to_parquet(tmp_path/"in"/f"{name}.parquet", index=False)
    with pytest.raises(ValueError, match="149 stands there 2 times"): batch_predict(models/"trees", tmp_path/"in", tmp_path/"out", engine="arrow", on_bad="quarantine")


def job_of_nobody(box, said):
    os.environ["MLSCALE_HOME"] = str(box/"home")   # that of the project may be closed to others
    if os.geteuid() == 0: os.seteuid(65534)     # root may read everything
    run = lambda **options: batch_predict(box/"model", box/"in", box/"out", engine="arrow", **options)
    with pytest.raises(ValueError, match="'f000.parquet' .*Permission denied") as e: run()
    said.put((str(e.value), run(on_bad="quarantine").inputs))


def test_a_file_that_may_not_be_read_is_named_or_set_aside(models):
    said = APART.Queue()
    with tempfile.TemporaryDirectory() as box:
        os.chmod(box, 0o777)
        shutil.copytree(models/"trees", Path(box)/"model")
        (files_of(Path(box)/"in", 2, 50)/"f000.parquet").chmod(0)
        ended(apart(job_of_nobody, Path(box), said), 0)
        error, inputs = said.get(timeout=10)
        assert "\n" not in error and inputs == {"f000.parquet": {"rows": None, "scored": 0, "quarantined": None}, "f001.parquet": {"rows": 50, "scored": 50, "quarantined": 0}}


def test_a_link_that_leads_nowhere_is_named_or_set_aside(models, tmp_path):
    source = files_of(tmp_path/"in", 2, 50)
    (source/"f000.parquet").rename(tmp_path/"elsewhere")
    (source/"f000.parquet").symlink_to(tmp_path/"elsewhere")
    run = lambda **options: batch_predict(models/"trees", source, tmp_path/"out", engine="arrow", **options)
    assert run().inputs["f000.parquet"]["scored"] == 50
    (tmp_path/"elsewhere").unlink()
    with pytest.raises(ValueError, match="^input_path: 'f000.parquet' is not a readable Parquet file .*No such file"): run()
    assert run(on_bad="quarantine").inputs["f000.parquet"] == {"rows": None, "scored": 0, "quarantined": None}


# ---------------------------------------------------------------- inputs of many forms


def test_folders_are_columns_of_the_input_and_folders_of_the_answer(models, tmp_path, spark):
    x = table(120)
    x["month"] = x.month.where(x.month != 5)
    x.to_parquet(tmp_path/"in", partition_cols=["month"])
    assert (tmp_path/"in"/"month=__HIVE_DEFAULT_PARTITION__").exists() and len(list((tmp_path/"in").iterdir())) == 12
    seen = {}
    for engine in ("arrow", "spark"):
        batch_predict(models/"trees", tmp_path/"in", tmp_path/engine, engine=engine, spark=spark if engine == "spark" else None)
        assert is_right(tmp_path/engine, models/"trees", x)
        seen[engine] = ds.dataset(tmp_path/engine, partitioning="hive").to_table().to_pandas().sort_values("id", ignore_index=True)
        assert sorted(f.name for f in (tmp_path/engine).iterdir() if f.is_dir()) == sorted(f.name for f in (tmp_path/"in").iterdir())
        assert pd.to_numeric(seen[engine].month).equals(x.month)
    assert seen["arrow"].equals(seen["spark"])
    next((tmp_path/"in").glob("month=12*")).rename(tmp_path/"in"/"month=soon")
    with pytest.raises(ValueError, match="^input_path: the folder month=soon gives no number"): batch_predict(models/"trees", tmp_path/"in", tmp_path/"out", engine="arrow")
    done = batch_predict(models/"logistic", tmp_path/"in", tmp_path/"out", engine="arrow", on_bad="quarantine")     # which wants every number
    gone = x.month.isna() | x.b.isna() | (x.month == 12)
    assert done.quarantined == gone.sum() and is_right(tmp_path/"out", models/"logistic", x[~gone])


def test_several_inputs_of_any_form_and_names_that_are_the_same(models, tmp_path, spark):
    x = [table(30, seed=i, first=100*i) for i in range(5)]
    places = ["one/june/p.parquet", "two/june/p.parquet", "p.parquet", "days/month=3/p.parquet", "nights/month=3/p.parquet"]
    for part, place in zip(x, places):
        (tmp_path/place).parent.mkdir(parents=True, exist_ok=True)
        if "=" in place: part["month"] = 3.
        part.drop(columns=["month"]*("=" in place)).to_parquet(tmp_path/place, index=False)
    for some, roots in ((slice(0, 3), ["one/june", "two/june", "p.parquet"]), (slice(3, 5), ["days", "nights"])):
        for engine in ("arrow", "spark"):
            out = tmp_path/f"{engine} {roots[0][:3]}"
            done = batch_predict(models/"trees", [tmp_path/root for root in roots], out, engine=engine, spark=spark if engine == "spark" else None)
            assert is_right(out, models/"trees", pd.concat(x[some]))
            assert [counts for counts in done.inputs.values()] == [{"rows": 30, "scored": 30, "quarantined": 0}]*len(roots)
            assert sorted(done.inputs) == sorted(places[some])


def test_a_file_that_is_named_twice_is_refused(models, tmp_path):
    source = files_of(tmp_path/"in", 2, 10)
    (tmp_path/"link.parquet").symlink_to(source/"f000.parquet")
    for twice in ([source, source], [source, source/"f000.parquet"], [tmp_path/"link.parquet", source], [source/"f001.parquet", source/".."/"in"/"f001.parquet"]):
        with pytest.raises(ValueError, match="^input_path: 'f00..parquet' is named 2 times"): batch_predict(models/"trees", twice, tmp_path/"out", engine="arrow")
    assert not list(tmp_path.glob("*out*"))


def test_a_model_is_named_as_the_registry_names_it(models, tmp_path, monkeypatch):
    from mlscale.registry import Registry
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path/"home"))
    registry, x = Registry(), table(200)[COLUMNS].fillna(0)
    for c in (.01, 1.): registry.register(LogisticRegression(C=c).fit(x, x.a > 0), name="late", example=x, lineage={}, metrics={})
    registry.promote("late", 1)
    rows = table(40).fillna(0)
    rows.to_parquet(tmp_path/"in.parquet", index=False)
    run = lambda name: batch_predict(name, tmp_path/"in.parquet", tmp_path/"out", engine="arrow")
    for name, version in (("late@champion", 1), ("late:2", 2), ("late:1", 1)):
        done, bundle = run(name), registry.load("late", version)
        assert (done.name, done.version, done.model) == ("late", version, bundle.sha256)
        assert np.array_equal(answer(tmp_path/"out"), bundle.predict(rows[COLUMNS].to_numpy()))
        said = pq.read_metadata(next((tmp_path/"out").resolve().glob("*.parquet"))).metadata
        assert (said[b"mlscale.name"], said[b"mlscale.version"], said[b"mlscale.model"]) == (b"late", b"%d" % version, bundle.sha256.encode())
    for name in ("late:9", "late@nobody", "early:1"):
        with pytest.raises((ValueError, LookupError)) as e: run(name)
        assert "\n" not in str(e.value) and name.replace("@", ":").split(":")[1] in str(e.value) or "early" in str(e.value)


def test_half_precision_is_scored_as_what_it_is(models, tmp_path, spark):
    x = table(60)
    rows = x.assign(a=x.a.astype("float16"), b=x.b.astype("float16"))
    for name, form in (("named", rows), ("lists", pa.table({"id": rows.id, "features": pa.array([list(map(np.float16, row)) for row in x[COLUMNS].to_numpy()], pa.list_(pa.float16()))}))):
        if name == "named": rows.to_parquet(tmp_path/f"{name}.parquet", index=False)
        else: pq.write_table(form, tmp_path/f"{name}.parquet")
        for engine in ("arrow", "spark"):
            batch_predict(models/"trees", tmp_path/f"{name}.parquet", tmp_path/name, engine=engine, spark=spark if engine == "spark" else None)
            assert is_right(tmp_path/name, models/"trees", rows.astype(dict.fromkeys("ab", float)))


@pytest.mark.parametrize("name", ["trees", "logistic"])
def test_both_engines_predict_the_same_to_the_last_bit(name, models, tmp_path, spark):
    files_of(tmp_path/"in", 3, 4000)
    if name == "logistic":
        for file in input_files(tmp_path/"in"): pd.read_parquet(file.path).fillna(0).to_parquet(file.path, index=False)
    for engine, parts in (("arrow", 5), ("spark", 3)): batch_predict(models/name, tmp_path/"in", tmp_path/engine, engine=engine, partitions=parts, spark=spark if engine == "spark" else None)
    one, two = answer(tmp_path/"arrow"), answer(tmp_path/"spark")
    assert len(one) == 12_000 and one.index.equals(two.index) and one.to_numpy().tobytes() == two.to_numpy().tobytes()


def test_more_parts_than_rows_can_fill_are_not_made_and_that_is_said(models, tmp_path, spark):
    table(1000).to_parquet(tmp_path/"in.parquet", index=False)
    with pytest.warns(UserWarning, match="partitions=1000: .* 10"): batch_predict(models/"trees", tmp_path/"in.parquet", tmp_path/"out", spark=spark, partitions=1000)
    assert len(inodes(tmp_path/"out")) == 10 and is_right(tmp_path/"out", models/"trees", table(1000))


# ---------------------------------------------------------------- answers that are kept, read and sent


def reader(out, opened, over, said):
    with open_predictions(out) as folder:
        opened.set()
        over.wait(60)
        said.put((folder.name, len(pd.concat(pd.read_parquet(f) for f in folder.glob("part-*.parquet")))))


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_as_many_answers_are_kept_as_asked_and_one_that_is_read_goes_when_it_is_read_no_more(keep, models, tmp_path):
    source, out, order = files_of(tmp_path/"in", 2, 50), tmp_path/"out", []
    opened, over, said = APART.Event(), APART.Event(), APART.Queue()

    def run(name):
        batch_predict(models/name, source, out, engine="arrow", keep=keep)
        order.append(out.resolve())

    there = lambda: {f for f in versions(out).iterdir() if f.is_dir()}
    run("trees")
    job = apart(reader, out, opened, over, said)
    assert opened.wait(60)
    source = files_of(tmp_path/"in 2", 2, 50)
    for name in ("old", "slow"): run(name)
    source = files_of(tmp_path/"in 3", 2, 60)
    for name in ("trees", "old"): run(name)
    assert there() == {order[0], *order[-1 - keep:]} and all(read_manifest(folder) for folder in there())
    over.set()
    ended(job, 0)
    assert said.get(timeout=10) == (order[0].name, 100)
    run("slow")
    assert there() == set(order[-1 - keep:])


@pytest.mark.parametrize("store", ["memory://scores", "file://{}/store"])
def test_what_is_sent_to_a_store_appears_there_at_once(store, models, tmp_path):
    import fsspec
    url, out = store.format(tmp_path), tmp_path/"out"
    table(30, first=500).assign(a=np.inf).to_parquet(tmp_path/"bad.parquet", index=False)
    table(120).to_parquet(tmp_path/"in", partition_cols=["month"])
    with pytest.raises(ValueError, match="no predictions were uploaded there"): uploaded_predictions(url)
    for name in ("trees", "old"):
        batch_predict(models/name, tmp_path/"in", out, engine="arrow", on_bad="quarantine")
        upload_predictions(out, url)
        manifest, addresses = uploaded_predictions(url)
        assert manifest == read_manifest(out) and len(addresses) == 12
        got = []
        for address in addresses:
            with fsspec.open(address) as f: got.append(pq.read_table(f).to_pandas())
        assert pd.concat(got).set_index("id").prediction.sort_index().equals(answer(out))


def test_a_store_that_is_full_keeps_what_it_shows(models, tmp_path):
    source, out = files_of(tmp_path/"in", 4, 1000), tmp_path/"out"
    with disk(tmp_path/"disk", "1m") as resize:
        url = f"file://{tmp_path}/disk/scores"
        batch_predict(models/"old", source, out, engine="arrow")
        upload_predictions(out, url)
        shown = uploaded_predictions(url)
        resize(shutil.disk_usage(tmp_path/"disk").used + 8192)
        batch_predict(models/"trees", source, out, engine="arrow")
        with pytest.raises(OSError, match="No space left"): upload_predictions(out, url)
        assert uploaded_predictions(url) == shown and all(Path(f.removeprefix("file://")).stat().st_size for f in shown[1])


TERMINAL = """
import os, sys
from mlscale.batch import batch_predict
from mlscale.spark import session
with session() as spark:
    print(spark.sparkContext.master)
    for source in sys.argv[2:]:
        try: print(batch_predict(sys.argv[1], source, "out").rows)
        except ValueError as e: print(e)
"""


def test_a_refused_value_is_one_line_and_spark_says_nothing_beside(models, tmp_path):
    good, bad = table(300), table(300)
    bad.loc[250, "a"] = -np.inf
    good.to_parquet(tmp_path/"good.parquet", index=False)
    bad.to_parquet(tmp_path/"bad.parquet", index=False)
    run = subprocess.run([sys.executable, "-c", TERMINAL, models/"trees", tmp_path/"bad.parquet", tmp_path/"good.parquet"], capture_output=True, text=True, timeout=300,
                         cwd=tmp_path, env={**os.environ, "MLSCALE_SPARK_MASTER": "local[1]", "MLSCALE_HOME": str(tmp_path/"home")})
    master, refused, rows = run.stdout.splitlines()
    assert master == "local[1]" and rows == "300" and refused.startswith("input_path: id 250: column 'a': -inf is infinite")
    assert run.stderr in ("", "WARNING: Using incubator modules: jdk.incubator.vector\n")     # the second by Java


# ---------------------------------------------------------------- Spark in processes of its own


def spark_job(model, source, out, death=None, **options):
    "A driver in this process; the master is that of MLSCALE_SPARK_MASTER."
    if death: die_in(*DEATHS[death])
    print(batch_predict(model, source, out, **options).rows)


def driver(*args, master="local-cluster[2,1,1024]", **options):
    "A driver in a process of its own, with all that it starts in its group, as a terminal does it."
    call = f"from pathlib import Path, PosixPath; from test_batch_faults import spark_job; spark_job(*{args!r}, **{options!r})"
    env = {**os.environ, "MLSCALE_SPARK_MASTER": master, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", call], env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def work_of_spark():
    "The folder in which a cluster of processes keeps what its workers print is cleared again."
    work = Path(pyspark.__file__).parent/"work"
    before = set(work.glob("app-*"))
    yield
    for folder in set(work.glob("app-*")) - before: shutil.rmtree(folder)


def below(process, *words):
    "Processes that a process has started, by words of their command lines."
    found = []
    for p in psutil.Process(process.pid).children(recursive=True):
        try:
            if all(word in " ".join(p.cmdline()) for word in words): found.append(p)
        except psutil.NoSuchProcess: pass
    return found


def executors(job): return below(job, "CoarseGrainedExecutorBackend")
def python_workers(job): return [p for p in below(job, "pyspark.daemon") if "pyspark.daemon" in " ".join(p.parent().cmdline())]


@pytest.mark.slow
@pytest.mark.parametrize("victims", [executors, python_workers])
def test_a_worker_that_is_killed_costs_no_row(victims, models, long, tmp_path, work_of_spark):
    out = tmp_path/"out"
    job = driver(models/"slow", long, out, partitions=40)
    wait_for(lambda: len(staged(out)) >= 3, 200)
    victim = victims(job)[0]
    victim.kill()
    left = staged(out)
    said, error = job.communicate(timeout=300)
    assert len(left) < 40 and not victim.is_running() and said == "60000\n", error[-2000:]
    assert is_right(out, models/"slow", rows_of(long)) and set(left.values()) <= inodes(out)
    leaves_nothing_behind(out)


@pytest.mark.slow
def test_where_nobody_tries_again_a_worker_that_is_killed_ends_the_job_in_one_line_and_the_next_goes_on(models, long, tmp_path, spark):
    out = tmp_path/"out"
    job = driver(models/"slow", long, out, master="local[2]", partitions=40)
    wait_for(lambda: len(staged(out)) >= 3, 200)
    for worker in python_workers(job): worker.kill()   # one of them may have nothing to do
    error = job.communicate(timeout=300)[1]
    left = staged(out)
    assert job.returncode == 1 and error.strip().splitlines()[-1].startswith("RuntimeError: spark: ") and not os.path.lexists(out)
    goes_on(out, models, long, left, spark=spark)


@pytest.mark.slow
@pytest.mark.parametrize("death", [None, *(death for death in DEATHS if death not in ("when ids are checked", "when 90 of 100 files are scored"))])
def test_a_driver_that_is_killed_leaves_the_old_answer_or_the_new_one(death, models, long, tmp_path, spark, work_of_spark):
    out = tmp_path/"out"
    batch_predict(models/"old", long, out, engine="arrow")
    old = read_manifest(out)
    job = driver(models/"slow", long, out, death=death, partitions=40)
    if death is None:          # in mid-work; what its workers still do, nobody waits for
        wait_for(lambda: len(staged(out)) >= 3, 200)
        job.kill()
    assert job.wait(300) == -signal.SIGKILL
    if death == "when the link has turned": assert is_right(out, models/"slow", rows_of(long))
    else: assert read_manifest(out) == old
    left = staged(out)
    batch_predict(models/"slow", long, out, partitions=40, spark=spark)
    job.communicate(timeout=60)
    assert is_right(out, models/"slow", rows_of(long)) and set(left.values()) <= inodes(out)
    assert len(left) == {"before anything is scored": 0}.get(death, 40) or death is None and 3 <= len(left) < 40
    batch_predict(models/"slow", long, out, partitions=40, spark=spark)
    leaves_nothing_behind(out)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_all_processes_and_leaves_nothing_half_visible(models, long, tmp_path, spark, work_of_spark):
    out = tmp_path/"out"
    job = driver(models/"slow", long, out, partitions=40)
    wait_for(lambda: len(staged(out)) >= 3, 200)
    os.killpg(job.pid, signal.SIGINT)
    error = job.communicate(timeout=100)[1]
    left = staged(out)
    assert job.returncode and error.strip().splitlines()[-1] == "KeyboardInterrupt" and not os.path.lexists(out) and 3 <= len(left) < 40
    goes_on(out, models, long, left, spark=spark)


@pytest.mark.slow
def test_drivers_that_want_the_same_output_at_once(models, long, tmp_path, work_of_spark):
    out = tmp_path/"out"
    jobs = [driver(models/name, long, out, master="local[2]") for name in ("slow", "trees", "slow")]
    for job in jobs: assert job.communicate(timeout=400)[0] == "60000\n" and job.returncode == 0
    name = next(name for name in ("slow", "trees") if load_bundle(models/name).sha256 == read_manifest(out).model)
    assert is_right(out, models/name, rows_of(long))
    leaves_nothing_behind(out)


@contextmanager
def cluster(folder):
    "A master and two workers on loopback, each a process of its own."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    spark_home = Path(pyspark.__file__).parent
    env = {**os.environ, "JAVA_HOME": str(java_home()), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "SPARK_HOME": str(spark_home), "SPARK_WORKER_DIR": str(folder)}
    env.pop("SPARK_CONF_DIR", None)
    start = lambda *args: subprocess.Popen([spark_home/"bin"/"spark-class", *args], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deploy, master = "org.apache.spark.deploy", f"spark://127.0.0.1:{port}"
    processes = [start(f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0")]
    processes += [start(f"{deploy}.worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", "0", master) for _ in range(2)]
    try: yield master, processes[1:]
    finally:
        for p in processes:
            for child in psutil.Process(p.pid).children(recursive=True) if p.poll() is None else []: child.kill()
            p.kill()
            p.wait()


@pytest.mark.slow
def test_a_machine_of_a_cluster_that_is_lost_costs_no_row(models, long, tmp_path):
    out = tmp_path/"out"
    with cluster(tmp_path/"work") as (master, machines):
        job = driver(models/"slow", long, out, master=master, partitions=40)
        wait_for(lambda: len(staged(out)) >= 3 and all(executors(m) for m in machines), 200)
        for process in [*executors(machines[0]), psutil.Process(machines[0].pid)]: process.kill()
        left = staged(out)
        said, error = job.communicate(timeout=300)
    assert len(left) < 40 and said == "60000\n", error[-2000:]
    assert is_right(out, models/"slow", rows_of(long)) and set(left.values()) <= inodes(out)
    leaves_nothing_behind(out)
