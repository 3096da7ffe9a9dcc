"Every checker accepts what is right in any style, refuses and recognises the mistakes it knows, gives nothing away, and survives what students write."
import ast
import datetime as dt
import html
import importlib
import inspect
import json
import linecache
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlscale import checker, exercise_notebooks, exercises, storage
from mlscale.exercises import (
    Draft,
    Incomparable,
    Outcome,
    OutOfTime,
    Verdict,
    check,
    decode,
    difference,
    encode,
    example,
    generate,
    judge,
    outcome,
    plain,
    progress,
    question,
    questions,
    read_solution,
    record,
    same,
    solved,
    time_limit,
    untouched,
)

ROOT = Path(__file__).resolve().parent.parent
SOLUTIONS = sorted((ROOT / "nbs" / "solutions").glob("*.ipynb"))
DRAFTS = {d.name: d for path in SOLUTIONS for d in read_solution(path)}
QUESTIONS = {name: q for path in sorted((ROOT / "nbs" / "exercises" / ".cases").glob("*.json")) for name, q in questions(path).items()}
EVERY = pytest.mark.parametrize("name", DRAFTS)


CACHE = storage.home() / "cache"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "State of one's own; the flights come from the cache that is there."
    CACHE.mkdir(parents=True, exist_ok=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(CACHE)
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def kept(home): return json.loads((home / "state" / "exercises.json").read_text())["exercises"]


def run_cell(source, **names):
    "Run a cell as a notebook does: its lines can be looked up, its names are global."
    filename = f"<cell {abs(hash(source))}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    space = {"check": check, "np": np, "pd": pd, **names}
    exec(compile(source, filename, "exec"), space)
    return space


def block(name, code): return f'with check("{name}"):\n' + textwrap.indent(textwrap.dedent(code).strip("\n"), "    ")


EARLY = "def early_look(late, label_time, at):\n    seen = label_time <= at\n    return seen.mean(), late[seen].mean()"


# ---- every question: the reference, the stub, the mistakes, another style, noise

def test_there_are_two_questions_for_every_chapter_that_stands_at_the_full_standard():
    full = ("00", "01", "05", "07", "08", "09", "10", "11", "12", "13")
    assert {n: sum(name.startswith(n) for name in QUESTIONS) for n in full} == dict.fromkeys(full, 2)
    assert DRAFTS.keys() == QUESTIONS.keys() and min(q.minutes for q in QUESTIONS.values()) == 10


@EVERY
def test_the_reference_gets_full_points(name):
    v = judge(DRAFTS[name].function, QUESTIONS[name])
    assert v.status == "right" and v.points == QUESTIONS[name].points and all(v.passed) and not v.hints and not v.problem


@EVERY
def test_the_stub_gets_nothing_and_is_not_attempted(name, home, capsys):
    space = run_cell(QUESTIONS[name].stub)
    assert f"{name}: not attempted" in capsys.readouterr().out and not (home / "state" / "exercises.json").exists()
    v = judge(space[QUESTIONS[name].function], QUESTIONS[name])
    assert v.status == "not attempted" and v.points == 0 and not v.hints


@EVERY
def test_the_stub_without_comment_and_docstring_is_not_attempted_either_and_one_character_more_is(name):
    tree = ast.parse(QUESTIONS[name].stub)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node): node.body = node.body[1:]
    assert untouched(run_cell(ast.unparse(tree))[QUESTIONS[name].function], QUESTIONS[name].stub)
    changed = QUESTIONS[name].stub.replace("...  # your code", "return 1").replace("return ", "return [] or ")
    assert not untouched(run_cell(changed)[QUESTIONS[name].function], QUESTIONS[name].stub)


@pytest.mark.parametrize("name, label", [(d.name, label) for d in DRAFTS.values() for label, *_ in d.wrong])
def test_every_misconception_loses_points_and_triggers_its_own_hint_at_once(name, label):
    f, hint = next((f, h) for n, f, h in DRAFTS[name].wrong if n == label)
    v = judge(f, QUESTIONS[name])
    assert v.status == "wrong" and 0 <= v.points < QUESTIONS[name].points
    assert v.misconception.name == label and v.hints[0] == hint and hint in repr(v)
    assert label not in repr(v)   # the mistake itself is not named


@pytest.mark.parametrize("name, label", [(d.name, label) for d in DRAFTS.values() for label, _ in d.also])
def test_a_right_solution_of_another_style_passes(name, label):
    f = dict(DRAFTS[name].also)[label]
    assert f.__code__.co_code != DRAFTS[name].function.__code__.co_code
    assert judge(f, QUESTIONS[name]).status == "right"


def shaken(x, by, rng):
    "A plain answer with every number moved by a relative amount."
    if isinstance(x, list): return [shaken(v, by, rng) for v in x]
    return x * (1 + by * rng.choice([-1, 1])) if isinstance(x, (int, float)) and not isinstance(x, bool) else x


@EVERY
@pytest.mark.parametrize("by, status", [(1e-15, "right"), (1e-12, "right"), (1e-8, "right"), (1e-4, "wrong"), (1e-2, "wrong")])
def test_answers_within_noise_pass_and_answers_beyond_it_do_not(name, by, status):
    rng, moved = np.random.default_rng(0), []
    def noisy(**inputs):
        answer = plain(DRAFTS[name].function(**inputs))
        moved.append((noise := shaken(answer, by, rng)) != answer)
        return noise
    verdict = judge(noisy, QUESTIONS[name]).status
    assert verdict == (status if any(moved) else "right"), "an answer without numbers has no noise"


@EVERY
def test_arguments_that_are_changed_harm_no_other_input(name):
    def rude(**inputs):
        answer = DRAFTS[name].function(**inputs)
        for x in inputs.values():
            if isinstance(x, (np.ndarray, pd.Series)): x[:] = x.iloc[0] if isinstance(x, pd.Series) else 7
        return answer
    assert judge(rude, QUESTIONS[name]).status == "right" and judge(DRAFTS[name].function, QUESTIONS[name]).status == "right"


@EVERY
def test_hints_go_from_general_to_specific_and_give_nothing_away(name):
    q, d = QUESTIONS[name], DRAFTS[name]
    def off(**inputs): return "something"
    seen = [judge(off, q, tries=n).hints for n in range(1, len(q.hints) + 3)]
    assert [h[0] for h in seen] == [*q.hints, q.hints[-1], q.hints[-1]] and len(set(q.hints)) == len(q.hints) >= 3
    said = " ".join([*q.hints, *(m.hint for m in q.misconceptions), *(c.rule for c in q.cases), *(repr(judge(f, q)) for _, f, _ in d.wrong)])
    assert not [line for line in d.solution if line in said]
    for case in q.cases:
        for number in re.findall(r"\d\.\d{4,}", json.dumps(case.truth.value)): assert number[:6] not in " ".join([*q.hints, *(m.hint for m in q.misconceptions), case.rule])


@EVERY
def test_the_verdict_names_the_first_wrong_input_and_example_returns_it(name):
    def off(**inputs): return "something" if len(calls) >= 2 or calls.append(1) else DRAFTS[name].function(**inputs)
    calls = []
    rows = dict(judge(off, QUESTIONS[name]).problem)
    case = QUESTIONS[name].cases[1] if len(calls) < 2 else QUESTIONS[name].cases[2]
    number = QUESTIONS[name].cases.index(case) + 1
    assert rows[f"input {number}"] == case.name and rows["what it tests"] == case.rule and rows["your answer"] == "'something'" and "expected is" in rows["what is wrong"]
    assert rows["to try it"] == f'{QUESTIONS[name].function}(**example("{name}", {number}))'
    again = example(name, number)
    assert {k: encode(v) for k, v in again.items()} == case.inputs and same(plain(DRAFTS[name].function(**again)), case.truth.value)


def test_a_hint_of_a_mistake_needs_the_answers_of_that_mistake_everywhere():
    q, (label, strict, _) = QUESTIONS["00.q1"], next(w for w in DRAFTS["00.q1"].wrong if w[0] == "strictly before")
    everywhere = judge(lambda late, label_time, at: (0., 0.), q)
    assert everywhere.misconception is None and everywhere.hints == [q.hints[0]]
    def both(late, label_time, at):
        seen = label_time < at
        return seen.mean(), late[seen].mean() if seen.any() else 0.
    v = judge(both, q)
    assert v.passed == [True, True, True, False, False, True] and v.misconception is None and v.hints == [q.hints[0]]
    own = [judge(strict, q).outcomes, list(judge(strict, q).outcomes)]
    for i in range(len(q.cases)): assert exercises.recognise(q, [*own[1][:i], Outcome("x"), *own[1][i + 1:]]) is None
    assert exercises.recognise(q, own[0]).name == label and exercises.recognise(q, own[0][:4]) is None and exercises.recognise(q, []) is None


def test_a_mistake_that_never_ends_is_recognised_where_it_stops():
    q = QUESTIONS["00.q1"]
    m = exercises.Misconception("endless", "Count.", (*(c.truth for c in q.cases[:2]), *[Outcome(error="OutOfTime")]*4))
    q = replace(q, misconceptions=(m,))
    assert exercises.recognise(q, m.outcomes[:3]) is m and exercises.recognise(q, m.outcomes[:2]) is None
    assert exercises.recognise(q, [Outcome(error="OutOfTime")]) is None


USABLE = "f = facts[(facts.event_timestamp <= at) & (facts.created_timestamp <= at) & (facts.event_timestamp >= at - {ttl})]"
LAST = "return f.value.iloc[-1] if len(f) else np.nan"
BOTH = "f = f.sort_values(['event_timestamp', 'created_timestamp'])"
MATURE = "return late[(sched_dep > at - age - window) & (sched_dep <= at - age) & {known}].mean()"
LEARN = """
w, b, P, wait, s = 0., 0., [], [], lambda v: 1/(1 + np.exp(-v))
for i in range(len(x)):
    due = {due}
    w0, b0 = w, b
    for j in due:
        wait.remove(j)
        if np.isfinite(late[j]):
            error = s({w}*x[j] + {b}) - late[j]
            w, b = w - eta*error*x[j], b - eta*error
    P.append(s(w*x[i] + b))
    wait.append(i)
return P"""
DUE = "sorted((j for j in wait if label_time[j] <= at[i]), key=lambda j: {key})"
DAYS = "d = pd.DataFrame(dict(day=day, treated=treated, late=late)).groupby('day').agg(dict(treated='first', late='mean')); a, b = d.late[d.treated], d.late[~d.treated]"
LEFT = """
out = []
for name, digest, rows in zip(files.name, files.digest, files.rows):
    u = units[units.sealed & (units.model == model) & (units.digest == digest)].sort_values({by})
    at = 0
    for b, e in zip(u.begin, u.end):
        if {gap}: out.append([name, at, b])
        at = max(at, e)
    if at < rows: out.append([name, at, {end}])
return out"""
KILLED = """
import subprocess, tempfile
from pathlib import Path
def run(d, at=0): return subprocess.run(["sh", "-c", job, str(at)], cwd=d, stderr=subprocess.DEVNULL).returncode == -9
def look(d): return sorted(Path(d, "out").read_text().splitlines()) if Path(d, "out").exists() else None
new, old = sorted(f + " scored" for f in flights), sorted(before)
for at in range({first}, 99):
    with tempfile.TemporaryDirectory() as d:
        for name, lines in (("in", flights), ("out", before)): Path(d, name).write_text("".join(line + "\\n" for line in lines))
        if not run(d, at): return None
        seen = look(d)
        run(d)
        if {harm}: return {answer}"""
HARM = "seen not in (new, old) or look(d) != new"
WITNESSES = """allowed = len(reference) // once_in
if {few}: return None
far = [abs(np.mean(day) - np.mean(np.concatenate(reference[:i] + reference[i + 1:]))) for i, day in enumerate(reference)]
threshold, usual = sorted(far)[::-1][{place}], np.mean(np.concatenate(reference))
return threshold, [bool(abs(np.mean(day) - usual) > threshold) for day in live]"""
RELEASES = """out, seen, ends = [], [], dict()
for d in decisions:
    e, v = d["evidence"], d["version"]
    if d["kind"] == "retrain": ends[v] = pd.Timestamp(e["trained_until"])
    if "comparison" not in e or d["kind"] not in {kinds}: continue
    c = e["comparison"]
    if v in seen: broken = [("worse", c["low"] > 0)]
    else: broken = [("luck", c["high"] >= 0), ("seen", pd.Timestamp(c["since"]) < ends[v]), ("few", c["{size}"] < least)]
    seen.append(v)
    out += [[v, word] for word, bad in {order} if bad]
return {answer}"""
ALLOWED = '("trial", "promote", "keep")'
LEDGER = """
w, n, which = len(usual), usual.flights, np.arange(len(usual))//{block}
def ends(x, n):
    m, k = (n*x).sum()/n.sum(), which.max() + 1
    r = pd.Series(n*(x - m)).groupby(which).sum()
    s = {error}
    return [m, m - stats.t.ppf(.95, k - 1)*s, m + stats.t.ppf(.95, k - 1)*s]
from scipy import stats
a = ends(changed.log_loss - usual.log_loss, n)
b = [w*v for v in ends((changed.saved - usual.saved) - price*(changed.trained - usual.trained), pd.Series(np.ones(w)))]
return a, b, {verdict}"""
SPREAD = "(k/(k - 1)*(r**2).sum())**.5/n.sum()"
VERDICT = "'keep' if b[2] < 0 or a[1] > 0 else 'adopt' if b[1] > 0 else 'cannot tell'"
PLAUSIBLE = [   # a wrong answer that nobody listed, and the mistake that it is taken for, if any
    ("00.q1", "seen = label_time <= at\nreturn (seen.mean(), late[seen].mean()) if seen.any() else (np.nan, np.nan)", None),
    ("00.q1", "seen = ~(label_time > at)\nreturn seen.mean(), late[seen].mean()", None),
    ("00.q1", "seen = (label_time <= at) & (label_time > at - pd.Timedelta(hours=3))\nreturn seen.mean(), late[seen].mean()", None),
    ("00.q1", "seen = label_time <= at\nreturn seen.sum(), late[seen].sum()", None),
    ("00.q1", "return late.notna().mean(), late.mean()", "known means that it came some day"),
    ("00.q1", "known = late.notna()\nreturn known.mean(), late[known].mean()", "known means that it came some day"),
    ("00.q2", MATURE.format(known="(label_time < at)"), "strictly before on the label"),
    ("00.q2", "return late[sched_dep.between(at - age - window, at - age) & (label_time <= at)].mean()", None),
    ("00.q2", "return late[(sched_dep >= at - age - window) & (sched_dep < at - age) & (label_time <= at)].mean()", None),
    ("00.q2", "return late[(label_time > at - age - window) & (sched_dep <= at - age) & (label_time <= at)].mean()", None),
    ("00.q2", "return late[(sched_dep > at - window) & (sched_dep <= at) & (label_time <= at)].mean()", None),
    ("01.q1", f"{USABLE.format(ttl='pd.Timedelta(hours=2)')}\n{BOTH}\n{LAST}", None),
    ("01.q1", f"{USABLE.format(ttl='pd.Timedelta(days=400)')}\n{BOTH}\n{LAST}", "no limit of age"),
    ("01.q1", f"{USABLE.format(ttl='ttl')}\nf = f[f.created_timestamp >= at - ttl]\n{BOTH}\n{LAST}", "age by both clocks"),
    ("01.q1", f"{USABLE.format(ttl='ttl')}\nreturn f.value.max()", None),
    ("01.q1", f"{USABLE.format(ttl='ttl')}\nf = f[f.event_timestamp.dt.date == at.date()]\n{BOTH}\n{LAST}", None),
    ("01.q1", f"{USABLE.format(ttl='ttl')}\nreturn f.value.loc[f.event_timestamp.idxmax()] if len(f) else np.nan", "of several about one moment the first in the table"),
    ("01.q1", f"{USABLE.format(ttl='ttl')}\nf = f.sort_values('created_timestamp').sort_values('event_timestamp')\n{LAST}", None),
    ("01.q2", "d = dict(zip(label_time, late))\n"
     "v = [[y for t, y in d.items() if pd.notna(t) and n - window < t <= n] for n in at]\nreturn [(sum(k) + prior*weight)/(len(k) + weight) for k in v]", None),
    ("01.q2", "return [late[(label_time > n - window) & (label_time <= n)].mean() for n in at]", None),
    ("01.q2", "v = [late[(label_time > n - pd.Timedelta(hours=2)) & (label_time <= n)] for n in at]\nreturn [(k.sum() + prior*weight)/(k.count() + weight) for k in v]", None),
    ("05.q1", LEFT.format(by="'end'", gap="b > at", end="rows"), None),
    ("05.q1", LEFT.format(by="'begin'", gap="b >= at", end="rows"), None),
    ("05.q1", LEFT.format(by="'begin'", gap="b > at", end="rows - 1"), None),
    ("05.q1", LEFT.format(by="'begin'", gap="False", end="rows"), "only behind the last one"),
    ("05.q2", KILLED.format(first=1, harm=HARM, answer="True"), None),
    ("05.q2", KILLED.format(first=1, harm=HARM, answer="at - 1"), None),
    ("05.q2", KILLED.format(first=1, harm="look(d) != [f for f in flights]", answer="at"), None),
    ("05.q2", KILLED.format(first=0, harm=HARM, answer="at"), None),
    ("05.q2", KILLED.format(first=1, harm="seen is None or look(d) != new", answer="at"), None),
    ("05.q2", KILLED.format(first=1, harm=HARM.replace(" or ", " and "), answer="at"), None),
    ("05.q2", KILLED.format(first=1, harm=HARM.replace("seen not", "(seen or []) not"), answer="at"), "a table that is not there is an empty one"),
    ("07.q1", WITNESSES.format(few="allowed < 0", place="allowed"), "never refuses"),
    ("07.q1", WITNESSES.format(few="len(reference) < 2*once_in", place="allowed"), None),
    ("07.q1", WITNESSES.format(few="allowed < 1", place="0"), None),
    ("07.q2", "return 'temp'", None),
    ("07.q2", "return min(('temp', 'wind', 'delay'), key=lambda c: week[c].notna().mean())", None),
    ("07.q2", "far = {c: abs(week[c].mean() - reference[c].mean())/reference[c].std() for c in week.columns[1:]}\nreturn max(far, key=far.get) if max(far.values()) > 3 else None", "only the level"),
    ("08.q1", "open_now = alerts[alerts.closed.isna() & (alerts.opened <= now)]\nreturn (open_now.sort_values('burn')['name'].iloc[-1], 'burning') if len(open_now) else (None, 'sleep')", None),
    ("08.q1", "return None, 'sleep'", None),
    ("08.q2", "return next((t for t, (n, bad) in enumerate(hours) if n and bad/n/budget >= rules[0][2]), None)", None),
    ("08.q2", "return None", None),
    ("09.q1", "return 16*(sd/delta)**2", None),
    ("09.q1", "from scipy import stats\nreturn int(2*((stats.norm.ppf(1 - alpha/2) + stats.norm.ppf(power))*sd/delta)**2)", "rounds down"),
    ("09.q1", "from scipy import stats\nreturn (stats.norm.ppf(1 - alpha/2) + stats.norm.ppf(power))**2*2*sd**2/delta**2", "not rounded"),
    ("09.q1", "from scipy import stats\nreturn int(np.ceil(2*((1.96 + stats.norm.ppf(power))*sd/delta)**2))", None),
    ("09.q1", "from scipy import stats\nreturn int(np.ceil(2*((stats.norm.ppf(1 - alpha/2) + .8416)*sd/delta)**2))", None),
    ("09.q2", f"{DAYS}\nreturn a.mean() - b.mean(), a.var()/len(a) + b.var()/len(b)", None),
    ("09.q2", f"{DAYS}\nreturn a.median() - b.median(), np.sqrt(a.var()/len(a) + b.var()/len(b))", None),
    ("09.q2", f"{DAYS}\nreturn abs(a.mean() - b.mean()), np.sqrt(a.var()/len(a) + b.var()/len(b))", None),
    ("09.q2", f"late = late.fillna(0); {DAYS}\nreturn a.mean() - b.mean(), np.sqrt(a.var()/len(a) + b.var()/len(b))", None),
    ("10.q1", "return np.maximum.accumulate(np.abs(z) > 1.96, axis=1).mean(axis=0)", "the limit of one look, whatever is given"),
    ("10.q1", "above = np.abs(z) > limit\nreturn [(above.argmax(1) <= k).mean() for k in range(z.shape[1])]", None),
    ("10.q1", "return np.maximum.accumulate((np.abs(z) > limit).mean(axis=0))", None),
    ("10.q1", "return np.maximum.accumulate(np.abs(np.nan_to_num(z, nan=99.)) > limit, axis=1).mean(axis=0)", None),
    ("10.q2", "k = np.arange(len(x))\nreturn np.cumprod(1 + 2*((.5 + np.cumsum(x) - x)/(1 + k) - m)*(x - m))", None),
    ("10.q2", "k = np.arange(1, len(x) + 1)\ne = np.roll((m + np.cumsum(x))/(1 + k), 1)\nreturn np.cumprod(1 + 2*(e - m)*(x - m))", None),
    ("10.q2", "k = np.arange(1, len(x) + 1)\nbet = 2*((m + np.cumsum(x))/(1 + k) - m)\nbet[0] = 0\nreturn np.cumprod(1 + bet*(x - m))", None),
    ("10.q2", "return [1.]*len(x)", None),
    ("11.q1", "path = [x0]\nfor t in range(steps): path.append(path[-1]*(1 - eta0/np.sqrt(1 + gamma*t)*a))\nreturn path", None),
    ("11.q1", "path = [x0]\nfor t in range(steps): path.append(path[-1]*(1 - eta0/(1 + gamma*t)))\nreturn path", None),
    ("11.q1", "path = [x0]\nfor t in range(steps): path.append(path[-1]*(1 - eta0*a))\nreturn path", None),
    ("11.q1", "path = [x0]\nfor t in range(steps - 1): path.append(path[-1]*(1 - eta0/(1 + gamma*t)*a))\nreturn path", None),
    ("11.q2", LEARN.format(due=DUE.format(key="label_time[j]"), w="w0", b="b0"), None),
    ("11.q2", LEARN.format(due=DUE.format(key="(label_time[j], -j)"), w="w", b="b"), None),
    ("11.q2", LEARN.format(due=DUE.format(key="-label_time[j]"), w="w", b="b"), None),
    ("12.q1", RELEASES.format(kinds=ALLOWED, size="rows", order="broken", answer="sorted(set(v for v, _ in out))"), None),
    ("12.q1", RELEASES.format(kinds=ALLOWED, size="days", order="broken", answer="out"), None),
    ("12.q1", RELEASES.format(kinds=ALLOWED, size="rows", order="sorted(broken)", answer="out"), None),
    ("12.q1", RELEASES.format(kinds='("trial", "promote", "keep", "rollback", "alert", "stop")', size="rows", order="broken", answer="out"), "what was taken back is at fault"),
    ("12.q1", "return [[d['evidence']['instead_of'], 'worse'] for d in decisions if d['kind'] == 'rollback']", None),
    ("12.q2", LEDGER.format(block=5, error=SPREAD, verdict=VERDICT), None),
    ("12.q2", LEDGER.format(block=4, error="r.std()/n.sum()", verdict=VERDICT), None),
    ("12.q2", LEDGER.format(block=4, error=SPREAD, verdict="'adopt' if a[2] < 0 else 'keep' if a[1] > 0 else 'cannot tell'"), None),
    ("12.q2", LEDGER.format(block=4, error=SPREAD, verdict=VERDICT.replace("or a[1] > 0", "and a[1] > 0")), None),
    ("12.q2", LEDGER.format(block=4, error=SPREAD, verdict=VERDICT.replace(" or a[1] > 0", "")), "money alone"),
    ("11.q2", LEARN.format(due="[j for j in np.argsort(label_time) if j in wait and label_time[j] <= at[i]]", w="w", b="b"), None),
]


@pytest.mark.parametrize("name, body, taken", PLAUSIBLE)
def test_a_plausible_wrong_answer_does_not_pass_and_gets_no_false_diagnosis(name, body, taken):
    space = {"np": np, "pd": pd}
    exec(f"def f({', '.join(inspect.signature(DRAFTS[name].function).parameters)}):\n{textwrap.indent(body, '    ')}", space)
    v = judge(space["f"], QUESTIONS[name])
    assert v.status == "wrong" and not [o for o in v.outcomes if o.error] and getattr(v.misconception, "name", None) == taken


def test_the_judge_of_plausible_answers_also_says_right():
    for body in (f"{USABLE.format(ttl='ttl')}\n{BOTH}\n{LAST}", ):
        space = {"np": np}
        exec(f"def f(facts, at, ttl):\n{textwrap.indent(body, '    ')}", space)
        assert judge(space["f"], QUESTIONS["01.q1"]).status == "right"
    exec(f"def f(x, late, at, label_time, eta):\n{textwrap.indent(LEARN.format(due=DUE.format(key='label_time[j]'), w='w', b='b'), '    ')}", space)
    assert judge(space["f"], QUESTIONS["11.q2"]).status == "right"
    exec(f"def f(files, units, model):\n{textwrap.indent(LEFT.format(by=repr('begin'), gap='b > at', end='rows'), '    ')}", space)
    assert judge(space["f"], QUESTIONS["05.q1"]).status == "right"
    exec(f"def f(job, flights, before):\n{textwrap.indent(KILLED.format(first=1, harm=HARM, answer='at'), '    ')}", space)
    assert judge(space["f"], QUESTIONS["05.q2"]).status == "right"
    exec(f"def f(reference, live, once_in):\n{textwrap.indent(WITNESSES.format(few='not allowed', place='allowed'), '    ')}", space)
    assert judge(space["f"], QUESTIONS["07.q1"]).status == "right"
    exec(f"def f(decisions, least):\n{textwrap.indent(RELEASES.format(kinds=ALLOWED, size='rows', order='broken', answer='out'), '    ')}", space := {"pd": pd})
    assert judge(space["f"], QUESTIONS["12.q1"]).status == "right"
    exec(f"def f(usual, changed, price):\n{textwrap.indent(LEDGER.format(block=4, error=SPREAD, verdict=VERDICT), '    ')}", space := {"np": np, "pd": pd})
    assert judge(space["f"], QUESTIONS["12.q2"]).status == "right"


def test_a_job_that_nobody_kills_does_what_it_should(tmp_path):
    for i, case in enumerate(QUESTIONS["05.q2"].cases):
        (folder := tmp_path / str(i)).mkdir()
        given = case.arguments()
        (folder / "in").write_text("".join(f"{flight}\n" for flight in given["flights"]))
        (folder / "out").write_text("yesterday\n")
        assert subprocess.run(["sh", "-c", given["job"], "0"], cwd=folder).returncode == 0, case.name
        assert sorted((folder / "out").read_text().splitlines()) == sorted(f"{flight} scored" for flight in given["flights"]), case.name


def test_a_test_that_waits_for_ever_ends_and_so_does_the_job_that_it_started(tmp_path):
    def first_harm(job, flights, before): subprocess.run(["sh", "-c", "echo $$ > pid; exec sleep 600"], cwd=tmp_path)
    v = judge(first_harm, QUESTIONS["05.q2"], seconds=.5)
    assert v.status == "wrong" and v.outcomes[-1].error == "OutOfTime" and len(v.outcomes) == 1 and v.crashed
    with pytest.raises(ProcessLookupError): os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_is_said_beside_a_failing_input_is_not_called_a_rule_that_it_breaks():
    d, q = DRAFTS["09.q2"], QUESTIONS["09.q2"]
    v = judge(next(f for n, f, _ in d.wrong if n == "divides by n in the variance"), q)   # the difference is right
    rows = dict(v.problem)
    assert "the rule" not in rows and rows["what is wrong"].startswith("value 2 of 2") and rows["what it tests"] == "Difference and error both rest on one rate a day."
    by_heart = judge(lambda sd, delta, alpha, power: 16*(sd/delta)**2, QUESTIONS["09.q1"])
    assert by_heart.passed[:2] == [True, False] and dict(by_heart.problem)["what it tests"] == "Where thousands are needed, a constant known by heart is not exact enough."
    case = next(c for c in QUESTIONS["09.q1"].cases if c.name == "just above a whole number").arguments()
    exact = 2*((2.8070338 if case["alpha"] != .05 else 1.9599640 + 1.2815516)*case["sd"]/case["delta"])**2
    assert 0 < exact % 1 < .1


def test_no_word_of_a_hint_is_a_name_of_the_code():
    for q in QUESTIONS.values():
        for text in [*q.hints, *(m.hint for m in q.misconceptions)]: assert "as_given" not in text and not re.search(r"\b[a-z]+_[a-z]+\b", re.sub("`.+?`", "", text)), text


# ---- the generated notebooks

def cells(path): return ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def untouched_in_git(path):
    "Whether git holds a file exactly as it is here."
    said = subprocess.run(["git", "status", "--porcelain", "--", path], cwd=ROOT, capture_output=True, text=True)
    return said.returncode == 0 and not said.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "What a solution generates, made once."
    folder = tmp_path_factory.mktemp("made")
    return cache(lambda path: generate(path, folder))


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_generating_gives_the_same_bytes_and_those_that_are_committed(path, made, tmp_path):
    one, two = made(path), generate(path, tmp_path / "two")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    here = [ROOT / "nbs" / "exercises" / p.relative_to(tmp_path / "two") for p in two]
    assert same(*(json.loads(p.read_text()) for p in (one[1], here[1])))
    if untouched_in_git(here[0]): assert one[0].read_bytes() == here[0].read_bytes()   # else a reader is solving it


def test_every_exercise_in_git_comes_from_a_solution():
    known = subprocess.run(["git", "ls-files", "nbs/exercises"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not known: pytest.skip("not a git checkout")
    stems = [p.stem.removesuffix("_solution") for p in SOLUTIONS]
    assert sorted(known) == sorted(f"nbs/exercises/{name}" for stem in stems for name in (f"{stem}.ipynb", f".cases/{stem}.json"))


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_the_students_notebook_holds_no_solution_no_mistake_and_no_author_cell(path, made):
    exercise, facts = made(path)
    text = "\n".join(cells(exercise)) + facts.read_text()
    assert "SOLUTION" not in text and "#|" not in text and cells(exercise)[1] == exercises.HOW and cells(exercise)[-1].endswith("\nprogress()")
    drafts = read_solution(path)
    for d in drafts: assert d.solution and not [line for line in d.solution if line in text]
    for kind, _, code, _ in exercise_notebooks._cells(path):
        if kind in ("wrong", "also", "cases", "author"): assert code not in "\n".join(cells(exercise))
        elif kind in ("code", "markdown"): assert code in "\n".join(cells(exercise))
        elif kind == "use": assert textwrap.indent(code, "    ") in "\n".join(cells(exercise))
    assert [c.count("with check(") for c in cells(exercise) if "with check(" in c] == [1, 1]
    # a cell that uses a student's function runs only when it is right
    for c in json.loads(exercise.read_text())["cells"]:
        names = {n.id for n in ast.walk(ast.parse("".join(c["source"]))) if isinstance(n, ast.Name)} if c["cell_type"] == "code" else set()
        used = [d.name for d in drafts if d.function.__name__ in names]
        assert not used or f'if solved("{used[0]}"):' in "".join(c["source"])


def fill(path, name, function):
    "A student's notebook with one stub replaced."
    nb = json.loads(path.read_text(encoding="utf-8"))
    for c in nb["cells"]:
        c["source"] = "".join(c["source"])
        if f'with check("{name}")' in c["source"]: c["source"] = "from mlscale.exercises import check\n" + block(name, function)
    return nb


def test_a_student_solves_the_first_exercise_in_a_fresh_kernel(tmp_path, home):
    import nbformat
    from nbclient import NotebookClient
    nb = fill(ROOT / "nbs" / "exercises" / "00_data.ipynb", "00.q1", EARLY)
    stop = next(i for i, c in enumerate(nb["cells"]) if 'check("00.q2")' in c["source"]) + 1
    nb = nbformat.from_dict({**nb, "cells": [*nb["cells"][:stop], nb["cells"][-1]]})
    NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [o["data"] for c in nb.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    assert any("00.q1: right. All 6 inputs, 4 of 4 points, 1 try." in d.get("text/html", "") and "Chapter 00: 1 of 2 solved" in d["text/plain"] for d in shown)
    assert any("00.q2: not attempted" in d["text/plain"] for d in shown) and shown[-1]["text/html"].count("<td>yes</td>") == 1 and "1 of 28 solved" in shown[-1]["text/html"]
    assert kept(home) == {"00.q1": {"tries": 1, "points": 4, "right": True, "last": kept(home)["00.q1"]["last"]}}


@pytest.mark.slow
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_with_both_exercises_solved_the_whole_notebook_runs(path, tmp_path, home):
    import nbformat
    from nbclient import NotebookClient
    nb = json.loads((ROOT / "nbs" / "exercises" / path.name.replace("_solution", "")).read_text(encoding="utf-8"))
    solved = iter([block(d.name, code) for d, code in zip(read_solution(path), [c for kind, _, c, _ in exercise_notebooks._cells(path) if kind == "exercise"], strict=True)])
    for c in nb["cells"]: c["source"] = "from mlscale.exercises import check\n" + next(solved) if "with check(" in "".join(c["source"]) else "".join(c["source"])
    nb = nbformat.from_dict(nb)
    NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(kept(home)) == 2 and all(q["right"] for q in kept(home).values()) and nb.cells[-1].outputs[0]["data"]["text/html"].count("<td>yes</td>") == 2


@pytest.fixture
def notebooks(monkeypatch):
    "The project's checks of its notebooks, a file of its own beside the tests."
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    return importlib.import_module("notebooks")


def test_the_checks_of_the_project_regenerate_and_compare(tmp_path, notebooks, monkeypatch):
    for name in ("SOLUTIONS", "EXERCISES"): monkeypatch.setattr(notebooks, name, shutil.copytree(ROOT / "nbs" / name.lower(), tmp_path / name.lower()))
    folder = notebooks.EXERCISES
    for gone in (notebooks.SOLUTIONS / "01_features_solution.ipynb", folder / "01_features.ipynb", folder / ".cases" / "01_features.json"): gone.unlink()   # four will do
    for path in notebooks.SOLUTIONS.glob("*.ipynb"): generate(path, folder)   # a reader may be solving those that are there
    assert notebooks.check_exercises() == []
    changed = json.loads((folder / "00_data.ipynb").read_text())
    changed["cells"][3]["source"][0] = "another question"
    (folder / "00_data.ipynb").write_text(json.dumps(changed))
    facts = folder / ".cases" / "11_schedules.json"
    facts.write_text(facts.read_text().replace("0.25", "0.26"))
    (folder / ".cases" / "55_left.json").write_text("{}")
    (folder / "09_experiments.ipynb").unlink()
    (folder / "10_sequential.ipynb").write_text("{")
    found = "\n".join(notebooks.check_exercises())
    for name in ("00_data.ipynb", ".cases/11_schedules.json", "09_experiments.ipynb", "10_sequential.ipynb"):
        stem = Path(name).stem
        assert f"exercises/{name} is not what its solution generates: python3 workbook.py refresh nbs/solutions/{stem}_solution.ipynb" in found
    assert "exercises/.cases/55_left.json comes from no solution: delete it" in found and len(found.splitlines()) == 5
    broken = notebooks.SOLUTIONS / "11_schedules_solution.ipynb"
    for path in notebooks.SOLUTIONS.glob("*.ipynb"): path == broken or path.unlink()
    broken.write_text(broken.read_text().replace("### BEGIN SOLUTION", "### BEGIN"))
    assert "11_schedules_solution.ipynb: no exercise can be made of it: 11_schedules_solution.ipynb, q1: no lines between" in "\n".join(notebooks.check_exercises())


def test_what_a_reader_does_in_an_exercise_is_no_finding(tmp_path, notebooks):
    made, _ = generate(ROOT / "nbs" / "solutions" / "00_data_solution.ipynb", tmp_path / "made")
    solved = fill(made, "00.q1", EARLY)
    solved["metadata"]["language_info"] = {"name": "python"}
    for c in solved["cells"]:
        if c["cell_type"] == "code": c |= {"execution_count": 3, "outputs": [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]}
    own = {"cell_type": "code", "id": "mine", "metadata": {}, "execution_count": 1, "outputs": [], "source": DRAFTS["00.q1"].solution[0]}
    solved["cells"][5:5] = [own]
    reader = tmp_path / "reader.ipynb"
    reader.write_text(json.dumps(solved))
    assert notebooks.alike(made, reader)
    for gone in (0, 6, len(solved["cells"]) - 1):   # what was handed out is still compared
        reader.write_text(json.dumps({**solved, "cells": [c for i, c in enumerate(solved["cells"]) if i != gone]}))
        assert not notebooks.alike(made, reader), gone
    moved = [solved["cells"][1], solved["cells"][0], *solved["cells"][2:]]
    reader.write_text(json.dumps({**solved, "cells": moved}))
    assert not notebooks.alike(made, reader)


def test_refreshing_a_solution_generates_its_exercise(tmp_path, notebooks, monkeypatch):
    monkeypatch.setattr(notebooks, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(notebooks, "EXERCISES", tmp_path / "exercises")
    notebooks.SOLUTIONS.mkdir()
    path = solution(notebooks.SOLUTIONS)
    monkeypatch.setattr(notebooks, "execute", lambda path: (0., None, notebooks.read(path)))
    assert not notebooks.run([path], store=True) and sorted(p.name for p in notebooks.EXERCISES.rglob("77*")) == ["77_sum.ipynb", "77_sum.json"]


def test_solutions_are_run_by_default_and_stubs_are_not(notebooks):
    found = notebooks.find([])
    assert set(SOLUTIONS) <= set(found) and not [p for p in found if p.parent.name == "exercises"]
    assert [p.name for p in notebooks.find(["00_data"])] == ["00_data.ipynb"] and [p.name for p in notebooks.find(["solutions/00"])] == ["00_data_solution.ipynb"]


# ---- what the author is told

def solution(tmp_path, change=lambda s: s, name="77_sum_solution.ipynb", drop=None):
    sources = ["# Sums\n\n> One exercise.", "import numpy as np", "## q1: a sum", """#| exercise: q1 points=2 minutes=5
#| hint: general
#| hint: specific
def total(x: list) -> float:
    "The sum."
    ### BEGIN SOLUTION
    return float(np.sum(x))
    ### END SOLUTION""", """#| cases: q1
cases = [("two", dict(x=[1, 2]), "All count."), ("none", dict(x=[]), "Nothing is zero."), ("below zero", dict(x=[-3]), "Signs count.")]""",
        '#| eval: false\n#| wrong: q1 "forgets the sign"\n#| hint: What about debts?\ndef total(x): return sum(map(abs, x))',
        '#| eval: false\n#| wrong: q1 "first"\n#| hint: And the others?\ndef total(x): return x[0] if x else 0',
        '#| eval: false\n#| also: q1 "built in"\ndef total(x): return sum(x)',
        '#| eval: false\n#| also: q1 "what is not zero"\ndef total(x):\n    return sum(v for v in x if v)']
    kinds = ["markdown", "code", "markdown", *["code"] * 6]
    bare = {"code": {"outputs": [], "execution_count": None}, "markdown": {}}
    cells = [{"cell_type": k, "metadata": {}, "source": change(s), **bare[k]} for k, s in zip(kinds, sources, strict=True)]
    nb = {"cells": [c for i, c in enumerate(cells) if i != drop], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / name).write_text(json.dumps(nb))
    return tmp_path / name


def test_a_small_solution_is_read_whole(tmp_path):
    (d,) = read_solution(solution(tmp_path))
    assert isinstance(d, Draft) and (d.name, d.title, d.points, d.minutes, d.hints) == ("77.q1", "a sum", 2, 5, ("general", "specific"))
    assert d.solution == ("return float(np.sum(x))", "return sum(v for v in x if v)")
    assert d.stub == '# a sum: 2 points, about 5 minutes\nfrom mlscale.exercises import check\nwith check("77.q1"):\n    def total(x: list) -> float:\n        "The sum."\n        ...  # your code'
    paths = generate(solution(tmp_path), tmp_path / "out")
    assert [str(p.relative_to(tmp_path / "out")) for p in paths] == ["77_sum.ipynb", ".cases/77_sum.json"] and d.names == ("np",) and question(d) == questions(paths[1])["77.q1"]


@pytest.mark.parametrize("old, new, message", [
    ("points=2 minutes=5", "points=2", "should say points=... minutes=..."),
    ("### BEGIN SOLUTION", "# begin", "no lines between"),
    ("#| cases: q1", "#| cases: q2", "'#| cases: q2' belongs to no exercise; there are q1"),
    ("#| cases: q1", "#| cases: one", "names no question"),
    ("#| hint: specific\n", "", "at least two hints"),
    ("#| hint: And the others?\n", "", "'first' needs one '#| hint:'"),
    ("x[0] if x else 0", "sum(x)", "no case catches 'first'"),
    ("x[0] if x else 0", "sum(map(abs, x))", "the cases cannot tell"),
    ("def total(x): return sum(x)", "def total(x): return 5", "the right solution 'built in' is not accepted"),
    ("def total(x): return sum(x)", "def other(x): return sum(x)", "no function total"),
    ("#| eval: false\n#| also", "#| also", "also needs '#| eval: false'"),
    ("And the others?", "Try return float(np.sum(x)).", "holds a line of the solution"),
    ('"All count."', '"Do return float(np.sum(x))."', "holds a line of the solution"),
    ("> One exercise.", "return float(np.sum(x))", "the exercise would hold a line of the solution"),
    ("dict(x=[1, 2])", "dict(x=[1, 2/0])", "its cases raise ZeroDivisionError"),
    ("dict(x=[1, 2])", "dict(x={1, 2})", "an input of type set cannot be stored"),
    ("#| exercise: q1 points=2 minutes=5", "x = 1", "'#| hint: general' is no directive"),
    ("#| also: q1", "#| alos: q1", "'#| alos' is unknown"),
    ("#| also: q1", "#| Also: q1", "'#| Also' is unknown"),
    ("#| eval: false\n#| also: q1", "#|| also: q1", "is unknown, empty or out of place"),
    ("#| eval: false\n#| also: q1", "#  | also: q1", "'#  | also: q1 \"built in\"' is no directive"),
    ("#| eval: false\n#| also: q1", "\n#| eval: false\n#| also: q1", "'#| eval: false' is no directive"),
    ("#| eval: false\n#| also: q1 \"built in\"\n", "", "a cell for students defines 'total'"),
    ("import numpy as np", "import numpy as np\ntotal = lambda x: float(np.sum(x))", "a cell for students defines 'total'"),
    ("#| also: q1 \"built in\"\n", "", "'#| eval' is unknown, empty or out of place"),
    ("#| also: q1", "#| also: q2", "'#| also: q2' belongs to no exercise"),
    ("#| wrong: q1 \"first\"", "#| wrong: q9 \"first\"", "'#| wrong: q9' belongs to no exercise"),
    ("#| wrong: q1 \"first\"", "#| wrong: q1 first", "should be wrong: q1 \"a few words\""),
    ("#| wrong: q1 \"first\"", "#| wrong: q1", "should be wrong: q1 \"a few words\""),
    ("#| wrong: q1 \"first\"", "#| wrong: q1 \"forgets the sign\"", "'#| wrong q1 forgets the sign' is there twice"),
    ("#| hint: And the others?", "#| hnt: And the others?", "'#| hnt' is unknown"),
    ("#| hint: And the others?", "#| hint:", "'#| hint' is unknown, empty"),
    ("#| cases: q1", "#| cases: q1 more", "should be cases: q1"),
    ("points=2 minutes=5", "points=2 minutes=5 pionts=3", "should say points=... minutes=..."),
    ("points=2 minutes=5", "points=0 minutes=5", "should say points=... minutes=..."),
    ("### END SOLUTION", "### END SOLUTION\n    ### BEGIN SOLUTION\n    x = 1", "'### BEGIN SOLUTION' is left in what students get"),
    ("### END SOLUTION", "### END SOLUTION\n    ###BEGIN SOLUTON", "'###BEGIN SOLUTON' is left in what students get"),
    ("import numpy as np", "import numpy as np\n### BEGIN SOLUTION", "'### BEGIN SOLUTION' outside of an exercise"),
    ("# Sums", "<!-- auhtor -->", "'<!-- auhtor -->' is unknown"),
    ("> One exercise.", "return sum(v for v in x if v)", "the exercise would hold a line of the solution"),
    ("And the others?", "Try return sum(v for v in x if v).", "holds a line of the solution"),
    ("cases = [", "case = [", "'cases' should be a list of"),
    ("dict(x=[1, 2])", "dict(y=[1, 2])", "the case 'two' does not fit the function"),
    ("(\"none\"", "(\"two\"", "two cases have the same name"),
    ("return x[0] if x else 0", "return x[0] if x els 0", "in line 1 of"),
    ("return float(np.sum(x))", "return map(float, x)", "the solution has no answer to 'two': Incomparable"),
    ("return float(np.sum(x))", "return float(np.sum(", "in line"),
    ("#| exercise: q1", "#| cases: q1\n#| exercise: q1", "in one cell"),
])
def test_the_author_is_told_what_is_wrong_and_where(tmp_path, old, new, message):
    path = solution(tmp_path, lambda s: s.replace(old, new))
    with pytest.raises((ValueError, TypeError), match=re.escape(message)): generate(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("drop, message", [(3, "no cell begins with '#| exercise: q1"), (4, "no cell '#| cases: q1'"), (7, "at least one 'wrong' and one 'also'")])
def test_a_missing_part_is_named(tmp_path, drop, message):
    path = solution(tmp_path, drop=drop)
    nb = json.loads(path.read_text())
    path.write_text(json.dumps({**nb, "cells": [c for c in nb["cells"] if "what is not zero" not in c["source"]]}))
    with pytest.raises(ValueError, match=re.escape(message)): generate(path, tmp_path / "out")


@pytest.mark.parametrize("source", ["#| exercise: q1 points=2 minutes=5\ndef total(x):\n    ### BEGIN SOLUTION\n    return 0\n    ### END SOLUTION", "#| cases: q1\ncases = []",
    "#| eval: false\n#| also: q1 \"built in\"\ndef total(x): return sum(x)"])
def test_what_stands_there_twice_is_refused(tmp_path, source):
    path = solution(tmp_path)
    nb = json.loads(path.read_text())
    nb["cells"].append({"cell_type": "code", "metadata": {}, "source": source})
    path.write_text(json.dumps(nb))
    with pytest.raises(ValueError, match="is there twice"): read_solution(path)


def test_a_stub_that_is_right_is_refused(tmp_path):
    path = solution(tmp_path)
    nb = json.loads(path.read_text())
    nb["cells"].append({"cell_type": "code", "metadata": {}, "source": "#| eval: false\n#| stub: q1\ndef total(x):\n    return sum(x)"})
    path.write_text(json.dumps(nb))
    with pytest.raises(ValueError, match="the stub answers every case rightly"): generate(path, tmp_path / "out")


@pytest.mark.parametrize("name, text", [("sum.ipynb", "{}"), ("77_sum.ipynb", "{}"), ("77_sum_solution.ipynb", "{broken"), ("77_sum_solution.ipynb", "[]"), ("77_gone_solution.ipynb", None)])
def test_what_is_no_solution_is_refused(tmp_path, name, text):
    if text is not None: (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="named NN_topic_solution.ipynb|not a readable notebook"): read_solution(tmp_path / name)


# ---- comparing

PLAIN = st.recursive(st.none() | st.booleans() | st.integers(-10**9, 10**9) | st.floats(allow_nan=False, width=32) | st.text(max_size=5), lambda s: st.lists(s, max_size=4), max_leaves=8)


@given(PLAIN)
def test_every_plain_answer_is_itself_and_survives_json(x):
    assert plain(x) == x and same(x, x) and difference(x, x) == "" and plain(tuple([x])) == [x]
    assert decode(json.loads(json.dumps(encode(x)))) == x


@given(PLAIN, PLAIN)
def test_two_answers_are_the_same_or_the_difference_is_in_words(x, y):
    assert same(x, y) == (difference(x, y) == "")


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
def test_the_same_goes_both_ways_and_the_difference_does_not_tell_the_number(x, y):
    assert same(x, y) == same(y, x) == math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9)
    assert difference(x, y) in ("", "it is too large", "it is too small")


@pytest.mark.parametrize("one, other", [((1, 2.), np.array([1, 2])), (pd.Series([1, np.nan]), [1, None]), (np.float32(.5), .5), (np.array(3), 3), (pd.NaT, None), (pd.NA, np.nan),
    (pd.Index(["a"]), ["a"]),
                                        (pd.DataFrame({"a": [1, 2]}), {"a": (1, 2)}), (np.bool_(True), True), (pd.Timestamp("2013-01-01", tz="UTC"), "2013-01-01T00:00:00+00:00"),
                                        ({1: np.int64(2)}, {"1": 2}), (range(3), [0, 1, 2]), (Fraction(1, 4), .25), (Decimal("0.5"), .5), (Decimal("nan"), None), (np.longdouble(.5), .5),
    (np.array(["2013-01-01", "NaT"], "datetime64[ns]"), ["2013-01-01T00:00:00", None]), (np.datetime64("2013-01-01"), pd.Timestamp("2013-01-01")),
    (np.array([[60]], "timedelta64[s]"), [[pd.Timedelta(minutes=1)]])])
def test_answers_of_another_style_are_the_same(one, other): assert same(plain(one), plain(other)) and same(plain(other), plain(one))


@pytest.mark.parametrize("one, other", [(1, "1"), ([1], 1), (None, 0), ([], None), ({}, []), (1e-3, 0), ([1, 2], [2, 1]), (float("inf"), 1e300), ("a", "b"), ({"a": 1}, {"b": 1}), ([[1], [2]],
    [[1, 2]]), pytest.param(2**2000, .5, id="huge"), pytest.param(2**2000, 2**1999, id="huger")])
def test_answers_that_differ_are_not_the_same(one, other): assert not same(one, other) and not same(other, one) and difference(one, other) and difference(other, one)


NOON = pd.Timestamp("2013-07-01 12:00", tz="UTC")
HELD_TIMES = {
    "pandas": lambda t: t,
    "datetime": lambda t: t.to_pydatetime(),
    "list": lambda t: [t],
    "array of objects": lambda t: np.array([t, t.to_pydatetime()], object),
    "Series": lambda t: pd.Series([t, None]),
    "seconds": lambda t: pd.Series([t]).dt.as_unit("s"),
    "index": lambda t: pd.DatetimeIndex([t]),
    "table": lambda t: pd.DataFrame({"at": [t]}),
    "key": lambda t: {t: 1},
    "columns": lambda t: pd.DataFrame({t: [1]}),
    "Arrow": lambda t: pa.array([t], pa.timestamp("us", str(t.tz) if t.tz else None)).to_pandas(),
    "ISO text": lambda t: t.isoformat(),
}


@pytest.mark.parametrize("held", sorted(HELD_TIMES))
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "Etc/GMT-14"])
def test_one_moment_is_one_answer_in_every_zone_and_never_that_of_a_time_without_one(held, zone):
    hold = lambda t: plain(HELD_TIMES[held](t))
    there, here, naive = map(hold, (NOON.tz_convert(zone), NOON, NOON.tz_localize(None)))
    assert same(there, here) and same(here, there)
    assert difference(there, here) == difference(here, there) == ""
    for one, other in ((naive, here), (here, naive)):
        assert not same(one, other)
        said = difference(one, other)
        assert "time zone" in said or held in ("key", "columns") and "columns" in said
    later = hold(NOON.tz_convert(zone) + pd.Timedelta(seconds=1))
    assert not same(later, here)
    assert "too late" in difference(later, here) or held in ("key", "columns")


@pytest.mark.parametrize("one, other", [
    (dt.date(2013, 7, 1), pd.Timestamp("2013-07-01")),
    (dt.datetime(2013, 7, 1, 8), np.datetime64("2013-07-01T08")),
    ([dt.date(2013, 7, 1), None], pd.Series([pd.Timestamp("2013-07-01"), pd.NaT])),
    (pd.Series([dt.date(2013, 7, 1)], dtype="date32[pyarrow]"), [np.datetime64("2013-07-01", "D")]),
    ({dt.date(2013, 7, 1): 1}, {pd.Timestamp("2013-07-01"): 1}),
    (dt.timedelta(minutes=5), pd.Timedelta("5min")),
    (dt.timedelta(minutes=5), np.timedelta64(300, "s")), ([dt.time(6)], ["06:00:00"])])
def test_times_of_python_and_numpy_are_those_of_pandas(one, other):
    assert same(plain(one), plain(other)) and same(plain(other), plain(one))


def test_times_beyond_what_can_be_compared_are_named_and_no_column_is_lost():
    for x in (dt.timedelta.max, np.timedelta64(10**17, "D")):
        with pytest.raises(Incomparable, match="an answer of type timedelta"): plain(x)
    with pytest.raises(Incomparable, match="twice"):
        plain({dt.date(2013, 7, 1): 1, pd.Timestamp("2013-07-01"): 2})
    # what only looks like a time is a word
    assert "another" in difference("2013-99-99T00:00:00", "2013-98-98T00:00:00")
    assert plain(dt.date.max) == "9999-12-31T00:00:00" and plain(pd.NaT) is None


@pytest.mark.parametrize("x", [print, {1, 2}, (i for i in "ab"), ..., object(), 1j, 2**2000, -(10**400), Fraction(10**400), map(abs, [1])], ids=lambda x: type(x).__name__)
def test_an_answer_that_cannot_be_compared_is_named(x):
    with pytest.raises(Incomparable, match=f"an answer of type {type(x).__name__}"): plain(x)


@pytest.mark.parametrize("x", [pd.Series([1., 2.], index=["a", "b"]), pd.Series([1, 2], index=[1, 2]), pd.DataFrame({"a": [1, 2]}, index=[1, 0]), pd.DataFrame({0: [1.]}),
    pd.DataFrame([[1, 2]], columns=["a", "a"]),
    pd.DataFrame(index=[0, 1]), np.zeros((0, 3)), pd.Series(pd.Categorical(["b"], categories=["b", "a"])), pd.Timestamp("2013-07-01", tz="America/New_York"), {1: 2},
    {"a": {1, 2}}, {1, 2}, (1, 2), 1j])
def test_an_input_that_would_not_come_back_as_it_was_is_refused(x):
    with pytest.raises(TypeError, match="would not come back as it was|cannot be stored"): encode(x)


@pytest.mark.parametrize("x", [np.array([1, 2]), np.array([.5, np.nan]), np.array([True, False]), np.array([[1., 2], [3, np.nan]]), pd.Series([1, 2], dtype="int8"), pd.Series(["a", None]),
    pd.Series([1.5, float("inf")]),
                               pd.Series(pd.to_datetime(["2013-07-01 12:00:00.5", None], utc=True)), pd.Series(pd.to_timedelta([5, None], unit="min")), pd.Timestamp("2013-07-01", tz="UTC"),
                               pd.Timestamp("2013-07-01"),
                               pd.Timedelta(microseconds=1), pd.DataFrame({"a": [1, 2], "t": pd.to_datetime(["2013-01-01", "2013-01-02"], utc=True)}), [1, [2., "x"], None],
                               {"at": [pd.Timedelta("5min")], "dict": {"float": 1.5, "": None}}, {}, pd.NaT], ids=repr)
def test_an_input_comes_back_as_it_was_and_new_each_time(x):
    stored = json.dumps(encode(x))
    back, again = decode(json.loads(stored)), decode(json.loads(stored))
    assert type(back) is type(x) and json.dumps(encode(back)) == stored
    if isinstance(x, pd.DataFrame): pd.testing.assert_frame_equal(back, x)
    elif isinstance(x, pd.Series): pd.testing.assert_series_equal(back, x)
    elif isinstance(x, np.ndarray): assert back.dtype == x.dtype and np.array_equal(back, x, equal_nan=x.dtype.kind == "f")
    else: assert back is x is pd.NaT or back == x
    if isinstance(x, (list, dict, np.ndarray, pd.Series, pd.DataFrame)): assert back is not again


# ---- running whatever students write

@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")   # an alarm in a finalizer is lost there; the next one is not
def test_a_loop_that_never_ends_is_stopped_even_if_it_catches_everything():
    def endless(x):
        while True: pass

    def stubborn(x):
        while True:
            try: time.sleep(.01)
            except Exception: pass

    def very_stubborn(x):
        for _ in range(2):
            try:
                while True: time.sleep(.01)
            except BaseException: pass
        while True: time.sleep(.01)

    def swallows(x):
        while True:
            try: np.sort(np.arange(200_000)[::-1])
            except: pass   # noqa: E722

    def slow(): return sum(i for i in range(10**6))

    def swallows_elsewhere(x):
        while True:
            try: slow()
            except BaseException:
                for i in range(20): x += i
                continue
            finally: x = 0

    before, tracer = signal.getsignal(signal.SIGALRM), sys.gettrace()
    for f in (endless, stubborn, very_stubborn, *[swallows, swallows_elsewhere]*3):
        start = time.monotonic()
        assert outcome(f, {"x": 1}, seconds=.2).error == "OutOfTime" and time.monotonic() - start < 60   # they would go on for ever
        assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0 and sys.gettrace() is tracer


def test_a_block_that_swallows_everything_is_left_and_what_follows_is_not_disturbed(capsys, monkeypatch):
    monkeypatch.setattr(time_limit.__wrapped__, "__defaults__", (.2,))
    tracer = sys.gettrace()
    space = run_cell(block("00.q1", """
        n = 0
        while True:
            try: np.sort(np.arange(200_000)[::-1])
            except: n += 1
    """) + "\nafter = sum(i for i in range(10**5))")
    assert space["n"] >= 1 and space["after"] == sum(range(10**5)) and sys.gettrace() is tracer
    assert "the cell stopped. line " in (out := capsys.readouterr().out) and "OutOfTime: not done after 0.2 seconds" in out


def test_an_alarm_after_the_end_disturbs_nobody():
    for _ in range(200):
        try:
            with time_limit(.0005):
                for _ in range(2000): pass
        except OutOfTime: pass
    time.sleep(.05)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_after_an_input_that_ran_out_of_time_no_more_are_tried():
    q, calls = QUESTIONS["00.q1"], []
    def slow(late, label_time, at):
        calls.append(1)
        if len(calls) < 3: return DRAFTS["00.q1"].function(late, label_time, at)
        while True: pass
    v = judge(slow, q, seconds=.2)
    assert len(calls) == 3 and v.passed == [True, True, False, False, False, False] and v.points == q.points * 2 // 6 and "not done after 0.2 seconds" in repr(v)


def test_in_another_thread_there_is_no_limit_and_no_error():
    found = []
    def work():
        with time_limit(.05): time.sleep(.2)
        found.append(outcome(lambda: 7, {}).value)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [7]


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, True, "1", None])
def test_a_limit_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds="), time_limit(seconds): pass


def test_the_block_explains_the_line_that_raised(capsys, home):
    run_cell(block("00.q1", "a = 1\nb = a/0"))
    out = capsys.readouterr().out
    assert "00.q1: the cell stopped. line 3, `b = a/0`: ZeroDivisionError: division by zero" in out and not (home / "state" / "exercises.json").exists()
    run_cell(block("00.q1", "def early_look(late, label_time, at):\n    return late.mean() + pears"))
    assert "your answer: it raised line 3, `return late.mean() + pears`: NameError: name 'pears' is not defined" in capsys.readouterr().out
    run_cell(block("00.q1", "def early_look(late, at): return 1"))
    assert "unexpected keyword argument 'label_time'" in capsys.readouterr().out


MUTE = "class Mute(BaseException):\n    def __str__(self): raise GeneratorExit"


@pytest.mark.parametrize("code", ["raise GeneratorExit", "def early_look(late, label_time, at): raise GeneratorExit",
    f"{MUTE}\nraise Mute", f"{MUTE}\ndef early_look(late, label_time, at): raise Mute",
    "class Endless(Exception):\n    def __str__(self):\n        while True: pass\nraise Endless",
    "def early_look(late, label_time, at): return 2**2000", "def early_look(late, label_time, at): return 10**9999, 1",
    "raise SystemExit(3)", "def early_look(late, label_time, at): raise SystemExit(3)",
    "def early_look(late, label_time, at): return early_look(late, label_time, at)", "def early_look(**x): return (i for i in x)",
                                  "def early_look(*x): return 1", "class early_look: pass", "early_look = 3", "async def early_look(late, label_time, at): return 1"])
@pytest.mark.filterwarnings("ignore:coroutine")
def test_whatever_is_written_there_is_a_verdict(code, capsys):
    run_cell(block("00.q1", code))
    out = capsys.readouterr().out
    assert out.startswith("00.q1: ") and "right. All" not in out and "For practice only: it counts for no grade." in out


def test_an_endless_loop_in_the_block_itself_is_stopped(capsys, monkeypatch):
    monkeypatch.setattr(time_limit.__wrapped__, "__defaults__", (.2,))
    run_cell(block("00.q1", "while True: pass"))
    assert "the cell stopped. line 2, `while True: pass`: OutOfTime: not done after 0.2 seconds" in capsys.readouterr().out


def test_an_interruption_is_the_users_and_passes_through():
    for code in ("raise KeyboardInterrupt", "def early_look(late, label_time, at): raise KeyboardInterrupt"):
        with pytest.raises(KeyboardInterrupt): run_cell(block("00.q1", code))


def test_the_largest_number_and_the_longest_message_are_a_verdict():
    v = judge(lambda sd, delta, alpha, power: 2**2000, QUESTIONS["09.q1"])
    assert v.status == "wrong" and dict(v.problem)["your answer"] == "of type int beyond 1e308: too large to be compared"
    def shouts(**x): raise ValueError("x"*100_000)
    assert len(repr(judge(shouts, QUESTIONS["09.q1"]))) < 1500 and len(judge(shouts, QUESTIONS["09.q1"]).problem[5][1]) < 600


def test_nan_is_called_nan_and_only_none_asks_for_the_return():
    strict = next(f for n, f, _ in DRAFTS["01.q1"].wrong if n == "ttl exclusive")
    assert dict(judge(strict, QUESTIONS["01.q1"]).problem)["your answer"] == "nan"
    for answer, shown in ((None, "None: does the function end with a return?"), (pd.NaT, "NaT"), (np.float64("nan"), "nan"), ([np.nan, None], "[nan, None]")):
        assert dict(judge(lambda answer=answer, **x: answer, QUESTIONS["01.q1"]).problem)["your answer"] == shown


@pytest.mark.parametrize("answer", [lambda: map(abs, [1]), lambda: (i for i in "ab"), lambda: {1, 2}])
def test_what_cannot_be_compared_was_not_raised(answer):
    said = dict(judge(lambda **x: answer(), QUESTIONS["00.q1"]).problem)["your answer"]
    assert "raised" not in said and said.startswith(f"of type {type(answer()).__name__}: numbers, words, times") and ("`list`" in said) == hasattr(answer(), "__next__")


def test_a_function_may_be_decorated_and_what_is_none_is_named(capsys):
    run_cell(block("00.q1", f"import functools\ndef same(f):\n    @functools.wraps(f)\n    def call(*a, **k): return f(*a, **k)\n    return call\n@same\n{EARLY}"))
    assert "00.q1: right." in capsys.readouterr().out
    run_cell(block("09.q1", "import functools\n@functools.lru_cache\ndef flights_per_group(sd, delta, alpha, power): return 16"))
    assert "09.q1: not yet. 1 of 7 inputs right" in capsys.readouterr().out
    run_cell("import functools\n" + QUESTIONS["09.q1"].stub.replace("    def", "    @functools.cache\n    def"))
    assert "09.q1: not attempted" in capsys.readouterr().out
    run_cell(block("00.q1", "early_look = 3"))
    assert "'early_look' is of type int: write it as a function, with `def`." in capsys.readouterr().out


def test_a_crash_is_no_try_and_gets_no_hint(home):
    q, right = QUESTIONS["00.q1"], DRAFTS["00.q1"].function
    def misspelt(late, label_time, at): return np.mediam(late)
    def lazy(late, label_time, at): return (x for x in late)
    def endless(late, label_time, at):
        while True: pass
    def late_crash(late, label_time, at): return right(late, label_time, at) if len(late) != 3 else 1/0
    for f in (misspelt, lazy, late_crash):
        v = tried(f)
        assert v.crashed and not v.hints and kept(home)["00.q1"]["tries"] == v.tries == 0 and "it is no try" in v.headline
    v = record(judge(endless, q, seconds=.1))
    assert v.crashed and not v.hints and not v.links and v.tries == 0
    assert kept(home)["00.q1"]["points"] == 3   # of the crash that came late
    assert tried(WRONG["strictly before"]).tries == 1 and tried(misspelt).tries == 1 and tried(WRONG["strictly before"]).tries == 1
    # a wrong answer first, and a crash on a later input: a try like others
    def both(late, label_time, at): return (0., 0.) if len(late) == 5 else 1/0
    v = tried(both)
    assert not v.crashed and v.tries == 2 and v.hints == [q.hints[1]]
    # who raises because the mistake does is recognised, as ever
    m = exercises.Misconception("raises", "Why?", (*(c.truth for c in q.cases[:3]), Outcome(error="ZeroDivisionError"), *(c.truth for c in q.cases[4:])))
    v = judge(late_crash, replace(q, misconceptions=(m,)))
    if v.misconception: assert not v.crashed and v.hints == ["Why?"]


def test_the_way_on_is_shown_after_the_last_hint_and_on_success(home, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "nbs" / "exercises")
    q, wrong = QUESTIONS["00.q1"], list(WRONG.values())
    shown = [tried(f).links for f in wrong[:4]]
    assert [bool(links) for links in shown] == [False, False, True, True]
    links = dict(tried(DRAFTS["00.q1"].function).links)
    assert links == dict(shown[2]) == {"solutions": "../solutions/00_data_solution.ipynb", "next: find the defect in a fair judgement": "00_data.ipynb#q2:-find-the-defect-in-a-fair-judgement"}
    for address in links.values(): assert Path(address.split("#")[0]).exists()
    v = record(judge(DRAFTS["00.q2"].function, QUESTIONS["00.q2"]))
    assert dict(v.links)["next: the value as it was known"].startswith("01_features.ipynb#q1:-")
    assert "<a href='../solutions/00_data_solution.ipynb'>solutions</a>" in v._repr_html_() and "solutions: ../solutions/00_data_solution.ipynb" in repr(v)
    assert [words for words, _ in record(judge(DRAFTS["13.q2"].function, QUESTIONS["13.q2"])).links] == ["solutions"]   # the last one
    for name, q in QUESTIONS.items():   # the place is that of a heading
        text = "\n".join(cells(ROOT / "nbs" / "exercises" / f"{next(p.stem for p in (ROOT / 'nbs/exercises').glob(name[:2] + '*.ipynb'))}.ipynb"))
        assert f"\n## {name.split('.')[1]}: {q.title}\n" in f"\n{text}\n"


def test_long_inputs_can_be_seen_whole():
    q = QUESTIONS["00.q1"]
    def misses_the_evening(late, label_time, at): return DRAFTS["00.q1"].function(late, label_time, at) if len(late) < 9 else (0., 0.)
    v = judge(misses_the_evening, q)
    values = q.cases[-1].arguments()["late"]
    whole = ", ".join("nan" if np.isnan(y) else f"{y:.6g}" for y in values)
    page = v._repr_html_()
    assert len(values) > 30 and whole in page and page.count("<details>") == 2 and whole not in repr(v)
    short = judge(lambda late, label_time, at: (0., 0.), q)._repr_html_()   # five values: nothing to open
    assert "<details>" not in short


def test_who_has_not_run_the_imports_is_told_in_words(capsys):
    stub = QUESTIONS["00.q1"].stub
    space = {}
    exec(compile(stub, "cell", "exec"), space)   # the cell alone, in a new kernel
    said = capsys.readouterr().out
    assert "name 'pd' is not defined" in said and "The cell with the imports has not been run in this kernel: run it first" in said
    exec("import numpy as np\nimport pandas as pd\nfrom mlscale.data import load_flights\nfrom mlscale.exercises import example", space)
    exec(compile(stub, "cell", "exec"), space)
    run_cell(block("00.q1", "def early_look(late, label_time, at): return pears"), **space)
    said = capsys.readouterr().out
    assert "not attempted" in said and "name 'pears' is not defined" in said and "imports" not in said


def test_a_cell_that_uses_the_function_waits_for_it(capsys):
    use = 'if solved("00.q1"): print("used")'
    wait = "This cell uses the function of 00.q1: solve that exercise first, then run it again.\n"
    for code, said in (("return 0., 0.", wait), (EARLY.split("\n", 1)[1].replace("    ", ""), "used\n"), ("return pears", wait)):
        run_cell(block("00.q1", "def early_look(late, label_time, at):\n" + textwrap.indent(code, "    ")))
        capsys.readouterr()
        run_cell(use, solved=solved)
        assert capsys.readouterr().out == said
    with pytest.raises(ValueError, match="there is 00.q1"): solved("00.q9")


def test_untouched_cells_of_a_notebook_raise_nothing_and_what_they_said_is_replaced(tmp_path):
    "In a kernel: all cells of the first exercise as given, then the right answer below them."
    import nbformat
    from nbclient import NotebookClient
    nb = json.loads(generate(ROOT / "nbs" / "solutions" / "10_sequential_solution.ipynb", tmp_path)[0].read_text())
    right = block("10.q1", "def stopped_by_then(z, limit): return np.maximum.accumulate(np.abs(z) > limit, axis=1).mean(axis=0)")
    answer = {"cell_type": "code", "id": "mine", "metadata": {}, "execution_count": None, "outputs": [], "source": right}
    nb = nbformat.from_dict({**nb, "cells": [*({**c, "source": "".join(c["source"])} for c in nb["cells"]), answer]})
    NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [[o["data"]["text/plain"] for o in c.outputs if "data" in o] for c in nb.cells if c.cell_type == "code" and "if solved(" in c.source]
    assert said == [["Solved: run this cell again."], ["This cell uses the function of 10.q2: solve that exercise first, then run it again."]]


class Agreeable(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__


class Whole(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__


class Fraction2(float):
    def __eq__(self, other): return True
    def __rsub__(self, other): return 0.
    __sub__ = __abs__ = __rsub__
    __hash__ = float.__hash__


class Many(list):
    def __eq__(self, other): return True
    def __len__(self): return 3


class Moment(dt.datetime):
    def isoformat(self, *_): return Agreeable("now")
    def __eq__(self, other): return True
    __hash__ = dt.datetime.__hash__


def types(x):
    "The types of all parts of a plain value."
    if isinstance(x, list): return {type(x)}.union(*map(types, x))
    if isinstance(x, dict): return {type(x)}.union(*map(types, [*x, *x.values()]))
    return {type(x)}


@pytest.mark.parametrize("lie", [Agreeable("a"), Whole(3), Fraction2(.5), Many([1]), [Agreeable("a")], {Agreeable("a"): Whole(1)}, pd.Series([Agreeable("a")], dtype=object),
    np.array([Whole(3)], object), Moment(2013, 7, 1), np.str_("a"), (Whole(2**70),),
    pd.DataFrame({Agreeable("a"): [Fraction2(1)]}), True, np.bool_(False)], ids=lambda x: type(x).__name__)
def test_an_answer_cannot_bring_its_own_comparison(lie):
    value = plain(lie)
    assert types(value) <= {type(None), bool, int, float, str, list, dict}
    for other in ("b", 4, 7.5, [1, 2, 3], ["b"], {"b": 2}, "2014-07-01T00:00:00", None): assert not same(value, other)
    assert same(value, json.loads(json.dumps(value)))


def test_what_a_student_replaces_changes_no_verdict(capsys, monkeypatch, tmp_path):
    for thing, name in ((math, "isclose"), (math, "isnan"), (np, "isclose"), (np, "allclose"), (np, "array_equal")): monkeypatch.setattr(thing, name, getattr(thing, name))
    code = """
        import io, math, os, sys
        for thing, name in ((math, "isclose"), (np, "isclose"), (np, "allclose"), (np, "array_equal")): setattr(thing, name, lambda *a, **k: True)
        math.isnan = lambda x: False
        def early_look(late, label_time, at):
            sys.stdout = sys.stderr = io.StringIO()
            os.chdir("/")
            return 7., 7.
    """
    streams, folder = (sys.stdout, sys.stderr), Path.cwd()
    run_cell(block("00.q1", code))
    assert (sys.stdout, sys.stderr) == streams and Path.cwd() == folder
    assert "00.q1: not yet. 0 of 6 inputs right" in capsys.readouterr().out


def test_a_function_of_an_earlier_cell_or_of_another_name_is_not_taken(capsys):
    space = run_cell(block("00.q1", EARLY))
    assert "right" in capsys.readouterr().out
    run_cell(block("00.q1", EARLY.replace("early_look", "early")), early_look=space["early_look"])
    assert "The block defines no function 'early_look': keep its name" in capsys.readouterr().out


@pytest.mark.parametrize("name, text", [("00.q9", "there is 00.q1, 00.q2"),
                                        ("66.q1", "no such chapter; there are 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, 10, 11, 12, 13"), ("", "no such chapter"), (None, "no such chapter"), (7,
    "no such chapter"), ("00", "there is 00.q1")])
def test_an_unknown_exercise_is_an_error_before_the_block_runs(name, text):
    with pytest.raises(ValueError, match=re.escape(text)), check(name): raise AssertionError("the block ran")


@pytest.mark.parametrize("number", [0, 7, -1, 1.5, True, None, "1"])
def test_an_unknown_input_is_an_error(number):
    with pytest.raises(ValueError, match="1 to 6"): example("00.q1", number)


def test_judge_refuses_what_is_no_function_and_no_try():
    for f in (None, 3, print, "f"):
        with pytest.raises(TypeError, match="function="): judge(f, QUESTIONS["00.q1"])
    for tries in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match="tries="): judge(DRAFTS["00.q1"].function, QUESTIONS["00.q1"], tries=tries)


def test_a_damaged_file_of_checks_says_how_to_mend_it(tmp_path, monkeypatch):
    generate(solution(tmp_path), tmp_path)
    monkeypatch.chdir(tmp_path)
    for text in ("{", "[]", '{"format": 2, "questions": []}', '{"format": 1, "questions": [{"name": "77.q1"}]}'):
        (tmp_path / ".cases" / "77_sum.json").write_text(text)
        with pytest.raises(ValueError, match="77_sum.json is damaged .* make it anew"), check("77.q1"): pass


def test_exercises_beside_the_notebook_come_first_and_other_json_is_left_alone(tmp_path, monkeypatch, capsys):
    generate(solution(tmp_path), tmp_path)
    (tmp_path / ".cases" / "00_notes.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    run_cell(block("77.q1", "def total(x): return sum(x)"))
    assert "77.q1: right. All 3 inputs, 2 of 2 points, 1 try." in capsys.readouterr().out and example("00.q1", 1)


# ---- what is shown

def test_code_in_an_answer_is_shown_not_run():
    v = judge(lambda **x: "<script>alert(1)</script>", QUESTIONS["00.q1"])
    assert "<script>" not in v._repr_html_() and "&lt;script&gt;" in v._repr_html_() and "<script>" in repr(v)


def test_text_and_html_say_the_same():
    for v in (judge(DRAFTS["00.q2"].wrong[0][1], QUESTIONS["00.q2"], tries=2), judge(DRAFTS["00.q2"].function, QUESTIONS["00.q2"])):
        text = re.sub(r"<[^>]+>", "", v._repr_html_())
        for words in (v.headline, *(w for row in v.problem for w in row)): assert words in repr(v) and html.escape(words.replace("`", "")) in text.replace("`", "")


def test_a_long_or_strange_answer_is_cut():
    assert len(repr(judge(lambda **x: list(range(10**5)), QUESTIONS["00.q1"]))) < 2500
    assert len(repr(judge(lambda **x: "x" * 10**6, QUESTIONS["00.q1"]))) < 2500
    assert len(repr(judge(lambda **x: [["x" * 10**5] * 5] * 5, QUESTIONS["00.q1"]))) < 4000


# ---- progress

def tried(*functions):
    for f in functions: verdict = record(judge(f, QUESTIONS["00.q1"]))
    return verdict


WRONG = {label: f for label, f, _ in DRAFTS["00.q1"].wrong}


def test_tries_are_counted_by_their_answers_points_are_the_best_and_right_stays_right(home):
    strict, zero, whole, right = WRONG["strictly before"], WRONG["zero where nothing is known"], WRONG["uses the outcomes of the whole table"], DRAFTS["00.q1"].function
    assert tried(strict).tries == 1 and tried(strict).tries == 1 and tried(zero).tries == 2
    best = kept(home)["00.q1"]["points"]
    v = tried(whole)
    assert v.tries == 3 and v.points < best == kept(home)["00.q1"]["points"] and v.hints[1] == QUESTIONS["00.q1"].hints[2]
    assert tried(right).tries == 4 and kept(home)["00.q1"]["points"] == 4
    assert tried(strict).tries == 5 and kept(home)["00.q1"] | {"last": ""} == {"tries": 5, "points": 4, "right": True, "last": ""}
    table = progress().exercises
    assert table.loc["00.q1", ["tries", "points", "of", "solved"]].tolist() == [5, 4, 4, "yes"] and list(table.index) == sorted(QUESTIONS) and (table.solved == "yes").sum() == 1


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"format": 1}', '{"format": "1", "exercises": {}}', '{"format": 1, "exercises": {"00.q1": 3}}',
    '{"format": 1, "exercises": {"00.q1": {"tries": "x", "points": 0, "right": true}}}', '{"format": 1, "exercises": {"00.q1": {"tries": -1, "points": 0, "right": true}}}',
    "\x00\xff", "["*100_000, "9"*5000])
def test_a_damaged_file_is_kept_aside_with_a_word_and_counting_goes_on(home, text, capsys):
    (home / "state").mkdir(parents=True)
    path = home / "state" / "exercises.json"
    path.write_text(text)
    assert (progress().exercises.tries == 0).all() and "is damaged" in capsys.readouterr().out and path.read_text() == text
    v = tried(WRONG["strictly before"])
    assert v.tries == 1 and "The file of your progress was damaged: it is kept as exercises.damaged1.json" in v.notes[0] and kept(home)["00.q1"]["tries"] == 1
    assert (home / "state" / "exercises.damaged1.json").read_text() == text and len(tried(WRONG["strictly before"]).notes) == 1
    path.write_text("again" + text)
    assert "kept as exercises.damaged2.json" in tried(WRONG["strictly before"]).notes[0]
    assert [(home / "state" / f"exercises.damaged{i}.json").read_text() for i in (1, 2)] == [text, "again" + text]


def test_what_can_be_read_of_a_damaged_file_is_not_lost(home, capsys):
    (home / "state").mkdir(parents=True)
    good = {"tries": 3, "points": 6, "right": True, "last": "x"}
    (home / "state" / "exercises.json").write_text(json.dumps({"format": 1, "exercises": {"00.q1": 3, "00.q2": good}}))
    assert progress().exercises.loc["00.q2", "solved"] == "yes"
    assert tried(WRONG["strictly before"]).notes[-1].startswith("Chapter 00: 1 of 2 solved.") and kept(home)["00.q2"] == good


def test_a_file_of_another_version_is_left_alone(home, capsys):
    (home / "state").mkdir(parents=True)
    path = home / "state" / "exercises.json"
    path.write_text(text := '{"format": 2, "exercises": {"00.q1": {"stars": 5}}}')
    v = tried(WRONG["strictly before"])
    assert v.notes == ("The file of your progress was written by another version of this workbook: it is left as it is. This try is not kept.", "For practice only: it counts for no grade.")
    assert (progress().exercises.tries == 0).all() and "another version" in capsys.readouterr().out
    assert path.read_text() == text and not list((home / "state").glob("*damaged*"))


@pytest.mark.parametrize("place", ["file", "folder", "closed", "nobody", "gone"])
def test_progress_never_fails_for_its_file(tmp_path, monkeypatch, capsys, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "state" / "exercises.json").mkdir(parents=True)
    (tmp_path / "closed" / "state").mkdir(parents=True)
    monkeypatch.setenv("MLSCALE_HOME", "~no-such-user/x" if place == "nobody" else str(tmp_path / place))
    if place == "closed":
        def refuse(*_, **__): raise PermissionError(13, "Permission denied")
        monkeypatch.setattr(checker.Path, "read_text", lambda path, _read=Path.read_text, **k: refuse() if path.name == "exercises.json" else _read(path, **k))
    table = progress().exercises
    out = capsys.readouterr().out
    assert list(table.index) == sorted(QUESTIONS) and ("Your progress cannot be read (" in out) == (place != "gone")
    v = tried(DRAFTS["00.q1"].function)
    assert v.status == "right" and ("Your progress cannot be kept (" in v.notes[0]) == (place != "gone")


def test_a_damaged_file_of_checks_or_a_folder_that_is_gone_does_not_hide_the_progress(tmp_path, monkeypatch, capsys):
    generate(solution(tmp_path), tmp_path)
    for text in ("{", "["*100_000):
        (tmp_path / ".cases" / "77_sum.json").write_text(text)
        monkeypatch.chdir(tmp_path)
        assert list(progress().exercises.index) == sorted(QUESTIONS) and "77_sum.json is damaged" in capsys.readouterr().out
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert list(progress().exercises.index) == sorted(QUESTIONS) and tried(DRAFTS["00.q1"].function).notes == ("Chapter 00: 1 of 2 solved. For practice only: it counts for no grade.",)


def test_without_a_place_for_it_the_verdict_comes_all_the_same(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "file"))
    run_cell(block("00.q1", EARLY))
    out = capsys.readouterr().out
    assert "00.q1: right." in out and "Your progress cannot be kept (Not a directory)." in out


MANY = """
import sys
from mlscale.exercises import Outcome, Verdict, questions, record
q = questions(sys.argv[1])[sys.argv[2]]
for i in range(40): record(Verdict(q, "wrong", (Outcome(i),)))
"""


def test_two_kernels_at_once_lose_no_try(home):
    file = ROOT / "nbs" / "exercises" / ".cases" / "09_experiments.json"
    pool = [subprocess.Popen([sys.executable, "-c", MANY, file, name], cwd=ROOT) for name in ("09.q1", "09.q2")]
    assert [p.wait() for p in pool] == [0, 0]
    assert {name: q["tries"] for name, q in kept(home).items()} == {"09.q1": 40, "09.q2": 40}
    assert not [p for p in (home / "state").iterdir() if p.name.startswith(".")]


def test_a_verdict_that_is_neither_right_nor_wrong_changes_nothing(home):
    tried(WRONG["strictly before"])
    before = kept(home)
    for status in ("stopped", "not attempted"): assert record(Verdict(QUESTIONS["00.q1"], status)).notes
    assert kept(home) == before and replace(Verdict(QUESTIONS["00.q1"], "stopped"), detail="x").points == 0


def test_a_limit_is_not_an_exception(): assert not issubclass(OutOfTime, Exception)


# ---- limits inside limits, tracers, odd values

def test_a_tracer_of_someone_else_is_given_back():
    def tracer(frame, event, argument):
        for _ in range(200): pass
        return tracer
    def loop(x):
        while True: x + x
    before = sys.gettrace()
    for _ in range(3):
        sys.settrace(tracer)
        try:
            assert "OutOfTime" in outcome(loop, {"x": 1}, seconds=.05).error
            found = sys.gettrace()
        finally: sys.settrace(before)
        assert found is tracer


def test_a_limit_inside_another_leaves_it_armed():
    def nested(x):
        outcome(lambda x: x, {"x": 1})
        start = time.time()
        while time.time() - start < 5: pass
        return 1
    assert "OutOfTime" in outcome(nested, {"x": 1}, seconds=.3).error
    signal.setitimer(signal.ITIMER_REAL, 50)
    try:
        outcome(lambda x: x, {"x": 1})
        assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
    finally: signal.setitimer(signal.ITIMER_REAL, 0)


def test_numbers_of_numpy_are_stored_plainly():
    values = decode(encode(list(np.array([1., np.nan, np.inf]))))
    assert values[0] == 1 and np.isnan(values[1]) and values[2] == np.inf and all(type(v) is float for v in values)


def test_tables_with_a_name_twice_cannot_be_compared():
    for value in (pd.DataFrame([[1, 2]], columns=["a", "a"]), {1: 2, "1": 3}):
        with pytest.raises(Incomparable, match="twice"): plain(value)


def test_messages_that_cannot_be_written_are_escaped():
    def broken(x): raise ValueError("\ud800")
    outcome(broken, {"x": 1}).error.encode("utf-8")
