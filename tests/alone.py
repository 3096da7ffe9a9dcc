"""Run the examples of modules as somebody would who installed only a part of the extras, and print, as JSON, each that ended for want of a package: `python alone.py [--hide] MODULE ...`.

With `--hide` all packages outside the light core are out of sight, as if this environment did not have them.
"""
import doctest
import importlib
import json
import re
import sys
import traceback
from importlib.machinery import PathFinder
from pathlib import Path

import mlscale

CORE = {"mlscale", "numpy", "scipy", "pandas", "dateutil", "pytz", "tzdata", "six"}


class CoreOnly(PathFinder):
    "Finds the standard library and the light core."

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        where = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
        return None if name.partition(".")[0] not in CORE and any("site-packages" in w for w in where) else spec


class Runner(doctest.DocTestRunner):
    "Keeps what ended for want of a package; that an example is true is tested elsewhere."

    def __init__(self):
        super().__init__(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        self.wanting, self.ran = {}, {}

    def report_start(self, out, test, example): pass
    def report_success(self, out, test, example, got): self.ran[test.name] = self.ran.get(test.name, 0) + 1
    def report_failure(self, out, test, example, got): pass

    def report_unexpected_exception(self, out, test, example, exc_info):
        kind, error, trace = exc_info
        if not issubclass(kind, ImportError) or test.name in self.wanting: return
        hint = re.search(r"pip install 'mlscale\[(\w+)\]'", str(error))
        # the example's own line asks for the package, such as scikit-learn to make a model or pandas to write Parquet
        ours = str(Path(mlscale.__file__).parent)
        own = not any(frame.f_code.co_filename.startswith(ours) for frame, _ in traceback.walk_tb(trace))
        self.wanting[test.name] = {"line": example.source.strip(), "said": f"{kind.__name__}: {error}", "hint": hint and hint[1], "own": own}


def main(modules):
    runner = Runner()
    for name in modules:
        module = importlib.import_module(f"mlscale.{name}")
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__, globs={"__name__": "example"}): runner.run(test, out=lambda text: None)
    return {"wanting": runner.wanting, "ran": sorted(set(runner.ran) - set(runner.wanting))}


if __name__ == "__main__":
    if hide := sys.argv[1] == "--hide": sys.meta_path = [CoreOnly if finder is PathFinder else finder for finder in sys.meta_path]
    found = main(sys.argv[1 + hide:])
    print("\n" + json.dumps(found))
