"A month is scored row for row as the bundle would, in one step or not at all, and only once; Spark needs no Java."
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from threadpoolctl import threadpool_limits

from mlscale import batch_job, predictions
from mlscale.artifacts import Signature, load_bundle, save
from mlscale.batch import (
    batch_predict,
    feature_matrix,
    input_columns,
    input_digest,
    java_home,
    plan_parts,
    read_manifest,
    read_rows,
    score_batches,
    shipped_bundle,
    spark_session,
)
from mlscale.predictions import FORMAT
from mlscale.spark import plain_errors, session

COLUMNS = ["a", "b", "c.d"]   # a dot in a name is no struct


def table(n=2000, seed=0):
    x = pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32).astype(float), columns=COLUMNS)
    x.loc[::7, "b"] = np.nan
    return x


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Two bundles; column b may be missing in both."
    box, x = tmp_path_factory.mktemp("models"), table()
    y = (x.a + np.random.default_rng(1).normal(size=len(x)) > 0).astype(int)
    with threadpool_limits(1):
        for name, depth in (("one", 3), ("two", 1)): save(HistGradientBoostingClassifier(max_iter=20, max_depth=depth).fit(x, y), box / name, example=x)
    return box


@pytest.fixture
def rows(tmp_path):
    "An input with named columns and one with an array, the ids in no order."
    x = table(300, seed=2)
    ids = np.random.default_rng(3).permutation(300) + 10**12
    x.assign(id=ids).to_parquet(tmp_path / "named.parquet")
    pd.DataFrame({"id": ids, "features": x.to_numpy().tolist()}).to_parquet(tmp_path / "nested.parquet")
    return x.set_axis(ids)


def written(path, id="id"): return pd.read_parquet(path).set_index(id).prediction


def java_that_says(folder, version):
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return folder


def test_spark_runs_without_java_on_a_path_with_spaces(spark):
    assert spark.range(100).count() == 100
    started = spark.sparkContext._jvm.System.getenv
    home = Path(started("JAVA_HOME"))
    assert home.parent == Path(started("MLSCALE_HOME")) / "cache" and " " in str(home)
    assert (home / "lib").is_symlink() and (home / "bin" / "java").read_text().startswith("#!/bin/sh\n")


def test_a_session_that_runs_is_found_from_every_thread_and_left_running(spark):
    def use():
        with session(None) as found: return found.sparkContext is spark.sparkContext
    with ThreadPoolExecutor(1) as another: assert another.submit(use).result()
    assert spark.range(3).count() == 3


def test_a_java_that_is_too_old_is_passed_over_and_one_of_17_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(java_that_says(tmp_path / "old", "1.8.0_402") / "bin"))
    monkeypatch.setenv("JAVA_HOME", str(java_that_says(tmp_path / "older", "11.0.2")))
    assert java_home().parent == tmp_path / "home" / "cache"
    monkeypatch.setenv("JAVA_HOME", str(java_that_says(tmp_path / "new", "17.0.2")))
    assert java_home() == tmp_path / "new"


def test_where_a_session_of_another_master_runs_it_is_used_and_that_is_said(spark, monkeypatch):
    with pytest.warns(UserWarning, match="'local\\[2\\]' runs in this process and is used; stop it first"): assert spark_session("local[1]") is spark
    monkeypatch.setenv("MLSCALE_SPARK_MASTER", "local[3]")
    with pytest.warns(UserWarning, match="local\\[3\\]"): assert spark_session() is spark
    with pytest.warns(UserWarning, match="local\\[4\\]"), session(master="local[4]") as running: assert running is spark


@pytest.mark.parametrize("name", ["named", "nested"])
def test_the_answer_is_the_bundles_own_for_every_id(name, spark, models, rows, tmp_path):
    done = batch_predict(models / "one", tmp_path / f"{name}.parquet", tmp_path / "out", spark=spark, partitions=3)
    got = written(tmp_path / "out")
    assert done.rows == len(got) == len(rows) and set(got.index) == set(rows.index) and got.index.dtype == np.int64
    assert np.abs(got[rows.index] - load_bundle(models / "one").predict(rows.to_numpy())).max() < 1e-6
    assert list(pd.read_parquet(tmp_path / "out").columns) == ["id", "prediction"]
    assert done == read_manifest(tmp_path / "out") and done.model == load_bundle(models / "one").sha256 and done.input == input_digest(tmp_path / f"{name}.parquet")


def test_a_regression_of_strings_ids_whole_numbers_and_strange_paths(spark, tmp_path):
    x = pd.DataFrame({"n": np.arange(50), "m": np.arange(50)[::-1]})
    save(LogisticRegression().fit(x, x.n > 20), tmp_path / "m", example=x)
    folder = tmp_path / "in [1] {a,b} *é"
    folder.mkdir()
    for half in (0, 1): x.iloc[half::2].assign(key=[f"k{i}" for i in x.index[half::2]]).to_parquet(folder / f"part {half}.parquet", index=False)
    (folder / "_unfinished.parquet").write_bytes(b"")
    done = batch_predict(tmp_path / "m", folder, tmp_path / "out put", spark=spark, id="key")
    with pytest.raises(ValueError, match="id='prediction'"): batch_predict(tmp_path / "m", folder, tmp_path / "out put", spark=spark, id="prediction")
    assert done.rows == 50 and np.abs(written(tmp_path / "out put", "key")[[f"k{i}" for i in x.index]] - load_bundle(tmp_path / "m").predict(x.to_numpy())).max() < 1e-6


def test_no_rows_are_an_answer(spark, models, tmp_path):
    table(5).assign(id=range(5))[:0].to_parquet(tmp_path / "empty.parquet", index=False)
    assert batch_predict(models / "one", tmp_path / "empty.parquet", tmp_path / "out", spark=spark).rows == 0
    assert list(pd.read_parquet(tmp_path / "out").columns) == ["id", "prediction"]


def test_the_same_model_and_input_are_scored_once(spark, models, rows, tmp_path):
    run = lambda source: batch_predict(models / "one", tmp_path / source, tmp_path / "out", spark=spark)
    first = run("named.parquet")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").resolve().iterdir()}
    (tmp_path / "named.parquet").rename(tmp_path / "renamed.parquet")
    assert run("renamed.parquet") == first
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "out").resolve().iterdir()}


def test_two_jobs_at_once_compute_one_answer(spark, models, rows, tmp_path):
    answers = []
    jobs = [threading.Thread(target=lambda: answers.append(batch_predict(models / "one", tmp_path / "named.parquet", tmp_path / "out", spark=spark))) for _ in range(2)]
    for job in jobs: job.start()
    for job in jobs: job.join()
    assert len(answers) == 2 and answers[0] == answers[1]


def test_a_reader_sees_the_old_or_the_new_answer_never_a_mixture(spark, models, rows, tmp_path):
    out, seen, over = tmp_path / "out", [], threading.Event()
    truth = {name: load_bundle(models / name).predict(rows.to_numpy()) for name in ("one", "two")}
    run = lambda name: batch_predict(models / name, tmp_path / "named.parquet", out, spark=spark)
    run("one")

    def read():
        while not over.is_set(): seen.append(written(out.resolve()))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(40): run(("two", "one")[i % 2])
    over.set()
    reader.join()
    kinds = [[name for name, p in truth.items() if len(s) == len(rows) and np.abs(s[rows.index] - p).max() < 1e-6] for s in seen]
    assert all(kinds) and {k[0] for k in kinds} == {"one", "two"}


def test_the_answer_before_the_last_is_kept_and_older_ones_go(spark, models, rows, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "more").mkdir()
    stayed = []
    for name, source in (("one", "named"), ("two", "named"), ("one", "nested")):
        batch_predict(models / name, tmp_path / f"{source}.parquet", out, spark=spark)
        stayed.append(out.resolve())
    assert sorted(p for p in (tmp_path / ".out.versions").iterdir() if p.is_dir()) == sorted(stayed[1:])


def test_a_bad_row_stops_the_job_names_its_id_and_leaves_the_old_answer(spark, models, rows, tmp_path):
    out = tmp_path / "out"
    good = batch_predict(models / "one", tmp_path / "named.parquet", out, spark=spark)
    x = table(300).assign(id=range(300))
    x.loc[250, "a"] = -np.inf
    x.to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="^input_path: id 250: column 'a': -inf is infinite") as e: batch_predict(models / "one", tmp_path / "bad.parquet", out, spark=spark, partitions=4)
    assert "\n" not in str(e.value)
    assert read_manifest(out) == good and len([p for p in (tmp_path / ".out.versions").iterdir() if p.is_dir() and p.name != "staging"]) == 1


def changed(**columns): return lambda t: t.assign(**columns)


def nested(t, lists): return pd.DataFrame({"id": t.id, "features": lists(t[COLUMNS].to_numpy().tolist())})


BAD = {
    "missing are 'a'": lambda t: t.drop(columns="a"),
    "missing are 'id'": lambda t: t.drop(columns="id"),
    "unknown are 'A', 'z' \\(name in `ignore`": changed(A=2, z=1),
    "'a' is of type string": changed(a="1.5"),
    "'a' is of type dictionary<values=string": lambda t: t.assign(
        a=t.a.astype(str).astype("category")
    ),
    "'a' is of type duration": lambda t: t.assign(a=pd.Timedelta(1, "h")),
    "'a' is of type list": lambda t: t.assign(a=[[1.0]] * len(t)),
    "'features' is of type list<element: list": lambda t: nested(t, lambda f: [[row] for row in f]),
    "'features' is of type list<element: string": lambda t: nested(
        t, lambda f: [list(map(str, row)) for row in f]
    ),
    "'a' is of type timestamp": lambda t: t.assign(a=pd.Timestamp("2013-01-01")),
    "expected a list of numbers": lambda t: t[["id"]].assign(features=1.0),
    "ids in 'id' are of type double": lambda t: t.assign(
        id=t.id * 1.0
    ),  # from 2**53 on it could be another row's
    "ids in 'id' are of type halffloat": lambda t: t.assign(id=t.id.astype("float16")),
    "ids in 'id' are of type bool": lambda t: t.assign(id=t.id > 3),
    "ids in 'id' are of type timestamp": lambda t: t.assign(id=pd.to_datetime(t.id, unit="s")),
    "ids in 'id' are of type binary": lambda t: t.assign(id=[b"%d" % i for i in t.id]),
    "20 of 20 ids are null": lambda t: t.assign(id=None),
    "20 rows have 19 different ids; 1 stands there 2 times": lambda t: t.assign(
        id=t.id.replace(0, 1)
    ),
    "1 of 20 ids are null": lambda t: t.assign(id=t.id.astype("Int64").where(t.id > 0)),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_draws_one_line_and_no_output(what, spark, models, tmp_path):
    BAD[what](table(20).assign(id=range(20))).to_parquet(tmp_path / "in.parquet", index=False)
    with pytest.raises(ValueError, match=f"^input_path: .*{what}") as e:
        batch_predict(models / "one", tmp_path / "in.parquet", tmp_path / "out", spark=spark)
    assert not (tmp_path / "out").exists() and len(str(e.value)) < 300


BAD_ROWS = {
    "id 3: column 'a': nan is missing": lambda t: t.assign(a=t.a.where(t.id != 3)),
    "id 4: column 'b': 1e\\+39 is infinite, or too large": lambda t: t.assign(b=t.b.where(t.id != 4, 1e39)),
    "id 5: features holds 2 values, the model takes 3": lambda t: nested(t, lambda f: [*f[:5], f[5][:2], *f[6:]]),
    "id 6: features holds 0 values": lambda t: nested(t, lambda f: [*f[:6], [], *f[7:]]),
    "id 7: features is null": lambda t: nested(t, lambda f: [*f[:7], None, *f[8:]]),
    "id 8: column 'c.d': nan is missing": lambda t: nested(t, lambda f: [*f[:8], [1., 2., None], *f[9:]]),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_bad_row_is_named_by_its_id(what, models):
    batch = pa.RecordBatch.from_pandas(BAD_ROWS[what](table(20).assign(id=range(20))[["id", *COLUMNS]]), preserve_index=False)
    with pytest.raises(ValueError, match=f"^{what}"): list(score_batches(iter([batch]), lambda: load_bundle(models / "one")))


def test_bad_paths_draw_one_line(spark, models, rows, tmp_path):
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").symlink_to(tmp_path / "mine")
    for arguments, complaint in (((models / "one", tmp_path / "no.parquet", tmp_path / "out"), "not a readable Parquet file"),
                                 ((models / "one", tmp_path / "nowhere", tmp_path / "out"), "holds no Parquet file"),
                                 ((models / "one", tmp_path / "mine", tmp_path / "out"), "holds no Parquet file"),
                                 ((models, tmp_path / "named.parquet", tmp_path / "out"), "card.json cannot be read"),
                                 ((models / "one", tmp_path / "named.parquet", tmp_path / "mine"), "was not written by batch_predict"),
                                 ((models / "one", tmp_path / "named.parquet", tmp_path / "theirs"), "was not written by batch_predict"),
                                 ((models / "one", tmp_path / "named.parquet", tmp_path / "no.parquet"), "was not written by batch_predict")):
        with pytest.raises(ValueError, match=complaint): batch_predict(*arguments, spark=spark)
    for n in (0, -1, 1.5, "3", True):
        with pytest.raises(ValueError, match="partitions="):
            batch_predict(
                models / "one",
                tmp_path / "named.parquet",
                tmp_path / "out",
                spark=spark,
                partitions=n,
            )
    assert (tmp_path / "mine").is_dir() and os.listdir(tmp_path / "mine") == []


def test_files_that_disagree_are_refused(models, tmp_path):
    table(3).assign(id=range(3)).to_parquet(tmp_path / "a.parquet", index=False)
    table(3).assign(id=["x", "y", "z"]).to_parquet(tmp_path / "b.parquet", index=False)
    with pytest.raises(ValueError, match="b.parquet and a.parquet differ"): input_columns([tmp_path / "a.parquet", tmp_path / "b.parquet"], "id", COLUMNS)


def test_files_may_differ_in_what_does_not_matter(spark, models, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    x = table(30).assign(id=range(30), a=np.arange(30), t=None)
    x[:10].astype({"a": "int8"}).to_parquet(folder / "a.parquet", index=False)
    x[10:20].astype({"a": "float32", "id": "int64"}).assign(t="text")[
        ["t", "id", "c.d", "b", "a"]
    ].to_parquet(folder / "b.parquet")
    x[20:].drop(columns="t").assign(a=pd.array(x.a[20:], "Int64")).to_parquet(folder / "c.parquet")
    assert (
        batch_predict(models / "one", folder, tmp_path / "out", spark=spark, ignore=["t"]).rows
        == 30
    )
    assert np.allclose(
        written(tmp_path / "out").sort_index(),
        load_bundle(models / "one").predict(x[COLUMNS].to_numpy(float)),
        atol=1e-6,
    )
    nested(x, lambda f: f).to_parquet(folder / "d.parquet")
    with pytest.raises(
        ValueError, match="d.parquet and a.parquet differ in .* the form of the features"
    ):
        input_columns(sorted(folder.iterdir()), "id", COLUMNS, ["t"])


UNUSED = {   # what no model takes, and Spark's own reader partly refuses to see
    "nanoseconds in UTC": lambda n: pd.date_range("2024", periods=n, tz="UTC"),
    "nanoseconds without a zone": lambda n: pd.date_range("2024", periods=n),
    "time of day": lambda n: pd.date_range("2024", periods=n, freq="min").time,
    "duration": lambda n: pd.to_timedelta(np.arange(n), "h"),
    "half precision": lambda n: np.arange(n, dtype=np.float16),
    "nothing": lambda n: None,
    "struct": lambda n: [{"a": 1, "d": "x"}]*n,
}


@pytest.mark.parametrize("what", UNUSED)
def test_a_column_that_is_not_needed_may_be_of_any_type(what, spark, models, tmp_path):
    x = table(20)
    x.assign(id=range(20), c=UNUSED[what](20)).to_parquet(
        tmp_path / "in.parquet", index=False
    )  # "c", beside "c.d"
    assert (
        batch_predict(
            models / "one", tmp_path / "in.parquet", tmp_path / "out", spark=spark, ignore="c"
        ).rows
        == 20
    )
    assert np.allclose(
        written(tmp_path / "out").sort_index(),
        load_bundle(models / "one").predict(x.to_numpy()),
        atol=1e-6,
    )


def test_only_what_is_not_needed_can_be_ignored(models, tmp_path):
    table(20).assign(id=range(20), features=1.).to_parquet(tmp_path / "in.parquet", index=False)
    assert input_columns([tmp_path / "in.parquet"], "id", COLUMNS, ["features"]) == COLUMNS
    for name in ("a", "id"):
        with pytest.raises(ValueError, match=f"ignore: '{name}'"):
            input_columns([tmp_path / "in.parquet"], "id", COLUMNS, [name])


ODD = [
    "2024-01-01T00:00:00",
    "a?b",
    "a%20b",
    "a#b",
    "{a,b}",
    "[a]",
    "a*b",
    "a\\b",
    "a\nb",
    "a'b",
    'a"b',
    "a b ",
    "ü",
    "day=1",
    "s3:",
    "file:x",
    "~",
]


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_a_name_whatever_it_looks_like(name, spark, models, tmp_path):
    folder, x = tmp_path / name, table(5)
    folder.mkdir()
    x.assign(id=range(5)).to_parquet(folder / f"{name}.parquet")
    shutil.copytree(models / "one", folder / "model")
    batch_predict(folder / "model", folder / f"{name}.parquet", folder / name, spark=spark)
    batch_predict(folder / "model", folder, folder / f"{name} 2", spark=spark)
    for out in (name, f"{name} 2"):
        assert np.allclose(
            written(folder / out).sort_index(),
            load_bundle(models / "one").predict(x.to_numpy()),
            atol=1e-6,
        )
    assert sorted(f.name for f in tmp_path.iterdir()) == [name]


def test_the_users_session_decides_nothing_and_stays_as_it_was(spark, tmp_path):
    x = table(40).set_axis(["a", "A", "ID"], axis=1).fillna(0)
    save(LogisticRegression().fit(x, x.a > 0), tmp_path / "m", example=x)
    x.assign(id=[f"k{i}" for i in range(40)], Id=1).to_parquet(tmp_path / "in.parquet", index=False)
    settings = {
        "spark.sql.caseSensitive": "false",
        "spark.sql.execution.arrow.useLargeVarTypes": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1",
        "spark.sql.session.timeZone": "Asia/Kathmandu",
        "spark.sql.ansi.enabled": "false",
    }
    before = {key: spark.conf.get(key) for key in settings}
    try:
        for key, value in settings.items(): spark.conf.set(key, value)
        batch_predict(
            tmp_path / "m",
            tmp_path / "in.parquet",
            tmp_path / "out",
            spark=spark,
            ignore=["Id"],
            partitions=3,
        )
        assert {key: spark.conf.get(key) for key in settings} == settings
    finally:
        for key, value in before.items(): spark.conf.set(key, value)
    assert np.allclose(
        written(tmp_path / "out")[[f"k{i}" for i in range(40)]],
        load_bundle(tmp_path / "m").predict(x.to_numpy()),
        atol=1e-6,
    )


IDS = {
    **{
        t: lambda n, t=t: pa.array(range(n), getattr(pa, t)())
        for t in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
    "above 2**53": lambda n: pa.array([2**53 + i for i in range(n)]),
    "below zero": lambda n: pa.array([-(2**63) + i for i in range(n)]),
    "above 2**63": lambda n: pa.array([2**64 - 1 - i for i in range(n)], pa.uint64()),
    **{
        t: lambda n, t=t: pa.array([f"k{i}" for i in range(n)], getattr(pa, t)())
        for t in ("string", "large_string", "string_view")
    },
    "texts that look alike": lambda n: pa.array(
        [
            "k",
            "K",
            "k ",
            "1",
            "01",
            "1.0",
            "é",
            "e\u0301",
            "",
            "nan",
            "null",
            "\0",
            *(f"k{i}" for i in range(n - 12)),
        ]
    ),
    "category of text": lambda n: pa.array([f"k{i}" for i in range(n)]).dictionary_encode(),
    "category of numbers": lambda n: pa.array(range(n)).dictionary_encode(),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_come_back_as_they_were(kind, spark, models, tmp_path):
    x, ids = table(20), IDS[kind](20)
    pq.write_table(
        pa.table({"id": ids, **{c: x[c] for c in COLUMNS}}),
        tmp_path / "in.parquet",
        row_group_size=7,
    )
    batch_predict(
        models / "one", tmp_path / "in.parquet", tmp_path / "out", spark=spark, partitions=2
    )
    got = pa.concat_tables(
        pq.read_table(f) for f in sorted((tmp_path / "out").resolve().glob("*.parquet"))
    )
    plain = ids.dictionary_decode() if pa.types.is_dictionary(ids.type) else ids
    assert got["id"].to_pylist() == ids.to_pylist() and got.schema.field("id").type == (
        plain.type if pa.types.is_integer(plain.type) else pa.string()
    )
    assert np.allclose(
        got["prediction"], load_bundle(models / "one").predict(x.to_numpy()), atol=1e-6
    )


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (pa.array([1, 2**64 - 1, 2**64 - 1], pa.uint64()), "18446744073709551615 stands there 2"),
        (pa.array(["é", "x", "é"]), "'é' stands there 2"),
        (pa.array(["é", "é", "x"]).dictionary_encode(), "'é' stands there 2"),
        (pa.array(["x" * 1000] * 3), "2 times|3 times"),
    ],
)
@pytest.mark.parametrize("by", ["this process", "Spark"])
def test_an_id_that_stands_there_twice_is_named_as_it_is(by, ids, said, spark, models, tmp_path, monkeypatch):
    if by == "Spark": monkeypatch.setattr(batch_job, "IDS_HERE", 0)
    pq.write_table(
        pa.table({"id": ids, **{c: table(3)[c] for c in COLUMNS}}), tmp_path / "in.parquet"
    )
    with pytest.raises(ValueError, match=said) as e:
        batch_predict(models / "one", tmp_path / "in.parquet", tmp_path / "out", spark=spark)
    assert len(str(e.value)) < 300


def test_a_prediction_that_is_no_finite_number_is_never_written(spark, models, rows, tmp_path):
    x = pd.DataFrame({"a": [1., 2., 3.], "b": [1., 0., 1.]})
    model = LinearRegression().fit(x, x.a)
    model.coef_ = np.array([1e300, 0])   # finite where it was tried
    save(model, tmp_path / "m", example=x)
    pd.DataFrame(
        {"id": [f"k{i}" for i in range(50)], "a": [*range(40), 1e30, *range(9)], "b": 0.0}
    ).to_parquet(tmp_path / "in.parquet", index=False)
    with pytest.raises(ValueError, match="^input_path: id 'k40': .*inf") as e:
        batch_predict(tmp_path / "m", tmp_path / "in.parquet", tmp_path / "out", spark=spark)
    assert (
        len(str(e.value)) < 300
        and not (tmp_path / "out").exists()
        and not list((tmp_path / ".out.versions").glob("*/*.parquet"))
    )


class Stub:
    "A model of one column that refuses or fails as it is told."
    columns = ["x"]
    signature = Signature(("x",), (False,))

    def __init__(self, predict): self.predict = predict


def refuses_above(limit, text="no number above the limit"):
    def predict(X):
        if (X > limit).any(): raise ValueError(text)
        return X[:, 0]
    return predict


@pytest.mark.parametrize(
    ("predict", "said"),
    [
        (lambda X: np.where(X[:, 0] == 7, np.nan, X[:, 0]), "^id 107: the model predicts nan"),
        (lambda X: np.where(X[:, 0] > 6, -np.inf, X[:, 0]), "^id 107: the model predicts -inf"),
        (refuses_above(6), "^id 107: no number above the limit$"),
        (refuses_above(6, "two\nlines"), "^id 107: two lines$"),
        (refuses_above(-1), "^id 100: "),
        (refuses_above(18), "^id 119: "),
        (refuses_above(6, "values[3]: a word"), "^id 103: a word$"),
        (refuses_above(6, "values[3], column 'x': a word"), "^id 103: column 'x': a word$"),
        (lambda X: X[1:, 0], "19 predictions for 20 rows"),
    ],
)
def test_whatever_a_model_answers_badly_is_named_by_its_row(predict, said):
    batch = pa.record_batch({"id": range(100, 120), "x": np.arange(20.)})
    with pytest.raises(ValueError, match=said):
        list(score_batches(iter([batch]), lambda: Stub(predict)))


def test_batches_go_by_name(models):
    bundle, x = load_bundle(models / "one"), table(20)
    batch = pa.RecordBatch.from_pandas(
        x.assign(key=range(20))[["c.d", "b", "key", "a"]], preserve_index=False
    )
    assert np.allclose(
        next(score_batches(iter([batch]), lambda: bundle, "key")).column(1),
        bundle.predict(x.to_numpy()),
        atol=1e-6,
    )
    for names, said in (
        (["c.d", "b", "key", "z"], "missing are 'a'; unknown are 'z'"),
        (["c.d", "b", "key", "b"], "'b'"),
        (["c.d", "b", "id", "a"], "missing are 'key'"),
    ):
        with pytest.raises(ValueError, match=said):
            next(score_batches(iter([batch.rename_columns(names)]), lambda: bundle, "key"))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])   # it writes files
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)), min_size=1, max_size=4),
    st.integers(1, 12),
    st.integers(1, 20),
)
def test_parts_hold_every_row_once_and_in_order(tmp_path_factory, files, parts, batch):
    box, n = tmp_path_factory.mktemp("parts"), 0
    for i, (rows, group) in enumerate(files):
        pq.write_table(
            pa.table({"n": pa.array(range(n, n + rows), pa.int64())}),
            box / f"{i}.parquet",
            row_group_size=group,
        )
        n += rows
    plan = plan_parts(sorted(box.iterdir()), parts)
    got = [
        [v for b in read_rows(part, ["n"], batch=batch) for v in b.column(0).to_pylist()]
        for part in plan
    ]
    assert (
        sum(got, []) == list(range(n))
        and 1 <= len(plan) <= parts
        and max(map(len, got)) <= -(-n // parts)
    )
    assert all(b.num_rows <= batch for part in plan for b in read_rows(part, ["n"], batch=batch))


def test_a_file_that_cannot_be_read_is_named(spark, models, tmp_path):
    file = tmp_path / "in.parquet"
    table(5000).assign(id=range(5000)).to_parquet(file, index=False)
    data = bytearray(file.read_bytes())
    data[1000:30_000] = b"\xff" * 29_000
    file.write_bytes(data)
    with pytest.raises(ValueError, match="'in.parquet' cannot be read on a worker") as e:
        batch_predict(models / "one", file, tmp_path / "out", spark=spark)
    assert len(str(e.value)) < 300 and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="'gone.parquet' cannot be read"):
        list(read_rows([(str(tmp_path / "gone.parquet"), 0, 0, 1)], ["id"]))


def test_what_is_not_the_inputs_fault_is_said_in_one_line(
    spark, models, rows, tmp_path, monkeypatch
):
    def fails(batches):
        raise OSError(28, "No space left on device")
        yield

    with (
        pytest.raises(RuntimeError, match="^spark: OSError: .*No space left on device$"),
        plain_errors(),
    ):
        spark.range(2).mapInArrow(fails, "id long").collect()
    with pytest.raises(RuntimeError, match="^spark: "), plain_errors():
        spark.range(2).select("z").collect()


def test_a_stopped_session_is_refused_before_the_work(models, rows, tmp_path):
    class Stopped:
        class sparkContext: _jsc = None

    with pytest.raises(ValueError, match="spark: this session was stopped"):
        batch_predict(models / "one", tmp_path / "named.parquet", tmp_path / "out", spark=Stopped())
    assert not (tmp_path / "out").exists()


def test_columns_may_be_ignored_by_name(spark, models, tmp_path):
    table(20).assign(id=range(20), label=1.).to_parquet(tmp_path / "in.parquet", index=False)
    assert batch_predict(models / "one", tmp_path / "in.parquet", tmp_path / "out", spark=spark, ignore=["label"]).rows == 20


def change_a_file(part, manifest): part.write_bytes(part.read_bytes()[:-1] + b"?")
def remove_a_file(part, manifest): part.unlink()
def add_a_file(part, manifest): part.with_name("more.parquet").write_bytes(part.read_bytes())
def remove_the_manifest(part, manifest): manifest.unlink()
def change_the_format(part, manifest): manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
def cut_the_manifest(part, manifest): manifest.write_text(manifest.read_text()[:50])
def name_another_field(part, manifest): manifest.write_text(manifest.read_text().replace('"rows"', '"row"'))
def set_field(**fields):
    return lambda part, manifest: manifest.write_text(
        json.dumps({**json.loads(manifest.read_text()), **fields})
    )


NO_FIELD = [
    ("model", None),
    ("model", "0" * 63),
    ("model", "Z" * 64),
    ("model", 7),
    ("input", ""),
    ("rows", "20"),
    ("rows", 299),
    ("rows", -1),
    ("rows", True),
    ("version", "1"),
    ("name", 1),
    ("id", None),
    ("created", 0),
    ("files", []),
    ("inputs", {"named.parquet": {"rows": 300, "scored": 299, "quarantined": 0}}),
    ("inputs", {"named.parquet": {"rows": None, "scored": 1, "quarantined": None}}),
    ("inputs", {"named.parquet": 300}),
    ("files", {"x.parquet": None}),
    ("files", {"../x.parquet": "0" * 64}),
]


def test_damaged_predictions_are_noticed_and_computed_anew(spark, models, rows, tmp_path):
    out = tmp_path / "out"
    run = lambda: batch_predict(models / "one", tmp_path / "named.parquet", out, spark=spark)
    good = run()
    damages = [
        change_a_file,
        remove_a_file,
        add_a_file,
        remove_the_manifest,
        change_the_format,
        cut_the_manifest,
        name_another_field,
        *(set_field(**{k: v}) for k, v in NO_FIELD),
    ]
    for i, damage in enumerate(damages):
        copy = tmp_path / f"copy {i}"
        shutil.copytree(out.resolve(), copy)
        assert read_manifest(copy) == good
        damage(next(copy.glob("*.parquet")), copy / "_manifest.json")
        with pytest.raises(ValueError, match=copy.name): read_manifest(copy)
    change_a_file(next(out.glob("*.parquet")), None)
    assert run().files != good.files and read_manifest(out).rows == len(written(out)) == len(rows)


def test_an_input_that_changes_meanwhile_is_noticed(spark, models, rows, tmp_path, monkeypatch):
    score = batch_job._score

    def score_and_change(*args):
        n = score(*args)
        table(3).assign(id=range(3)).to_parquet(tmp_path / "named.parquet", index=False)
        return n

    monkeypatch.setattr(batch_job, "_score", score_and_change)
    with pytest.raises(ValueError, match="changed while it was scored"): batch_predict(models / "one", tmp_path / "named.parquet", tmp_path / "out", spark=spark)
    assert not (tmp_path / "out").exists()


def test_the_model_travels_by_content(models, tmp_path):
    shutil.copytree(models / "two", tmp_path / "sent")
    files, sha256 = {f.name: f.read_bytes() for f in (tmp_path / "sent").iterdir()}, load_bundle(models / "two").sha256
    shutil.rmtree(tmp_path / "sent")
    x = table(10).to_numpy()
    assert np.array_equal(shipped_bundle(sha256, files).predict(x), load_bundle(models / "two").predict(x))
    assert shipped_bundle(sha256, files) is shipped_bundle(sha256, {})
    with pytest.raises(ValueError, match="was changed"): shipped_bundle("0" * 64, files)
    for no_digest in (None, "", "0"*63, "g"*64, 0, sha256.upper()):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            shipped_bundle(no_digest, files)
    with pytest.raises(ValueError, match="no plain name"):
        shipped_bundle("1" * 64, {**files, "../x": b""})
    with pytest.raises(ValueError, match="was changed"): shipped_bundle(load_bundle(models / "one").sha256, {**files, "model.onnx": b"?"})


def test_a_worker_process_loads_the_bundle_once(spark, models):
    files = spark.sparkContext.broadcast({f.name: f.read_bytes() for f in (models / "one").iterdir()})
    sha256 = load_bundle(models / "one").sha256

    def look(batches):
        for b in batches: yield pa.RecordBatch.from_pydict({"pid": [os.getpid()], "which": [id(shipped_bundle(sha256, files.value))], "rows": [b.num_rows]})

    seen = spark.range(80).repartition(8).mapInArrow(look, "pid long, which long, rows long").toPandas()
    assert len(seen) >= 8 and seen.rows.sum() == 80 and (seen.groupby("pid").which.nunique() == 1).all()


def test_batches_are_scored_as_they_come(models):
    bundle, taken = load_bundle(models / "one"), []

    def stream():
        for i in range(10**9):
            taken.append(i)
            yield pa.RecordBatch.from_pandas(table(4).assign(id=range(4))[["id", *COLUMNS]], preserve_index=False)

    scored = score_batches(stream(), lambda: bundle)
    assert taken == [] and next(scored).num_rows == 4 and taken == [0]
    next(scored)
    assert taken == [0, 1]


@given(st.lists(st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=2, max_size=2), max_size=20), st.integers(0, 5))
def test_nested_and_named_columns_give_the_same_array(values, offset):
    a = pa.array(values, pa.list_(pa.float32()))
    one = pa.record_batch({"id": pa.array(range(len(values)), pa.int64()), "features": a}).slice(offset)
    two = pa.record_batch({"id": pa.array(range(len(values)), pa.int64()), "x": pa.array([v[0] for v in values], pa.float32()), "y": pa.array([v[1] for v in values], pa.float64())}).slice(offset)
    expected = np.array([[np.nan if v is None else v for v in row] for row in values[offset:]], float).reshape(-1, 2)
    assert np.array_equal(feature_matrix(one, 2), expected, equal_nan=True) and np.array_equal(feature_matrix(two, 2), expected, equal_nan=True)


JOB = "import sys; from mlscale.batch import batch_predict, spark_session; s = spark_session({!r}); print(batch_predict(*sys.argv[1:], spark=s, partitions=6).rows)"


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_answer(models, rows, tmp_path):
    work = Path(pyspark.__file__).parent / "work"   # where Spark's local cluster keeps what its workers print
    before = set(work.glob("app-*"))
    run = subprocess.run([sys.executable, "-c", JOB.format("local-cluster[2,1,1024]"), models / "one", tmp_path / "named.parquet", tmp_path / "out"], capture_output=True, text=True, timeout=300)
    for folder in set(work.glob("app-*")) - before: shutil.rmtree(folder)
    assert run.stdout.split() == ["300"], run.stderr[-2000:]
    assert np.abs(written(tmp_path / "out")[rows.index] - load_bundle(models / "one").predict(rows.to_numpy())).max() < 1e-6


@pytest.mark.slow
def test_a_killed_job_leaves_the_old_answer_and_the_next_one_cleans_up(spark, models, rows, tmp_path):
    out, versions = tmp_path / "out", tmp_path / ".out.versions"
    old = batch_predict(models / "one", tmp_path / "named.parquet", out, spark=spark)
    with subprocess.Popen([sys.executable, "-c", JOB.format("local[2]"), models / "two", tmp_path / "named.parquet", out], stderr=subprocess.DEVNULL) as job:
        while not list(versions.glob(".*")):
            assert job.poll() is None   # not at its end before it began
            time.sleep(.01)
        job.send_signal(signal.SIGKILL)
    assert read_manifest(out) == old
    assert batch_predict(models / "two", tmp_path / "named.parquet", out, spark=spark).model == load_bundle(models / "two").sha256
    assert list(versions.glob(".*")) == []


# ---- what a reader of the code found

def small(models, folder, name="one", **options):
    return batch_predict(models / name, folder, folder.parent / "out", engine="arrow", **options)


def test_folders_that_are_inputs_themselves_are_no_columns(models, tmp_path):
    for month in (6, 7):
        (tmp_path / f"month={month}").mkdir()
        table(5).assign(id=range(month * 10, month * 10 + 5)).to_parquet(tmp_path / f"month={month}" / "p.parquet")
    done = batch_predict(models / "one", [tmp_path / "month=6", tmp_path / "month=7"], tmp_path / "out", engine="arrow")
    assert set(done.inputs) == {"month=6/p.parquet", "month=7/p.parquet"} and list(pd.read_parquet(tmp_path / "out")) == ["id", "prediction"]


@pytest.mark.parametrize("sizes", [(5, 0), (0, 5), (0, 0, 5), (0, 0)])
def test_a_file_without_rows_is_accounted_for(models, tmp_path, sizes):
    (tmp_path / "in").mkdir()
    for i, n in enumerate(sizes): table(9)[:n].assign(id=np.arange(n, dtype=np.int64)).to_parquet(tmp_path / "in" / f"{i}.parquet", index=False)
    done = small(models, tmp_path / "in")
    assert [done.inputs[f"{i}.parquet"]["rows"] for i in range(len(sizes))] == list(sizes) and done.rows == sum(sizes)


def test_a_link_to_a_folder_is_refused_and_our_own_answer_is_no_input(models, tmp_path):
    inside, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for folder in (inside, elsewhere):
        folder.mkdir()
        table(5).assign(id=range(5)).to_parquet(folder / "p.parquet")
    first = batch_predict(models / "one", inside, inside / "out", engine="arrow")
    assert batch_predict(models / "one", inside, inside / "out", engine="arrow") == first
    (inside / "month=7").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="'month=7' is a link to a folder"): small(models, inside)
    (inside / "month=7").unlink()
    (inside / "_month=7").mkdir()
    shutil.copy(elsewhere / "p.parquet", inside / "_month=7")
    with pytest.raises(ValueError, match="different ids"): small(models, inside)


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "Too many open files"), pa.ArrowMemoryError("malloc failed")])
def test_a_fault_that_passes_sets_nothing_aside(models, tmp_path, monkeypatch, fault):
    table(500).assign(id=range(500)).to_parquet(tmp_path / "in.parquet")
    ask = lambda: batch_predict(models / "one", tmp_path / "in.parquet", tmp_path / "out", engine="arrow", on_bad="quarantine")
    def full(*args, **kwargs): raise fault
    with monkeypatch.context() as m:
        m.setattr(pq.ParquetFile, "iter_batches", full)
        with pytest.raises((RuntimeError, MemoryError), match=str(fault.args[-1])): ask()
    assert not (tmp_path / "out").exists()
    assert ((done := ask()).rows, done.quarantined) == (500, 0)


def test_an_answer_of_the_same_name_is_not_removed_under_its_reader(models, tmp_path, monkeypatch):
    table(5).assign(id=range(5)).to_parquet(tmp_path / "in.parquet")
    ask = lambda name: batch_predict(models / name, tmp_path / "in.parquet", tmp_path / "out", engine="arrow", keep=0)
    ask("one")
    flock = fcntl.flock
    def meanwhile(*args):   # the manifest is open and not yet held
        monkeypatch.setattr(fcntl, "flock", flock)
        ask("two")
        ask("one")
        flock(*args)
    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with batch_job.open_predictions(tmp_path / "out") as folder:
        ask("two")
        assert len(pd.read_parquet(folder)) == 5


def test_strange_things_beside_the_answers_are_left_alone(models, tmp_path):
    table(5).assign(id=range(5)).to_parquet(tmp_path / "in.parquet")
    ask = lambda name: batch_predict(models / name, tmp_path / "in.parquet", tmp_path / "out", engine="arrow", keep=0)
    ask("one")
    (tmp_path / ".out.versions" / ".DS_Store").write_text("x")
    shutil.rmtree((tmp_path / "out").resolve())
    assert ask("two").rows == 5 and len(written(tmp_path / "out")) == 5


def test_an_output_has_a_name(models, tmp_path, monkeypatch):
    table(5).assign(id=range(5)).to_parquet(tmp_path / "in.parquet")
    for bad in (".", "..", ""):
        with pytest.raises(ValueError, match="output_path="): batch_predict(models / "one", tmp_path / "in.parquet", bad, engine="arrow")


def test_where_no_file_can_be_scored_the_old_answer_stays(models, tmp_path):
    table(5).assign(id=range(5)).to_parquet(tmp_path / "in.parquet")
    old = batch_predict(models / "one", tmp_path / "in.parquet", tmp_path / "out", engine="arrow")
    (tmp_path / "bad" / "a=x").mkdir(parents=True)
    table(5).drop(columns="a").assign(id=range(5)).to_parquet(tmp_path / "bad" / "a=x" / "p.parquet")
    with pytest.raises(ValueError, match="no file can be scored"): batch_predict(models / "one", tmp_path / "bad", tmp_path / "out", engine="arrow", on_bad="quarantine")
    assert read_manifest(tmp_path / "out") == old


def test_threads_load_a_bundle_once(models, monkeypatch):
    loads = []
    def load(*args, **kwargs):
        loads.append(1)
        time.sleep(.1)
        return load_bundle(*args, **kwargs)
    monkeypatch.setattr(predictions, "load_bundle", load)
    monkeypatch.setattr(predictions, "_loaded", {})
    bundle = load_bundle(models / "one")
    files = {f.name: f.read_bytes() for f in bundle.path.iterdir()}
    with ThreadPoolExecutor(4) as pool: found = list(pool.map(lambda _: shipped_bundle(bundle.sha256, files), range(8)))
    assert len(loads) == 1 and all(one is found[0] for one in found)


def test_scores_that_went_to_another_disk_are_missed(models, tmp_path, monkeypatch):
    table(50).assign(id=range(50)).to_parquet(tmp_path / "in.parquet")
    monkeypatch.setattr(batch_job, "score_here", lambda units, job, shown: None)   # as a worker does that has a folder of its own
    with pytest.raises(RuntimeError, match="output_path: 1 of 1 units are not in its folder"): batch_predict(models / "one", tmp_path / "in.parquet", tmp_path / "out", engine="arrow")
    assert not (tmp_path / "out").exists()


def test_columns_to_ignore_may_come_one_by_one(models, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3): table(5).assign(id=range(i * 5, i * 5 + 5), note="x").to_parquet(tmp_path / "in" / f"{i}.parquet", index=False)
    assert batch_predict(models / "one", tmp_path / "in", tmp_path / "out", engine="arrow", ignore=iter(["note"])).rows == 15
