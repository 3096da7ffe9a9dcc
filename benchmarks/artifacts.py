"""Bundles: loading beside the bare engines, both engines from one row to a million, what 32 bits change, and what a signature costs.

    python benchmarks/artifacts.py [load] [rows] [bits] [signing]     all four where none is named; some three minutes
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import skops.io
from harness import peer, seconds, store
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier

from mlscale.artifacts import ALLOWED, faithful_onnx, load_bundle, onnx_scorer, read_skops, save, sklearn_scorer, to_onnx
from mlscale.features import FEATURES, load_features
from mlscale.signing import make_keys, sign_bundle, verify_bundle
from mlscale.training import fit_model

PACKAGES = ("numpy", "scikit-learn", "skops", "onnxruntime", "skl2onnx")
MODEL_SIGNING = ("model-signing==1.1.1", "pyopenssl==26.4.0", "numpy")   # without pyopenssl it cannot be imported


def flights():
    "Every fourth flight of January to June to train on, those of July to be asked about."
    table = load_features()
    table = table[table.late.notna()]
    month = table.event_timestamp.dt.month
    return table[month <= 6].iloc[::4], table[month == 7]


def load():
    "`load_bundle` checks the card, compares digests and tries the reference rows; the bare engine only reads the model."
    train, july = flights()
    folder, rows, options = Path(tempfile.mkdtemp()), [], onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1   # as the bundle's
    example = train[FEATURES].iloc[::5]
    trees = fit_model(train[FEATURES], train.late)
    filled = example.fillna(0)
    lda = LinearDiscriminantAnalysis().fit(filled, train.late.iloc[::5])
    sets = HistGradientBoostingClassifier(categorical_features=["carrier", "origin", "dest"], max_iter=150, min_samples_leaf=100).fit(train[FEATURES], train.late)
    for name, model, given in (("boosted trees", trees, example), ("boosted trees with sets", sets, example), ("discriminant analysis", lda, filled)):
        bundle = save(model, folder/name, example=given)
        file = folder/name/f"model.{bundle.engine}"
        bare = {"onnx": lambda file=file: onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"]),
                "skops": lambda file=file: skops.io.loads(file.read_bytes(), trusted=sorted(ALLOWED))}[bundle.engine]
        few = np.array(bundle.card["reference"]["values"], float)

        def answered(bare=bare, few=few, engine=bundle.engine):
            model = bare()
            if engine == "onnx": return model.run(None, {"X": few.astype(np.float32)})
            return sklearn_scorer(model, "probability", FEATURES)(few)

        took = seconds({"bare": bare, "answered": answered, "bundle": lambda name=name: load_bundle(folder/name)}, rounds=15)
        rows.append({"model": name, "engine": bundle.engine, "KB": file.stat().st_size/1024, "engine alone, ms": 1e3*took["bare"], "alone, with a first answer, ms": 1e3*took["answered"],
                     "load_bundle, ms": 1e3*took["bundle"], "to the engine alone": took["bundle"]/took["bare"], "to one with a first answer": took["bundle"]/took["answered"]})
    store("artifacts_load", rows, PACKAGES)


def rows():
    "The same trees by both engines, on tables of one row to a million."
    train, july = flights()
    model = fit_model(train[FEATURES], train.late)
    slow = sklearn_scorer(read_skops(skops.io.dumps(model)), "probability", FEATURES)
    fast = onnx_scorer(to_onnx(model, "probability", train[FEATURES].to_numpy()))
    table, lines = july[FEATURES].to_numpy(), []
    for n in (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000):
        some = np.resize(table, (n, table.shape[1]))
        took = seconds({"skops": lambda some=some: slow(some), "onnx": lambda some=some: fast(some)}, rounds=1 if n > 100_000 else 9)
        lines.append({"rows": n, "skops, ms": 1e3*took["skops"], "onnx, ms": 1e3*took["onnx"], "skops / onnx": took["skops"]/took["onnx"]})
    store("artifacts_rows", lines, PACKAGES)


def bits():
    "How often 32-bit inputs turn an answer around, by what the columns hold."
    rng, n, lines = np.random.default_rng(0), 20_000, []
    whole = rng.integers(0, 2000, (n, 3)).astype(float)
    kinds = {"whole numbers to 2,000": whole, "tenths, as text has them": whole/10, "tenths, rounded to 32 bits first": (whole/10).astype(np.float32).astype(float),
             "fractions of 64 bits": rng.random((n, 3)), "seconds since 1970": 1_365_000_000. + whole}
    for name, X in kinds.items():
        y = rng.random(n) < 1/(1 + np.exp(-2*((X - X.mean(0))/X.std(0)).sum(1)))
        model = HistGradientBoostingClassifier(max_iter=150, random_state=0).fit(X, y)
        exact, converted = model.predict_proba(X)[:, 1], onnx_scorer(to_onnx(model, "probability", X))(X)
        apart = np.abs(exact - converted)
        lines.append({"column": name, "rows": n, "moved by more than 0.00001": float((apart > 1e-5).mean()), "largest": float(apart.max()),
                      "faithful": faithful_onnx(model, "probability", X, exact)[1]["faithful"]})
    store("artifacts_bits", lines, PACKAGES)


IMPORT = """
import json, resource, sys, time
import numpy
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
before, modules, start = peak(), len(sys.modules), time.perf_counter()
{code}
print(json.dumps([time.perf_counter() - start, peak() - before, len(sys.modules) - modules]))
"""


def signing():
    "What the import of a package for signatures costs a server, and what one check takes."
    lines = []
    asked = {"cryptography (Ed25519)": (sys.executable, "from cryptography.hazmat.primitives.asymmetric import ed25519; from cryptography.hazmat.primitives import serialization"),
             "model-signing": (peer("model-signing", MODEL_SIGNING), "import model_signing")}
    for name, (python, code) in asked.items():
        said = [json.loads(subprocess.run([python, "-c", IMPORT.format(code=code)], capture_output=True, text=True, check=True).stdout) for _ in range(5)]
        took, megabytes, modules = np.median(said, axis=0)
        lines.append({"package": name, "import, s": took, "memory, MB": megabytes, "modules": int(modules)})
    folder = Path(tempfile.mkdtemp())
    private, public = make_keys(folder/"keys")
    X = np.arange(20.)[:, None]
    save(LinearDiscriminantAnalysis().fit(X, X[:, 0] > 9), folder/"1", example=X)
    sign_bundle(folder/"1", private)
    once = seconds({"verify": lambda: verify_bundle(folder/"1", public)}, rounds=31)["verify"]
    lines[0]["one check, ms"], lines[1]["one check, ms"] = 1e3*once, None
    store("artifacts_signing", lines, ("cryptography",))


if __name__ == "__main__":
    for part in sys.argv[1:] or ("load", "rows", "bits", "signing"): {"load": load, "rows": rows, "bits": bits, "signing": signing}[part]()
