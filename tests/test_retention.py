"What is on record of a version stays: its card, its lineage, who did what; and of the models only those go that nobody needs."
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mlscale.artifacts import load_bundle, read_pointer, write_pointer
from mlscale.promotion import author
from mlscale.registry import GateRefused, GateResult, ModelCard, Registry, alias_history, differences, needed
from mlscale.training import Comparison, evaluate

X = np.random.default_rng(0).normal(size=(60, 2))
Y = (X[:, 0] > 0).astype(float)
NOW = pd.Timedelta(0)
MODELS = [LogisticRegression(C=c).fit(X, Y) for c in (.01, 1., 100.)]
JUDGED = [evaluate(Y, m.predict_proba(X)[:, 1], days=np.repeat(np.arange(20), 3), block_days=2) for m in MODELS]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    "A registry of five versions, made once and copied for each test."
    folder = tmp_path_factory.mktemp("template")/"state"
    registry = reopened(folder)
    for n in range(5):
        slices = {"left": evaluate(Y[:30], MODELS[n % 3].predict_proba(X[:30])[:, 1]), "<b>right</b>": JUDGED[n % 3]}
        registry.register(MODELS[n % 3], name="late", example=X, lineage={"data": {"sha256": "ab"*32, "rows": 60 + n}, "seed": 0},
                          evaluation=JUDGED[n % 3], slices=slices, limits=["for tests", "<script>"], by="nightly")
    return folder


@pytest.fixture
def registry(tmp_path, template): return reopened(shutil.copytree(template, tmp_path/"state"))


def reopened(at): return Registry(f"sqlite:///{at/'mlflow.db'}", bundles=at/"bundles")


def files(registry, number): return sorted(f.name for f in (registry.artifacts/"late"/str(number)).iterdir())


def deployed(registry): return sorted(f.name for f in (registry.bundles/"late").glob("[0-9]*"))


# --- who

def test_every_event_says_who(registry):
    registry.promote("late", 1, by="Ann")
    registry.promote("late", 2)
    with pytest.raises(GateRefused): registry.promote("late", 3, gate=lambda new, old: False, by="a job")
    registry.rollback("late", by="Bob")
    registry.deploy("late", by="Cy")
    registry.withdraw("late", "production", by="Di")
    registry.prune("late", keep=1, older_than=NOW, dry_run=False, by="Eve")
    h = registry.history("late")
    named = ["nightly"]*5 + ["Ann", None, "a job", "Bob", "Cy", "Di", *["Eve"]*3]
    assert list(h.by) == [author(n) if n else author() for n in named]
    assert author() in author("Ann") and "process" in author()


@pytest.mark.parametrize("by", ["a\nb", "x"*101, None, 3, "\0"])
def test_a_name_that_is_no_line_is_refused_before_anything_is_written(registry, by):
    before = registry.history("late")
    for refused in (lambda: registry.promote("late", 1, by=by), lambda: registry.rollback("late", by=by), lambda: registry.deploy("late", 1, by=by), lambda: registry.prune("late", by=by),
                    lambda: registry.register(MODELS[0], name="late", example=X, lineage={}, metrics={}, by=by)):
        with pytest.raises(ValueError, match="by="): refused()
    pd.testing.assert_frame_equal(registry.history("late"), before)


def test_what_was_written_before_anybody_said_who_is_read(registry):
    registry.promote("late", 1)
    client, tags = registry._ledger._client, registry._ledger.model("late").tags
    client.delete_model_version_tag("late", "1", "by")
    keys = sorted(k for k in tags if k.startswith("event."))
    old = [e for e in (json.loads(tags[k]) for k in keys) if e["event"] != "register"]   # it was not chained then, either
    for key in keys: client.delete_registered_model_tag("late", key)
    for n, e in enumerate(old, 1): client.set_registered_model_tag("late", f"event.{n:06d}", json.dumps({k: v for k, v in e.items() if k not in ("by", "previous")}))
    (registry.artifacts/"late"/"head.json").unlink()
    assert list(registry.history("late").by) == ["", *[author("nightly")]*4, ""]
    assert registry.why("late", 1).steps[1][1].endswith("nobody said who: no gate")


# --- the card

def test_a_card_shows_what_was_registered(registry):
    card = registry.card("late", 2)
    assert card.version == registry.version("late", 2) and card.version.evaluation == JUDGED[1] and card.limits == ("for tests", "<script>")
    for measure, ends in JUDGED[1].intervals.items():
        assert tuple(card.metrics.loc[measure]) == (getattr(JUDGED[1], measure), *ends)
    assert card.slices.loc["<b>right</b>"].tolist() == [60, JUDGED[1].rate, JUDGED[1].log_loss, *JUDGED[1].intervals["log_loss"], JUDGED[1].auc]
    assert card.slices.loc["left", "n"] == 30 and np.isnan(card.slices.loc["left", "from"])
    assert card.data == {"data.sha256": "ab"*32, "data.rows": 61} and card.lineage == {**card.data, "seed": 0}
    page = card._repr_html_()
    assert "&lt;b&gt;right" in page and "<b>right" not in page and "<script>" not in page and "2 slices, 2 limits" in repr(card)


def test_a_card_is_under_the_digest_of_its_version(registry):
    path = registry.artifacts/"late"/"1"/"card.json"
    path.write_text(path.read_text().replace("for tests", "for all"))
    for refused in (registry.card, registry.why):
        with pytest.raises(ValueError, match="was changed"): refused("late", 1)


def test_a_card_without_slices_limits_and_intervals_says_so(registry):
    bare = registry.register(MODELS[0], name="bare", example=X, lineage={}, metrics={"auc": .7})
    card = ModelCard.of(bare)
    assert card.limits == () and card.slices.empty and card.data == {} and card.metrics.loc["auc"].isna().tolist() == [False, True, True]
    assert card._repr_html_().count("Not recorded") == 3


@pytest.mark.parametrize("given, error", [({"slices": [1]}, "slices"), ({"slices": {"a": {"auc": .7}}}, r"slices\['a'\]"), ({"limits": [1]}, "limits"), ({"evaluation": {"auc": .7}}, "evaluation"),
                                          ({"evaluation": None}, "metrics"), ({"metrics": JUDGED[0].to_dict(), "evaluation": None}, "metrics")])
def test_what_is_no_evaluation_is_refused(registry, given, error):
    given = {"metrics": None, "evaluation": JUDGED[0], **given}
    with pytest.raises((TypeError, ValueError), match=error): registry.register(MODELS[0], name="late", example=X, lineage={}, **given)
    assert list(registry._ledger.versions("late")) == [1, 2, 3, 4, 5]


def test_metrics_of_their_own_may_stand_beside_an_evaluation(registry):
    v = registry.register(MODELS[0], name="late", example=X, lineage={}, metrics={"cost": 3.5}, evaluation=JUDGED[0])
    assert (v.metrics, v.evaluation) == ({"cost": 3.5}, JUDGED[0])


# --- lineage

JSON = st.recursive(st.integers(0, 3) | st.text("ab", max_size=2), lambda inner: st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3), max_leaves=8)
NESTED = st.dictionaries(st.text("xyz", min_size=1, max_size=2), JSON, max_size=3)


@settings(max_examples=200, deadline=None)
@given(NESTED, NESTED)
def test_two_lineages_are_equal_where_no_difference_is_shown(a, b):
    assert differences(a, b).empty == (a == b) and differences(a, a).empty and list(differences(a, b).old) == list(differences(b, a).new[differences(a, b).index])


def test_two_versions_are_compared_by_what_is_on_record(registry):
    compared = Comparison(-.01, -.02, -.001, .95, 60, 20, "a test")
    registry.promote("late", 2)
    registry.promote("late", 1, gate=lambda new, old: GateResult(True, str(compared), compared))
    found = registry.compare("late", 2, "champion")
    assert found.paired == compared and registry.compare("late", 1, 2).paired is None and registry.compare("late", 3, 1).paired is None
    assert found.metrics.loc["log_loss"].tolist() == [JUDGED[1].log_loss, JUDGED[0].log_loss, JUDGED[0].log_loss - JUDGED[1].log_loss]
    assert found.lineage.loc["data.rows"].tolist() == [61, 60] and len(found.lineage) == 1 and found.columns.empty
    other = registry.register(LogisticRegression().fit(X[:, :1], Y), name="late", example=X[:, :1], lineage={}, metrics={"auc": .7})
    assert registry.compare("late", 1, other.version).columns.loc["x1"].tolist() == ["number", None]
    assert "The first model is better" in found._repr_html_() and "never compared" in registry.compare("late", 1, 2)._repr_html_()


def test_why_leads_back_to_data_and_shows_gaps(registry):
    registry.promote("late", 4, by="Ann")
    registry.deploy("late")
    why = registry.why("late", "production")
    assert why.aliases == ("champion", "production") and why.gaps == ("features", "code", "environment", "parameters")
    assert [s[0] for s in why.steps[:4]] == ["named by", "deploy production", "promote champion", "register"] and "Ann" in why.steps[2][1]
    assert why.against({"data": {"sha256": "ab"*32}}).empty and why.against({"data": {"sha256": "cd"*32}}).index.tolist() == ["data.sha256"]
    assert registry.why("late", 1).aliases == () and "no alias" in repr(registry.why("late", 1))


# --- what may go

def story(registry):
    "Champion and production have named 1, 2, 3; 3 was rolled back from the champion and is still served; 4 and 5 were refused."
    for v in (1, 2, 3):
        registry.promote("late", v)
        registry.deploy("late")
    registry.rollback("late")
    for v in (4, 5):
        with pytest.raises(GateRefused): registry.promote("late", v, gate=lambda new, old: False)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["promote", "rollback", "refuse", "deploy", "withdraw"]), st.integers(1, 6)), max_size=20),
       st.integers(1, 4), st.dictionaries(st.sampled_from("pq"), st.integers(1, 6)))
def test_what_is_needed_is_what_a_walk_would_use(steps, keep, pointers):
    "Whatever happened: what aliases name, where each of the next steps back would lead, and the last of each alias."
    events, stacks, moved = [], {}, {}
    for event, v in steps:
        alias = "served" if event in ("deploy", "withdraw") else "champion"
        stack = stacks.setdefault(alias, [])
        if event == "rollback" and len(stack) < 2 or event == "withdraw" and not stack: continue
        if event in ("promote", "deploy"):
            stack.append(v)
            moved[alias] = [*[w for w in moved.get(alias, []) if w != v], v]
        if event == "rollback": stack.pop()
        if event == "withdraw": stack.clear()
        events.append({"event": event, "alias": alias, "version": v})
    want = set(pointers.values())
    for alias, stack in stacks.items():
        if stack: want |= {*stack[-2:], *moved[alias][-keep:]}
    assert set(needed(events, pointers, keep=keep)) == want


def test_a_dry_run_changes_nothing_and_is_the_default(registry):
    story(registry)
    before, size = registry.history("late"), {f: f.stat().st_size for f in registry.artifacts.rglob("model.*")}
    plan = registry.prune("late", keep=1, older_than=NOW)
    assert plan.action.tolist() == ["keep", "keep", "keep", "remove", "remove"] and plan.bytes[1] == 2*sum(s for f, s in size.items() if f.parent.name == "1")
    pd.testing.assert_frame_equal(registry.history("late"), before)
    assert {f: f.stat().st_size for f in registry.artifacts.rglob("model.*")} == size


def test_what_was_registered_lately_stays(registry):
    story(registry)
    registry.prune("late", keep=1, dry_run=False)
    assert "prune" not in set(registry.history("late").event) and registry.load("late", 5)
    assert registry.prune("late", keep=1).why[4] == "registered less than 30 days ago"


def test_after_pruning_every_rollback_and_every_server_finds_its_model(registry):
    story(registry)
    registry.promote("late", 1)
    registry.prune("late", keep=1, older_than=NOW, dry_run=False)
    assert [files(registry, n) for n in (1, 2, 3)] == [["card.json", "model.onnx", "model.skops"]]*3 and deployed(registry) == ["1", "2", "3"]
    assert registry.load("late", "production").version == 3 == load_bundle(registry.bundles/"late"/"3").version
    assert registry.rollback("late").version == 2 and registry.rollback("late").version == 1   # the walk that was possible before
    assert registry.reconcile() == []


def test_what_a_pointer_names_stays_although_the_history_says_otherwise(registry):
    story(registry)
    shelf = registry.bundles/"late"
    shutil.copytree(registry.version("late", 5).path, shelf/"5")
    write_pointer(shelf, "canary", registry.version("late", 5))   # by hand, or a crash before the event was lost
    assert registry.prune("late", keep=1, older_than=NOW).why[5] == "canary.json points to it"
    (shelf/"canary.json").write_text("{")
    with pytest.raises(ValueError, match="canary.json is damaged"): registry.prune("late", keep=1, older_than=NOW, dry_run=False)
    assert files(registry, 4) == ["card.json", "model.onnx", "model.skops"]


def test_a_pruned_model_is_refused_and_its_record_answers(registry, tmp_path):
    story(registry)
    sha256 = registry.version("late", 4).sha256
    registry.prune("late", keep=1, older_than=NOW, dry_run=False)
    for refused in (lambda: registry.load("late", 4), lambda: registry.promote("late", 4), lambda: registry.export("late", 4, tmp_path/"out")):
        with pytest.raises(ValueError, match="was pruned"): refused()
    assert files(registry, 4) == ["card.json"] and deployed(registry) == ["1", "2", "3"] and not (tmp_path/"out").exists()
    assert registry.version("late", 4).sha256 == sha256 and registry.card("late", 4).limits and registry.why("late", 4).steps[1][0] == "prune"
    assert registry.versions("late").intact.all() and registry.prune("late", keep=1, older_than=NOW).action.tolist() == ["keep"]*3 + ["gone"]*2
    assert registry.register(MODELS[0], name="late", example=X, lineage={}, metrics={}).version == 6 and registry.reconcile() == []


@pytest.mark.parametrize("files_left", [0, 1, 2])
def test_a_power_cut_while_pruning_is_finished_by_reconcile(registry, files_left):
    story(registry)
    registry._write("record", "late", "prune", "", 4, "nobody needs it", None, "a process that died")
    for f in sorted((registry.artifacts/"late"/"4").glob("model.*"))[files_left:]: f.unlink()
    assert registry.reconcile() == ["late: removed the model of version 4, which was pruned"]*bool(files_left)
    assert files(registry, 4) == ["card.json"] and registry.reconcile() == [] and read_pointer(registry.bundles/"late").version == 3


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": 1.5}, {"keep": "3"}, {"older_than": "soon"}])
def test_bad_limits_prune_nothing(registry, wrong):
    with pytest.raises(ValueError): registry.prune("late", **{"dry_run": False, "older_than": NOW, **wrong})
    assert alias_history(registry._ledger.events("late")) == {} and "prune" not in set(registry.history("late").event)
