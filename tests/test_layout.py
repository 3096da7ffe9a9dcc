"The order of the chapters holds, and every file is where a reader would look for it."
import ast
import json
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(p for p in (ROOT / "nbs").glob("[0-9]*.ipynb"))
ORDER = [re.sub(r"^\d+[a-z]?_", "", p.stem) for p in CHAPTERS]
PLACES = {re.sub(r"^\d+[a-z]?_", "", p.stem): re.match(r"(\d+)([a-z]?)_", p.stem).groups() for p in CHAPTERS}
PAGES = {"takeaways"}   # they measure, and export nothing
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


def may_import(mine, other):
    "Plumbing before all; then earlier chapters; a chapter its companions, a companion the earlier ones, never its chapter."
    (number, letter), (earlier, its_letter) = mine, other
    if number != earlier: return (len(earlier) < 3, earlier) < (len(number) < 3, number)
    return bool(its_letter) and (not letter or its_letter < letter)


def test_the_rule_of_imports():
    allowed = [("09", "01"), ("09", "09b"), ("09", "08b"), ("09b", "08"), ("09c", "09b"), ("00", "000"), ("002", "001"), ("10", "09")]
    refused = [("09b", "09"), ("09b", "09c"), ("09", "10"), ("08", "09b"), ("09", "09"), ("000", "00"), ("001", "002")]
    place = lambda text: re.fullmatch(r"(\d+)([a-z]?)", text).groups()
    assert all(may_import(place(a), place(b)) for a, b in allowed) and not any(may_import(place(a), place(b)) for a, b in refused)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_comes_before_it(name):
    ours = {m for m, is_ours in imports(ROOT / "mlscale" / f"{name}.py", everywhere=True) if is_ours}
    wrong = {m for m in ours if not may_import(PLACES[name], PLACES[m])}
    assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_uses_no_private_name_of_another(name):
    for node in ast.walk(ast.parse((ROOT / "mlscale" / f"{name}.py").read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level: continue
        assert not (private := [a.name for a in node.names if a.name.startswith("_")]), f"{name} imports {private} of {node.module}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_the_light_core_at_its_top(name):
    others = {m for m, is_ours in imports(ROOT / "mlscale" / f"{name}.py", everywhere=False) if not is_ours}
    assert others - set(sys.stdlib_module_names) <= CORE


def test_every_module_comes_from_one_notebook_and_every_notebook_makes_its_module():
    made = {m for p in CHAPTERS for m in re.findall(r"#\| ?default_exp (\w+)", p.read_text(encoding="utf-8"))}
    files = {p.stem for p in (ROOT / "mlscale").glob("*.py")} - {"__init__", "_modidx"}
    assert made == files == set(ORDER) - PAGES


def test_a_reader_finds_a_title_and_a_summary_first():
    for path in CHAPTERS:
        first = cells(path)[0]["source"]
        assert re.match(r"# \S.*\n\n> \S", first), f"{path.name} begins with {first[:80]!r}"


# ---- the bounds of what a reader is given at once

WIDTH, CELL, CLASS, CHAPTER, PARAGRAPH, MODULE = 100, 30, 60, 400, 120, 700


def cells(path):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**c, "source": "".join(c["source"])} for c in found]


def tree_of(source):
    return ast.parse(re.sub(r"(?m)^\s*[%!].*$", "pass", source))


def lines_of_code(source):
    "Lines that hold code: no blank lines, comments, texts over several lines, and of a signature only the first line."
    apart, tree = set(), tree_of(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.end_lineno > node.lineno: apart |= {*range(node.lineno, node.end_lineno + 1)}
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): apart |= {*range(node.lineno + 1, node.body[0].lineno)}
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") and i not in apart for i, line in enumerate(source.splitlines(), 1))


def test_lines_of_code_are_counted_as_a_reader_would():
    assert lines_of_code('x = 1\n\n# no\ndef f(\n    a,\n    b,\n):\n    """Long.\n\n    text\n    """\n    return a') == 3


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_cell_and_a_chapter_are_short_enough_to_read(path):
    total = 0
    for i, cell in enumerate(cells(path)):
        if cell["cell_type"] != "code": continue
        wide = [line for line in cell["source"].splitlines() if len(line) > WIDTH]
        assert not wide, f"{path.name}, cell {i}: {wide[0][:60]}... has {len(wide[0])} characters"
        n, is_class = lines_of_code(cell["source"]), any(isinstance(node, ast.ClassDef) for node in tree_of(cell["source"]).body)
        assert n <= (CLASS if is_class else CELL), f"{path.name}, cell {i}: {n} lines of code"
        total += n
    on_the_path = re.match(r"\d\d_", path.name)
    assert total <= CHAPTER or not on_the_path, f"{path.name}: {total} lines of code; the strong version belongs in a companion"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_short_enough_to_find_ones_way_in(name):
    text = (ROOT / "mlscale" / f"{name}.py").read_text(encoding="utf-8")
    text = re.sub(r'(?m)^\n *Examples\n *-{8}\n[\s\S]*?(?=""")', "", text)   # they help to find it
    lines = len(text.splitlines())
    assert lines <= MODULE, f"{name}: {lines} lines; a part that stands alone belongs in a companion of its own"


@pytest.mark.parametrize("path", [*CHAPTERS, ROOT / "nbs" / "index.ipynb"], ids=lambda p: p.stem)
def test_paragraphs_are_short_enough_to_read(path):
    for i, cell in enumerate(cells(path)):
        if cell["cell_type"] != "markdown": continue
        for paragraph in re.split(r"\n\s*\n", cell["source"]):
            if paragraph.lstrip().startswith(("|", "-", "*", "1.", "    ", "$$")) and not paragraph.lstrip().startswith("**"): continue
            assert len(paragraph.split()) <= PARAGRAPH, f"{path.name}, cell {i}: {paragraph[:60]}..."


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_has_its_navigation_and_links_only_to_what_exists(path):
    prose = "\n".join(c["source"] for c in cells(path) if c["cell_type"] == "markdown")
    assert prose.count("(index.ipynb)") >= 2 and "minutes**" in cells(path)[1]["source"]
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose):
        assert (path.parent / urllib.parse.unquote(link)).exists(), f"{path.name} links to {link}"


def test_no_stored_output_holds_an_error_or_stderr_or_a_path_of_the_machine_it_ran_on():
    for path in [*CHAPTERS, *sorted((ROOT / "nbs" / "solutions").glob("*.ipynb"))]:   # exercises are a reader's to run
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
