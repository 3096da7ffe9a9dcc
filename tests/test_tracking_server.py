"A tracking server over HTTP: what a registry promises behind one, also when it dies and comes back."
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import postgres
import pytest
import tracking
from sklearn.linear_model import LogisticRegression

from mlscale.artifacts import load_bundle, read_pointer
from mlscale.history import ConflictError, LedgerError, alias_history
from mlscale.ledger import Ledger, ServerUnreachable
from mlscale.registry import GateRefused, Registry, no_worse

EXAMPLE = np.random.default_rng(0).normal(size=(40, 2))
MODELS = [LogisticRegression(C=c).fit(EXAMPLE, EXAMPLE[:, 0] > 0) for c in (.01, 1.)]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request, tmp_path_factory):
    "A server in front of each kind of database; the models of a test have names of their own."
    folder = tmp_path_factory.mktemp("server")
    store = f"sqlite:///{folder/'store.db'}" if request.param == "sqlite" else postgres.server().database().replace("postgresql://", "postgresql+psycopg://")
    server = tracking.Server(folder, store)
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    "A client that asks three times in all, without long pauses."
    for key, value in {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "0", "BACKOFF_JITTER": "0", "TIMEOUT": "60"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{key}", value)


@pytest.fixture
def wire(server):
    wire = tracking.Wire(server.port)
    yield wire
    wire.close()


@pytest.fixture
def place(server, tmp_path):
    "The folder that all who use a server share. A test leaves the server as empty as it was."
    yield tmp_path/"shared"
    ledger = Ledger(server.url)
    for name in ledger.names(): ledger._client.delete_registered_model(name)


def opened(uri, folder): return Registry(uri, artifacts=folder/"artifacts", bundles=folder/"bundles")


def register(registry, name, model=0): return registry.register(MODELS[model], name=name, example=EXAMPLE, lineage={"data": "June"}, metrics={"log_loss": .4 + model/10})


def agreed(registry, name):
    pointer = read_pointer(registry.bundles/name)
    bundle = load_bundle(registry.bundles/name/str(pointer.version), sha256=pointer.sha256)
    said = {registry.version(name, "production").version, int(registry._ledger.model(name).aliases["production"]), pointer.version, bundle.version}
    assert len(said) == 1
    return said.pop()


def test_all_that_a_registry_does(server, place, tmp_path):
    registry = opened(server.url, place)
    for model in (0, 1): assert register(registry, "all", model).version == model + 1
    registry.promote("all", 1, gate=no_worse("log_loss"))
    registry.deploy("all")
    with pytest.raises(GateRefused): registry.promote("all", 2, gate=no_worse("log_loss"))
    registry.promote("all", 2)
    registry.deploy("all", as_="canary")
    assert agreed(registry, "all") == 1 and registry.load("all", "canary").version == 2
    assert registry.rollback("all").version == 1 and registry.reconcile() == []
    again = opened(server.url + "/", place)
    assert list(again.history("all").event) == list(registry.history("all").event) and again.versions("all").intact.all()
    assert server.url in repr(again) and load_bundle(again.export("all", 2, tmp_path/"out")).version == 2


def test_a_forged_digest_a_cut_history_and_a_forged_event_are_refused(server, place):
    registry = opened(server.url, place)
    for model in (0, 1): register(registry, "forged", model)
    registry.promote("forged", 1)
    client, tags = registry._ledger._client, registry._ledger.model("forged").tags
    key = max(k for k in tags if k.startswith("event."))
    client.set_model_version_tag("forged", "1", "sha256", registry.version("forged", 2).sha256)
    with pytest.raises(LedgerError, match="its record says"): registry.load("forged", 1)
    client.delete_registered_model_tag("forged", key)
    with pytest.raises(LedgerError, match="3 events were written, and the history has 2"): registry.promote("forged", 2)
    client.set_registered_model_tag("forged", key, json.dumps({**json.loads(tags[key]), "version": 2}))
    with pytest.raises(LedgerError, match="3 events were written, and the history has 3 or others"): registry.load("forged", "champion")
    register(registry, "other")
    with pytest.raises(ValueError, match="^forged: forged: 3 events were written[^;]*; restore[^;]*$"): registry.reconcile()   # and says nothing of the other


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_wire_cut_at_any_request_of_a_registration_leaves_a_version_or_none(server, wire, place, lost):
    registry, name = opened(wire.url, place), f"cut-{lost}"
    for k in range(1, 20):   # of the requests that write something
        before = list(registry._ledger.versions(name)) if name in registry._ledger.names() else []
        wire.cut(k, lost)
        try: made = register(registry, name)
        except ServerUnreachable: made = None
        reached = wire.is_cut
        wire.mend()
        after = registry._ledger.versions(name) if name in registry._ledger.names() else {}
        assert set(before) <= set(after) and len(after) <= len(before) + 1   # never two for one, and none is lost
        if made is not None: assert made.version in after
        for n in after: assert registry.load(name, n).version == n   # none is there by half
        if not reached: break
    assert not reached and made is not None
    registry.reconcile()
    numbers = {f.name for f in (registry.artifacts/name).iterdir() if f.name.isdigit()}
    assert numbers == set(map(str, registry._ledger.versions(name))) and registry.reconcile() == []


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_wire_cut_at_any_request_of_a_deployment_is_mended(server, wire, place, lost):
    registry, name = opened(wire.url, place), f"deploy-{lost}"
    for model in (0, 1): register(registry, name, model)
    registry.promote(name, 1)
    registry.deploy(name)
    for k in range(1, 20):   # of the requests that write something
        wire.cut(k, lost)
        try:
            registry.promote(name, 2)
            registry.deploy(name)
        except ServerUnreachable: pass
        reached = wire.is_cut
        wire.mend()
        registry.reconcile()
        assert agreed(registry, name) == alias_history(registry._ledger.events(name))["production"][-1] in (1, 2)
        if not reached: break
        for _ in ("ask", "again"):
            registry.promote(name, 1)
            registry.deploy(name)
        assert agreed(registry, name) == 1 and registry.reconcile() == []
    assert not reached and agreed(registry, name) == 2


def test_a_server_that_is_killed_and_comes_back(server, place):
    registry = opened(server.url, place)
    first = register(registry, "killed")
    registry.promote("killed", 1)
    registry.deploy("killed")
    server.kill()
    for asked in (lambda: register(registry, "killed", 1), lambda: registry.load("killed", "champion"), lambda: registry.promote("killed", 1), registry.reconcile,
                  lambda: opened(server.url, place)):
        with pytest.raises(ServerUnreachable, match="does not answer|did not register"): asked()
    pointer = read_pointer(registry.bundles/"killed")   # who serves goes on without it
    assert load_bundle(registry.bundles/"killed"/"1", sha256=pointer.sha256).version == 1
    server.start()
    assert registry.load("killed", "champion").sha256 == first.sha256 and register(registry, "killed", 1).version == 2
    registry.reconcile()
    assert agreed(registry, "killed") == 1 and registry.reconcile() == []


def test_two_machines_without_a_common_lock_get_numbers_of_their_own(server, place):
    ledgers = [Ledger(server.url, heads=place/"artifacts") for _ in range(2)]

    def four(i): return [number_of(ledgers[i], f"{4*i + k:064x}") for k in range(4)]
    with ThreadPoolExecutor(2) as pool: made = sum(pool.map(four, range(2)), [])
    assert len(made) == len(set(made)) == 8 and set(ledgers[0].versions("two")) == set(made)


def test_who_finds_a_first_version_that_is_being_registered_takes_its_history_as_it_becomes(server, place, monkeypatch):
    one, other = (Ledger(server.url, heads=place/"artifacts") for _ in range(2))
    begun, append, alone = threading.Event(), one._append, other._write_alone
    first = threading.Thread(target=one.add, args=("first", 1, "x", "0"*64))

    def later(*args, **how):
        begun.set()
        assert go.wait(60)
        append(*args, **how)

    def after_the_first(*args):
        go.set()
        first.join(60)
        return alone(*args)

    go = threading.Event()
    monkeypatch.setattr(one, "_append", later)
    monkeypatch.setattr(other, "_write_alone", after_the_first)
    first.start()
    assert begun.wait(60) and other.add("first", 2, "x", "1"*64) == 2
    assert set(other.versions("first")) == {1, 2} and other.events("first") == []


def number_of(ledger, sha256):
    wanted = 1
    while (got := ledger.add("two", wanted, "x", sha256)) != wanted: wanted = got + 1
    return got


def test_two_machines_that_record_at_once_lose_no_event(server, place):
    ledgers = [Ledger(server.url, heads=place/"artifacts") for _ in range(2)]
    ledgers[0].add("both", 1, "x", "0"*64)

    def ten(i):
        wrote, rng = 0, np.random.default_rng(i)
        for k in range(10):
            time.sleep(.05*rng.random())   # two that write at the same moment may both be refused
            try: ledgers[i].record("both", "promote", f"by{i}", k + 1, "")
            except ConflictError: continue
            wrote += 1
        return wrote
    with ThreadPoolExecutor(2) as pool: wrote = list(pool.map(ten, range(2)))
    events = ledgers[0].events("both")
    assert len(events) == sum(wrote) > 0 and [sum(e["alias"] == f"by{i}" for e in events) for i in range(2)] == wrote


def test_an_event_between_reading_and_writing_is_a_conflict(server, place):
    one, two = (Ledger(server.url, heads=place/"artifacts") for _ in range(2))
    one.add("late", 1, "x", "0"*64)
    stale = one._chain("late")
    two.record("late", "promote", "gold", 1, "")
    with pytest.raises(ConflictError, match="event 2 at the same moment"): one._append(stale, {"event": "promote", "alias": "silver", "version": 1, "reason": ""})
    assert [e["alias"] for e in one.events("late")] == ["gold"]
    one.record("late", "promote", "silver", 1, "")
    assert set(alias_history(two.events("late"))) == {"gold", "silver"}


def test_a_server_that_answers_nonsense_is_one_clear_error(tmp_path):
    program = """
import http.server
class Nonsense(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[[[[")
    do_POST = do_GET
    def log_message(self, *words): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Nonsense)
print(server.server_port, flush=True)
server.serve_forever()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as nonsense:
        try:
            with pytest.raises(ServerUnreachable, match="as a tracking server should"): opened(f"http://127.0.0.1:{int(nonsense.stdout.readline())}", tmp_path)
        finally: nonsense.kill()


@pytest.mark.parametrize("uri", ["http://10.0.0.7:5000", "http://models.example.org", "https://a:b@host", "https://host/?a=b", "https://", "http://localhost:0", "http://[::1", "https://host/\n"])
def test_an_address_that_others_can_read_is_refused(uri, tmp_path):
    with pytest.raises(ValueError, match="uri") as e: opened(uri, tmp_path)
    assert "a:b" not in str(e.value)


def test_a_server_needs_the_folder_of_the_bundles():
    with pytest.raises(ValueError, match="artifacts: a server keeps the records only"): Registry("http://localhost:5000")
