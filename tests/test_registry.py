"Registry: history decides, everything else follows it, and what was changed is refused."
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mlscale import promotion
from mlscale.artifacts import load_bundle, read_card, read_pointer, save
from mlscale.registry import PRODUCTION, GateRefused, GateResult, Registry, Version, alias_history, no_worse
from mlscale.storage import locked
from mlscale.training import Comparison, evaluate


@pytest.fixture(scope="module")
def example(): return np.random.default_rng(0).normal(size=(60, 2))


@pytest.fixture(scope="module")
def models(example): return [LogisticRegression(C=c).fit(example, example[:, 0] + .1*example[:, 1] > 0) for c in (.01, 1., 100.)]


@pytest.fixture(scope="module")
def template(tmp_path_factory, models, example):
    "A registry with three versions, made once and copied for each test."
    folder = tmp_path_factory.mktemp("template")/"state"
    registry = Registry(f"sqlite:///{folder/'mlflow.db'}", bundles=folder/"bundles")
    for model, loss in zip(models, (.5, .4, .45), strict=True): registry.register(model, name="late", example=example, lineage={"C": model.C}, metrics={"log_loss": loss})
    return folder


@pytest.fixture
def at(tmp_path, template): return shutil.copytree(template, tmp_path/"state")


@pytest.fixture
def registry(at): return reopened(at)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, template):
    "One registry for all that is refused before anything is written."
    return reopened(shutil.copytree(template, tmp_path_factory.mktemp("untouched")/"state"))


def reopened(at): return Registry(f"sqlite:///{at/'mlflow.db'}", bundles=at/"bundles")


def agreed(registry, alias=PRODUCTION):
    "The version that the history, MLflow's alias, the pointer and the pointer's bundle all name."
    pointer = read_pointer(registry._store.folder/"late", alias)
    bundle = load_bundle(registry._store.folder/"late"/str(pointer.version), sha256=pointer.sha256)
    said = {registry.version("late", alias).version, int(registry._ledger.model("late").aliases[alias]), pointer.version, bundle.version}
    assert len(said) == 1
    return said.pop()


def test_a_registry_of_any_place_is_for_its_owner_alone_and_a_folder_that_is_shared_stays_shared(tmp_path, models, example):
    before = os.umask(0o022)
    try:
        made = []
        for root in (tmp_path/"own", tmp_path/"shared"):
            if root.name == "shared": root.mkdir()
            registry = Registry(f"sqlite:///{root/'mlflow.db'}")
            registry.register(models[0], name="late", example=example, lineage={}, metrics={})
            registry.promote("late", 1)
            registry.deploy("late")
            made.append({name: (root/name).stat().st_mode & 0o777 for name in (".", "artifacts", "bundles", "mlflow.db")})
    finally: os.umask(before)
    assert made == [dict.fromkeys((".", "artifacts", "bundles"), 0o700) | {"mlflow.db": 0o600}, {**made[0], ".": 0o755}]


# --- versions

def test_versions_count_up_and_keep_what_was_registered(registry, models, example):
    for i, model in enumerate(models, 1):
        v, b = registry.version("late", i), registry.load("late", i)
        assert v == Version("late", i, b.sha256, v.path, {"log_loss": [.5, .4, .45][i - 1]}, {"C": model.C, "name": "late", "version": i})
        assert np.abs(b.predict(example) - model.predict_proba(example)[:, 1]).max() < 1e-5 and (b.name, b.version) == ("late", i)


def test_a_registry_that_was_moved_still_works(registry, at, tmp_path):
    registry.promote("late", 2)
    registry.deploy("late")
    moved = reopened(at.rename(tmp_path/"elsewhere"))
    assert moved.load("late", "champion").version == 2 and agreed(moved) == 2 and moved.reconcile() == []


def test_a_failed_registration_leaves_no_version(untouched, models):
    with pytest.raises(ValueError): untouched.register(models[0], name="late", example=[[np.inf, 0]], lineage={}, metrics={})
    with pytest.raises(ValueError): untouched.register(models[0], name="fresh", example=[], lineage={}, metrics={})
    assert list(untouched._ledger.versions("late")) == [1, 2, 3] and untouched._ledger.names() == ["late"]


def test_a_version_deleted_in_mlflow_does_not_stop_the_next(registry, models, example):
    registry._ledger._client.delete_model_version("late", "3")
    v = registry.register(models[0], name="late", example=example, lineage={}, metrics={})
    assert v.version > 3 and registry.load("late", v.version).version == v.version and list(registry._ledger.versions("late")) == [1, 2, v.version]
    assert all("removed" in m for m in registry.reconcile()) and registry.load("late", v.version)


def test_what_is_in_a_registry_is_a_table_whatever_is_damaged(registry, models, example):
    registry.promote("late", 2)
    registry.deploy("late")
    registry.register(models[0], name="other", example=example, lineage={}, metrics={})
    assert registry.models().to_dict("index") == {"late": {"versions": 3, "latest": 3, "aliases": "champion 2, production 2"}, "other": {"versions": 1, "latest": 1, "aliases": ""}}
    (registry.artifacts/"late"/"1"/"card.json").write_text("{}")
    table = registry.versions("late")
    assert table.index.tolist() == [1, 2, 3] and table.intact.tolist() == [False, True, True] and table.aliases.tolist() == ["", "champion, production", ""]
    assert np.allclose(table.log_loss, [np.nan, .4, .45], equal_nan=True) and str(table.registered.dt.tz) == "UTC"
    assert repr(registry) == f"Registry({registry.uri!r}, bundles={str(registry.bundles)!r}): late (3 versions; champion 2, production 2), other (1 version)"
    assert "<table" in registry._repr_html_() and "champion 2" in registry._repr_html_()
    with pytest.raises(ValueError, match="no such model"): registry.versions("early")


def test_with_an_own_address_nothing_lies_in_the_users_home(tmp_path, models, example, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path/"home"))
    own = Registry(f"sqlite:///{tmp_path/'own'/'mlflow.db'}")
    own.register(models[0], name="late", example=example, lineage={}, metrics={})
    own.promote("late", 1)
    assert own.deploy("late") == tmp_path/"own"/"bundles"/"late"/"1" and not (tmp_path/"home"/"state").exists()


@pytest.mark.parametrize("named", [False, True])
def test_the_default_place_stays_where_it_was_also_if_it_is_named(named, tmp_path, monkeypatch):
    "Servers look there, and registries of before have deployed there."
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path))
    registry = Registry(f"sqlite:///{tmp_path/'state'/'registry'/'mlflow.db'}" if named else None)
    assert (registry.bundles, registry.artifacts) == (tmp_path/"state"/"bundles", tmp_path/"state"/"registry"/"artifacts")


def test_more_models_than_a_page_of_mlflow(registry):
    with sqlite3.connect(registry._file) as db: db.executemany("INSERT INTO registered_models (name) VALUES (?)", [(f"m{i:03d}",) for i in range(120)])
    db.close()
    assert len(registry._ledger.names()) == 121 and registry.reconcile() == []


# --- what was changed is refused

@pytest.mark.parametrize("file", ["card.json", "model.onnx", "model.skops"])
def test_exchanged_files_are_refused_by_readers_and_writers(registry, file, tmp_path):
    registry.promote("late", 1)
    registry.promote("late", 2)
    shutil.copyfile(registry.version("late", 3).path/file, registry.artifacts/"late"/"1"/file)
    for refused in (lambda: registry.load("late", 1), lambda: registry.promote("late", 1), lambda: registry.rollback("late"), lambda: registry.export("late", 1, tmp_path/"out")):
        with pytest.raises(ValueError, match="was changed"): refused()
    assert alias_history(registry._ledger.events("late")) == {"champion": [1, 2]} and not (tmp_path/"out").exists()


def test_a_consistent_forgery_is_refused_and_mlflow_alone_serves_it(registry, models, example, tmp_path):
    path = registry.artifacts/"late"/"1"
    shutil.rmtree(path)
    save(models[2], path, example=example)
    record = registry._ledger._client.get_model_version("late", "1")
    assert record.status == "READY" and load_bundle(record.source if path.samefile(record.source) else path)   # the test can fail: nothing else notices
    with pytest.raises(ValueError, match="was changed"): registry.load("late", 1)


def test_a_version_without_a_digest_is_refused(registry, at):
    registry._ledger._client.create_model_version("late", str(at))
    with pytest.raises(ValueError, match="no digest"): registry.load("late", 4)


@pytest.mark.parametrize("sha256", ["", "null", "None", "0"*63, "0"*65, "G"*64, "A"*64])
def test_a_digest_that_is_none_is_refused_before_it_is_used(registry, sha256, tmp_path):
    registry.promote("late", 1)
    registry._ledger._client.set_model_version_tag("late", "1", "sha256", sha256)
    for refused in (
        lambda: registry.load("late", 1),
        lambda: registry.deploy("late"),
        lambda: registry.export("late", 1, tmp_path / "out"),
        lambda: registry.rollback("late"),
    ):
        with pytest.raises(ValueError, match="no digest of 64|nothing to go back"): refused()
    assert not registry._store.folder.exists()
    with pytest.raises(ValueError, match="no digest of 64"):
        registry._ledger.add("late", 4, "x", sha256)
    for digest in (sha256, None):
        with pytest.raises(ValueError, match="no digest of 64"):
            Version("late", 1, digest, tmp_path, {}, {})


def test_files_of_others_are_no_unfinished_registration(registry):
    (registry.artifacts/"late"/"notes.txt").write_text("mine")
    assert registry.reconcile() == [] and (registry.artifacts/"late"/"notes.txt").exists()


def test_a_damaged_bundle_that_is_deployed_is_replaced(registry):
    registry.promote("late", 1)
    path = registry.deploy("late")
    (path/"model.onnx").write_bytes(b"noise")
    assert registry.reconcile() == ["late: the bundle of version 1 is in place"] and agreed(registry) == 1


def test_what_cannot_be_mended_is_said_and_the_rest_is_mended(registry, models, example):
    registry.register(models[0], name="other", example=example, lineage={}, metrics={})
    for name in ("late", "other"):
        registry.promote(name, 1)
        registry.deploy(name)
        (registry._store.folder/name/"production.json").unlink()
    (registry.artifacts/"late"/"1"/"card.json").unlink()
    with pytest.raises(ValueError, match="late, production: 1/card.json"): registry.reconcile()
    assert (registry._store.folder/"other"/"production.json").exists()


# --- promotion, gates, rollback, deployment

def test_doing_it_twice_changes_nothing(registry):
    for _ in range(2): registry.promote("late", 1)
    for _ in range(2): path = registry.deploy("late")
    pointer = path.parent/"production.json"
    inode, events = pointer.stat().st_ino, len(registry.history("late"))
    registry.deploy("late")
    registry.promote("late", 1, gate=lambda new, old: False)   # already there: the gate has nothing to decide
    assert (pointer.stat().st_ino, len(registry.history("late"))) == (inode, events) and list(registry.history("late").event) == ["register"]*3 + ["promote", "deploy"]


@pytest.mark.parametrize("gate, reason", [(lambda new, old: False, "no reason"), (lambda new, old: np.False_, "no reason"), (lambda new, old: GateResult(False, "too slow"), "too slow"),
                                          (no_worse("log_loss"), "log_loss 0.4500, champion 0.4000"), (no_worse("log_loss", by=.04), "allowed 0.4400")])
def test_a_refused_version_changes_nothing_but_the_history(registry, gate, reason):
    registry.promote("late", 2)
    registry.deploy("late")
    with pytest.raises(GateRefused, match=reason): registry.promote("late", 3, gate=gate)
    assert registry.version("late", "champion").version == agreed(registry) == 2
    last = registry.history("late").iloc[-1]
    assert (last.event, last.version, last.alias) == ("refuse", 3, "champion") and reason in last.reason


@pytest.mark.parametrize("gate", [no_worse("log_loss", by=.06), lambda new, old: True, lambda new, old: np.True_, lambda new, old: old.version == 2 and new.version == 3, None])
def test_a_gate_that_agrees_lets_pass(registry, gate):
    registry.promote("late", 2, gate=no_worse("log_loss"))   # no champion yet
    assert registry.promote("late", 3, gate=gate) == registry.version("late", "champion") == registry.version("late", 3)


@pytest.mark.parametrize("gate, error", [(lambda new, old: None, TypeError),
                                         (lambda new, old: "yes", TypeError), (lambda new, old: 1/0, ZeroDivisionError),
                                         (lambda new, old: GateResult(True, "", (-.1, -.2, 0)), TypeError), (no_worse("auc"), ValueError)])
def test_a_gate_that_does_not_answer_decides_nothing(untouched, gate, error):
    before = untouched.history("late")
    with pytest.raises(error): untouched.promote("late", 1, gate=gate)
    pd.testing.assert_frame_equal(untouched.history("late"), before)


def test_rollback_returns_the_same_bytes(registry):
    first = registry.load("late", 1).sha256
    for v in (1, 2, 3): registry.promote("late", v)
    assert registry.rollback("late").version == 2 and registry.rollback("late").sha256 == first == registry.load("late", "champion").sha256
    with pytest.raises(ValueError, match="nothing to go back to"): registry.rollback("late")
    registry.deploy("late")
    assert agreed(registry) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["promote", "rollback", "refuse", "register"]), st.sampled_from("ab"), st.integers(1, 5))))
def test_an_alias_names_the_top_of_a_stack(steps):
    events, stacks = [], {}
    for event, alias, version in steps:
        stack = stacks.get(alias, [])
        if event == "rollback" and len(stack) < 2: continue
        if event == "promote": stacks.setdefault(alias, []).append(version)
        if event == "rollback": stack.pop()
        events.append({"event": event, "alias": alias, "version": version})
    assert alias_history(events) == stacks


def test_an_alias_moved_in_mlflow_is_moved_back(registry):
    registry.promote("late", 1)
    registry._ledger._client.set_registered_model_alias("late", "champion", "3")
    assert registry.load("late", "champion").version == 1 and registry.reconcile() == ["late: champion names version 1"]


def test_history_keeps_the_order_of_many_events_and_long_reasons(registry):
    for v in [1, 2]*6: registry.promote("late", v, gate=lambda new, old: GateResult(True, "é\n\0"*2000))
    h = registry.history("late")
    assert list(h.version[3:]) == [1, 2]*6 and h["at"].is_monotonic_increasing and str(h["at"].dt.tz) == "UTC" and h.reason[3:].str.len().max() == 500


@pytest.mark.parametrize("judged_on", ["", "flights of two weeks", "\U0001f6eb"*200])
def test_what_a_gate_went_by_comes_back_from_the_history(registry, at, judged_on):
    compared = Comparison(-.0123456789012345, -.02, .001, .9, 1234, 14, judged_on)
    registry.promote("late", 1)
    with pytest.raises(GateRefused): registry.promote("late", 2, gate=lambda new, old: GateResult(False, "\0\U0001f6eb"*300, compared))
    registry.promote("late", 3, gate=lambda new, old: GateResult(True, str(compared), compared))
    registry.rollback("late")
    h = reopened(at).history("late")
    assert list(h.comparison) == [None]*4 + [compared, compared, None] and list(h.event[3:]) == ["promote", "refuse", "promote", "rollback"]


def test_a_history_from_before_comparisons_is_read(registry):
    key, event = "event.000004", {"at": "2013-05-01T00:00:00+00:00", "event": "promote", "alias": "champion", "version": 1, "reason": "", "previous": registry._ledger._chain("late").head}
    registry._ledger._client.set_registered_model_tag("late", key, json.dumps(event))
    assert registry.history("late").comparison.tolist() == [None]*4 and registry.version("late", "champion").version == 1


@pytest.mark.parametrize("days", [None, np.repeat(np.arange(20), 3)])
def test_an_evaluation_is_kept_whole_and_its_numbers_are_metrics(registry, models, example, days, at):
    y = (example[:, 0] > 0).astype(float)
    judged = [evaluate(y, m.predict_proba(example)[:, 1], days=days, block_days=2) for m in models[:2]]
    made = [registry.register(models[i], name="judged", example=example, lineage={}, metrics=e) for i, e in enumerate(judged)]
    for v, e in zip(made, judged, strict=True):
        assert v == reopened(at).version("judged", v.version) and v.evaluation == e and (e.intervals is None) == (days is None)
        assert v.metrics == {k: getattr(e, k) for k in ("n", "rate", "log_loss", "auc", "brier", "calibration_error")} == read_card(v.path)["metrics"]
    registry.promote("judged", 2, gate=no_worse("log_loss"))
    with pytest.raises(GateRefused, match="log_loss"): registry.promote("judged", 1, gate=no_worse("log_loss"))


def test_a_measure_that_does_not_exist_is_no_metric(registry, models, example):
    v = registry.register(models[0], name="late", example=example, lineage={}, metrics=evaluate([0, 0], [.2, .3]))
    assert "auc" not in v.metrics and np.isnan(v.evaluation.auc) and v.metrics["rate"] == 0
    assert registry.version("late", 1).evaluation is None


# --- who is served what

def test_each_served_alias_has_a_pointer_and_a_history(registry):
    for v in (1, 2, 3):
        registry.promote("late", v)
        registry.deploy("late", as_={1: "production", 2: "shadow", 3: "canary"}[v])
    assert [agreed(registry, a) for a in ("production", "shadow", "canary")] == [1, 2, 3]
    registry.deploy("late", "canary")   # what the canary showed is good enough for all
    assert (agreed(registry), agreed(registry, "canary")) == (3, 3)
    assert alias_history(registry._ledger.events("late")) == {"champion": [1, 2, 3], "production": [1, 3], "shadow": [2], "canary": [3]}
    assert list(registry.history("late").query("alias == 'production'").reason) == ["the champion", "the canary"] and registry.reconcile() == []


def test_a_withdrawn_alias_names_nothing_and_its_bundles_stay(registry, at):
    registry.promote("late", 1)
    registry.deploy("late")
    registry.promote("late", 2, "candidate")
    bundle = registry.deploy("late", "candidate", as_="canary")
    for _ in range(2): registry.withdraw("late", "canary")
    assert list(registry.history("late").event[-2:]) == ["deploy", "withdraw"] and registry.history("late").version.iloc[-1] == 2
    with pytest.raises(ValueError, match="canary.*late has champion, production, candidate"): registry.load("late", "canary")
    assert sorted(f.name for f in bundle.parent.iterdir()) == ["1", "2", "production.json"] and load_bundle(bundle)
    assert "canary" not in registry._ledger.model("late").aliases and agreed(registry) == 1
    again = reopened(at)
    again.deploy("late", "candidate", as_="canary")
    assert agreed(again, "canary") == 2 and again.reconcile() == []
    again.withdraw("late", "production")
    with pytest.raises(FileNotFoundError): read_pointer(bundle.parent)
    assert again.version("late", "champion").version == 1 and again.reconcile() == []


def test_reconcile_mends_every_served_alias(registry):
    for v, alias in ((1, "production"), (2, "canary"), (3, "shadow")):
        registry.promote("late", v, "candidate")
        registry.deploy("late", "candidate", as_=alias)
    registry.withdraw("late", "shadow")
    folder = registry._store.folder/"late"
    (folder/"production.json").unlink()
    (folder/"shadow.json").write_text((folder/"canary.json").read_text())
    (folder/"canary.json").write_text("{")
    (folder/"2"/"card.json").unlink()
    registry._ledger._client.set_registered_model_alias("late", "canary", "1")
    assert sorted(registry.reconcile()) == ["late: canary names version 2", "late: canary.json points to version 2", "late: production.json points to version 1",
                                            "late: shadow names no version", "late: the bundle of version 2 is in place"]
    assert (agreed(registry), agreed(registry, "canary")) == (1, 2) and not (folder/"shadow.json").exists() and registry.reconcile() == []


def test_an_alias_is_promoted_or_served_and_never_both(registry):
    registry.promote("late", 1)
    registry.deploy("late", as_="canary")
    before = registry.history("late")
    for promoted in (lambda: registry.deploy("late", as_="champion"), lambda: registry.withdraw("late", "champion")):
        with pytest.raises(ValueError, match="as_='champion': it is promoted"): promoted()
    for alias in ("canary", "production"):   # production also before it was ever deployed
        for served in (lambda: registry.promote("late", 2, alias), lambda: registry.rollback("late", alias)):   # noqa: B023
            with pytest.raises(ValueError, match=f"alias='{alias}': servers follow it"): served()
    pd.testing.assert_frame_equal(registry.history("late"), before)
    registry.withdraw("late", "canary")
    with pytest.raises(ValueError, match="alias='canary': servers follow it"): registry.promote("late", 2, "canary")


@pytest.mark.parametrize("as_", ["latest", "v1", "", "Canary", "a b", "1", "../x", "x.json", None, 3])
def test_what_is_served_has_a_word_for_a_name(registry, as_):
    registry.promote("late", 1)
    for refused in (lambda: registry.deploy("late", as_=as_), lambda: registry.withdraw("late", as_)):
        with pytest.raises(ValueError, match=re.escape(f"as_={as_!r}")): refused()
    assert not registry._store.folder.exists() and len(registry.history("late")) == 4


def test_what_was_never_deployed_cannot_be_withdrawn(untouched):
    with pytest.raises(ValueError, match="as_='canary': nothing of late was deployed"): untouched.withdraw("late", "canary")
    assert len(untouched.history("late")) == 3


def test_export_is_a_verified_copy_to_a_new_folder(registry, tmp_path):
    path = registry.export("late", 2, tmp_path/"out")
    assert load_bundle(path, sha256=registry.version("late", 2).sha256).version == 2
    with pytest.raises(ValueError, match="exists"): registry.export("late", 2, tmp_path/"out")


# --- crashes and neighbours

class PowerCut(Exception): pass


def with_cut(at, k):
    "A registry whose k-th write fails, and every one after it."
    registry, writes = reopened(at), itertools.count(1)

    def cut(write):
        def cut_write(*args):
            if next(writes) >= k: raise PowerCut
            return write(*args)
        return cut_write
    for part, name in ((registry._ledger, "add"), (registry._ledger, "record"), (registry._ledger, "set_alias"), (registry._ledger, "remove_alias"),
                       (registry._store, "put"), (registry._store, "point"), (registry._store, "remove_pointer")):
        setattr(part, name, cut(getattr(part, name)))
    return registry


@pytest.mark.parametrize("k", range(1, 9))
def test_a_power_cut_at_any_write_leaves_the_old_or_the_new_version(registry, at, k):
    registry.promote("late", 1)
    registry.deploy("late")
    interrupted = with_cut(at, k)
    finished = False
    try:
        interrupted.promote("late", 2)
        interrupted.deploy("late")
        finished = True
    except PowerCut: pass
    fresh = reopened(at)
    fresh.reconcile()
    assert agreed(fresh) == (2 if k >= 5 else 1) and fresh.reconcile() == [] and finished == (k == 8)
    fresh.promote("late", 2)
    fresh.deploy("late")
    assert agreed(fresh) == 2


@pytest.mark.parametrize("k", range(1, 5))
def test_a_power_cut_while_withdrawing_leaves_it_served_or_withdrawn(registry, at, k):
    registry.promote("late", 1)
    registry.deploy("late")
    registry.deploy("late", as_="canary")
    try:
        with_cut(at, k).withdraw("late", "canary")
        finished = True
    except PowerCut: finished = False
    fresh = reopened(at)
    fresh.reconcile()
    folder = registry._store.folder/"late"
    assert finished == (k == 4) and (folder/"canary.json").exists() == ("canary" in fresh._ledger.model("late").aliases) == (k == 1)
    assert agreed(fresh) == 1 and fresh.reconcile() == [] and (k > 1 or agreed(fresh, "canary") == 1)


@pytest.mark.parametrize("k", range(1, 6))
def test_the_pointer_never_names_a_bundle_that_is_not_there(registry, at, k):
    registry.promote("late", 1)
    shutil.rmtree(registry.deploy("late").parent)
    try: with_cut(at, k).reconcile()
    except PowerCut: pass
    pointer = registry._store.folder/"late"/"production.json"
    assert pointer.exists() == (k == 5) and (not pointer.exists() or agreed(registry) == 1)
    assert bool(reopened(at).reconcile()) == (k < 5)


def test_a_power_cut_while_registering_leaves_no_version_and_no_files(registry, at, models, example):
    with pytest.raises(PowerCut): with_cut(at, 1).register(models[0], name="late", example=example, lineage={}, metrics={})
    assert (registry.artifacts/"late"/"4").exists() and list(registry._ledger.versions("late")) == [1, 2, 3]
    assert registry.reconcile() == ["late: removed what an unfinished registration left"] and not (registry.artifacts/"late"/"4").exists()
    assert registry.register(models[0], name="late", example=example, lineage={}, metrics={}).version == 4


KILLS = """
import json, os, signal, sys
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
import numpy as np
from sklearn.linear_model import LogisticRegression
from sqlalchemy import event
from sqlalchemy.engine import Engine
from mlscale.artifacts import save
from mlscale.registry import Registry

X = np.random.default_rng(0).normal(size=(60, 2))
model = LogisticRegression().fit(X, X[:, 0] > 0)
registry = Registry(f"sqlite:///{sys.argv[1]}/mlflow.db", bundles=sys.argv[1] + "/bundles")
save(model, sys.argv[1] + "/warm", example=X)   # so that the children need not import what converts
register = lambda: registry.register(model, name=sys.argv[2], example=X, lineage={}, metrics={})
engine = registry._ledger._client._get_registry_client().store.engine
left = float("inf")   # steps until it is killed
wrote = False   # since the last commit

def step():
    global left
    left -= 1
    if not left: os.kill(os.getpid(), signal.SIGKILL)

def hook(name, args):
    "Whatever changes a file or folder is a step."
    if name == "os.mkdir" and os.path.isdir(args[0]): return
    if name in ("os.mkdir", "os.rename", "os.rmdir", "os.remove") or name == "open" and args[2] & (os.O_WRONLY | os.O_RDWR): step()

def statement(connection, cursor, sql, *rest):
    global wrote
    if not sql.startswith(("SELECT", "PRAGMA")):
        wrote = True
        step()

def commit(connection):
    global wrote
    if wrote: step()
    wrote = False

sys.addaudithook(hook)
event.listen(Engine, "before_cursor_execute", statement)
event.listen(Engine, "commit", commit)
for k in range(1, 1000):
    child = os.fork()
    if not child:
        engine.dispose(close=False)   # the parent's connections stay the parent's
        left = k
        register()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    folder = registry.artifacts/sys.argv[2]
    names = [f.name for f in folder.iterdir() if f.is_dir()] if folder.exists() else []
    known = registry.versions(sys.argv[2]) if sys.argv[2] in registry._ledger.names() else None
    said = {"k": k, "killed": os.WIFSIGNALED(status), "versions": len(known) if known is not None else 0,
            "intact": known is None or bool(known.get("intact", known.index == 0).all()), "unfinished": sum(not n.isdigit() for n in names)}
    print(json.dumps(said), flush=True)
    if status == 0: break
"""


def test_killed_at_any_step_of_a_registration_no_half_version_is_seen_and_the_next_call_cleans_up(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path), "late"], capture_output=True, text=True, timeout=900)
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(steps) > 30 and [s["killed"] for s in steps] == [True]*(len(steps) - 1) + [False]
    assert all(s["intact"] for s in steps) and 0 < max(s["unfinished"] for s in steps) <= 2   # a draft, and a folder on its way: of one call, never of two
    counts = [s["versions"] for s in steps]
    assert counts[0] == 0 and set(np.diff(counts)) == {0, 1} and steps[-1]["unfinished"] == 0
    registry = reopened(tmp_path)
    table = registry.versions("late")
    assert len(table) == counts[-1] and table.index.is_monotonic_increasing and table.index.is_unique   # a number that was given once is not given again
    assert all(registry.load("late", n).version == n for n in table.index)
    assert registry.reconcile() == [] and sorted(f.name for f in (registry.artifacts/"late").iterdir() if f.is_dir()) == sorted(map(str, table.index))


LOOP = """
import itertools, sys
from mlscale.registry import Registry
registry = Registry(f"sqlite:///{sys.argv[1]}/mlflow.db", bundles=sys.argv[1] + "/bundles")
print("ready", flush=True)
for version in itertools.islice(itertools.cycle([int(v) for v in sys.argv[2]]), int(sys.argv[3])):
    registry.promote("late", version); registry.deploy("late")
"""


def loop(at, versions, n): return subprocess.Popen([sys.executable, "-c", LOOP, str(at), versions, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_is_mended(at):
    child = loop(at, "12", 10_000)
    assert child.stdout.readline() == "ready\n"
    time.sleep(.2)   # somewhere in the middle of its writes; the cuts above try each of them
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    registry = reopened(at)
    registry.reconcile()
    for v in (1, 2, 3): registry.promote("late", v)
    registry.deploy("late")
    assert agreed(registry) == 3 and registry.reconcile() == []


def test_two_processes_promote_at_once_and_print_nothing(at):
    registry, child = reopened(at), loop(at, "12", 6)
    assert child.stdout.readline() == "ready\n"
    for version in (2, 1)*3:
        registry.promote("late", version)
        registry.deploy("late")
    assert (*child.communicate(), child.returncode) == ("", "", 0)
    events = registry._ledger.events("late")
    champions, served = ([e["version"] for e in events if e["alias"] == alias] for alias in ("champion", "production"))
    for versions in (champions, served): assert all(a != b for a, b in itertools.pairwise(versions))   # doing what is done is no event, under one lock
    assert agreed(registry) == served[-1] and registry.version("late", "champion").version == champions[-1] and registry.reconcile() == []


def test_threads_register_without_losing_a_number(registry, models, example):
    with ThreadPoolExecutor(4) as pool: made = list(pool.map(lambda m: registry.register(m, name="late", example=example, lineage={}, metrics={}).version, models*2))
    assert sorted(made) == list(range(4, 10)) and all(registry.load("late", v).version == v for v in made)


def test_two_register_one_promotes_and_nobody_loses(at, models, example):
    "Two processes register versions of one model while a third promotes and deploys those of another."
    registry, program = reopened(at), """
import sys
import numpy as np
from sklearn.linear_model import LogisticRegression
from mlscale.registry import Registry
registry, X = Registry(f"sqlite:///{sys.argv[1]}/mlflow.db", bundles=sys.argv[1] + "/bundles"), np.random.default_rng(0).normal(size=(60, 2))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(2): registry.register(LogisticRegression().fit(X, X[:, 0] > 0), name="other", example=X, lineage={}, metrics={})
"""
    children = [subprocess.Popen([sys.executable, "-c", program, str(at)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children: assert child.stdout.readline() == "ready\n"
    for child in children: print("go", file=child.stdin, flush=True)
    for version in (1, 2, 3)*3:
        registry.promote("late", version)
        registry.deploy("late")
    assert [child.communicate()[1] for child in children] == ["", ""]
    assert registry.versions("other").index.tolist() == [1, 2, 3, 4] and registry.versions("other").intact.all()
    assert agreed(registry) == 3 and registry.reconcile() == [] and len(registry.history("late")) == 3 + 18


def tried(work, seconds=30):
    "Whether some work ends by itself, in a thread of its own."
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def test_nobody_waits_for_a_conversion(registry, models, example, monkeypatch):
    "From within the conversion of a model the same model and another are promoted, and a second version is registered."
    during, real = [], promotion.save

    def save_and_look(*args, **given):
        monkeypatch.setattr(promotion, "save", real)
        during.append(tried(lambda: (registry.promote("late", 2), registry.deploy("late"),
                                     registry.register(models[1], name="late", example=example, lineage={}, metrics={}), registry.reconcile())))
        return real(*args, **given)

    monkeypatch.setattr(promotion, "save", save_and_look)
    made = registry.register(models[0], name="late", example=example, lineage={}, metrics={})
    assert during == [True] and made.version == 5 and registry.load("late", 4) and registry.load("late", 5) and agreed(registry) == 2


def test_a_gate_that_thinks_keeps_only_its_own_model_waiting(registry, models, example):
    registry.register(models[0], name="other", example=example, lineage={}, metrics={})
    seen = []

    def gate(new, old):
        seen.append((tried(lambda: (registry.promote("other", 1), registry.deploy("other"))), tried(lambda: registry.promote("late", 3), .5)))
        return True

    registry.promote("late", 2, gate=gate)
    assert seen == [(True, False)]
    while registry.version("late", "champion").version != 3: time.sleep(.01)   # its turn came
    assert list(registry.history("late").query("event == 'promote'").version) == [2, 3]


def test_a_draft_on_which_somebody_works_is_left_alone(registry):
    folder = registry.artifacts/"late"
    for name in (".draft-dead", ".draft-alive"): (folder/name).mkdir()
    with locked(folder/".draft-alive"/"lock"):
        assert registry.reconcile() == ["late: removed what an unfinished registration left"]
        assert (folder/".draft-alive").exists() and not (folder/".draft-dead").exists()
    assert len(registry.reconcile()) == 1 and not (folder/".draft-alive").exists()


def test_models_of_others_in_the_same_mlflow_are_left_alone(registry):
    registry._ledger._client.create_registered_model("b c")
    registry.promote("late", 1)
    assert registry.reconcile() == [] and len(registry.models()) == 2
    for refused in (lambda: registry.promote("b c", 1), lambda: registry.prune("b c"), lambda: registry.promote("a/b", 1), lambda: registry.rollback("../late")):
        with pytest.raises(ValueError, match="no such model"): refused()
    assert sorted(f.name for f in (registry.artifacts/".locks").iterdir()) == ["late.lock"]


def test_a_new_registry_is_quiet_and_loading_unpickles_nothing(tmp_path, at):
    program = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event == "pickle.find_class" else None)
from mlscale.registry import Registry
Registry(f"sqlite:///{sys.argv[1]}/new/mlflow.db", bundles=sys.argv[1])
registry = Registry(f"sqlite:///{sys.argv[2]}/mlflow.db", bundles=sys.argv[1])
seen.clear()
registry.promote("late", 1); registry.deploy("late"); registry.load("late", "production")
assert not seen and "mlflow.pyfunc" not in sys.modules, seen
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), str(at)], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {p.name for p in tmp_path.iterdir()} == {"late", "new", "state"}   # no mlruns folder


# --- bad input

@settings(max_examples=100, deadline=None)
@given(st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True) | st.text(max_size=6))
def test_every_alias_we_take_mlflow_takes(alias):
    from mlflow.utils.validation import _validate_model_alias_name
    empty = SimpleNamespace(_ledger=SimpleNamespace(events=lambda name: []))
    try: Registry._stack(empty, "late", alias)
    except ValueError: return
    _validate_model_alias_name(alias)


@pytest.mark.parametrize("alias", ["production", "latest", "v1", "v12", "", "Champion", "a b", "1", "../x", None, 3])
def test_bad_aliases_are_refused_before_anything_is_written(untouched, alias):
    before = len(untouched.history("late"))
    for refused in (lambda: untouched.promote("late", 1, alias), lambda: untouched.rollback("late", alias)):
        with pytest.raises(ValueError, match=re.escape(f"alias={alias!r}")): refused()
    assert len(untouched.history("late")) == before


@pytest.mark.parametrize(
    "version", [0, 4, -1, 1.5, None, "champion", np.nan, True, np.True_, [1], 10**400]
)
def test_unknown_versions_are_refused(untouched, version):
    with pytest.raises(ValueError, match="late has"): untouched.promote("late", version)
    with pytest.raises(ValueError, match="late has"): untouched.load("late", version)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../late",
        "a/b",
        ".hidden",
        "a'b",
        "late\n",
        None,
        3,
        "a" * 201,
        "a" * 300,
        "ü",
        "a b",
        "a%20b",
        "a?b",
        "a:b",
        "registry.lock",
        "LATE",
        "Late",
    ],
)
def test_bad_names_are_refused(untouched, models, example, name):
    with pytest.raises(ValueError, match="name=") as e:
        untouched.register(models[0], name=name, example=example, lineage={}, metrics={})
    assert (
        len(str(e.value)) < 300
        and untouched._ledger.names() == ["late"]
        and sorted(f.name for f in untouched.artifacts.iterdir()) == [".locks", "late", "registry.lock"]
    )


@pytest.mark.parametrize("name", ["a"*200, "late.2", "1", "a-b_c.d"])
def test_a_name_may_be_long_and_hold_dots(registry, models, example, name):
    registry.register(models[0], name=name, example=example, lineage={}, metrics={})
    registry.promote(name, 1)
    assert (
        registry.deploy(name).parent.name == name
        and registry.load(name, "production").name == name
        and registry.reconcile() == []
    )


def test_a_model_does_not_take_the_name_of_a_file(at, models, example):
    registry = Registry(f"sqlite:///{at/'mlflow.db'}", bundles=at/"bundles", artifacts=at)
    for name in ("mlflow.db", "mlflow.db-journal", "registry.lock"):
        with pytest.raises(ValueError, match="needs a file of this name"):
            registry.register(models[0], name=name, example=example, lineage={}, metrics={})
    with pytest.raises(ValueError, match="a folder each"):
        Registry(f"sqlite:///{at / 'mlflow.db'}", bundles=at, artifacts=at)


@pytest.mark.parametrize(
    "given",
    [
        {"lineage": None},
        {"lineage": [("a", 1)]},
        {"metrics": None},
        {"metrics": "auc"},
        {"metrics": {"auc": np.nan}},
        {"metrics": {"auc": "0.7"}},
        {"metrics": {"auc": None}},
        {"metrics": {"auc": np.inf}},
        {"metrics": {"auc": [0.7]}},
        {"metrics": {"auc": {"mean": 0.7}}},
    ],
)
def test_what_a_gate_could_not_compare_is_not_registered(untouched, models, example, given):
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(given))}: ") as e:
        untouched.register(
            models[0], name="late", example=example, **{"lineage": {}, "metrics": {}, **given}
        )
    assert len(str(e.value)) < 300 and list(untouched._ledger.versions("late")) == [1, 2, 3]


@pytest.mark.parametrize("call", ["version", "load", "promote", "rollback", "deploy", "withdraw", "history", "export"])
def test_unknown_models_are_named_with_the_known_ones(untouched, call, tmp_path):
    more = {"version": (1,), "load": (1,), "promote": (1,), "export": (1, tmp_path/"out"), "withdraw": ("canary",)}.get(call, ())
    with pytest.raises(ValueError, match="name='early'.*known are late"): getattr(untouched, call)("early", *more)


def test_nothing_to_deploy(untouched):
    with pytest.raises(ValueError, match="no aliases"): untouched.deploy("late")


@pytest.mark.parametrize(
    "uri",
    [
        "http://models.example.org",
        "sqlite://",
        "sqlite:///",
        "mlflow.db",
        "postgresql://x/y",
        "sqlite:///:memory:",
        "sqlite:///mlflow.db?timeout=30",
        "sqlite:///file:x.db?uri=true",
        "sqlite:///x/mlflow.db?",
        "sqlite:///x/",
        "sqlite:///.",
        "sqlite:///no.db",
        3,
        Path("mlflow.db"),
    ],
)
def test_databases_it_cannot_lock_are_refused(tmp_path, uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"no.db").write_text("not a database, but long enough to look like one")
    with pytest.raises(ValueError, match="uri="): Registry(uri, bundles=tmp_path, artifacts=tmp_path)
    assert os.listdir(tmp_path) == ["no.db"]


ODD = [
    "a?b",
    "a%20b",
    "a#b",
    "a b",
    "ü",
    "a%3Fb",
    "a%(x)sb",
    "%",
    "a:b",
    "file:x",
    ":memory:",
    "a@b",
    "a&b=c",
    "{a}",
    "[a]",
    "a'b",
    "a\nb",
    "a\\b",
]


@pytest.mark.parametrize("name", ODD)
def test_the_database_is_made_where_it_was_asked_for(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path/"home"/name
    uris = [f"sqlite:///{folder}/mlflow.db", f"sqlite:///home/{name}/mlflow.db"]
    for uri in uris: Registry(uri, bundles=folder/"bundles")
    assert [f.name for f in tmp_path.iterdir()] == ["home"] and [
        f.name for f in folder.parent.iterdir()
    ] == [name]
    assert sorted(f.name for f in folder.iterdir()) == ["artifacts", "mlflow.db"]


def test_an_empty_database_is_copied_from_the_cache_and_is_the_one_that_mlflow_makes(tmp_path, monkeypatch):
    def made(name, home):
        monkeypatch.setenv("MLSCALE_HOME", str(home))
        Registry(f"sqlite:///{tmp_path/name/'mlflow.db'}", bundles=tmp_path/"bundles")
        assert sorted(f.name for f in (tmp_path/name).iterdir()) == ["artifacts", "mlflow.db"]
        return (tmp_path/name/"mlflow.db").read_bytes()

    def columns(name):
        db = sqlite3.connect(tmp_path/name/"mlflow.db")
        try: return {table: db.execute(f"PRAGMA table_info('{table}')").fetchall() for table, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally: db.close()
    (tmp_path/"file").write_text("a home that is no folder")
    made("theirs", tmp_path/"file")   # without a cache MLflow makes the tables itself
    first = made("first", tmp_path/"home")
    kept, = (tmp_path/"home"/"cache").iterdir()
    assert kept.read_bytes() == first and columns("first") == columns("theirs") and len(columns("theirs")) > 10
    shutil.copyfile(tmp_path/"theirs"/"mlflow.db", kept)
    assert made("second", tmp_path/"home") == kept.read_bytes() != first   # the cache is what is used


@pytest.mark.parametrize("name", ["a?b %20#", "ü:{}[]*"])
def test_all_that_a_registry_does_works_in_any_folder(tmp_path, name, at, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path/name))
    shutil.copytree(
        at, tmp_path / name / "state" / "registry"
    )  # a registry that others made is found there too
    registry = Registry()
    for version in (1, 2): registry.promote("late", version)
    registry.deploy("late")
    assert (
        agreed(registry) == 2
        and registry.rollback("late").version == 1
        and registry.reconcile() == []
    )
    assert load_bundle(registry.export("late", 2, tmp_path / name / name)).version == 2 and {
        f.name for f in tmp_path.iterdir()
    } == {name, "state"}


def test_a_relative_address_stays_where_it_was_meant(tmp_path, at, monkeypatch, models, example):
    monkeypatch.chdir(at.parent)
    registry = Registry("sqlite:///state/mlflow.db", bundles="deployed", artifacts="state/artifacts")
    elsewhere = tmp_path/"elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    registry.promote("late", 1)
    assert registry.deploy("late").is_relative_to(at.parent/"deployed") and os.listdir(elsewhere) == []
    assert (
        Registry("sqlite:///state/mlflow.db", bundles="deployed")._ledger.names() == []
    )  # another folder, another registry


def test_numpy_versions_are_versions(registry):
    registry.promote("late", np.int64(2))
    assert registry.load("late", np.int64(2)).version == 2 and alias_history(registry._ledger.events("late")) == {"champion": [2]}
