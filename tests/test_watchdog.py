"Silence is noticed: of a feed, of the service, of the monitor itself. A real Prometheus checks our rules, fetches our numbers, and rings."
import json
import re
import shutil
import socket
import subprocess
import time
from urllib.request import urlopen

import pandas as pd
import pytest

from mlscale.alerts import Alerts
from mlscale.drift_monitor import Finding
from mlscale.limits import ServiceMetrics
from mlscale.outcomes import record_outcome
from mlscale.prediction_log import Prediction, PredictionLog
from mlscale.server import serving_process
from mlscale.watchdog import MonitorMetrics, alerting_rules, arrival_findings, arrivals, dashboard, write_prometheus

NOON = pd.Timestamp("2013-09-02 16:00", tz="UTC")
prometheus = pytest.mark.skipif(not (shutil.which("prometheus") and shutil.which("promtool")), reason="prometheus and promtool are not installed")


@pytest.fixture
def log(tmp_path):
    with PredictionLog(tmp_path / "log.db") as book:
        book.append(Prediction(f"r{i}", NOON - pd.Timedelta(minutes=10 * i), "late", 1, None, "production", .3, []) for i in range(12))
    record_outcome("r11", 1, NOON - pd.Timedelta("90min"), log=tmp_path / "log.db")
    return tmp_path / "log.db"


def test_the_age_and_number_of_what_arrives_as_of_a_moment(log, tmp_path):
    assert arrivals(log, NOON) == {"predictions": (0., 6), "outcomes": (5400., 0)}
    assert arrivals(log, NOON - pd.Timedelta("95min"), window="10min") == {"predictions": (300., 1), "outcomes": (float("inf"), 0)}   # what is later is not seen
    PredictionLog(tmp_path / "empty.db").close()
    assert arrivals(tmp_path / "empty.db", NOON) == dict.fromkeys(("predictions", "outcomes"), (float("inf"), 0))


def test_a_silent_feed_rings_and_an_empty_log_is_not_a_quiet_one(log, tmp_path):
    ask = lambda log, at: {f.name: f for f in arrival_findings(log, at, oldest={"predictions": "30min", "outcomes": "2h"}, least={"predictions": 6})}
    assert not any(ask(log, NOON).values())
    later = ask(log, NOON + pd.Timedelta("31min"))
    assert [bool(f) for f in later.values()] == [True, True, True] and later["age of predictions"].value == 31 and later["number of predictions"].value == 3
    PredictionLog(tmp_path / "empty.db").close()
    assert all(ask(tmp_path / "empty.db", NOON).values())
    for wrong in (dict(oldest={"labels": "1h"}), dict(oldest={}, least={"labels": 1}), dict(oldest={}, least={"outcomes": -1})):
        with pytest.raises(ValueError, match="least"): arrival_findings(log, NOON, **wrong)


def test_a_failed_round_is_no_heartbeat_and_what_is_over_is_gone():
    metrics, alerts = MonitorMetrics(), Alerts()
    read = lambda name: float(re.search(rf"(?m)^{re.escape(name)} (\S+)", metrics.text().decode())[1])
    finding = Finding("loss <\n\"", 9, 5, "nats", NOON, True)
    alerts.update(finding, severity="critical")
    metrics.round_done(alerts, [finding], at=NOON, waiting=3)
    metrics.round_failed()
    assert read("mlscale_monitor_heartbeat_timestamp_seconds") == NOON.timestamp() and read('mlscale_monitor_rounds_total{how="failed"}') == read('mlscale_monitor_rounds_total{how="done"}') == 1
    assert read('mlscale_monitor_open_alerts{severity="critical",state="firing"}') == 1 and read("mlscale_monitor_waiting_messages") == 3
    alerts.acknowledge(finding.name, by="Ann", at=NOON)
    metrics.round_done(alerts, [], at=NOON)
    assert read('mlscale_monitor_open_alerts{severity="critical",state="firing"}') == 0 and read('mlscale_monitor_open_alerts{severity="critical",state="acknowledged"}') == 1


def test_every_metric_that_a_rule_or_a_panel_asks_for_is_told_by_somebody():
    told = MonitorMetrics()
    told.round_done(Alerts(), [Finding("a", 1, 2, "x", NOON, False)], seen={"outcomes": (1., 1)})
    there = set(re.findall(r"mlscale_\w+", (ServiceMetrics().text() + told.text()).decode())) | {"mlscale_request_seconds_bucket"}
    asked = set(re.findall(r"mlscale_\w+", alerting_rules() + json.dumps(dashboard())))
    assert len(asked) > 12 and asked <= there
    panels = dashboard()["panels"]
    assert len({p["id"] for p in panels}) == len(panels) and all(p["targets"][0]["expr"] for p in panels)


@prometheus
def test_promtool_finds_no_fault_in_what_is_written(tmp_path):
    files = write_prometheus(tmp_path / "watch", service="host:1", every="30s", hold="2m", slow=.5)
    for what, file in (("rules", files[1]), ("config", files[0])):
        done = subprocess.run(["promtool", "check", what, file], capture_output=True, text=True)
        assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr
    assert json.loads(files[2].read_text()) == dashboard() and "> 0.5" in files[1].read_text() and "for: 2m" in files[1].read_text()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s: return s.getsockname()[1]


@pytest.fixture
def watched(tmp_path):
    "A Prometheus that looks every second; gives the names of the alerts that fire, and whom it watches."
    ports = [free_port() for _ in range(3)]
    service, monitor, own = (f"127.0.0.1:{p}" for p in ports)
    config = write_prometheus(tmp_path / "watch", service=service, monitor=monitor, every="1s", hold="1s", window="5s", silent="1h", dead=6)[0]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={own}"], stdout=said, stderr=said)

    def firing():
        try: alerts = json.load(urlopen(f"http://{own}/api/v1/alerts", timeout=10))["data"]["alerts"]
        except OSError: return set()
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}

    def until(wanted, seconds=120):
        end = time.monotonic() + seconds
        while not wanted(found := firing()):
            assert time.monotonic() < end and process.poll() is None, (found, (tmp_path / "said").read_text()[-2000:])
            time.sleep(.3)

    yield until, ports[0], ports[1]
    process.terminate()
    process.wait(30)


@prometheus
def test_a_prometheus_sees_the_service_die_and_return_and_the_monitor_ring_and_fall_silent(watched, tmp_path):
    until, service, monitor = watched
    metrics, alerts = MonitorMetrics(), Alerts()
    round_ = lambda *findings: ([alerts.update(f, severity="critical") for f in findings], metrics.round_done(alerts, findings))
    loss = lambda value: Finding("loss", value, 5, "nats", pd.Timestamp.now("UTC"), value > 5)
    round_(loss(1.))
    metrics.expose(monitor)
    ours = {"MlscaleServiceDown", "MlscaleModelAlert", "MlscaleMonitorDead"}

    def beating(wanted):
        def look(found):
            round_()   # a complete round, so the heart beats
            return wanted(found)
        until(look)

    with serving_process(tmp_path / "bundles", port=service):
        beating(lambda found: "MlscaleWatchdog" in found and not found & ours)   # it rings always, and nothing else does
        round_(loss(9.))
        beating(lambda found: found & ours == {"MlscaleModelAlert"})
        alerts.acknowledge("loss", by="Ann", at=pd.Timestamp.now("UTC"))
        beating(lambda found: not found & ours)   # somebody works on it
        round_(loss(1.))
    beating(lambda found: found & ours == {"MlscaleServiceDown"})
    with serving_process(tmp_path / "bundles", port=service):
        beating(lambda found: not found & ours)
        until(lambda found: found & ours == {"MlscaleMonitorDead"})   # no round any more
        beating(lambda found: not found & ours)
