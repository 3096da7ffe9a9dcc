"""Batch prediction (chapter 05): our job by Spark and in one process, against the lesson's way, MLflow's `spark_udf` and two processes of Arrow and scikit-learn.

    python benchmarks/batch.py                everything, some ten minutes
    python benchmarks/batch.py speed          one table: speed, price, growth or files
"""
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from harness import seconds, store

from mlscale.artifacts import save
from mlscale.batch import batch_predict, spark_session
from mlscale.features import FEATURES, load_features
from mlscale.training import fit_model

PACKAGES = ("pyspark", "pyarrow", "mlflow-skinny", "scikit-learn", "onnxruntime")
ROWS = 1_010_328
BOX = Path(tempfile.mkdtemp())
KINDS = {"boosted trees": "boosted_trees", "logistic regression": "logistic"}


@cache
def complete():
    "The flights of the year of which every feature is known."
    table = load_features()
    return table[table[FEATURES].notna().all(axis=1)].reset_index(drop=True)[FEATURES]


def flights(ids):
    "A flight with its features for each id, each of the year as often as it takes, in the order of the year."
    return complete().iloc[ids % len(complete())].reset_index(drop=True).assign(id=ids)


def written(rows, name="input", files=1, row_group_size=100_000):
    "A folder of Parquet files with so many rows."
    folder = BOX / name
    folder.mkdir()
    for i, part in enumerate(np.array_split(np.arange(rows), files)):
        flights(part).to_parquet(folder / f"{i:05}.parquet", index=False, row_group_size=row_group_size)
    return folder


def models():
    "For each kind a bundle, and the same model as a pickle and as scikit-learn has it."
    table = load_features()
    train = table[table.late.notna() & table[FEATURES].notna().all(axis=1)].sample(60_000, random_state=0)
    found = {}
    for name, kind in KINDS.items():
        model = fit_model(train[FEATURES], train.late.astype(int), kind=kind)
        save(model, BOX / kind, example=train[FEATURES][:10_000])
        joblib.dump(model, BOX / f"{kind}.pkl")
        found[name] = (BOX / kind, BOX / f"{kind}.pkl", model)
    return found


def lesson(spark, pickle, source, to):
    "The lesson's job, its errors mended: a list of a partition's rows, and always a hundred partitions."
    def score(rows):
        rows = list(rows)
        if not rows: return
        model = joblib.load(pickle)
        scores = model.predict_proba(pd.DataFrame([[row[c] for c in FEATURES] for row in rows], columns=FEATURES))[:, 1]
        yield from ((row.id, float(score)) for row, score in zip(rows, scores))
    rows = spark.read.parquet(str(source)).repartition(100).rdd.mapPartitions(score)
    spark.createDataFrame(rows, "id long, prediction double").write.mode("overwrite").parquet(str(to))


def with_mlflow(spark, model, source, to):
    "MLflow's way to score with Spark: a user-defined function of a logged model, in this environment."
    import mlflow
    from mlflow.models import infer_signature
    from mlflow.pyfunc import PythonModel, spark_udf
    from pyspark.sql.functions import struct

    class Wrapped(PythonModel):
        def __init__(self, model): self.model = model
        def predict(self, context, model_input, params=None): return self.model.predict_proba(model_input)[:, 1]

    place = BOX / f"mlflow {type(model).__name__} {id(model)}"
    if not place.exists():
        signature = infer_signature(flights(np.arange(100))[FEATURES], np.zeros(100))
        mlflow.pyfunc.save_model(str(place), python_model=Wrapped(model), pip_requirements=[], signature=signature)
    predict = spark_udf(spark, str(place), result_type="double", env_manager="local")
    spark.read.parquet(str(source)).select("id", predict(struct(*FEATURES)).alias("prediction")).write.mode("overwrite").parquet(str(to))


def _floor(task):
    pickle, files, to = task
    model = joblib.load(pickle)
    schema = pa.schema([("id", pa.int64()), ("prediction", pa.float64())])
    with pq.ParquetWriter(to, schema) as out:
        for file, groups in files:
            for batch in pq.ParquetFile(file).iter_batches(65_536, row_groups=groups):
                X = batch.select(FEATURES).to_pandas()
                out.write_batch(pa.record_batch([batch["id"], pa.array(model.predict_proba(X)[:, 1])], schema=schema))


def floor(pool, pickle, source, to):
    "Two processes, half of the row groups each: Arrow reads, scikit-learn scores, nothing is checked."
    groups = [(file, g) for file in sorted(source.glob("*.parquet")) for g in range(pq.ParquetFile(file).num_row_groups)]
    to.mkdir(exist_ok=True)
    halves = [groups[:len(groups) // 2], groups[len(groups) // 2:]]
    list(pool.map(_floor, [(pickle, [(f, [g]) for f, g in half], to / f"{i}.parquet") for i, half in enumerate(halves)]))


def ours(bundle, source, **options):
    "One run of our job that computes everything: its output is new."
    to = Path(tempfile.mkdtemp(dir=BOX)) / "scores"
    batch_predict(bundle, source, to, **options)
    shutil.rmtree(to.parent)


def engines(bundle, source, spark):
    return {"Spark": partial(ours, bundle, source, spark=spark), "Arrow": partial(ours, bundle, source, engine="arrow")}


def speed():
    "1.01 million rows; Spark runs, processes are there, everybody has scored once before."
    rows = ROWS
    source, spark, found = written(rows), spark_session(), []
    warnings.simplefilter("ignore")
    with ProcessPoolExecutor(2) as pool:
        for name, (bundle, pickle, model) in models().items():
            contenders = {
                "MLflow's spark_udf": partial(with_mlflow, spark, model, source, BOX / "mlflow scores"),
                "Arrow and scikit-learn, two processes": partial(floor, pool, pickle, source, BOX / "floor"),
                "ours, Spark": partial(ours, bundle, source, spark=spark),
                "ours, Arrow": partial(ours, bundle, source, engine="arrow"),
            }
            for run in contenders.values(): run()
            took = seconds(contenders, rounds=3)
            took |= seconds({"the lesson's way": partial(lesson, spark, pickle, source, BOX / "lesson")}, rounds=1)   # it takes its time
            least = took["Arrow and scikit-learn, two processes"]
            found += [{"model": name, "by": by, "seconds": s, "to the floor": s / least, "rows a second": rows / s} for by, s in took.items()]
    store("batch_speed", found, PACKAGES)


def price():
    "What the promises cost, each left out in turn."
    source, spark, found = written(ROWS, "price"), spark_session(), []
    bundle = models()["boosted trees"][0]
    less = {"all promises": {}, "ids not checked": {"check_ids": False}, "known by size and time": {"fingerprint": "stat"},
            "neither": {"check_ids": False, "fingerprint": "stat"}, "bad rows set aside": {"on_bad": "quarantine"}}
    for engine in ("spark", "arrow"):
        more = {"spark": spark} if engine == "spark" else {}
        took = seconds({name: partial(ours, bundle, source, engine=engine, **more, **options) for name, options in less.items()}, rounds=3)
        found += [{"engine": engine, "with": name, "seconds": s, "to all promises": s / took["all promises"]} for name, s in took.items()]
    store("batch_price", found, PACKAGES)


class Peak:
    "The largest memory of the Python processes that work for this one (or of this one), in MB, while the block runs."
    def __init__(self, children): self.children, self.most, self.over = children, 0., threading.Event()

    def _look(self):
        me = psutil.Process()
        while not self.over.wait(.05):
            for process in me.children(recursive=True) if self.children else [me]:
                with suppress(psutil.Error):
                    if "python" in process.name(): self.most = max(self.most, process.memory_info().rss / 2**20)

    def __enter__(self):
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()


def growth():
    "Rows on two cores, then cores with a million rows; the start of Spark is counted apart. In a file there are a million rows."
    bundle, found = models()["boosted trees"][0], []
    for cores, sizes in ((2, (10_000, 100_000, 1_000_000, 10_000_000)), (1, (1_000_000,))):
        os.sched_setaffinity(0, range(cores))
        start = time.perf_counter()
        spark = spark_session(f"local[{cores}]")
        spark.range(1).count()
        begin = time.perf_counter() - start
        ours(bundle, written(10_000, f"warm {cores}"), spark=spark)
        for rows in sizes:
            source = written(rows, f"{rows} rows, {cores}", files=max(1, rows // 1_000_000))
            for by, run in engines(bundle, source, spark).items():
                with Peak(by == "Spark") as peak: took = seconds({by: run}, rounds=3 if rows <= 1_000_000 else 1)[by]
                found.append({"rows": rows, "cores": cores, "by": by, "seconds": took, "start of Spark": begin if by == "Spark" else 0., "memory of a worker, MB": peak.most})
                print(found[-1], flush=True)
            shutil.rmtree(source)
        spark.stop()
    store("batch_growth", found, PACKAGES)


def files():
    "A million rows in one file, in a hundred, in ten thousand, and in files of very unequal size."
    bundle, spark, found = models()["boosted trees"][0], spark_session(), []
    rows = 1_000_000
    sources = {"1 file, 10 row groups": written(rows, "one"), "1 file, 1 row group": written(rows, "group", row_group_size=rows), "100 files": written(rows, "hundred", 100)}
    tiny = BOX / "tiny"
    tiny.mkdir()
    part = flights(np.arange(rows))
    for i in range(5_000): part.iloc[i * 200:(i + 1) * 200].to_parquet(tiny / f"{i:05}.parquet", index=False)
    unequal = BOX / "unequal"
    unequal.mkdir()
    for i, (a, b) in enumerate([(0, 900_000), *((900_000 + 1_000 * k, 901_000 + 1_000 * k) for k in range(100))]):
        part.iloc[a:b].to_parquet(unequal / f"{i:03}.parquet", index=False, row_group_size=100_000)
    sources |= {"5,000 files": tiny, "1 large file and 100 small ones": unequal}
    for name, source in sources.items():
        took = seconds(engines(bundle, source, spark), rounds=2)
        found += [{"input": name, "by": by, "seconds": s} for by, s in took.items()]
        print(found[-2:], flush=True)
    store("batch_files", found, PACKAGES)


if __name__ == "__main__":
    try:
        for name in sys.argv[1:] or ["speed", "price", "growth", "files"]: globals()[name]()
    finally: shutil.rmtree(BOX)
