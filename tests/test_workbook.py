"workbook.py starts from nothing, survives interruption, and says one clear line for what can be wrong."
import asyncio
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(folder=ROOT):
    spec = importlib.util.spec_from_file_location("workbook_under_test", folder / "workbook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workbook(): return load()


def make_checkout(box):
    "A small checkout on a path with spaces: our workbook.py, and a lock of the one package that installing needs."
    folder = box / "a folder with spaces"
    folder.mkdir()
    for name in ("workbook.py", "settings.ini", "setup.py", "pyproject.toml", "README.md"): shutil.copy(ROOT / name, folder)
    for name in ("tests", "mlscale", "nbs"): (folder / name).mkdir()
    (folder / "mlscale" / "__init__.py").write_text("")
    (folder / "mlscale" / "cli.py").write_text("import sys, os\nprint('ran', sys.argv[1:], 'SPARK_SUBMIT_OPTS' in os.environ)\n")
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^(?:setuptools|wheel|packaging)==.*?(?=^\S|\Z)", lock, re.M | re.S)
    (folder / "requirements.lock").write_text("".join(entries))
    return folder


@pytest.fixture
def checkout(tmp_path): return make_checkout(tmp_path)


def start(folder, *words, cwd=None, **more):
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "SPARK_SUBMIT_OPTS")}
    command = [getattr(sys, "_base_executable", sys.executable), folder / "workbook.py", *words]
    return subprocess.Popen(command, cwd=cwd or folder, env={**env, **more}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    if "package index cannot be reached" in err: pytest.skip(f"the package index cannot be reached: {err[-300:]}")
    return process.returncode, out, err


@pytest.fixture
def runner_module():
    spec = importlib.util.spec_from_file_location("notebooks_under_test", ROOT / "tests" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    "A checkout whose first installation was killed and whose second was asked for twice at once, from another directory; and what the two said."
    folder = make_checkout(tmp_path_factory.mktemp("house"))
    process = start(folder, "run")
    deadline = time.monotonic() + 120
    while not list((folder / ".venv").glob("lib/*/site-packages/pip")) and time.monotonic() < deadline: time.sleep(.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert (folder / ".venv").exists() and not (folder / ".venv" / "complete.json").exists()
    return folder, [finish(p) for p in [start(folder, "run", "--fast", cwd=folder.parent, PYTHONDONTWRITEBYTECODE="1") for _ in range(2)]]


def test_it_builds_from_nothing_from_any_directory_and_each_module_is_compiled_once(house):
    folder, said = house
    for code, out, err in said: assert code == 0 and out == "ran ['run', '--fast'] True\n", err
    assert "installing the packages" in said[0][2] + said[1][2] and list((folder / "mlscale" / "__pycache__").glob("__init__*.pyc"))


def test_a_killed_installation_is_noticed_and_repaired(house):
    assert sum("an incomplete or moved environment is removed" in err for _, _, err in house[1]) == 1


def test_two_at_once_build_once(house):
    assert sum("making the environment" in err for _, _, err in house[1]) == 1 and sum("waiting for it" in err for _, _, err in house[1]) == 1


def test_it_does_nothing_the_second_time_and_follows_the_lock(house):
    folder, _ = house
    stamp = folder / ".venv" / "complete.json"
    before = stamp.stat().st_mtime_ns
    code, out, err = finish(start(folder, "run"))
    assert (code, err) == (0, "") and out.startswith("ran ['run']") and stamp.stat().st_mtime_ns == before
    (folder / "requirements.lock").write_text((folder / "requirements.lock").read_text() + "\n# changed\n")
    code, out, err = finish(start(folder, "run"))
    assert code == 0 and "installing the packages" in err and "making the environment" not in err


def test_no_network_is_one_clear_line(checkout):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    process = start(checkout, "run", **nowhere)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "the package index cannot be reached" in err and "Traceback" not in err and not (checkout / ".venv" / "complete.json").exists()


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0), (2, 7, 18)])
def test_another_python_is_refused(workbook, monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(workbook.Problem, match="Python 3.11, 3.12 or 3.13 is needed"): workbook.check_python()


def test_a_python_without_ensurepip_is_refused(workbook, monkeypatch):
    monkeypatch.setattr(workbook.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(workbook.Problem, match="apt install python3-venv"): workbook.check_python()


def test_a_full_disk_is_one_clear_line(workbook, monkeypatch, checkout):
    monkeypatch.setattr(workbook.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**8))
    with pytest.raises(workbook.Problem, match="0.1 GB free, the environment needs 3 GB"): workbook.check_disk()
    assert "the disk became full" in str(workbook.diagnose("installing", "error: failed to write: No space left on device (os error 28)"))
    text = (checkout / "workbook.py").read_text().replace("def check_python():\n", f"def check_python():\n    raise OSError({errno.ENOSPC}, 'No space left on device')\n")
    (checkout / "workbook.py").write_text(text)
    code, out, err = finish(start(checkout, "run"))
    assert code == 1 and err.startswith("workbook.py: the disk is full") and "Traceback" not in err


def test_words_it_does_not_know_are_one_clear_line_and_help_is_help(checkout):
    code, _, err = finish(start(checkout, "tset"))
    assert code == 1 and err == "workbook.py: unknown verb 'tset': one of run, test, lab, nb, refresh, site\n"
    code, _, err = finish(start(checkout, "nb"))
    assert code == 1 and "nb takes one notebook" in err
    assert finish(start(checkout))[0] == 2 and "workbook.py lab" in finish(start(checkout, "--help"))[1]


def test_the_stamp_follows_lock_python_and_place(workbook):
    wanted = workbook.wanted()
    assert wanted["requirements.lock"] == hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest() and wanted["root"] == str(ROOT)
    assert json.loads(json.dumps(wanted)) == wanted


def test_it_is_standard_library_only(workbook):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import workbook; print({n for n, m in sys.modules.items() if 'site-packages' in (getattr(m, '__file__', None) or '')})"
    out = subprocess.run([sys.executable, "-S", "-c", code, str(ROOT)], capture_output=True, text=True)
    assert out.stdout.strip() == "set()", out.stderr


def test_java_is_hidden(workbook, monkeypatch, tmp_path):
    monkeypatch.setattr(workbook, "ROOT", tmp_path)
    env = workbook.without_java({"PATH": os.environ["PATH"], "JAVA_HOME": "/usr"})
    done = subprocess.run(["java", "-version"], env=env, capture_output=True)
    assert done.returncode == 127 and "JAVA_HOME" not in env


MANY = str(min((os.cpu_count() or 1) + 1, 8))


@pytest.mark.parametrize(("words", "given"), [
    ([], ["-n", MANY, "--dist", "loadfile", "--no-loadscope-reorder"]),
    (["--slow", "--java"], ["-n", MANY, "--dist", "loadfile", "--no-loadscope-reorder", "--slow"]),
    (["-k", "registry"], ["-k", "registry"]),
    (["--slow", "-kregistry"], ["--slow", "-kregistry"]),
    (["tests/test_cli.py", "-x"], ["tests/test_cli.py", "-x"]),
])
def test_all_tests_run_in_more_processes_than_cores_and_a_few_in_one(workbook, monkeypatch, capfd, tmp_path, words, given):
    check_is_slower = "import sys, time; time.sleep(sys.argv[1] == 'check'); print('notebooks', sys.argv[1])"
    for name, code in (("tests/notebooks.py", check_is_slower), ("pytest/__init__.py", ""),
                       ("pytest/__main__.py", "import sys; print('pytest', sys.argv[1:]); sys.exit(3)")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    for name, value in (("ROOT", tmp_path), ("PYTHON", Path(sys.executable)), ("WARM", "")): monkeypatch.setattr(workbook, name, value)
    assert workbook.test(words, dict(os.environ)) == 3
    out, err = capfd.readouterr()
    assert out.splitlines() == ["notebooks check", "notebooks run", f"pytest {given}"] and err == "FAILED: pytest (exit status 3)\n"


# ---- the room

def test_lab_opens_on_the_index_with_the_settings_of_the_workbook(workbook, monkeypatch, capfd, tmp_path):
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab" / "__init__.py").write_text("")
    (tmp_path / "jupyterlab" / "__main__.py").write_text("import os, sys; print(os.environ['JUPYTER_CONFIG_PATH'], sys.argv[1:], 'SPARK_SUBMIT_OPTS' in os.environ)")
    for name, value in (("ROOT", tmp_path), ("PYTHON", Path(sys.executable)), ("ensure", lambda env: None)): monkeypatch.setattr(workbook, name, value)
    monkeypatch.delenv("SPARK_SUBMIT_OPTS", raising=False)
    for before, path in ((None, f"{tmp_path}/.jupyter"), ("/somewhere", f"{tmp_path}/.jupyter{os.pathsep}/somewhere")):
        monkeypatch.delenv("JUPYTER_CONFIG_PATH", raising=False) if before is None else monkeypatch.setenv("JUPYTER_CONFIG_PATH", before)
        assert workbook.main(["lab", "--no-browser"]) == 0
        out = capfd.readouterr().out
        assert out.startswith(f"{path} [") and "/lab/tree/nbs/index.ipynb" in out and "--no-browser" in out and out.endswith("False\n")   # who stays is served by both compilers
    settings = json.loads((ROOT / ".jupyter" / "labconfig" / "default_setting_overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"   # nobody is asked


def server(folder):
    "The part of JupyterLab's server that reads and writes notebooks, as `workbook.py lab` sets it up."
    from traitlets.config import Config
    path, c = ROOT / ".jupyter" / "jupyter_server_config.py", Config()
    space = {"c": c, "__file__": str(path)}
    exec(compile(path.read_text(), path, "exec"), space)
    return c.ServerApp.contents_manager_class(root_dir=str(folder), config=c)


def test_a_notebook_opens_complete_and_is_stored_as_it_was(tmp_path):
    for source in ("00_data", "solutions/00_data_solution"):
        path = Path(shutil.copy(ROOT / "nbs" / f"{source}.ipynb", tmp_path))
        before, manager = path.read_bytes(), server(tmp_path)
        model = asyncio.run(manager.get(path.name))
        metadata = model["content"]["metadata"]
        assert metadata["kernelspec"]["display_name"] == "Python 3 (ipykernel)" and metadata["language_info"]["version"] == platform.python_version()
        code = [c for c in model["content"]["cells"] if c["cell_type"] == "code"]
        for i, cell in enumerate(code): cell |= {"execution_count": i, "metadata": {**cell["metadata"], "execution": {"shell.execute_reply": "now"}, "trusted": True}}
        for out in (out for cell in code for out in cell["outputs"] if "execution_count" in out): out["execution_count"] = 7
        asyncio.run(manager.save(model, path.name))
        assert path.read_bytes() == before


def test_a_notebook_of_another_kernel_and_a_file_are_left_alone(tmp_path):
    notebook(tmp_path, "1", kernelspec={"name": "elsewhere", "display_name": "Elsewhere", "language": "R"})
    (tmp_path / "words.txt").write_text("words")
    manager = server(tmp_path)
    assert "language_info" not in asyncio.run(manager.get("00_x.ipynb"))["content"]["metadata"]
    text = asyncio.run(manager.get("words.txt"))
    asyncio.run(manager.save({**text, "content": "other words"}, "words.txt"))
    assert (tmp_path / "words.txt").read_text() == "other words" and asyncio.run(manager.get(""))["type"] == "directory"


def test_figures_are_black_on_white_whatever_the_page(tmp_path):
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from mlscale.storage import style
    with plt.style.context(["dark_background", style()]):
        fig, ax = plt.subplots()
        fig.savefig(tmp_path / "figure.png")
        assert (plt.imread(tmp_path / "figure.png")[0, 0] == 1).all()   # opaque white
        inks = [ax.xaxis.label.get_color(), ax.title.get_color(), ax.spines["left"].get_edgecolor(), plt.rcParams["xtick.color"]]
        assert all(matplotlib.colors.to_rgb(c) == (0, 0, 0) for c in inks)
        plt.close(fig)


def test_readers_meet_prose_before_code(runner_module):
    code, prose = (lambda s: {"cell_type": "code", "source": s}), (lambda s: {"cell_type": "markdown", "source": s})
    title, top = prose("# T"), prose(runner_module.MARK)
    lead, story = [code("#| default_exp x"), code("#| export\nimport y")], [prose("## The incident"), prose("More.")]
    nb = {"cells": [title, top, *lead, *story, code("y.f()"), prose("End.")]}
    runner_module.prose_first(nb)
    wanted = [title, *story, *lead, code("y.f()"), prose("End.")]
    assert nb["cells"] == wanted
    runner_module.prose_first(nb)
    assert nb["cells"] == wanted
    asked = {"cells": [title, *lead, code('guess("01", ...)'), *story]}   # the question stands in the title's cell
    runner_module.prose_first(asked)
    assert asked["cells"] == [title, *lead, code('guess("01", ...)'), *story]
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        kinds = [c["cell_type"] for c in json.loads(path.read_text())["cells"]]
        assert kinds[2] == "markdown" or "guess(" in path.read_text() and "## The incident" in "".join(json.loads(path.read_text())["cells"][0]["source"]), path.name


# ---- the notebooks' runner

def notebook(folder, *sources, name="00_x.ipynb", **metadata):
    cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": s} for i, s in enumerate(sources)]
    path = folder / name
    path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}, **metadata}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def runner(*words): return subprocess.run([sys.executable, ROOT / "tests" / "notebooks.py", *map(str, words)], capture_output=True, text=True)


def test_a_notebook_that_raises_or_overruns_fails_and_a_cell_marked_so_is_not_run(tmp_path):
    good = notebook(tmp_path, "#| eval: false\n1/0", "import os; assert os.environ['IN_TEST'] == '1'; print('hello')", name="good.ipynb")
    bad = notebook(tmp_path, "x = 1", "raise KeyError('from the notebook')", name="bad.ipynb")
    slow = notebook(tmp_path, "import time", "time.sleep(60)", name="slow.ipynb", mlscale={"timeout": 1})
    dead = notebook(tmp_path, "import os; os._exit(1)", name="dead.ipynb")
    many = [notebook(tmp_path, "1", name=f"more{i}.ipynb") for i in range(6)]   # then kernels are forks
    for paths in ([bad, slow, dead], [good, bad, slow, dead, *many]):
        done = runner("run", *paths)
        texts = ["from the notebook", "not done after 8 s", "dead.ipynb: FAILED", *(f"{p.name}: runs" for p in paths if p in (good, *many))]
        assert done.returncode == 1 and all(text in done.stdout for text in texts), done.stdout + done.stderr


def test_the_longest_notebooks_come_first_and_a_broken_one_has_its_turn(tmp_path, runner_module):
    paths = [notebook(tmp_path, "1", name=f"{n}.ipynb", **({"mlscale": {"timeout": n}} if n else {})) for n in (10, 0, 200, 90)]
    paths.append(tmp_path / "broken.ipynb")
    paths[-1].write_text("{")
    assert [p.stem for p in runner_module.longest_first(paths)] == ["200", "90", "0", "10", "broken"]


def test_refresh_stores_clean_outputs_and_changes_nothing_the_second_time(tmp_path):
    path = notebook(tmp_path, "import time\nprint('hello', flush=True); time.sleep(1); print('again')", "6*7")
    assert runner("refresh", path).returncode == 0
    first = path.read_text()
    cells = json.loads(first)["cells"]
    assert [o["text"] for o in cells[0]["outputs"]] == [["hello\n", "again\n"]] and cells[1]["outputs"][0]["data"]["text/plain"] == ["42"] and cells[1]["execution_count"] is None
    assert runner("refresh", path).returncode == 0 and path.read_text() == first


def test_a_notebook_that_fails_is_not_stored(tmp_path):
    path = notebook(tmp_path, "print('hello')", "1/0")
    before = path.read_text()
    assert runner("refresh", path).returncode == 1 and path.read_text() == before


def test_check_sees_corrupt_json_stored_errors_and_a_stale_module(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "mlscale", copy / "mlscale", ignore=shutil.ignore_patterns("__pycache__"))
    some = "nbs/000_storage.ipynb", "nbs/00_data.ipynb", "nbs/solutions/00_data_solution.ipynb", "nbs/exercises/00_data.ipynb", "nbs/exercises/.cases/00_data.json"
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "tests/notebooks.py", *some):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    env = {**os.environ, "IN_TEST": "1"}   # which others may have left behind
    check = lambda: subprocess.run([sys.executable, copy / "tests" / "notebooks.py", "check"], capture_output=True, text=True, env=env)
    (copy / "mlscale" / "storage.py").write_text("x = 1\n")
    (copy / "mlscale" / "leftover.py").write_text("x = 1\n")
    nb = json.loads((copy / "nbs" / "00_data.ipynb").read_text())
    code = next(c for c in nb["cells"] if c["cell_type"] == "code")
    code["outputs"] = [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}, {"output_type": "stream", "name": "stderr", "text": "warning"}]
    (copy / "nbs" / "00_data.ipynb").write_text(json.dumps(nb))
    done = check()
    assert done.returncode == 1
    expected = ("mlscale/storage.py is not what the notebooks export", "mlscale/leftover.py comes from no notebook", "an error is stored", "stderr is stored", "00_data.ipynb is not clean")
    for text in expected: assert text in done.stdout, done.stdout
    (copy / "nbs" / "00_data.ipynb").write_text("{ broken")
    assert "00_data.ipynb is not valid JSON" in check().stdout
