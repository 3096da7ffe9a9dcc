"pip install brings the light core and nothing else; the wheel from the sdist holds what it should; extras say what is missing."
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path

import pytest

import mlscale

ROOT = Path(__file__).resolve().parent.parent
CORE = {"mlscale", "numpy", "scipy", "pandas", "python-dateutil", "pytz", "tzdata", "six", "pip", "setuptools"}


def run(*words, **more):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel built from the sdist of what is in the checkout; kept in the folder MLSCALE_DIST, where continuous integration takes it from."
    folder = tmp_path_factory.mktemp("dist of mlscale")
    copy = folder / "checkout"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in files:
        if not (ROOT / name).is_file(): continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder, copy)
    sdist = next(folder.glob("*.tar.gz"))
    with tarfile.open(sdist) as t: t.extractall(folder / "unpacked", filter="data")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, next((folder / "unpacked").iterdir()))
    if kept := os.environ.get("MLSCALE_DIST"):
        for file in (sdist, *folder.glob("*.whl")): shutil.copy(file, Path(kept))
    return next(folder.glob("*.whl"))


def test_the_wheel_says_where_it_comes_from(wheel):
    meta = next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA"))
    said = message_from_bytes(zipfile.ZipFile(wheel).read(meta))
    links = dict(line.split(", ", 1) for line in said.get_all("Project-URL"))
    assert set(links) == {"Documentation", "Source", "Changelog", "Issues"} and all(link.startswith("https://") for link in links.values())
    known = {c for c in said.get_all("Classifier") if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", c)}
    assert {f"3.{minor}" for minor in (11, 12, 13)} == {c.rpartition(" ")[2] for c in known} and said["Version"] == mlscale.__version__


def test_a_tag_of_this_commit_is_its_version():
    "`git describe` names the version of a release."
    done = subprocess.run(["git", "tag", "--points-at", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert {tag for tag in done.stdout.split() if re.match(r"v\d", tag)} <= {f"v{mlscale.__version__}"}


def test_the_wheel_holds_the_modules_their_types_and_the_style(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("mlscale/")}
    assert names == {f"mlscale/{p.name}" for p in (ROOT / "mlscale").iterdir() if p.is_file()} and "mlscale/py.typed" in names


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    "A clean environment with the wheel installed."
    folder = tmp_path_factory.mktemp("bare") / "env"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check", "--find-links", wheel.parent, f"mlscale=={mlscale.__version__}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and any(s in done.stderr for s in ("No matching distribution", "Failed to establish", "Temporary failure")): pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    return python


def test_installing_brings_the_light_core_only(bare):
    installed = {line.split("==")[0].lower() for line in run(bare, "-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check").split()}
    assert installed <= CORE


def test_the_core_modules_import_there_and_the_others_name_their_extra(bare, tmp_path):
    run(bare, "-c", "import mlscale.storage, mlscale.data, mlscale.drift", cwd=tmp_path)
    code = "import mlscale.data as d\ntry: d.load_flights()\nexcept ImportError as e: print(e)"
    assert "pip install 'mlscale[data]'" in run(bare, "-c", code, cwd=tmp_path)


def test_every_module_imports_without_any_extra(bare, tmp_path):
    modules = sorted(p.stem for p in (ROOT / "mlscale").glob("[a-z]*.py"))
    run(bare, "-c", f"import importlib\nfor m in {modules!r}: importlib.import_module('mlscale.' + m)", cwd=tmp_path)


def test_importing_the_package_imports_nothing_else(bare, tmp_path):
    code = "import sys; before = set(sys.modules); import mlscale; print(set(sys.modules) - before)"
    assert run(bare, "-I", "-c", code, cwd=tmp_path) == "{'mlscale'}\n"


def test_the_extras_are_those_of_the_table_in_contributing():
    config = ConfigParser()
    config.read(ROOT / "settings.ini")
    extras = {k.removeprefix("extra_") for k in config["DEFAULT"] if k.startswith("extra_")}
    assert extras == {"data", "features", "train", "artifacts", "registry", "serve", "signing", "postgres", "spark", "plot", "site", "workbook"}
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(f"`{name}`" in text for name in extras - {"workbook"})
    assert all(f"`{p.stem}`" in text for p in (ROOT / "mlscale").glob("[a-z]*.py"))


def test_the_lock_pins_everything_that_settings_name_with_hashes():
    config = ConfigParser()
    config.read(ROOT / "settings.ini")
    named = {re.split(r"[\[<>=]", word)[0].lower() for key, value in config["DEFAULT"].items() if key == "requirements" or key.startswith("extra_") for word in value.split()} - {"mlscale"}
    lock = (ROOT / "requirements.lock").read_text()
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", lock, re.M))
    assert named <= pinned
    blocks = re.split(r"\n(?=\S)", lock.strip())
    assert all("--hash=sha256:" in block for block in blocks)


def test_setup_does_not_need_pkg_resources():
    assert "pkg_resources" not in (ROOT / "setup.py").read_text()
