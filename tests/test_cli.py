"The command does what its verbs say, starts light, and says in one line what the user can mend."
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import mlscale
from mlscale.artifacts import load_bundle, save
from mlscale.cli import _follow, _judge, _round, diagnose, main, parser
from mlscale.data import MATURE
from mlscale.duty_report import duty_report
from mlscale.monitoring import Alerts, LogDrift, MonitorMetrics, labelled, record_actions, record_outcome, record_outcomes
from mlscale.prediction_log import Prediction, PredictionLog, iso_utc
from mlscale.registry import Registry
from mlscale.training import evaluate


@pytest.fixture(scope="module")
def X(): return pd.DataFrame(np.random.default_rng(0).normal(size=(300, 2)), columns=["a", "b"])


@pytest.fixture(scope="module")
def model(X): return LogisticRegression().fit(X, X.a > 0)


def command(*words, **env): return subprocess.run([sys.executable, "-m", "mlscale.cli", *map(str, words)], capture_output=True, text=True, env={**os.environ, **env})


@pytest.mark.parametrize("words", [["run", "--until", "someday"],
                                   ["run", "--until", "2013-01-01"], ["monitor", "nothing.db"], ["rotate", "nothing.db"], ["forget", "nothing.db", "N1"],
                                   ["score", "no", "no", "no"], ["outcomes", "no.csv", "nothing.db"]])
def test_what_the_user_can_mend_is_one_line_and_status_1(words, capsys):
    assert main(words) == 1
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and said.startswith(f"mlscale {words[0]}: ")


@pytest.mark.parametrize(("words", "status"), [([], 2), (["swim"], 2), (["--help"], 0), (["--version"], 0), (["run", "--help"], 0),
                                               (["serve", "--port", "99999"], 2), (["score", "no", "no", "no"], 1)])
def test_the_status_says_whose_error_it_is(words, status):
    done = command(*words)
    assert done.returncode == status and "Traceback" not in done.stderr


def verbs(): return parser()._subparsers._group_actions[0].choices


def test_every_word_has_a_help_and_every_flag_says_its_default():
    assert len(verbs()) == 10
    for verb, sub in verbs().items():
        for action in sub._actions:
            told = not action.option_strings or action.dest == "help" or "(default: " in action.help
            assert action.help and told, (verb, action.dest)


@pytest.mark.parametrize(("policy", "told"), [(["retrain=monthly", "gate=no", "share=.1"], None), (["check=shadow, canary"], None), (["gate=perhaps"], "gate is yes or no"),
                                              (["alpha=often"], "alpha is a number"),
                                              (["canary"], "give name=value, with one of retrain, left_alone, gate"), (["check=prayer"], "check='prayer'"), (["share=2"], "share=2"),
                                              (["gate=no", "gate=yes"], "gate is given twice")])
def test_a_policy_is_read_from_words_or_refused_by_the_word(policy, told):
    from mlscale.run_words import read_rules
    from mlscale.system import Rules
    if told:
        with pytest.raises(ValueError, match=re.escape(told)): read_rules(policy)
    elif len(policy) == 3: assert read_rules(policy) == Rules(retrain="monthly", gate=False, share=.1)
    else: assert read_rules(policy) == Rules(check="shadow, canary")


def test_faults_are_named_or_all_and_full_means_everything(monkeypatch, tmp_path):
    import mlscale.lifecycle as lifecycle
    from mlscale.faults import FAULTS
    asked = []
    def refused(**given):
        asked.append({name: given[name] for name in ("faults", "online", "parts")})
        raise ValueError("enough")
    monkeypatch.setattr(lifecycle, "run", refused)
    for words in (["--faults", "all"], ["--faults", "killed", "celsius"], ["--online"], ["--full"]): main(["run", "--folder", str(tmp_path / "x"), *words])
    assert asked == [{"faults": [*FAULTS], "online": False, "parts": False}, {"faults": ["killed", "celsius"], "online": False, "parts": False},
                     {"faults": [], "online": True, "parts": False}, {"faults": [*FAULTS], "online": True, "parts": True}]


def test_finished_runs_are_compared_and_others_refused(tmp_path, capsys):
    import pandas as pd

    from mlscale.story import Run, write_run
    from mlscale.system import START
    week = {"run": "the year", "week": START, "flights": 10, "log_loss": .4, "auc": .7, "acted": 2, "on_trial": 0, "cost": 5e5, "cost_if_nobody_acts": 8e5, "p99_ms": 3., "open_alerts": 0,
            "version": 1}
    event = {"run": "the year", "at": START, "kind": "promote", "version": 1, "text": "version 1 is live", "evidence": {"rows": 3}}
    for name, loss in (("one", .4), ("two", .5)):
        (tmp_path / name).mkdir()
        write_run(Run(tmp_path / name, pd.DataFrame([event]), pd.DataFrame([{**week, "log_loss": loss}]), pd.DataFrame(), .6, {"command": f"mlscale run {name}"}))
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--report", str(tmp_path / "both.html")]) == 0
    said = capsys.readouterr().out
    assert "one: log loss 0.4000, $0.30 million saved, 1 decisions" in said and "two: log loss 0.5000" in said and (tmp_path / "both.html").read_text().count("mlscale run two") == 1
    for words in ([str(tmp_path / "one")], [str(tmp_path / "one"), str(tmp_path / "none")]):
        assert main(["compare", *words]) == 1 and re.match("mlscale compare: (FOLDERS: give|folder: 'none')", capsys.readouterr().err)


def test_the_defaults_that_help_tells_are_those_of_the_library():
    from mlscale.lifecycle import BAD_RELEASE, END
    told = verbs()["run"].format_help()
    assert f"{END:%Y-%m-%d}" in told and f"{BAD_RELEASE:%Y-%m-%d}" in told and verbs()["monitor"].get_default("wait") * pd.Timedelta("1h") == MATURE


def test_the_version_says_which_and_where(capsys):
    assert main(["--version"]) == 0
    assert re.match(rf"mlscale {re.escape(mlscale.__version__)}( \(\S+\))?, Python 3\S+, /", capsys.readouterr().out)


def test_errors_speak_of_the_words_that_were_typed(capsys, tmp_path):
    said = lambda *words: (main(list(words)), capsys.readouterr().err)[1]
    assert said("run", "--until", "2013-04-02").startswith("mlscale run: --until=")
    assert said("run", "--until", "2013-07-01", "--bad-release", "2013-07-08").startswith("mlscale run: --bad-release=")
    assert said("monitor", "nothing.db").startswith("mlscale monitor: LOG: there is no file nothing.db")
    assert said("run", "--folder", str(tmp_path)).startswith("mlscale run: --folder: ")
    with socket.create_server(("127.0.0.1", 0)) as taken: refused = said("serve", "--port", str(taken.getsockname()[1]))
    assert re.match(r"mlscale serve: --port: 127.0.0.1:\d+ cannot be had \(Address already in use\); choose", refused)


def test_run_says_how_it_goes_on_once_there_is_something_to_lose_and_when_it_is_interrupted(monkeypatch, tmp_path, capsys):
    import mlscale.lifecycle as lifecycle
    asked = []

    def interrupted(*, say, **words):
        asked.append(words)
        if words["progress"] or len(asked) > 1: say("01 Apr  promote   version 1 is live")
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "run", interrupted)
    folder, place = tmp_path / "a run", f"mlscale run --resume '{tmp_path / 'a run'}'"
    assert main(["run", "--folder", str(folder), "--quiet"]) == 130 and capsys.readouterr().err == f"interrupted; go on with: {place}\n"
    assert main(["run", "--folder", str(folder), "--quiet"]) == 130
    said = capsys.readouterr()
    assert said.err == f"if this is interrupted, go on with: {place}\ninterrupted; go on with: {place}\n" and not said.out
    assert main(["run", "--folder", str(folder)]) == 130 and "version 1 is live" in capsys.readouterr().out
    usual = {"until": lifecycle.END, "bad_release": lifecycle.BAD_RELEASE, "seed": 0, "rules": lifecycle.Rules(), "online": False, "faults": [], "parts": False}
    assert asked[0] == {"folder": folder, "progress": False, **usual}


def test_resume_takes_the_words_that_the_run_was_begun_with(monkeypatch, tmp_path, capsys):
    import mlscale.lifecycle as lifecycle
    asked, at = [], lambda text: text and pd.Timestamp(text, tz="UTC")

    def refused(*, say, **words):
        asked.append({name: words[name] for name in ("until", "bad_release", "seed")})
        raise ValueError(f"seed={words['seed']}: no")

    monkeypatch.setattr(lifecycle, "run", refused)
    assert main(["run", "--resume", str(tmp_path)]) == 1 and "no run was begun" in capsys.readouterr().err and not asked
    others = {"rules": {}, "online": False, "faults": [], "parts": False}
    (tmp_path / "arguments.json").write_text(json.dumps({**others, "format": 3, "until": "2013-06-03 00:00:00+00:00", "bad_release": None, "seed": 7}))
    for words in ([], ["--seed", "8"], ["--until", "2013-07-01", "--bad-release", "2013-05-06"]): assert main(["run", "--resume", str(tmp_path), *words]) == 1
    assert asked == [{"until": at(until), "bad_release": at(release), "seed": seed} for until, release, seed in (("2013-06-03", None, 7), ("2013-06-03", None, 8), ("2013-07-01", "2013-05-06", 7))]
    with pytest.raises(SystemExit): main(["run", "--resume", str(tmp_path), "--folder", str(tmp_path)])


def test_it_starts_without_what_only_a_verb_needs():
    code = "import sys; from mlscale import cli; cli.parser().format_help(); print({'pandas','numpy','sklearn','pyspark','mlflow','fastapi','feast'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_score_writes_what_the_bundle_says(spark, tmp_path, model, X, capsys):
    save(model, tmp_path / "bundle", example=X)
    X.assign(id=range(300)).to_parquet(tmp_path / "in.parquet")
    assert main(["score", str(tmp_path / "bundle"), str(tmp_path / "in.parquet"), str(tmp_path / "out")]) == 0 and "300 predictions" in capsys.readouterr().out
    out = pd.read_parquet(tmp_path / "out").sort_values("id")
    assert np.allclose(out.prediction, load_bundle(tmp_path / "bundle").predict(X.to_numpy()))
    X.assign(id=range(300), t=pd.Timestamp(0), u="x").to_parquet(tmp_path / "more.parquet")
    words = ["score", *(str(tmp_path / name) for name in ("bundle", "more.parquet", "out"))]
    assert main(words) == 1 and "INPUT: columns go by name, and unknown are 't', 'u' (name in --ignore" in capsys.readouterr().err
    assert main([*words, "--ignore", "t", "--ignore", "u"]) == 0


def test_score_without_spark_sets_bad_rows_aside_and_takes_a_model_of_the_registry(tmp_path, model, X, capsys, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home"))
    Registry().register(model, name="late", example=X, lineage={}, metrics={})
    bad = X.assign(id=range(300))
    bad.iloc[7, 0] = np.inf
    bad.to_parquet(tmp_path / "in.parquet")
    words = ["score", "late:1", str(tmp_path / "in.parquet"), str(tmp_path / "out"), "--engine", "arrow"]
    assert main(words) == 1 and "id 7: " in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*words, "--on-bad", "quarantine"]) == 0 and "299 predictions of late version 1 in" in (said := capsys.readouterr().out) and "1 rows set aside" in said
    assert pd.read_parquet(tmp_path / "out" / "_quarantine.parquet").row.tolist() == [7] and 7 not in set(pd.read_parquet(tmp_path / "out").id)


def deployed(tmp_path, model, X, name="late"):
    registry = Registry(f"sqlite:///{tmp_path}/registry/mlflow.db")
    registry.register(model, name=name, example=X, lineage={}, metrics={})
    registry.promote(name, 1)
    registry.deploy(name)
    return registry


def test_score_writes_the_file_that_was_asked_for_and_no_other(spark, tmp_path, model, X, capsys):
    folder = deployed(tmp_path, model, X).bundles / "late"
    orders = [f"{i:03}" for i in range(300)]
    X.assign(order=orders).to_parquet(tmp_path / "in.parquet")
    (tmp_path / "own.parquet").write_text("mine")
    words = lambda out: ["score", str(folder), str(tmp_path / "in.parquet"), str(tmp_path / out)]
    assert main(words("out.parquet")) == 1
    assert "missing are 'id'; unknown are 'order'" in (said := capsys.readouterr().err) and "(--id says which column holds the ids)" in said
    for _ in range(2): assert main([*words("out.parquet"), "--id", "order"]) == 0 and "300 predictions of late version 1 in" in capsys.readouterr().out
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").is_file() and list(out) == ["order", "prediction"] and out.order.tolist() == orders
    assert np.allclose(out.prediction, load_bundle(folder / "1").predict(X.to_numpy()))
    for taken in ("own.parquet", "in.parquet"): assert main([*words(taken), "--id", "order"]) == 1 and "OUTPUT: " in capsys.readouterr().err
    assert (tmp_path / "own.parquet").read_text() == "mine" and {p.name for p in tmp_path.iterdir()} == {"registry", "in.parquet", "own.parquet", "out.parquet"}


def test_serve_answers_and_logs_and_stops_at_a_signal(tmp_path, model, X):
    bundles = deployed(tmp_path, model, X).bundles
    with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
    words = ["serve", "--bundles", str(bundles), "--log", str(tmp_path / "log.db"), "--log-mode", "available", "--log-synchronous", "full", "--port", str(port)]
    with subprocess.Popen([sys.executable, "-m", "mlscale.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps({"values": [1., 2.], "ids": ["x"]}).encode(), {"Content-Type": "application/json"})
        for _ in range(600):
            try: answer = json.load(urllib.request.urlopen(request)); break
            except OSError: time.sleep(.1)
        server.send_signal(signal.SIGTERM)
        said = server.stderr.read().splitlines()
        assert server.wait(60) in (0, -signal.SIGTERM, 143)
    assert said[0].startswith(f"serving late at http://127.0.0.1:{port} ") and re.match(r"  model    late version 1, [0-9a-f]{12}, answers with probability$", said[1])
    assert said[2:4] == ["  columns  2: a, b", f"  log      {tmp_path / 'log.db'} (available)"]
    assert answer["prediction"] == pytest.approx(model.predict_proba(pd.DataFrame([[1., 2.]], columns=X.columns))[:, 1], abs=1e-5) and answer["version"] == 1
    assert record_outcome("x", 1, pd.Timestamp.now(tz="UTC"), log=tmp_path / "log.db")


@pytest.fixture
def log(tmp_path):
    "A hundred predictions of 1 May by two versions and ten of 2 May, each flight on an aircraft of its own; every tenth was acted on, and of the others one in two was left alone on purpose."
    path, start = tmp_path / "log.db", pd.Timestamp("2013-05-01", tz="UTC")
    at = [*[start] * 100, *[start + pd.Timedelta(days=1)] * 10]
    with PredictionLog(path) as book: book.append(Prediction(str(i), iso_utc(t), "late", 1 + i // 50 % 2, "0" * 64, "production", .2 + .006 * (i % 100), [1.], f"N{i}") for i, t in enumerate(at))
    ids = [str(i) for i in range(110)]
    record_outcomes(pd.DataFrame({"request_id": ids, "label": [i % 3 == 0 for i in range(110)], "known_at": start + pd.Timedelta(days=1, hours=5)}), log=path)
    acted = pd.DataFrame({"request_id": ids[:50], "at": start, "action": ["crew" if i % 10 == 0 else "none" for i in range(50)], "propensity": .5})
    record_actions(acted[acted.action.eq("crew") | (acted.index % 2 == 1)], log=path)
    return path


def judged(capsys): return [line for line in capsys.readouterr().out.splitlines()[2:] if not line.startswith("changes of ")]


def test_monitor_judges_by_version_what_is_mature_and_weighs_it(log, capsys):
    assert main(["monitor", str(log), "--at", "2013-05-03"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("110 predictions") and said[1] == "left out: 10 made less than 36 hours before (--wait), 5 older ones on which somebody acted"
    seen = labelled(log, "2013-05-03T00:00:00Z")
    assert said.pop().startswith("changes of late: not watched yet, 1 of the 60 days")
    for version, rows, line in zip((1, 2), (45, 50), said[2:], strict=True):
        some = seen[(seen.version == version) & seen.mature & (seen.weight > 0)]
        assert len(some) == rows and line == f"version {version}: {evaluate(some.label.to_numpy(), some.prediction.to_numpy(), weights=some.weight.to_numpy())}"
        assert (line == f"version {version}: {evaluate(some.label.to_numpy(), some.prediction.to_numpy())}") == (version == 2)   # where nobody acted all weigh the same
    assert main(["monitor", str(log), "--at", "2013-05-02"]) == 0 and "no outcome was known by 2013-05-02 00:00 UTC" in capsys.readouterr().out


def test_monitor_keeps_models_apart_that_share_a_log(log, capsys):
    assert main(["monitor", str(log), "--at", "2013-05-03"]) == 0
    alone = judged(capsys)
    with PredictionLog(log) as book: book.append(Prediction(f"other {i}", "2013-05-01T00:00Z", "other", 1, None, None, p, [1.]) for i, p in enumerate((.1, .9)))
    record_outcomes(pd.DataFrame({"request_id": ["other 0", "other 1"], "label": [1, 0], "known_at": "2013-05-01T08:00Z"}), log=log)
    assert main(["monitor", str(log), "--at", "2013-05-03"]) == 0
    *late, other = judged(capsys)
    assert late == [f"late {line}" for line in alone] and other == f"other version 1: {evaluate([1, 0], [.1, .9])}"


def test_monitor_says_which_label_keeps_predictions_from_being_judged_as_probabilities(log, capsys):
    with PredictionLog(log) as book: book.append([Prediction("odd", "2013-05-01T00:00Z", "late", 2, None, None, .5, [1.])])
    record_outcome("odd", 7, "2013-05-01T08:00Z", log=log)
    assert main(["monitor", str(log), "--at", "2013-05-03"]) == 0
    one, two = judged(capsys)
    assert "log_loss" in one and two.startswith("version 2: n=51, mean error ") and two.endswith("(as numbers, since 1 labels, such as 7, are not 0 or 1)")


def test_monitor_without_outcomes_says_how_they_are_recorded(tmp_path, capsys):
    with PredictionLog(tmp_path / "log.db") as book: book.append([Prediction("a", iso_utc(pd.Timestamp.now(tz="UTC")), "late", 1, None, None, 3.5, [1.])])
    assert main(["monitor", str(tmp_path / "log.db")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("no outcome was known by") and f"mlscale outcomes FILE {tmp_path / 'log.db'}" in said and "POST /outcomes" in said
    record_outcome("a", 5, pd.Timestamp.now(tz="UTC"), log=tmp_path / "log.db")
    assert main(["monitor", str(tmp_path / "log.db")]) == 0 and "none is left; with --wait 0" in capsys.readouterr().out
    assert main(["monitor", str(tmp_path / "log.db"), "--wait", "0"]) == 0   # a number, and no probability
    assert judged(capsys) == ["version 1: n=1, mean error -1.5, mean absolute error 1.5"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_outcomes_come_from_a_file_once_and_strangers_are_named(kind, log, tmp_path, capsys):
    with PredictionLog(log) as book: book.append([Prediction(f"00{i}", "2013-05-01T00:00:00Z", "late", 1, None, None, .5, [1.]) for i in (1, 2, 3)])
    table, file = pd.DataFrame({"flight": ["001", "002", "003", "no"], "late": [1, 0, None, 1], "at": "2013-05-01T09:00:00Z"}), str(tmp_path / f"o.{kind}")
    table.to_csv(file, index=False) if kind == "csv" else table.to_parquet(file)
    words = ["outcomes", file, str(log), "--id", "flight", "--label", "late"]
    assert main(["outcomes", file, str(log)]) == 1 and "has no column 'request_id', but flight, late, at" in capsys.readouterr().err
    assert main([*words, "--known-at", "at"]) == 0 and capsys.readouterr().out == "3 outcomes are new, 0 were known\n1 rows have no label yet\nof these ids 1 have no prediction: 'no'\n"
    assert main(words) == 0 and capsys.readouterr().out.startswith("0 outcomes are new, 3 were known")
    assert {"001", "002"} <= set(labelled(log, "2013-05-01T09:00:00Z").request_id) and "003" not in set(labelled(log, "2013-05-04T00:00:00Z").request_id)
    assert main(["outcomes", file, str(log), "--id", "at", "--label", "late"]) == 1 and "no id of" in capsys.readouterr().err
    table.assign(late=1 - table.late).to_csv(tmp_path / "wrong.csv", index=False)
    assert main(["outcomes", str(tmp_path / "wrong.csv"), *words[2:]]) == 1 and "request '001' is known as 1" in capsys.readouterr().err


def test_rotate_moves_a_finished_month_and_monitor_reads_it_still(log, tmp_path, capsys):
    assert main(["monitor", str(log), "--at", "2013-05-03"]) == 0
    before = capsys.readouterr().out
    assert main(["rotate", str(log), "--before", "2013-05-31"]) == 0 and "no month" in capsys.readouterr().out
    assert main(["rotate", str(log), "--before", "2013-06-03", "--folder", str(tmp_path / "months")]) == 0
    assert capsys.readouterr().out.startswith("2013-05: 110 predictions in ") and len(list((tmp_path / "months").rglob("*.parquet"))) == 1
    assert main(["monitor", str(log), "--at", "2013-05-03"]) == 0 and capsys.readouterr().out == before


def test_forget_removes_an_entity_and_prints_the_proof(log, capsys):
    assert main(["forget", str(log), "N7", "--reason", "a request"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["reason"] == "a request" and sum(proof["rows"].values()) >= 3 and "N7" not in json.dumps(proof)
    assert "7" not in list(labelled(log, "2013-05-04T00:00:00Z").request_id)
    assert main(["forget", str(log), "N7"]) == 0 and sum(json.loads(capsys.readouterr().out)["rows"].values()) == 0


def test_doctor_names_what_is_missing_and_the_remedy(monkeypatch, capsys):
    assert main(["doctor"]) == 0 and "MISSING" not in capsys.readouterr().out
    import importlib.util
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "duckdb" else find(name, *more))
    assert main(["doctor"]) == 1 and "extra features: duckdb missing; pip install 'mlscale[features]'" in capsys.readouterr().out
    assert not all(well for well, _ in diagnose())


def home_of(tmp_path, kind):
    "A home that cannot be written, and what stands in the way."
    if kind in ("a file", "below a file"): (tmp_path / "home").write_text("")
    return {"below a file": tmp_path / "home" / "deep" / "down", "a place without files": "/proc/1/home"}.get(kind, tmp_path / "home")


@pytest.mark.parametrize("kind", ["a file", "below a file", "a place without files"])
def test_doctor_tries_whether_the_home_can_be_written(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLSCALE_HOME", str(home_of(tmp_path, kind)))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("MISSING") and "cannot be written (" in said and "set MLSCALE_HOME to a folder" in said


def test_doctor_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home" / "to be"))
    assert all(well for well, _ in diagnose()) and list(tmp_path.iterdir()) == []


MOUNTED = "mount -t tmpfs -o size=512k none \"$0\" && if [ $1 = read-only ]; then mount -o remount,ro \"$0\"; fi && MLSCALE_HOME=\"$0\" exec \"$2\" -m mlscale.cli doctor"


@pytest.mark.needs("unshare")
@pytest.mark.parametrize(("disk", "why"), [("full", "No space left on device"), ("read-only", "Read-only file system")])
def test_doctor_sees_a_full_disk_and_one_for_reading_only(disk, why, tmp_path):
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True).returncode: pytest.skip("not allowed to mount a disk")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", MOUNTED, tmp_path, disk, sys.executable], capture_output=True, text=True)
    assert done.returncode == 1 and f"{tmp_path} cannot be written ({why})" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("wrong", ["-5", "nan", "inf", "soon"])
def test_a_time_to_wait_is_a_number_of_hours(wrong, capsys):
    with pytest.raises(SystemExit): main(["monitor", "log.db", f"--wait={wrong}"])
    assert f"argument --wait: '{wrong}' is no time to wait: hours, 0 or more" in capsys.readouterr().err


def test_monitor_writes_a_page_for_whoever_is_on_duty(log, tmp_path, capsys):
    page = tmp_path / "reports" / "duty.html"
    assert main(["monitor", str(log), "--at", "2013-05-03"]) == 0
    said = capsys.readouterr().out
    assert main(["monitor", str(log), "--at", "2013-05-03", "--report", str(page)]) == 0 and capsys.readouterr().out == said
    drift = LogDrift(log)
    drift.update("2013-05-03T00:00:00Z")
    assert page.read_text() == duty_report(log, "2013-05-03T00:00:00Z", drift=drift).html() and "late 2" in page.read_text() and "not watched yet" in page.read_text()
    for words, why in ((["--follow", "--at", "2013-05-03"], "--at: --follow looks at the present"), (["--metrics", "0"], "--metrics: only with --follow")):
        assert main(["monitor", str(log), *words]) == 1 and why in capsys.readouterr().err
    for wrong in ("0", "-1", "soon", "inf"):
        with pytest.raises(SystemExit): main(["monitor", str(log), "--every", wrong])


def test_monitor_follows_a_log_that_grows_beats_and_ends_with_ctrl_c(log, tmp_path):
    page = tmp_path / "duty.html"
    command = [sys.executable, "-m", "mlscale.cli", "monitor", str(log), "--follow", "--every", ".2", "--metrics", "0", "--report", str(page)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = child.stderr.readline().split()[-1]
        lines = [child.stdout.readline() for _ in range(6)]
        beat = lambda: float(re.search(r"(?m)^mlscale_monitor_heartbeat_timestamp_seconds (\S+)", urlopen(url, timeout=30).read().decode())[1])
        first = beat()
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", lines[0]) and lines[1].startswith("110 predictions") and lines[4].startswith("version 2: ")
        assert lines[5].startswith("changes of late: not watched yet")
        until = time.monotonic() + 60
        while beat() <= first + .5: assert time.monotonic() < until   # several rounds, and nothing new to say
        with PredictionLog(log) as book: book.append([Prediction("new", "2013-05-01T00:00:00Z", "late", 2, "0" * 64, "production", .3, [1.])])
        record_outcome("new", 1, "2013-05-01T08:00:00Z", log=log)
        told = [child.stdout.readline() for _ in range(2)]   # the prediction may be seen a round before its outcome
        while not told[-1].startswith("111 predictions"): told.append(child.stdout.readline())
        assert len(told) <= 7 and told[0].endswith("UTC\n") and "On duty: log.db" in page.read_text()
        numbers = urlopen(url, timeout=30).read().decode()   # the log is of 2013, so nothing has arrived for years, and that is a warning
        assert 'mlscale_monitor_open_alerts{severity="warning",state="firing"} 2.0' in numbers
        assert 'mlscale_monitor_open_alerts{severity="critical",state="firing"} 0.0' in numbers and 'mlscale_monitor_finding{name="age of predictions"}' in numbers
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally: child.kill()
    assert child.returncode == 0 and err == ""


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    "A log of 80 days of 40 rows; from the 65th to the 72nd a column comes in another unit."
    path, rng = tmp_path_factory.mktemp("watched") / "log.db", np.random.default_rng(0)
    with PredictionLog(path) as book:
        book.describe("d", ["temp"])
        book.append([Prediction(f"{day} {i}", pd.Timestamp("2013-05-01", tz="UTC") + pd.Timedelta(days=day, minutes=30*i), "late", 1, "d", "production", float(rng.beta(2, 6)),
                                [float(rng.normal(20, 5))*(1.8 if 65 <= day < 72 else 1)]) for day in range(80) for i in range(40)])
    return path


def test_monitor_says_what_changed_since_when_how_large_and_when_it_was_over(watched, tmp_path, capsys):
    said = lambda *words: (main(["monitor", str(watched), *words]), capsys.readouterr().out)[1]
    early = said("--at", "2013-07-05")
    assert "  late:" not in early and "changes of late: 5 days judged, 0 with too few rows; at most 2 false alarms a year, against the 52 days before" in early
    page = tmp_path / "page.html"
    open_ = said("--at", "2013-07-11", "--report", str(page))
    assert re.search(r"(?m)^  late: temp: (location|spread) \S+.* since 2013-07-0\d \(rang 2013-07-0\d\)$", open_)
    assert "late: temp: " in page.read_text() and "of allowed" in page.read_text() and "Nothing stands out" not in page.read_text()
    over = said("--at", "2013-07-20")
    assert re.search(r"(?m)^  late: temp: .*\(rang 2013-07-0\d\); over since 2013-07-1\d$", over) and "usual" not in over
    assert "changes of" not in said("--at", "2013-07-20", "--false-alarms", "0") and "20 of the 30 days" in said("--at", "2013-07-20", "--since", "2013-06-30", "--reference-days", "30")
    for words, why in ((["--reference-days", "29"], "--reference-days=29: "), (["--false-alarms", "-1"], "--false-alarms=-1")):
        assert main(["monitor", str(watched), "--at", "2013-07-20", *words]) == 1 and why in capsys.readouterr().err


def test_what_rings_while_a_log_is_followed_becomes_one_alert_and_ends(watched, capsys, monkeypatch):
    words = parser().parse_args(["monitor", str(watched), "--follow"])
    alerts, metrics, before = Alerts(), MonitorMetrics(), None
    for day in pd.date_range("2013-07-01", "2013-07-20", freq="12h"):
        words.at = str(day)
        before = _round(words, str(watched), metrics, alerts, before)
    rang, = [a for a in alerts.history if a.name == "changes of late"]
    assert rang.state == "resolved" and rang.severity == "critical" and "temp" in rang.evidence and rang.at > pd.Timestamp("2013-07-05", tz="UTC")
    told = capsys.readouterr().out
    assert told.count("changes of late: ") == 20 and b'mlscale_monitor_finding{name="changes of late"}' in metrics.text()


def test_a_round_that_fails_is_said_and_counted_and_the_next_one_goes_on(log, monkeypatch, capsys):
    rounds, metrics = iter([OSError("the disk is gone"), None, KeyboardInterrupt()]), MonitorMetrics()
    def look(words, where, numbers, alerts, before):
        if (what := next(rounds)) is not None: raise what
        return before
    monkeypatch.setattr("mlscale.cli._round", look)
    words = parser().parse_args(["monitor", str(log), "--follow", "--every", ".1"])
    assert _follow(words, str(log), metrics) == 0 and "this round failed: the disk is gone" in capsys.readouterr().err
    assert b'mlscale_monitor_rounds_total{how="failed"} 1.0' in metrics.text()


def test_the_watch_over_changes_may_fail_and_the_rest_is_judged(watched, tmp_path, capsys, monkeypatch):
    def broken(self, at): raise TypeError("no such\ncolumn")
    monkeypatch.setattr(LogDrift, "update", broken)
    page, metrics, alerts = tmp_path / "page.html", MonitorMetrics(), Alerts()
    assert main(["monitor", str(watched), "--at", "2013-07-20", "--report", str(page)]) == 1
    out, err = capsys.readouterr()
    assert err == "mlscale monitor: changes could not be judged: TypeError: no such column\n" and out.startswith("no outcome was known") and "On duty" in page.read_text()
    words = parser().parse_args(["monitor", str(watched), "--at", "2013-07-20"])
    look = _round(words, str(watched), metrics, alerts, None)
    numbers = metrics.text().decode()
    assert not look.well and 'rounds_total{how="failed"} 1.0' in numbers and 'rounds_total{how="done"} 1.0' in numbers and 'finding{name="age of predictions"}' in numbers


def test_a_round_that_nobody_foresaw_is_said_in_one_line_and_its_watch_goes_on(watched, monkeypatch, capsys):
    words = parser().parse_args(["monitor", str(watched), "--follow", "--every", ".1"])
    judged, times = iter([TypeError("no\nnumber"), None]), iter(["2013-07-20", KeyboardInterrupt()])
    def judge(*_):
        if (what := next(judged)) is not None: raise what
    def sleep(_):
        if isinstance(what := next(times), KeyboardInterrupt): raise what
    monkeypatch.setattr("mlscale.cli._judge", judge)
    monkeypatch.setattr("mlscale.cli.time", SimpleNamespace(sleep=sleep))   # not that of all threads
    monkeypatch.setattr("mlscale.cli.read_time", lambda text: pd.Timestamp("2013-07-20", tz="UTC"))
    metrics = MonitorMetrics()
    assert _follow(words, str(watched), metrics) == 0
    out, err = capsys.readouterr()
    assert err == "mlscale monitor: this round failed: TypeError: no number\n" and "over since" in out and b'rounds_total{how="done"} 1.0' in metrics.text()


def test_how_old_the_newest_may_be_is_taken_from_the_log_or_said(watched, capsys):
    def alerts(*said):
        words, found = parser().parse_args(["monitor", str(watched), "--follow", "--false-alarms", "0", *said]), Alerts()
        words.at = "2013-07-20 04:00"   # the last of 40 rows comes at 19:30, the next one would at midnight
        _round(words, str(watched), MonitorMetrics(), found, None)
        return {a.name: a.severity for a in found.open}
    assert alerts() == {"age of predictions": "warning", "age of outcomes": "warning"}
    assert alerts("--oldest-predictions", "9h") == {"age of outcomes": "warning"}
    assert alerts("--oldest-predictions", "90min", "--oldest-outcomes", "2d") == {"age of predictions": "critical", "age of outcomes": "critical"}
    for wrong in ("2", "-1h", "0h", "soon", "NaT"):
        with pytest.raises(SystemExit): main(["monitor", str(watched), f"--oldest-outcomes={wrong}"])
        assert f"'{wrong}' is no age" in capsys.readouterr().err


def test_a_password_is_not_printed(log, capsys, monkeypatch):
    monkeypatch.setattr("mlscale.outcomes.labelled", lambda log, at: pd.DataFrame({"at": pd.to_datetime([], utc=True), "weight": [], "model": [], "version": []}))
    words = parser().parse_args(["monitor", "postgresql://me:SECRET@db/x?sslpassword=SECRET"])
    _judge(words, pd.Timestamp("2013-05-03", tz="UTC"), words.log)
    said = capsys.readouterr().out
    assert "mlscale outcomes FILE postgresql://...@db/x" in said and "SECRET" not in said
