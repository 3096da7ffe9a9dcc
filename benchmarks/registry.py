"""What the registry costs beside MLflow's own ways, with the model of the chapter: boosted trees on 45 columns.

    python benchmarks/registry.py    about three minutes

Loading by an alias stands beside `mlflow.pyfunc.load_model` and beside reading the bundle alone. Registering stands beside `mlflow.sklearn.log_model`
with a registered name: as it is called in its documentation (it then finds out the requirements of the model), and with the requirements given. The
two do different work: ours converts the model to ONNX and compares both forms on thousands of rows. Then two processes register while this one
promotes another model.
"""
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_LOGGING_LEVEL="ERROR")
import mlflow
import mlflow.sklearn
from harness import ROOT, seconds, store
from mlflow.models import infer_signature

from mlscale.artifacts import load_bundle, save
from mlscale.features import FEATURES, load_features
from mlscale.registry import Registry
from mlscale.training import fit_model

PACKAGES = ("mlflow-skinny", "scikit-learn", "skops", "skl2onnx", "onnxruntime", "SQLAlchemy")
TREES = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]   # MLflow's skops asks for it by name
REGISTER = """
import pickle, sys
from mlscale.registry import Registry
registry = Registry(sys.argv[1])
with open(sys.argv[2], "rb") as f: model, example = pickle.load(f)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(2): registry.register(model, name="two", example=example, lineage={}, metrics={})
"""


def shares(took, of, what):
    "Seconds and ratios, a row a contender."
    return [{what: name, "seconds": t, **{f"of {peer}": t/took[peer] for peer in of}} for name, t in took.items()]


def load(registry):
    "Loading by an alias."
    path = registry.version("late", "champion").path
    rows = shares(seconds({"registry.load(alias)": lambda: registry.load("late", "champion"), "load_bundle": lambda: load_bundle(path),
                           "registry.version(alias)": lambda: registry.version("late", "champion"),
                           "mlflow.pyfunc.load_model": lambda: mlflow.pyfunc.load_model("models:/late@champion")}, rounds=25),
                  ("load_bundle", "mlflow.pyfunc.load_model"), "load")
    store("registry_load", rows, PACKAGES)


def register(registry, model, example, place):
    "Registering a version."
    signature, turn = infer_signature(example, model.predict(example)), iter(range(1000))

    def logged(**given):
        with mlflow.start_run(): mlflow.sklearn.log_model(model, name="model", registered_model_name="late", signature=signature, skops_trusted_types=TREES, **given)

    rows = shares(seconds({"registry.register": lambda: registry.register(model, name="late", example=example, lineage={}, metrics={}),
                           "artifacts.save": lambda: save(model, place / f"saved{next(turn)}", example=example),
                           "mlflow.sklearn.log_model": logged, "mlflow.sklearn.log_model, requirements given": lambda: logged(pip_requirements=["scikit-learn"])}, rounds=3),
                  ("mlflow.sklearn.log_model", "artifacts.save"), "register")
    store("registry_register", rows, PACKAGES)


def neighbours(registry, uri, model, example, place):
    "Promotions of one model: alone, and while two processes register versions of another."
    (place / "model").write_bytes(pickle.dumps((model, example)))
    registry.register(model, name="late", example=example, lineage={}, metrics={})

    def promotions(until):
        "Seconds of each promotion."
        took = []
        while not until(len(took)):
            start = time.perf_counter()
            registry.promote("late", 1 + len(took) % 2)
            took.append(time.perf_counter() - start)
        return took

    alone = promotions(lambda n: n == 20)
    children = [subprocess.Popen([sys.executable, "-c", REGISTER, uri, str(place / "model")], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children: child.stdout.readline()
    for child in children: print("go", file=child.stdin, flush=True)
    start = time.perf_counter()
    during = promotions(lambda n: all(child.poll() is not None for child in children))
    whole = time.perf_counter() - start
    assert registry.versions("two").index.tolist() == [1, 2, 3, 4] and registry.reconcile() == []
    middle = lambda took: sorted(took)[len(took)//2]
    store("registry_neighbours", [{"promotions": name, "number": len(took), "median, seconds": middle(took), "longest, seconds": max(took),
                                   "longest, share of the four registrations": max(took)/whole} for name, took in (("alone", alone), ("while two others register", during))], PACKAGES)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    year = load_features()
    year = year[year.late.notna()]
    train = year[year.event_timestamp.dt.month <= 3].iloc[::4]
    trees, rows = fit_model(train[FEATURES], train.late), train[FEATURES].iloc[::4]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        os.chdir(here)   # MLflow leaves its folders there
        address = f"sqlite:///{here}/ours.db"
        ours = Registry(address)
        ours.register(trees, name="late", example=rows, lineage={}, metrics={})
        ours.promote("late", 1)
        mlflow.set_tracking_uri(f"sqlite:///{here}/theirs.db")
        mlflow.set_registry_uri(f"sqlite:///{here}/theirs.db")
        register(ours, trees, rows, here)
        mlflow.MlflowClient().set_registered_model_alias("late", "champion", "1")
        load(ours)
        neighbours(ours, address, trees, rows, here)
