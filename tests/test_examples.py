"Every public function and class shows how it is called, and what it shows is true."
import doctest
import importlib
import inspect
import sys
from pathlib import Path

import pytest

from mlscale.storage import home

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p.stem for p in (ROOT / "mlscale").glob("*.py") if not p.stem.startswith("_"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def own(module):
    "The public functions and classes that a module defines, not those it passes on."
    found = {name: thing for name, thing in vars(module).items() if not name.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing))}
    return {name: thing for name, thing in found.items() if inspect.unwrap(thing).__module__ == module.__name__}


def without_example(things):
    return [name for name, thing in things.items() if "\nExamples\n--------\n" not in (inspect.getdoc(thing) or "")]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_callable_has_an_example(name):
    module = importlib.import_module(f"mlscale.{name}")
    assert not (missing := without_example(own(module))), f"{name}: no Examples in {', '.join(missing)}"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    "An empty folder to work in and a home of our own, which shares the cache of the flights."
    cache = home() / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (tmp_path / "home with spaces").mkdir()
    (tmp_path / "home with spaces" / "cache").symlink_to(cache)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home with spaces"))
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture(scope="session")
def every_eighth(): return importlib.import_module("mlscale.features").load_features().iloc[::8]


@pytest.fixture(scope="session")
def launched(every_eighth, tmp_path_factory):
    "A system of chapter 12, on an eighth of the flights."
    policy = importlib.import_module("mlscale.policy")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(policy, "load_features", lambda: every_eighth)
        return policy.launch(tmp_path_factory.mktemp("launched") / "state", say=lambda line: None)


@pytest.fixture
def given(elsewhere, tmp_path, monkeypatch, request):
    "What an example says it is given: a `system` (for each example a copy), a `spark` session."
    def give(test):
        if "a `system` as `launch`" in test.docstring:
            monkeypatch.setattr("mlscale.policy.load_features", lambda: request.getfixturevalue("every_eighth"))
            test.globs["system"] = request.getfixturevalue("launched").fork(tmp_path / test.name, "example")
            test.globs["system"].say = print
        if "a `spark` session" in test.docstring: test.globs["spark"] = request.getfixturevalue("spark")
        elif "session(None)" in test.docstring: request.getfixturevalue("spark")   # which is then the one that runs
    return give


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name, given, monkeypatch):
    monkeypatch.delenv("IN_TEST", raising=False)   # nbdev leaves it behind, and guesses are not kept where it is
    module = importlib.import_module(f"mlscale.{name}")
    said, runner = [], doctest.DocTestRunner(optionflags=FLAGS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__, globs={"__name__": "example"}):
        given(test)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_what_is_missing_or_untrue_is_found():
    def bare(): "No example."
    def good(): "One.\n\n    Examples\n    --------\n    >>> 1 + 1\n    2\n    "
    assert without_example({"bare": bare, "good": good}) == ["bare"]
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    good.__doc__ = good.__doc__.replace("    2\n", "    3\n")
    for test in doctest.DocTestFinder().find(good, "good", module=sys.modules[__name__]): runner.run(test, out=lambda text: None)
    assert runner.failures == 1
