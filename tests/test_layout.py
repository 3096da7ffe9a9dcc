"The order of the chapters holds, and every file is where a reader would look for it."
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(p for p in (ROOT / "nbs").glob("[0-9]*.ipynb"))
ORDER = [re.sub(r"^\d+[a-z]?_", "", p.stem) for p in CHAPTERS]
MODULES = [m for m in ORDER if (ROOT / "mlscale" / f"{m}.py").exists()]
CORE = {"numpy", "scipy", "pandas"}


def imports(path, everywhere):
    "The modules that a file imports: (name, is ours), at the top only or everywhere."
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import): yield from ((a.name.split(".")[0], False) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield from ((name, True) for name in ([node.module] if node.module else [a.name for a in node.names]))
        elif isinstance(node, ast.ImportFrom): yield (node.module.split(".")[0], False)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_chapters_before_it(name):
    ours = {m for m, is_ours in imports(ROOT / "mlscale" / f"{name}.py", everywhere=True) if is_ours}
    assert ours <= set(ORDER[:ORDER.index(name)]), f"{name} imports {ours - set(ORDER[:ORDER.index(name)])}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_the_light_core_at_its_top(name):
    others = {m for m, is_ours in imports(ROOT / "mlscale" / f"{name}.py", everywhere=False) if not is_ours}
    assert others - set(sys.stdlib_module_names) <= CORE


def test_every_module_comes_from_one_notebook_and_every_notebook_makes_its_module():
    made = {m for p in CHAPTERS for m in re.findall(r"#\| ?default_exp (\w+)", p.read_text(encoding="utf-8"))}
    files = {p.stem for p in (ROOT / "mlscale").glob("*.py")} - {"__init__", "_modidx"}
    assert made == files == set(ORDER)


def test_a_reader_finds_a_title_and_a_summary_first():
    for path in CHAPTERS:
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        assert re.match(r"# \S.*\n\n> \S", first), f"{path.name} begins with {first[:80]!r}"


def test_no_stored_output_holds_an_error_or_stderr_or_a_path_of_the_machine_it_ran_on():
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            for out in cell.get("outputs", []):
                where = f"{path.name}, cell {i}"
                assert out["output_type"] != "error" and out.get("name") != "stderr", where
                text = json.dumps({k: v for k, v in out.get("data", {}).items() if not k.startswith("image/")}) + json.dumps(out.get("text", ""))
                assert not re.search(r"(?<![\w.])/(?:tmp|root|home|Users|work|var/folders)/\w", text), where


def test_the_index_names_every_chapter_and_links_only_to_what_exists():
    index = "".join("".join(c["source"]) for c in json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"])
    links = set(re.findall(r"\]\(([^)#:]+\.ipynb)\)", index))
    assert {p.name for p in CHAPTERS} <= links
    assert all((ROOT / "nbs" / link).exists() for link in links)


def test_the_readme_links_only_to_what_exists():
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")): assert (ROOT / link).exists(), link


def test_nothing_is_committed_that_can_be_rebuilt_or_that_names_a_registry():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if not any(files): pytest.skip("not a git checkout")
    assert not [f for f in files if re.search(r"(^|/)(\.venv|\.mlscale|__pycache__|\.ipynb_checkpoints|build|dist)/|\.egg-info/|\.pyc$", f)]
    for name in ("requirements.lock", "workbook.py", "settings.ini", "setup.py", ".ci/run"): assert "pypi" not in (ROOT / name).read_text(encoding="utf-8").lower()
