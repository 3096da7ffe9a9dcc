"What README shows an engineer runs as it stands, and prints what README says."
import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
QUICKSTARTS = dict(re.findall(r"<summary><code>(\w+)</code>.*?</summary>\n\n```python\n(.*?)```\n", README, re.S))
PARTS = re.findall(r"(?m)^from mlscale\.(\w+) import [^(\n]*# pip install", README)


def expected(block):
    "What stands behind the calls of print."
    return [want for call, want in re.findall(r"(?m)^(.*\bprint\(.*\)) +# (.+)$", block)]


def same(block):
    "Runs a block in a namespace of its own; whether it prints what it says."
    out = io.StringIO()
    with contextlib.redirect_stdout(out): exec(compile(block, "README.md", "exec"), {"__name__": "quickstart"})
    want, got = "\n".join(expected(block)) + "\n", out.getvalue()
    assert doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), f"README says\n{want}\nit prints\n{got}"


def test_every_import_that_readme_shows_has_a_quickstart():
    assert PARTS == list(QUICKSTARTS) and len(PARTS) == 10 and README.count("```python") == 11


@pytest.mark.parametrize("part", QUICKSTARTS)
def test_a_quickstart_is_short_and_says_what_it_prints(part):
    block = QUICKSTARTS[part]
    assert f"from mlscale.{part} import" in block and len([line for line in block.splitlines() if line.strip()]) <= 20
    assert len(expected(block)) == block.count("print(") > 0 and max(map(len, block.splitlines())) <= 110


@pytest.mark.parametrize("part", QUICKSTARTS)
def test_a_quickstart_does_what_it_says_in_an_empty_folder(part, tmp_path, monkeypatch, request):
    if part == "batch": request.getfixturevalue("spark")   # the one that runs in this process
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    same(QUICKSTARTS[part])


def test_a_quickstart_that_says_something_else_is_found():
    same("print(1 + 1)   # 2\nprint('a b')  # a...")
    with pytest.raises(AssertionError, match=r"(?s)README says\s+3\s.*it prints\s+2\s"): same("print(1 + 1)   # 3")
