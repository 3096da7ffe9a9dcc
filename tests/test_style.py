"The code is as tidy as we say: ruff over notebooks, package, tests and tools; mypy over the package, since it ships its types."
import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import mlscale

ROOT = Path(__file__).resolve().parent.parent


def finds(*words):
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip() if done.returncode else ""


def test_ruff_finds_nothing():
    found = finds("ruff", "check", "--no-cache", ".")
    assert not found, found[-3000:]


def test_ruff_reads_notebooks_and_the_package(tmp_path):
    (tmp_path / "mlscale").mkdir()
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": [], "source": "x = 1" + " " * 95 + "+ unknown"}
    (tmp_path / "bad.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}))
    found = finds("ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml"), str(tmp_path))
    assert "E501" in found and "F821" in found


def test_the_types_of_the_package_hold():
    found = finds("mypy", "--no-error-summary")
    assert not found, found[-3000:]


def test_a_wrong_type_is_found(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from mlscale.schedules import inverse_time\n\nx: str = inverse_time(.1, .01)\n")
    assert "Incompatible types" in finds("mypy", "--config-file", "pyproject.toml", str(wrong))


def test_the_package_has_no_long_lines_below_what_nbdev_writes_at_the_top():
    for path in sorted((ROOT / "mlscale").glob("[a-z]*.py")):
        exported = path.read_text(encoding="utf-8").partition("# %% ../nbs")[2]
        assert exported and not [line for line in exported.splitlines()[1:] if len(line) > 100], path.name


def test_help_says_what_there_is_and_where_to_start():
    assert doctest.testmod(mlscale).failed == 0 and doctest.testmod(mlscale).attempted
    assert mlscale.__version__ == re.search(r"(?m)^version = (\S+)", (ROOT / "settings.ini").read_text())[1]
    chapters = {re.sub(r"^\d+_", "", p.stem) for p in (ROOT / "nbs").glob("[0-9]*.ipynb") if re.match(r"\d+_", p.name)}
    assert {name for name in chapters if not re.search(rf"\b{name}\b", mlscale.__doc__)} == set()
