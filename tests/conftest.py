"What all tests share: --slow, programs outside Python that may be missing, threads that keep out of each other's way, and one Spark."
import os
import shutil

import nbformat.sign  # noqa: F401  before Feast: both tell sqlite3 how a moment is written, and the last word counts
import prometheus_client  # noqa: F401  before Feast, whose import makes all later counters of a process share one set of files
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")   # threads that wait sleep, and leave the cores to others
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1")   # a Java that soon ends is not worth its second compiler
if "PYTEST_XDIST_WORKER" in os.environ:           # as many processes as cores: one thread each
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"): os.environ.setdefault(name, "1")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the larger tables of the same checks")


LONGEST = ("test_registry", "test_lifecycle", "test_engines", "test_exercises", "test_site", "test_log_archive", "test_experiments",
           "test_workbook", "test_sequential", "test_tracking_server", "test_examples", "test_join_tables", "test_style", "test_wire",
           "test_rollout", "test_entity_service", "test_lesson", "test_batch", "test_online", "test_capacity", "test_overload")


def pytest_collection_modifyitems(config, items):
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))   # so that no long file runs alone at the end
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        for mark in item.iter_markers("needs"):
            missing = [program for program in mark.args if shutil.which(program) is None]
            if missing: item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    "One Spark for all tests of a process, started as on a machine without Java, with its state on a path with spaces."
    from mlscale.batch import spark_session
    box = tmp_path_factory.mktemp("machine")
    hidden = box / "bin"
    hidden.mkdir()
    (hidden / "java").write_text("#!/bin/sh\nexit 127\n")
    (hidden / "java").chmod(0o755)
    with pytest.MonkeyPatch.context() as m:
        m.setenv("MLSCALE_HOME", str(box / "home with spaces"))
        m.setenv("PATH", f"{hidden}{os.pathsep}{os.environ['PATH']}")
        for name in ("JAVA_HOME", "SPARK_CONF_DIR", "PYSPARK_PYTHON", "SPARK_LOCAL_IP"): m.setenv(name, "")
        for name in ("JAVA_HOME", "SPARK_CONF_DIR"): m.delenv(name)
        session = spark_session(conf={"spark.sql.shuffle.partitions": "1", "spark.default.parallelism": "1"})
    session.sparkContext.setLogLevel("OFF")   # tasks fail on purpose
    yield session
    session.stop()
