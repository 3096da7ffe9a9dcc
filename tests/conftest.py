"What all tests share: --slow, and programs outside Python that may be missing."
import shutil

import prometheus_client  # noqa: F401  before Feast, whose import makes all later counters of a process share one set of files
import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the larger tables of the same checks")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        for mark in item.iter_markers("needs"):
            missing = [program for program in mark.args if shutil.which(program) is None]
            if missing: item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))
