"The threat model of 04f: each attack inside it, refused with one clear error before a byte of the attacker's is run."
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlscale.artifacts import ModelVersion, load_bundle, read_card, read_pointer, save, write_pointer
from mlscale.history import Chain, LedgerError, alias_history, chain_link, read_head
from mlscale.hot_swap import ReloadingModel, load_deployed
from mlscale.ledger import Ledger
from mlscale.pointer import check_newer, without_links
from mlscale.registry import Registry
from mlscale.signing import make_keys, verify, verify_bundle

EXAMPLE = np.random.default_rng(0).normal(size=(60, 2))
MODELS = [LogisticRegression(C=c).fit(EXAMPLE, EXAMPLE[:, 0] > 0) for c in (.01, 1., 100.)]


def register(registry, name, model): return registry.register(MODELS[model], name=name, example=EXAMPLE, lineage={"data": "June"}, metrics={"log_loss": .4})


def filled(registry):
    "Three versions of `late`, the second of which is served; one of `other`, served."
    for model in range(3): register(registry, "late", model)
    register(registry, "other", 0)
    for name in ("late", "other"):
        registry.promote(name, 1)
        registry.deploy(name)
    registry.promote("late", 2)
    registry.deploy("late")


@pytest.fixture(scope="module")
def keys(tmp_path_factory): return make_keys(tmp_path_factory.mktemp("keys")/"pair")


@pytest.fixture(scope="module")
def templates(tmp_path_factory, keys):
    "A registry and one that signs, each made once and copied for each test."
    made = {}
    for kind, key in (("plain", None), ("signed", keys[0])):
        made[kind] = tmp_path_factory.mktemp(kind)/"state"
        filled(Registry(f"sqlite:///{made[kind]/'mlflow.db'}", signing_key=key))
    return made


@pytest.fixture
def at(tmp_path, templates): return shutil.copytree(templates["plain"], tmp_path/"state")


@pytest.fixture
def signed_at(tmp_path, templates): return shutil.copytree(templates["signed"], tmp_path/"signed")


def opened(at, key=None): return Registry(f"sqlite:///{at/'mlflow.db'}", signing_key=key)


def tags(at, name="late"): return Ledger(f"sqlite:///{at/'mlflow.db'}").model(name).tags


def write(at, statement, *values):
    "As somebody who may write to the database."
    with closing(sqlite3.connect(at/"mlflow.db")) as db, db: db.execute(statement, values)


def set_event(at, key, text, name="late"):
    write(at, "INSERT OR REPLACE INTO registered_model_tags (name, key, value, workspace) VALUES (?, ?, ?, 'default')", name, key, text)


def delete_event(at, key, name="late"): write(at, "DELETE FROM registered_model_tags WHERE name = ? AND key = ?", name, key)


def events(at, name="late"): return sorted(k for k in tags(at, name) if k.startswith("event."))


def forge(at, version=2, shelf=None):
    "Another model as this version: card, number and digests as they should be. Its digest."
    folder = (shelf or at/"artifacts")/"late"/str(version)
    lineage = read_card(folder)["lineage"]
    shutil.rmtree(folder)
    return save(MODELS[2], folder, example=EXAMPLE, lineage=lineage, metrics={"log_loss": .1}).sha256


def rechain(at, change, name="late"):
    "The history written anew, as somebody does who knows how it is made: all digests agree with each other."
    old = [json.loads(tags(at, name)[k]) for k in events(at, name)]
    for key in events(at, name): delete_event(at, key, name)
    digest = chain_link("", name)
    for n, e in enumerate(change(old), 1):
        text = json.dumps({**e, "previous": digest})
        digest = chain_link(digest, text)
        set_event(at, f"event.{n:06d}.{digest[:16]}", text, name)
    return n, digest


# --- who may write to the bundles alone

def test_a_model_its_card_and_the_pointer_changed_together_are_put_right(at, keys):
    "Without a key a server cannot tell; the registry can, and the key can."
    folder = at/"bundles"/"late"
    sha256 = forge(at, shelf=at/"bundles")
    write_pointer(folder, "production", ModelVersion("late", 2, sha256, event=99))
    assert load_deployed(folder, read_pointer(folder)).sha256 == sha256   # the test can fail: this is served
    for refused in (lambda: load_deployed(folder, read_pointer(folder), trusted_key=keys[1]), lambda: verify_bundle(folder/"2", keys[1])):
        with pytest.raises(ValueError): refused()
    assert opened(at).reconcile() == ["late: the bundle of version 2 is in place", "late: production.json points to version 2"]
    assert read_pointer(folder).sha256 == opened(at).version("late", 2).sha256 != sha256


def test_the_registrys_own_copy_is_compared_before_it_is_delivered(at):
    forge(at)
    shutil.rmtree(at/"bundles"/"late"/"2")
    with pytest.raises(ValueError, match="late, production: 2/card.json was changed"): opened(at).reconcile()
    assert not (at/"bundles"/"late"/"2").exists()   # the forgery is not copied to the shelf


@pytest.mark.parametrize("where", ["artifacts/late/2", "artifacts/late", "bundles/late/2", "bundles/late"])
def test_a_folder_that_is_a_link_is_refused(at, tmp_path, where):
    place, elsewhere = at/where, tmp_path/"elsewhere"
    shutil.move(place, elsewhere)
    place.symlink_to(elsewhere)   # even to the very bytes that were approved: they can be changed behind it
    registry = opened(at)
    with pytest.raises(ValueError, match="is a link to another place"): registry.reconcile()
    refused = (lambda: registry.load("late", 2)) if "artifacts" in where else (lambda: read_pointer(at/"bundles"/"late"))
    with pytest.raises(ValueError, match="is a link to another place"): refused()
    assert elsewhere.exists() and registry.load("other", 1)


def test_the_folder_of_all_models_may_be_a_link(at, tmp_path):
    shutil.move(at, tmp_path/"disk")
    at.symlink_to(tmp_path/"disk")
    assert opened(at).load("late", "champion").version == 2 and opened(at).reconcile() == []


@pytest.mark.parametrize("part", ["..", ".", "", "a/b", "a\0b"])
def test_a_part_of_a_path_is_a_name(part):
    with pytest.raises(ValueError, match="no plain name"): without_links("root", part)


def test_the_card_of_another_version_is_refused_whatever_the_record_says(at):
    shutil.rmtree(at/"artifacts"/"late"/"2")
    shutil.copytree(at/"artifacts"/"late"/"1", at/"artifacts"/"late"/"2")
    sha256 = opened(at).version("late", 1).sha256
    write(at, "UPDATE model_version_tags SET value = ? WHERE name = 'late' AND version = 2 AND key = 'sha256'", sha256)
    with pytest.raises(LedgerError, match="its record says .* its history says"): opened(at).load("late", 2)
    number, digest = rechain(at, lambda old: [{**e, "sha256": sha256} if (e["event"], e["version"]) == ("register", 2) else e for e in old])
    (at/"artifacts"/"late"/"head.json").write_text(json.dumps({"events": number, "sha256": digest}))
    with pytest.raises(ValueError, match="late version 2: its card is of 'late' version 1"): opened(at).load("late", 2)


@pytest.mark.parametrize("alias, event, match", [("canary", None, "was written for 'production'"), ("production", 1, "of event 1, and event 4")])
def test_a_pointer_that_is_copied_or_put_back_is_refused(at, alias, event, match):
    folder = at/"bundles"/"late"
    seen = read_pointer(folder)
    if event: write_pointer(folder, alias, ModelVersion("late", 1, opened(at).version("late", 1).sha256, event=event))
    else: shutil.copy(folder/"production.json", folder/"canary.json")
    with pytest.raises(ValueError, match=match): check_newer(read_pointer(folder, alias), seen)


def test_a_server_keeps_its_model_when_an_old_pointer_is_put_back(at):
    folder = at/"bundles"/"late"
    old, live = (folder/"production.json").read_bytes(), ReloadingModel(folder)
    registry = opened(at)
    assert live.reload().version == 2
    registry.promote("late", 3)
    registry.deploy("late")
    assert live.reload().version == 3
    (folder/"production.json").write_bytes(old)
    assert live.reload().version == 3 and "an old one was put back" in live.error
    assert registry.reconcile() == ["late: production.json points to version 3"] and live.reload().version == 3 and live.error is None
    registry.rollback("late")   # going back through the registry is another event, and is followed
    registry.deploy("late")
    assert live.reload().version == 2 and live.error is None


# --- who may write to the database alone

def test_a_digest_changed_with_the_bundle_is_refused_by_the_history(at):
    sha256 = forge(at)
    write(at, "UPDATE model_version_tags SET value = ? WHERE name = 'late' AND version = 2 AND key = 'sha256'", sha256)
    registry = opened(at)
    assert load_bundle(registry.artifacts/"late"/"2", sha256=sha256)   # the test can fail: the bundle and the record agree
    for refused in (lambda: registry.load("late", 2), lambda: registry.deploy("late"), registry.reconcile):
        with pytest.raises(ValueError, match="its record says .* its history says"): refused()
    assert registry.versions("late").intact.tolist() == [True, False, True]


def event(**changed): return json.dumps({"at": "2013-05-01", "event": "promote", "alias": "champion", "version": 1, "reason": "", **changed})


ATTACKS = {
    "the last deleted": lambda at: delete_event(at, events(at)[-1]),
    "one in the middle deleted": lambda at: delete_event(at, events(at)[3]),
    "all deleted": lambda at: [delete_event(at, k) for k in events(at)],
    "one edited": lambda at: set_event(at, events(at)[3], tags(at)[events(at)[3]].replace('"version": 1', '"version": 3')),
    "one forged": lambda at: set_event(at, "event.000008.0123456789abcdef", event(version=3)),
    "one under an old key": lambda at: set_event(at, "event.000008", event(version=3)),
    "one doubled": lambda at: set_event(at, events(at)[3][:13] + "0123456789abcdef", tags(at)[events(at)[3]]),
    "an old one repeated": lambda at: set_event(at, "event.000008.0123456789abcdef", tags(at)[events(at)[3]]),
    "those of another": lambda at: [set_event(at, k, tags(at, "other")[k]) for k in events(at, "other")],
    "unchained": lambda at: [set_event(at, k, json.dumps({n: v for n, v in json.loads(tags(at)[k]).items() if n != "previous"})) for k in events(at)],
    "written anew": lambda at: rechain(at, lambda old: [{**e, "version": 3} if e["event"] == "promote" else e for e in old]),
    "written anew and shorter": lambda at: rechain(at, lambda old: old[:-1]),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_a_history_that_was_changed_in_the_database_is_refused(at, what):
    ATTACKS[what](at)
    registry = opened(at)
    pointer = (at/"bundles"/"late"/"production.json").read_bytes()
    for refused in (lambda: registry.load("late", "champion"), lambda: registry.promote("late", 3), lambda: registry.rollback("late"), lambda: registry.deploy("late"),
                    lambda: registry.history("late"),
                    lambda: register(registry, "late", 0)):
        with pytest.raises(LedgerError, match="^late: "): refused()
    with pytest.raises(ValueError, match="^late: late: "): registry.reconcile()
    assert registry.models().aliases.to_dict() == {"late": "cannot be read", "other": "champion 1, production 1"} and registry.load("other", "champion").version == 1
    assert (at/"bundles"/"late"/"production.json").read_bytes() == pointer


def test_an_event_that_was_rewritten_in_place_is_found_wherever_it_is(at):
    "Each of the seven, by each of three edits that keep it valid JSON."
    for key in events(at)[:-1]:
        text = tags(at)[key]
        for changed in ({"version": 9}, {"reason": "another"}, {"event": "refuse"}):
            event = json.loads(text)
            if event["event"] == "register" and "event" in changed: continue
            with pytest.raises(LedgerError): Chain.read("late", {**tags(at), key: json.dumps({**event, **changed})})
    assert Chain.read("late", tags(at)).chained


# --- who may write to the database and to the bundles

def test_whoever_writes_in_both_places_succeeds_unless_the_history_is_signed(at, signed_at, keys):
    "What remains without a key, and why there is one."
    for place, key in ((at, None), (signed_at, keys[0])):
        sha256 = forge(place)
        write(place, "UPDATE model_version_tags SET value = ? WHERE name = 'late' AND version = 2 AND key = 'sha256'", sha256)
        number, digest = rechain(place, lambda old, sha256=sha256: [{**e, "sha256": sha256} if (e["event"], e["version"]) == ("register", 2) else e for e in old])
        (place/"artifacts"/"late"/"head.json").write_text(json.dumps({"events": number, "sha256": digest}))
        registry = opened(place, key)
        if key is None: assert registry.load("late", 2).sha256 == sha256
        else:
            for refused in (lambda: registry.load("late", 2), lambda: registry.deploy("late"), registry.reconcile):   # noqa: B023
                with pytest.raises(ValueError, match="event 7 is not signed with our key"): refused()


def test_what_is_signed_is_signed_throughout(signed_at, keys):
    registry, folder = opened(signed_at, keys[0]), signed_at/"bundles"/"late"
    pointer = read_pointer(folder, verify=lambda data, signature: verify(data, signature, keys[1], purpose="pointer"))
    assert pointer.version == 2 and load_deployed(folder, pointer, trusted_key=keys[1]) and registry.reconcile() == []
    for n in (1, 2, 3): verify_bundle(signed_at/"artifacts"/"late"/str(n), keys[1])
    verify_bundle(registry.export("late", 3, signed_at/"out"), keys[1])
    stranger = make_keys(signed_at/"stranger")
    for refused in (lambda: opened(signed_at, stranger[0]).load("late", 2), lambda: read_pointer(folder, verify=lambda d, s: verify(d, s, stranger[1], purpose="pointer"))):
        with pytest.raises(ValueError): refused()


def test_a_pointer_whose_fields_were_changed_loses_its_signature(signed_at, keys):
    folder = signed_at/"bundles"/"late"
    check = lambda: read_pointer(folder, verify=lambda d, s: verify(d, s, keys[1], purpose="pointer"))
    good = json.loads((folder/"production.json").read_text())
    other = opened(signed_at, keys[0]).version("late", 1)
    for changed in ({"event": 99}, {"version": 1, "path": "1", "sha256": other.sha256}, {"signature": None}, {"signature": "00"*64}, {"signature": 7}):
        (folder/"production.json").write_text(json.dumps({**good, **changed}))
        with pytest.raises(ValueError): check()
    (folder/"production.json").write_text(json.dumps(good))
    assert check().version == 2


def test_a_server_with_a_key_demands_a_signed_pointer(signed_at, keys):
    folder = signed_at/"bundles"/"late"
    live = ReloadingModel(folder, trusted_key=keys[1])
    assert live.reload().version == 2
    registry = opened(signed_at, keys[0])
    registry._store.put(registry.version("late", 1))   # an old version, whole and signed
    write_pointer(folder, "production", ModelVersion("late", 1, registry.version("late", 1).sha256, event=99))
    assert live.reload().version == 2 and "not signed" in live.error
    assert registry.reconcile() == ["late: production.json points to version 2"]


def test_a_registry_is_signed_from_a_day_on_that_somebody_decides(at, keys):
    registry = opened(at, keys[0])
    for refused in (lambda: registry.load("late", 2), lambda: register(registry, "late", 0)):
        with pytest.raises(LedgerError, match=r"not signed with our key; look .* adopt\(\)"): refused()
    registry.adopt("late", "compared with the backup of Monday")
    assert registry.load("late", "champion").version == 2 and register(registry, "late", 0).version == 4
    assert registry.history("late").query("event == 'adopt'").reason.tolist() == ["compared with the backup of Monday"]


# --- one clear error, and the next model has its turn

TEXTS = ["", "{", "null", "[]", "7", '"x"', "["*100_000, '{"event": 1}', event(at="x"), event(alias=["champion"]), event(version="1"), event(comparison={"x": 1}), event(comparison=7)]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_an_event_that_is_none_is_one_error_and_stops_no_other_model(at, text):
    set_event(at, events(at)[0], text)
    (at/"bundles"/"other"/"production.json").unlink()
    registry = opened(at)
    with pytest.raises(LedgerError, match="^late: event 1 is damaged") as e: registry.load("late", 1)
    assert len(str(e.value)) < 300
    with pytest.raises(ValueError, match="^late: late: event 1"): registry.reconcile()
    assert read_pointer(at/"bundles"/"other").version == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"events": "7", "sha256": 1}', '{"events": -1, "sha256": "' + "a"*64 + '"}', '{"events": 7}'])
def test_a_head_that_is_none_is_one_error(at, text):
    (at/"artifacts"/"late"/"head.json").write_text(text)
    with pytest.raises(LedgerError, match="^late: "): opened(at).load("late", 1)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: os.mkfifo(p), lambda p: p.symlink_to("/dev/zero"), lambda p: p.write_bytes(b" "*20_000)])
def test_a_head_that_is_gone_or_no_file_is_one_error(at, make):
    head = at/"artifacts"/"late"/"head.json"
    head.unlink()
    make(head)
    with pytest.raises(ValueError, match="head.json"): opened(at).load("late", 1)


GOOD = {"name": "late", "version": 2, "sha256": "a"*64, "path": "2"}


@pytest.mark.parametrize("text", ["", "{", "["*100_000, "7", "[]", '{"name": "late"}', json.dumps({**GOOD, "event": -1}), json.dumps({**GOOD, "event": "9"})])
def test_a_pointer_that_is_none_is_one_error_and_is_mended(at, text):
    (at/"bundles"/"late"/"production.json").write_text(text)
    with pytest.raises(ValueError, match="production.json (is damaged|cannot be read)"): read_pointer(at/"bundles"/"late")
    assert opened(at).reconcile() == ["late: production.json points to version 2"]


def test_a_card_with_a_digest_and_no_sense_is_one_error(at):
    "Its digest is as recorded, in the record and in the history: somebody registered it like this."
    card = read_card(at/"artifacts"/"late"/"2")
    (at/"artifacts"/"late"/"2"/"card.json").write_text(json.dumps({**card, "evaluation": {"log_loss": {}}}))
    sha256 = hashlib.sha256((at/"artifacts"/"late"/"2"/"card.json").read_bytes()).hexdigest()
    write(at, "UPDATE model_version_tags SET value = ? WHERE name = 'late' AND version = 2 AND key = 'sha256'", sha256)
    number, digest = rechain(at, lambda old: [{**e, "sha256": sha256} if (e["event"], e["version"]) == ("register", 2) else e for e in old])
    (at/"artifacts"/"late"/"head.json").write_text(json.dumps({"events": number, "sha256": digest}))
    with pytest.raises(ValueError, match="late version 2: the evaluation in its card is damaged"): opened(at).load("late", 2)


@pytest.mark.parametrize("statement", ["DROP TABLE registered_model_tags", "DROP TABLE model_versions", "ALTER TABLE registered_models RENAME COLUMN description TO d"])
def test_a_database_that_is_damaged_is_one_error(at, statement):
    write(at, statement)
    with pytest.raises(LedgerError, match="the records cannot be used|cannot be read"): opened(at).load("late", 1)


def test_a_database_of_noise_is_one_error(at):
    size = (at/"mlflow.db").stat().st_size
    with open(at/"mlflow.db", "r+b") as f:
        f.seek(100)
        f.write(os.urandom(size - 100))
    with pytest.raises(LedgerError, match="the records cannot be used"): opened(at)


@pytest.mark.parametrize("name", ["registry.lock", "a"*300, "../outside", "x/../../outside", "a'b", "", ".hidden", "a\nb", ".locks"])
def test_a_model_of_an_odd_name_in_the_database_harms_nobody(at, name, tmp_path):
    "MLflow, or whoever writes to the database, may have made it."
    (tmp_path/"outside"/"7").mkdir(parents=True)
    write(at, "INSERT INTO registered_models (name, workspace) VALUES (?, 'default')", name)
    set_event(at, "event.000001", event(event="deploy", alias="production"), name)
    (at/"bundles"/"other"/"production.json").unlink()
    registry = opened(at)
    try: registry.reconcile()
    except ValueError as e: assert len(str(e)) < 700
    assert read_pointer(at/"bundles"/"other").version == 1 and (tmp_path/"outside"/"7").exists() and registry.load("late", 2)
    with pytest.raises(ValueError): registry.load(name, 1)
    assert len(registry.models()) == 3


def test_a_rollback_of_nothing_is_one_error(at):
    with pytest.raises(ValueError, match="rolls 'gold' back, which names nothing"): alias_history([{"event": "rollback", "alias": "gold", "version": 1}])


# --- a registry of before

def unchained(at):
    "The registry as it was written before events were chained: keys without digits, no registrations, no heads."
    for name in ("late", "other"):
        old = [json.loads(tags(at, name)[k]) for k in events(at, name)]
        for key in events(at, name): delete_event(at, key, name)
        for n, e in enumerate((e for e in old if e["event"] != "register"), 1):
            set_event(at, f"event.{n:06d}", json.dumps({k: v for k, v in e.items() if k not in ("previous", "by")}), name)
        (at/"artifacts"/name/"head.json").unlink()


def test_a_registry_of_before_is_opened_and_chained_where_everybody_sees_it(at, caplog):
    unchained(at)
    registry = opened(at)
    assert registry.load("late", "champion").version == 2 and registry.versions("late").intact.all() and read_head(at/"artifacts", "late") is None and not caplog.records
    registry.promote("late", 3)
    assert "late: its events were not chained before" in caplog.text
    assert registry.history("late").event.tolist().count("adopt") == 1 and Chain.read("late", tags(at)).chained
    assert registry.rollback("late").version == 2 and register(registry, "other", 1).version == 2 and registry.load("late", 1)
    key = events(at)[0]
    set_event(at, key, tags(at)[key].replace('"version": 1', '"version": 3'))   # what was taken as it was can be changed no more
    with pytest.raises(LedgerError, match="was changed"): registry.load("late", "champion")


def test_what_was_adopted_is_what_was_there(at):
    unchained(at)
    forge(at, version=3)   # before the adoption nobody can know, but bundle and record must still agree
    registry = opened(at)
    registry.promote("late", 1)
    with pytest.raises(ValueError, match="was changed"): registry.load("late", 3)


# --- two at once, and half-done registrations

def test_a_record_without_its_event_is_no_version(at):
    registry = opened(at)
    registry._ledger._client.create_model_version("late", "x", tags={"sha256": "a"*64})   # and here the power failed
    assert list(registry._ledger.versions("late")) == [1, 2, 3] and registry.versions("late").index.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="version=4: late has 1, 2, 3"): registry.load("late", 4)
    made = register(registry, "late", 0).version
    assert made > 4 and registry.load("late", made).version == made and list(registry._ledger.versions("late")) == [1, 2, 3, made]


def test_an_event_written_past_the_lock_is_found_by_the_next_reader(at):
    "On one machine the registry's lock keeps writers apart; whoever goes past it forks the history, and no event is lost in silence."
    ledger = Ledger(f"sqlite:///{at/'mlflow.db'}", heads=at/"artifacts")
    stale = ledger._chain("late")
    ledger.record("late", "promote", "gold", 1, "")
    ledger._append(stale, {"event": "promote", "alias": "silver", "version": 1, "reason": ""})
    with pytest.raises(LedgerError, match="event 8 was written twice"): opened(at).load("late", 1)
    assert opened(at).load("other", 1)


def test_nothing_of_an_attack_is_unpickled_or_run(at):
    "In a process that would see it: each attack of the database, then all that a registry does."
    program = """
import sys
seen = []
from mlscale.registry import Registry
sys.addaudithook(lambda event, args: seen.append(event) if event in ("pickle.find_class", "os.system") else None)
registry = Registry(sys.argv[1])
for name in ("late", "other"):
    for call in (registry.load, registry.version):
        try: call(name, "production")
        except ValueError as e: print(name, e)
try: registry.reconcile()
except ValueError as e: print(e)
assert not seen, seen
"""
    sha256 = forge(at)
    write(at, "UPDATE model_version_tags SET value = ? WHERE name = 'late' AND version = 2 AND key = 'sha256'", sha256)
    done = subprocess.run([sys.executable, "-c", program, f"sqlite:///{at/'mlflow.db'}"], capture_output=True, text=True)
    assert done.returncode == 0 and "its record says" in done.stdout, done.stderr
