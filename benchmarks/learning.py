"""Learning curves (chapter 02): score and seconds against rows, columns and trees, and trees that are trained by several processes.

Seconds are those of the processor where one process trains, so that what else the machine does counts less; of the clock where several do. Set
OMP_NUM_THREADS=1 for the first three: threads that wait for each other count their waiting.

    python benchmarks/learning.py                everything, some fifteen minutes
    python benchmarks/learning.py rows           one table: rows, columns, trees or distributed
"""
import sys
import tempfile
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from harness import ask, peer, store
from sklearn.ensemble import HistGradientBoostingClassifier

from mlscale.data import HORIZON, MATURE, load_flights
from mlscale.features import AIRCRAFT, CONGESTION, FEATURES, RATES, SCHEDULE, WEATHER, load_features
from mlscale.flight_features import TURN, turn_features
from mlscale.learning_curves import learning_curve
from mlscale.spark import java_home
from mlscale.training import evaluate, fit_model, time_split

ZONE = "America/New_York"
PACKAGES = ("numpy", "pandas", "scikit-learn")
SPARK = version("pyspark")
day = lambda text: pd.Timestamp(text, tz=ZONE)


@cache
def table():
    rows = load_features().reset_index(drop=True)
    rows[TURN] = turn_features(load_flights()).to_numpy()
    local = (rows.event_timestamp + HORIZON).dt.tz_convert(ZONE)
    rows = rows[rows.late.notna() & (local >= day("2013-01-08"))]
    return rows.sort_values("event_timestamp", kind="stable", ignore_index=True)


def parts(train_until, test_from):
    train, test = time_split(table().event_timestamp, train_until=day(train_until) - MATURE, test_from=day(test_from))
    return table()[train], table()[test]


def rows():
    "The newest rows before December, to all of the year; judged on December."
    past, december = parts("2013-12-01", "2013-12-01")
    curve = learning_curve(fit_model, past[FEATURES], past.late, december[FEATURES], december.late,
                           sizes=[3000, 10_000, 30_000, 100_000, len(past)])
    store("learning_rows", curve.to_dict("records"), PACKAGES)


def columns():
    past, future = parts("2013-07-01", "2013-08-01")
    found, used = [], []
    families = {"schedule": SCHEDULE, "weather": WEATHER, "late rates": [r.name for r in RATES], "congestion": CONGESTION, "aircraft": AIRCRAFT, "turn": TURN}
    for name, family in families.items():
        used = [*used, *family]
        curve = learning_curve(fit_model, past[used], past.late, future[used], future.late, sizes=[len(past)])
        found.append({"with": name, "columns": len(used), **curve.iloc[0].to_dict()})
        print(found[-1], flush=True)
    store("learning_columns", found, PACKAGES)


def trees():
    "One model that grows, judged on the way."
    past, future = parts("2013-07-01", "2013-08-01")
    model = HistGradientBoostingClassifier(max_leaf_nodes=31, learning_rate=.06, min_samples_leaf=100, l2_regularization=1,
                                           early_stopping=False, random_state=0, warm_start=True)
    found, spent = [], 0.
    for n in (10, 30, 75, 150, 300):
        start = time.process_time()
        model.set_params(max_iter=n).fit(past[FEATURES], past.late)
        spent += time.process_time() - start
        told = {name: evaluate(part.late, model.predict_proba(part[FEATURES])[:, 1]).log_loss for name, part in (("log loss", future), ("log loss of the training", past))}
        found.append({"trees": n, **told, "seconds": spent})
        print(found[-1], flush=True)
    store("learning_trees", found, PACKAGES)


# ---- several processes

DISTRIBUTED = """
import os, sys, time
os.environ.update(JAVA_HOME=data["java"], PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
from pyspark.sql import SparkSession
from pyspark.ml import Pipeline
from pyspark.ml.classification import GBTClassifier
from pyspark.ml.feature import Imputer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from xgboost.spark import SparkXGBClassifier
builder = SparkSession.builder.master("local-cluster[2,1,1536]").config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
spark = builder.config("spark.executor.memory", "1536m").config("spark.network.timeout", "800s").getOrCreate()
spark.sparkContext.setLogLevel("OFF")
read = lambda part: spark.read.parquet(f"{data['folder']}/{part}").repartition(2).cache()
train, test = read("train"), read("test")
train.count(), test.count()
names, there = data["columns"], [c + "_there" for c in data["columns"]]
gbt = Pipeline(stages=[Imputer(strategy="median", inputCols=names, outputCols=there), VectorAssembler(inputCols=there, outputCol="row"),
                       GBTClassifier(labelCol="late", featuresCol="row", maxIter=data["trees"], maxDepth=5, stepSize=.2, maxBins=64, minInstancesPerNode=100, seed=0)])
xgb = SparkXGBClassifier(features_col=names, label_col="late", num_workers=2, n_estimators=data["trees"], max_depth=5, learning_rate=.2, tree_method="hist", verbosity=0)
answer = {}
for name, engine in (("XGBoost on Spark", xgb), ("Spark's own", gbt)):
    start = time.perf_counter()
    model = engine.fit(train)
    seconds = time.perf_counter() - start
    out = model.transform(test).select("late", vector_to_array("probability")[1].alias("p")).toPandas()
    answer[name] = [seconds, out.late.tolist(), out.p.tolist()]
spark.stop()
"""


def distributed(n_trees=20):
    "The training of the chapter in two processes of Spark, each with half of the rows, and in one of our own."
    past, future = parts("2013-07-01", "2013-08-01")
    peers = ["xgboost-cpu==3.2.0", f"pyspark=={SPARK}", "pandas<3", "pyarrow", "scikit-learn", "setuptools"]
    python = peer("xgboost", peers)
    start = time.perf_counter()
    model = HistGradientBoostingClassifier(max_iter=n_trees, max_leaf_nodes=32, max_depth=5, learning_rate=.2, min_samples_leaf=100, early_stopping=False)
    alone = model.fit(past[FEATURES], past.late)
    answers = {"one process, scikit-learn": [time.perf_counter() - start, future.late, alone.predict_proba(future[FEATURES])[:, 1]]}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("train", past), ("test", future)):
            (Path(folder) / name).mkdir()
            part[[*FEATURES, "late"]].to_parquet(Path(folder) / name / "rows.parquet", index=False)
        answers |= ask(python, DISTRIBUTED, java=str(java_home()), folder=folder, columns=FEATURES, trees=n_trees)
    found = []
    for name, (seconds, late, p) in answers.items():
        e = evaluate(np.asarray(late), np.asarray(p))
        found.append({"trained by": name, "rows": len(past), "trees": n_trees, "log loss": e.log_loss, "AUC": e.auc,
                      "seconds / those of one process": seconds / answers["one process, scikit-learn"][0]})
    store("learning_distributed", found, (*PACKAGES, "pyspark"))


TABLES = {f.__name__: f for f in (rows, columns, trees, distributed)}

if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES: TABLES[name]()
