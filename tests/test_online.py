"Features online: a read never looks ahead or too far back, writes end in one state whatever their order, and what was acknowledged survives a kill."
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale.data import load_flights, load_weather
from mlscale.durable_state import DurableState, PartitionedState, SeenIds, partition
from mlscale.event_log import EventLog, frame, unframe
from mlscale.feature_store import flight_repository, flight_views, repository, rolling_facts
from mlscale.features import RATES, WEATHER
from mlscale.online import _write, materialize, read, write
from mlscale.point_in_time import View, point_in_time_join
from mlscale.rolling import Rolling

START = pd.Timestamp("2013-03-01", tz="UTC")
HOUR, US = pd.Timedelta(hours=1), pd.Timedelta(microseconds=1)

def at(*hours): return pd.DatetimeIndex([START + h*HOUR for h in hours]).as_unit("us")

def facts(event, created=None, key="a", value=None):
    created = event if created is None else created
    return pd.DataFrame({"key": key, "event_timestamp": at(*event), "created_timestamp": at(*created), "value": [float(i) for i in range(len(event))] if value is None else value})

def keys(*some): return pd.DataFrame({"key": list(some)})

def value(store, key, hours, view="v"): return read(store, view, keys(key), START + hours*HOUR)[f"{view}__value"].iloc[0]

@contextlib.contextmanager
def redis():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL, cwd="/")
    try:
        for _ in range(200):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0: break
            time.sleep(.02)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()

@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.needs("redis-server"))])
def online(request):
    "What `repository` takes as `online`: each test that asks for it runs on both."
    if request.param == "sqlite": yield "sqlite"
    else:
        with redis() as address: yield f"redis://{address}"

@pytest.fixture(scope="module")
def stores(tmp_path_factory, online):
    "Repositories in folders of their own; on Redis they share a server, so each has keys of its own."
    return lambda views: repository(tmp_path_factory.mktemp("repository"), views, online=online)

@pytest.fixture(scope="module")
def store(stores): return stores(View("v", facts([0], key="nobody"), "key", 2*HOUR, "value"))

fresh_keys = (f"key {i}" for i in itertools.count())

# Processes of our own, to be killed

LAUNCHER = """
import json, os, sys, warnings
warnings.simplefilter("ignore"); os.environ["FEAST_USAGE"] = "False"
import pandas as pd
from feast import FeatureStore
from mlscale.online import materialize, write
for line in sys.stdin:
    pids = []
    for code in json.loads(line):
        if pid := os.fork(): pids.append(pid)
        else:
            exec(code)
            os._exit(0)
    print(json.dumps(pids), flush=True)
    print(json.dumps([os.waitpid(pid, 0)[1] for pid in pids]), flush=True)
"""

@pytest.fixture(scope="module")
def launcher():
    "A process that has imported all, and forks one for each piece of code it is given."
    p = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    yield p
    p.stdin.close()
    p.wait()

def start(launcher, *codes):
    launcher.stdin.write(json.dumps(codes) + "\n")
    launcher.stdin.flush()
    return json.loads(launcher.stdout.readline())

def ended(launcher): return json.loads(launcher.stdout.readline())

# The read

def test_the_time_to_live_includes_its_end_and_nothing_after(store):
    key = next(fresh_keys)
    write(store, "v", facts([0], key=key))
    assert value(store, key, 2) == 0 and np.isnan(read(store, "v", keys(key), START + 2*HOUR + US)["v__value"].iloc[0])

def test_nothing_from_the_future_by_either_clock(store):
    key = next(fresh_keys)
    write(store, "v", facts([1], [1.5], key=key))
    assert [np.isnan(value(store, key, h)) for h in (.9, 1, 1.4, 1.5)] == [True, True, True, False]
    write(store, "v", facts([3], [2], key=key))   # a forecast
    assert [np.isnan(value(store, key, h)) for h in (2, 2.9, 3)] == [True, True, False]

def test_times_are_kept_to_the_microsecond(store):
    key = next(fresh_keys)
    close = facts([0, 0], key=key).assign(event_timestamp=[START + 2*US, START + US])
    assert write(store, "v", close.iloc[[0]]) == 1 and write(store, "v", close.iloc[[1]]) == 0
    answer = read(store, "v", keys(key), START + HOUR)
    assert answer["v__value"].iloc[0] == 0 and answer["v__event_timestamp"].iloc[0] == START + 2*US

def test_rows_order_index_and_columns_are_kept_and_missing_or_unknown_keys_have_no_value(store):
    a, b = next(fresh_keys), next(fresh_keys)
    write(store, "v", pd.concat([facts([0], key=a, value=[7.]), facts([0], key=b, value=[8.])]))
    asked = pd.DataFrame({"other": [1, 2, 3, 4, 5], "key": [b, None, a, "unknown", b]}, index=[7, 7, 1, 0, 7])
    answer = read(store, "v", asked, START)
    pd.testing.assert_frame_equal(answer[["other", "key"]], asked)
    assert list(answer) == ["other", "key", "v__value", "v__event_timestamp"]
    assert list(answer["v__value"].fillna(-1)) == [8, -1, 7, -1, 8] and list(answer["v__event_timestamp"].isna()) == [False, True, False, True, False]

def test_no_keys_and_only_missing_keys_are_answered(store):
    assert list(read(store, "v", keys().astype(object), START)) == ["key", "v__value", "v__event_timestamp"]
    assert read(store, "v", keys(None, None), START)["v__value"].isna().all()

def test_whole_numbers_stay_keys_where_one_is_missing(stores):
    source = facts([0, 0, 0], key=[7, 8, None])
    served = stores(View("holes", source, "key", None, "value"))
    assert source.key.dtype == float and materialize(served, START)["holes"] == 2 and write(served, "holes", facts([1, 1], key=[7, None])) == 1
    assert list(read(served, "holes", pd.DataFrame({"key": [8, 7, None]}), START + HOUR)["holes__value"].fillna(-1)) == [1, 0, -1]

def test_values_of_all_types_come_back(stores):
    source = facts([0], key="types").assign(whole=2**60 + 1, yes=True, word="JFK", gone=np.nan)
    served = stores(View("types", source, "key", None, ["value", "whole", "yes", "word", "gone"]))
    materialize(served, START)
    row = read(served, "types", keys("types"), START + 10_000*HOUR).iloc[0]
    assert (row["types__whole"], row["types__yes"], row["types__word"]) == (2**60 + 1, True, "JFK") and np.isnan(row["types__gone"])

def test_keys_of_several_columns_and_whole_numbers(stores):
    source = facts([0, 0, 0]).assign(key=["a", "a", "b"], number=[1, 2, 1])
    served = stores([View("pair", source, ["key", "number"], None, "value"), View("single", source.drop_duplicates("number"), "number", None, "value")])
    materialize(served, START)
    asked = pd.DataFrame({"number": [1, 1, 2, 2, np.nan], "key": ["b", "a", "a", "b", "a"]})
    answer = read(served, ["pair", "single"], asked, START)
    assert list(answer["pair__value"].fillna(-1)) == [2, 0, 1, -1, -1] and list(answer["single__value"].fillna(-1)) == [0, 0, 1, 1, -1]

def test_ids_keep_all_their_digits_and_a_float_that_may_be_two_is_refused(tmp_path):
    big, missing = (
        2**53,
        facts([0, 0, 0], key=pd.array([2**53, 2**53 + 1, None], "Int64")).assign(
            order=pd.array([2**60 + 1, None, 3], "Int64")
        ),
    )
    missing.to_parquet(tmp_path / "facts.parquet")
    for source in (missing, tmp_path / "facts.parquet"):
        store = repository(tmp_path / "store", View("v", source, "key", None, ["value", "order"]))
        assert materialize(store, START) == {"v": 2} or source is not missing
        out = read(store, "v", keys(big + 1, big), START)
        assert (
            out["v__value"].tolist() == [1, 0]
            and out["v__order"][1] == 2**60 + 1
            and out["v__order"].isna()[0]
        )
    ids = pd.Series([float(big), np.nan])
    refused = [
        lambda: read(store, "v", pd.DataFrame({"key": ids}), START),
        lambda: write(store, "v", missing.head(2).assign(key=ids)),
        lambda: write(store, "v", missing.head(2).assign(key=ids.astype("category"))),
        lambda: read(store, "v", keys(np.float32(2**24)), START),
        lambda: repository(
            tmp_path / "other", View("v", missing.head(2).assign(key=ids), "key", None, "value")
        ),
        lambda: partition(float(big), 4),
    ]
    refused += [lambda: rolling_facts(COUNT, missing.head(2).assign(key=ids), at(1))]
    for f in refused:
        with pytest.raises(
            ValueError, match=r"2\*\*(53|24) on several whole numbers share one"
        ) as e:
            f()
        assert len(str(e.value)) < 300

@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda f: f.assign(value="much"),
            "column 'value' holds object, the view is stored as DOUBLE",
        ),
        (lambda f: f.assign(value=True), "'value'"),
        (lambda f: f.assign(n=1.5), "column 'n'"),
        (lambda f: f.assign(n=float(2**53)), "column 'n'"),
        (lambda f: f.assign(value=2**53 + 1), "column 'value'"),
        (
            lambda f: f.assign(
                event_timestamp=f.event_timestamp.dt.as_unit("ns") + pd.Timedelta(1, "ns")
            ),
            "event_timestamp holds parts of a microsecond",
        ),
        (lambda f: pd.concat([f, f[["value"]]], axis=1), "'value' are there twice"),
        (lambda f: f.to_dict("list"), "facts: a DataFrame"),
        (lambda f: f.assign(key=START), "key"),
        (lambda f: f.assign(key=b"a"), "key"),
    ],
)
def test_facts_that_the_view_would_store_otherwise_are_refused(tmp_path_factory, change, words):
    store = repository(
        tmp_path_factory.mktemp("typed"),
        View("v", facts([0]).assign(n=1), "key", None, ["value", "n"]),
    )
    with pytest.raises((TypeError, ValueError), match=words) as e:
        write(store, "v", change(facts([0]).assign(n=1)))
    assert len(str(e.value)) < 300 and np.isnan(value(store, "a", 1))

def test_whole_numbers_of_any_width_are_stored_as_the_view_declares_them(stores):
    served = stores(
        View(
            "widths",
            facts([0], key="widths").assign(n=1, flag=True, word="a"),
            "key",
            None,
            ["value", "n", "flag", "word"],
        )
    )
    for i, type_ in enumerate(
        (np.int8, np.uint64, np.float32, "Int64", "Float64", "category", "int64[pyarrow]", object)
    ):
        assert (
            write(
                served,
                "widths",
                facts([i], key="widths").assign(
                    n=pd.Series([i]).astype(type_),
                    value=pd.Series([i]).astype(type_),
                    flag=i > 3,
                    word=str(i),
                ),
            )
            == 1
        )
        row = read(served, "widths", keys("widths"), START + 20 * HOUR).iloc[0]
        assert (
            row["widths__n"],
            row["widths__value"],
            row["widths__flag"],
            row["widths__word"],
        ) == (i, i, i > 3, str(i))
    some = facts([30, 30, 31], key=["x", "y", "widths"]).assign(
        n=pd.array([1, None, None], "Int64"),
        flag=pd.array([True, None, None], "boolean"),
        word=["a", None, None],
    )
    assert write(served, "widths", some) == 3
    rows = read(served, "widths", keys("x", "y", "widths"), START + 40 * HOUR)
    assert (
        rows["widths__n"].fillna(-1).tolist() == [1, -1, -1]
        and rows["widths__flag"].tolist() == [True, None, None]
        and rows["widths__word"].tolist() == ["a", None, None]
    )

def test_a_read_is_exact_to_the_nanosecond_and_in_far_years(stores):
    served = stores(View("edge", facts([0], key="edge"), "key", HOUR, "value"))
    materialize(served, START)
    ns = pd.Timedelta(1, "ns")
    seen = [
        read(served, "edge", keys("edge"), t)["edge__value"].notna().item()
        for t in (START.as_unit("ns") - ns, START, START + HOUR, (START + HOUR).as_unit("ns") + ns)
    ]
    assert seen == [False, True, True, False]
    assert (
        read(served, "edge", keys("edge"), pd.Timestamp("9999-12-31", tz="UTC"))["edge__value"]
        .isna()
        .all()
    )
    with pytest.raises(ValueError, match="ttl.*parts of a microsecond"):
        stores(View("edge", facts([0]), "key", pd.Timedelta(500, "ns"), "value"))

def test_a_column_of_the_keys_is_not_hidden_by_an_answer(store):
    with pytest.raises(ValueError, match="v__value"):
        read(store, "v", keys("a").assign(v__value=1), START)
    with pytest.raises(ValueError, match="keys: columns 'key' are there twice"):
        read(store, "v", pd.concat([keys("a"), keys("b")], axis=1), START)

# The write

FACT = st.tuples(st.integers(0, 3), st.integers(0, 3))   # event and created; its value is a function of both, so no two contradict each other

def state(store, key): return read(store, "v", keys(key), START + 4*HOUR).drop(columns="key").astype(object).where(lambda f: f.notna(), None).iloc[0].tolist()

@settings(max_examples=25, deadline=None)
@given(st.lists(FACT, min_size=1, max_size=6), st.randoms(use_true_random=False), st.integers(1, 3))
def test_any_order_of_pushes_ends_in_the_state_of_the_sorted_order(store, pushed, random, size):
    expected = max(pushed)
    ends = []
    for order in (sorted(pushed), random.sample([*pushed, *pushed], 2*len(pushed))):
        key = next(fresh_keys)
        for i in range(0, len(order), size):
            some = order[i:i + size]
            write(store, "v", facts([e for e, _ in some], [c for _, c in some], key=key, value=[float(10*e + c) for e, c in some]))
        ends.append(state(store, key))
    fresh = expected[0] >= 2   # within two hours of the read
    assert ends[0] == ends[1] == ([10.*expected[0] + expected[1], START + expected[0]*HOUR] if fresh else [None, None])

def test_a_correction_replaces_and_its_original_sent_again_does_not(store):
    key = next(fresh_keys)
    assert [write(store, "v", facts([0], [c], key=key, value=[float(c)])) for c in (0, 1, 0, 1)] == [1, 1, 0, 0]
    assert value(store, key, 1) == 1

def test_contradictions_are_refused_and_nothing_of_the_call_is_written(store):
    a, b = next(fresh_keys), next(fresh_keys)
    write(store, "v", facts([0], key=a, value=[1.]))
    for other in (facts([0], key=a, value=[2.]), facts([0], key=a, value=[np.nan])):
        with pytest.raises(ValueError, match="later created_timestamp"): write(store, "v", pd.concat([facts([1], key=b), other]))
    with pytest.raises(ValueError, match="both times equal"): write(store, "v", facts([0, 0], key=b))
    assert value(store, a, 0) == 1 and np.isnan(value(store, b, 1))

def test_rows_without_a_key_are_left_out_and_duplicates_count_once(store):
    key = next(fresh_keys)
    assert write(store, "v", pd.concat([facts([0], key=key)]*2 + [facts([0], key=None)])) == 1
    assert write(store, "v", facts([0], key=None)) == 0

def test_a_missing_value_is_a_value(store):
    key = next(fresh_keys)
    write(store, "v", facts([0], key=key, value=[1.]))
    assert [write(store, "v", facts([1], key=key, value=[np.nan])) for _ in range(2)] == [1, 0] and np.isnan(value(store, key, 1))

def test_writers_in_two_processes_leave_the_newest(tmp_path, launcher):
    store = repository(tmp_path, View("v", facts([0], key="nobody"), "key", None, "value"))
    code = f"""
store = FeatureStore(repo_path={str(tmp_path)!r})
for i in range(MINE, 60, 2):
    t = pd.DatetimeIndex([pd.Timestamp("2013-03-01", tz="UTC") + pd.Timedelta(seconds=i)]*3).as_unit("us")
    write(store, "v", pd.DataFrame({{"key": ["a", "b", "c"], "event_timestamp": t, "created_timestamp": t, "value": float(i)}}))
"""
    start(launcher, code.replace("MINE", "0"), code.replace("MINE", "1"))
    seen = []
    while select.select([launcher.stdout], [], [], 0)[0] == []:
        newest = read(store, "v", keys("a"), START + HOUR)["v__value"].iloc[0]
        if not np.isnan(newest): seen.append(newest)
    assert ended(launcher) == [0, 0] and list(read(store, "v", keys("a", "b", "c"), START + HOUR)["v__value"]) == [59.]*3
    assert len(set(seen)) > 3 and seen == sorted(seen)

# Materialization

def history(seed, n=300):
    rng = np.random.default_rng(seed)
    drawn = {"key": rng.choice([f"{seed}{k}" for k in "abcd"], n), "event": rng.integers(0, 100, n), "lag": rng.choice([0, 0, 1, 5, 30], n), "value": rng.normal(size=n)}
    table = pd.DataFrame(drawn).drop_duplicates(["key", "event", "lag"])
    return table.assign(event_timestamp=at(*table.event), created_timestamp=at(*(table.event + table.lag)))[["key", "event_timestamp", "created_timestamp", "value"]]

@pytest.mark.parametrize("seed", range(3))
def test_reads_after_each_run_are_the_point_in_time_join(stores, seed):
    view = View("v", history(seed), "key", 8*HOUR, "value")
    served, rng = stores(view), np.random.default_rng(seed)
    asked, found = keys(*sorted(view.source.key.unique()), "unknown"), 0
    for tick in np.sort(rng.uniform(0, 110, 12)):
        moment = (START + tick*HOUR).floor("us")
        materialize(served, moment)
        online = read(served, "v", asked, moment)["v__value"].astype(float)
        offline = point_in_time_join(asked.assign(event_timestamp=pd.DatetimeIndex([moment]*len(asked)).as_unit("us")), view)["v__value"].astype(float)
        np.testing.assert_array_equal(online, offline)
        found += online.notna().sum()
    assert 10 < found < 60

def test_a_run_takes_what_became_known_since_the_last_one_also_late_facts(stores):
    served = stores(View("late", facts([0, 1, 3], [0, 5, 3], key="late"), "key", None, "value"))
    assert [materialize(served, START + h*HOUR)["late"] for h in (0, 2, 4, 6, 6)] == [1, 0, 1, 0, 0]
    assert value(served, "late", 6, "late") == 2
    alone = stores(View("alone", facts([0, 1], [0, 5], key="alone"), "key", None, "value"))
    assert [materialize(alone, START + h*HOUR)["alone"] for h in (0, 2, 5)] == [1, 0, 1] and value(alone, "alone", 5, "alone") == 1

def test_runs_may_be_repeated_and_go_back(stores):
    served = stores(View("again", facts([0, 1], key="again"), "key", None, "value"))
    assert materialize(served, START + HOUR) == {"again": 1} and materialize(served, START, since=START - HOUR) == {"again": 0}
    assert materialize(served, START + HOUR, views="again", since=START - HOUR) == {"again": 0} and value(served, "again", 1, "again") == 1

def agrees(store, view, hours, *some):
    "The store's answers are those of the join over the view's facts."
    moment = START + hours * HOUR
    asked = keys(*some)
    online = read(store, view.name, asked, moment)[f"{view.name}__value"].astype(float)
    offline = point_in_time_join(
        asked.assign(event_timestamp=pd.DatetimeIndex([moment] * len(asked)).as_unit("us")), view
    )[f"{view.name}__value"].astype(float)
    np.testing.assert_array_equal(online, offline)

def history_of(*rows, created=False, name="v"):
    table = facts(
        [e for _, e, *_ in rows],
        [c for *_, c in rows] if created else None,
        key=[k for k, *_ in rows],
        value=[10.0 * e for _, e, *_ in rows],
    )
    return View(
        name, table if created else table.drop(columns="created_timestamp"), "key", None, "value"
    )

def test_a_row_that_comes_late_without_saying_so_reaches_the_store(tmp_path):
    first, second = history_of(("a", 1), ("b", 1)), history_of(("a", 1), ("b", 1), ("c", 1.5))
    assert materialize(repository(tmp_path, first), START + 2 * HOUR) == {"v": 2}
    store = repository(tmp_path, second)
    assert materialize(store, START + 3 * HOUR) == {"v": 1} and materialize(
        store, START + 3 * HOUR
    ) == {"v": 0}
    agrees(store, second, 3, "a", "b", "c")

def test_so_does_one_whose_created_time_was_stamped_before_the_last_run(tmp_path):
    first, second = (
        history_of(("a", 1, 1), created=True),
        history_of(("a", 1, 1), ("b", 1, 1.5), created=True),
    )
    materialize(repository(tmp_path, first), START + 2 * HOUR)
    store = repository(tmp_path, second)
    materialize(store, START + 3 * HOUR)
    agrees(store, second, 3, "a", "b")

def test_a_run_far_ahead_hides_nothing_that_comes_later(tmp_path):
    materialize(repository(tmp_path, history_of(("a", 1))), pd.Timestamp("9999-12-31", tz="UTC"))
    for rows in (
        (("a", 1), ("a", 5), ("b", 5), ("c", 7)),
        (("a", 1), ("a", 5), ("b", 5), ("c", 7), ("d", 2)),
    ):
        store = repository(tmp_path, view := history_of(*rows))
        for hours in (
            6,
            8,
        ):  # the second run goes by the end of the first, not of the one far ahead
            materialize(store, START + hours * HOUR)
            agrees(store, view, hours, "a", "b", "c", "d")

def test_the_same_history_set_up_again_is_not_read_again(tmp_path, monkeypatch):
    view = history_of(("a", 1), ("b", 5))
    materialize(repository(tmp_path, view), START + 2 * HOUR)
    store, seen, before = repository(tmp_path, view), [], _write
    monkeypatch.setattr(
        "mlscale.online._write",
        lambda store, view, facts, added: (
            seen.append(len(facts)) or before(store, view, facts, added)
        ),
    )
    materialize(store, START + 6 * HOUR)
    materialize(store, START + 7 * HOUR)
    assert seen == [1]

def test_a_run_over_a_part_does_not_pass_for_one_over_everything(tmp_path):
    materialize(repository(tmp_path, history_of(("a", 1))), START + 2 * HOUR)
    store = repository(tmp_path, view := history_of(("a", 1), ("b", 1), ("c", 5)))
    assert materialize(store, START + 6 * HOUR, since=START + 4 * HOUR) == {"v": 1}
    assert materialize(store, START + 6 * HOUR) == {"v": 1}
    agrees(store, view, 6, "a", "b", "c")

def test_an_emptied_store_is_filled_again(tmp_path):
    view = history_of(("a", 1), ("b", 1))
    materialize(repository(tmp_path, view), START + 2 * HOUR)
    for f in tmp_path.glob("online.db*"):
        f.unlink()
    store = repository(tmp_path, view)
    assert materialize(store, START + 3 * HOUR) == {"v": 2}
    agrees(store, view, 3, "a", "b")

def test_a_feature_that_is_added_to_a_view_is_filled_in_for_facts_that_are_stored(tmp_path):
    view = history_of(("a", 1), ("b", 1))
    materialize(repository(tmp_path, view), START + 2 * HOUR)
    more = View("v", view.source.assign(other=[7, 8]), "key", None, ["value", "other"])
    store = repository(tmp_path, more)
    assert materialize(store, START + 3 * HOUR) == {"v": 2}
    assert read(store, "v", keys("a", "b"), START + 3 * HOUR)["v__other"].tolist() == [7, 8]

def test_a_value_that_was_changed_in_place_is_refused_and_named(tmp_path):
    view = history_of(("a", 1))
    materialize(repository(tmp_path, view), START + 2 * HOUR)
    store = repository(tmp_path, View("v", view.source.assign(value=99.0), "key", None, "value"))
    with pytest.raises(ValueError, match="value=99.0.*later created_timestamp"):
        materialize(store, START + 3 * HOUR)

def test_views_that_are_left_out_are_gone_and_begin_anew_when_they_come_back(tmp_path):
    v, w = history_of(("a", 1)), history_of(("a", 2), name="w")
    materialize(repository(tmp_path, [v, w]), START + 3 * HOUR)
    assert [x.name for x in repository(tmp_path, v).list_feature_views()] == ["v"] and not list(
        tmp_path.glob("w.*t*")
    )
    store = repository(tmp_path, [v, w])
    assert np.isnan(value(store, "a", 4, "w")) and materialize(store, START + 4 * HOUR) == {
        "v": 0,
        "w": 1,
    }
    agrees(store, w, 4, "a")

def test_the_views_of_the_flights_serve_what_the_training_set_has(stores):
    first, stop = pd.Timestamp("2013-07-07", tz="UTC"), pd.Timestamp("2013-07-09", tz="UTC")
    flights, weather = load_flights(), load_weather()
    flights, weather = flights[flights.sched_dep.between(first, stop)], weather[weather.event_timestamp.between(first, stop)]
    views = flight_views(flights, weather)
    assert [v.name for v in views] == ["weather", "last_dep", "last_arr", "carrier_rates", "route_rates"]
    served, now = stores(views), pd.Timestamp("2013-07-08 15:07", tz="UTC")
    materialize(served, now)
    asked = flights[flights.sched_dep.between(now, now + 6*HOUR)][["carrier", "origin", "dest", "tailnum"]]
    online = read(served, [v.name for v in views], asked, now)
    offline = point_in_time_join(asked.assign(event_timestamp=pd.DatetimeIndex([now]*len(asked)).as_unit("us")), views)
    names = [f"{v.name}__{f}" for v in views for f in v.features]
    pd.testing.assert_frame_equal(online[names].apply(pd.to_numeric), offline[names].apply(pd.to_numeric), check_exact=True, check_dtype=False)
    assert online[names].notna().mean().min() > .3

def test_rates_at_regular_times_are_those_of_the_definition():
    flights = load_flights().head(20_000).dropna(subset="late")
    events, rates = flights.assign(created_timestamp=flights.label_time), [r for r in RATES if r.by == ("carrier",)]
    times = pd.date_range("2013-01-05", periods=3, freq="D", tz="UTC")
    table = rolling_facts(rates, events, times)
    assert len(table) == 3*flights.carrier.nunique() and (table.event_timestamp == table.created_timestamp).all()
    row = table[(table.carrier == "UA") & (table.event_timestamp == times[1])].iloc[0]
    known = events[(events.carrier == "UA") & (events.created_timestamp <= times[1]) & (events.created_timestamp > times[1] - pd.Timedelta(days=1))]
    assert row["late_carrier_1d"] == pytest.approx((known.late.sum() + 2)/(len(known) + 10), abs=1e-12)

# What Feast does: the reasons for all this. Where one of these fails, Feast has changed, and the chapter has to.

def feast_value(store, key, view): return store.get_online_features(features=[f"{view}:value"], entity_rows=[{"key": key}]).to_dict()["value"][0]

def with_clocks(f): return f.assign(event_us=f.event_timestamp.astype("int64"), created_us=f.created_timestamp.astype("int64"))

def test_feast_serves_what_is_older_than_its_time_to_live(store):
    key = next(fresh_keys)
    store.push("v_push", with_clocks(facts([0], key=key, value=[5.])))
    assert feast_value(store, key, "v") == 5 and np.isnan(value(store, key, 3))   # all of it happened in 2013

def test_feast_overwrites_newer_with_older_in_sqlite_and_drops_corrections_in_redis(tmp_path_factory, online):
    plain = online if online == "sqlite" else {"type": "redis", "connection_string": online[8:]}
    store, key = repository(tmp_path_factory.mktemp("plain"), View("v", facts([0], key="nobody"), "key", None, "value"), online=plain), next(fresh_keys)
    seen = []
    for f in (facts([1], key=key, value=[1.]), facts([0], key=key, value=[0.]), facts([1], [2], key=key, value=[9.])):
        store.push("v_push", with_clocks(f))
        seen.append(feast_value(store, key, "v"))
    assert seen == ([1, 0, 9] if online == "sqlite" else [1, 1, 1])

def test_feast_loses_late_facts_in_incremental_runs_and_ours_do_not(stores):
    late = facts([0, 1], [0, 5], key="incremental")
    theirs, ours = stores(View("theirs", late.head(1), "key", None, "value")), stores(View("ours", late, "key", None, "value"))
    theirs.materialize((START - HOUR).to_pydatetime(), START.to_pydatetime())
    for hour in (2, 4, 6):
        known = late[late.created_timestamp <= START + hour*HOUR]
        with_clocks(known).to_parquet(theirs.get_feature_view("theirs").batch_source.path, index=False, coerce_timestamps="us")
        theirs.materialize_incremental((START + hour*HOUR).to_pydatetime())
        materialize(ours, START + hour*HOUR)
    assert feast_value(theirs, "incremental", "theirs") == 0 and value(ours, "incremental", 6, "ours") == 1

# Kill -9 during materialization

def test_a_kill_during_materialization_leaves_the_previous_values_readable(tmp_path_factory, online, launcher):
    n, generations = 800, 7
    many = pd.DataFrame({"key": [f"many {i}" for i in range(n)]})
    source = pd.concat([many.assign(event_timestamp=at(*[g]*n), created_timestamp=at(*[g]*n), value=float(g)) for g in range(generations)])
    store = repository(folder := tmp_path_factory.mktemp("kill"), View("many", source, "key", None, "value"), online=online)
    materialize(store, START)
    killed = 0
    seen = lambda: read(store, "many", many, START + 100*HOUR)["many__value"].value_counts().to_dict()
    for g in range(1, generations):   # the first are killed before they begin to write, the last perhaps not at all
        until = START + g*HOUR
        pid, = start(launcher, f"materialize(FeatureStore(repo_path={str(folder)!r}), pd.Timestamp({until.isoformat()!r}))")
        time.sleep(.005*2**(g - 1))
        with contextlib.suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
        killed += ended(launcher) == [signal.SIGKILL]
        found = seen()
        assert sum(found.values()) == n and set(found) <= {g - 1, g}
        if online == "sqlite": assert len(found) == 1
        materialize(store, until)
        assert seen() == {float(g): n}
    assert killed >= 2

def test_a_kill_of_feasts_own_materialization_makes_the_view_unreadable_which_is_why_ours_leaves_the_registry_alone(tmp_path, launcher):
    from feast import FeatureStore
    store = repository(tmp_path, View("v", facts([0, 1], key="a"), "key", None, "value"))
    materialize(store, START)
    before = (tmp_path / "registry.db").read_bytes()
    materialize(store, START + HOUR/2)
    assert (tmp_path / "registry.db").read_bytes() == before
    store.materialize((START - HOUR).to_pydatetime(), START.to_pydatetime())
    code = f"""
import feast.infra.passthrough_provider as p
p.PassthroughProvider.materialize_single_feature_view = lambda *args, **options: os.kill(os.getpid(), 9)
FeatureStore(repo_path={str(tmp_path)!r}).materialize(pd.Timestamp("2013-02-28", tz="UTC"), pd.Timestamp("2013-03-02", tz="UTC"))
"""
    start(launcher, "os.dup2(2, 1)" + code)
    assert ended(launcher) == [signal.SIGKILL]
    with pytest.raises(ValueError, match="MATERIALIZING"): feast_value(FeatureStore(repo_path=str(tmp_path)), "a", "v")

def test_a_watermark_is_recorded_only_after_the_write(tmp_path, monkeypatch):
    store = repository(tmp_path, View("v", facts([0, 1], key="a"), "key", None, "value"))
    materialize(store, START)
    def broken(*args, **options): raise OSError("disk")
    with monkeypatch.context() as m:
        m.setattr(type(store.provider), "online_write_batch", broken)
        with pytest.raises(OSError, match="disk"): materialize(store, START + HOUR)
    assert materialize(store, START + HOUR) == {"v": 1} and materialize(store, START + HOUR) == {"v": 0}

def test_readers_do_not_wait_for_a_long_write(tmp_path):
    import sqlite3
    store = repository(tmp_path, View("v", facts([0], key="a", value=[7.]), "key", None, "value"))
    materialize(store, START)
    writer = sqlite3.connect(tmp_path / "online.db")
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    writer.execute("BEGIN EXCLUSIVE")
    assert value(store, "a", 0) == 7
    writer.rollback()

# The log

def rows_of(folder): return list(EventLog(folder, {}).replay())

@pytest.fixture
def log(tmp_path): return EventLog(tmp_path / "log", {})

def test_a_line_says_whether_it_is_whole():
    line = frame([1, "JFK", None])
    assert unframe(line) == [1, "JFK", None]
    for i in range(len(line)):
        assert unframe(line[:i]) is None
        for bit in range(8): assert unframe(line[:i] + bytes([line[i] ^ 1 << bit]) + line[i + 1:]) is None

def test_a_cut_at_any_byte_leaves_what_was_acknowledged(log, tmp_path):
    sizes = []
    for i in range(5):
        sizes.append(log.size)
        log.append([[2*i], [2*i + 1]])
    whole, name = log.paths()[0].read_bytes(), log.paths()[0].name
    (tmp_path / "cut").mkdir()
    for end in range(sizes[0], len(whole) + 1):
        promised = sum(size <= end for size in [*sizes[1:], len(whole)])
        for rubbish in (b"", b"\0"*9, b"\n", b"\n\n", b"deadbeef [1]\n", os.urandom(20)):
            (tmp_path / "cut" / name).write_bytes(whole[:end] + rubbish)
            found = [row[0] for row in rows_of(tmp_path / "cut")]
            assert found == list(range(len(found))) and len(found) % 2 == 0 and 2*promised <= len(found) <= 2*promised + 2*(rubbish[:1] == b"\n")

def test_after_a_cut_the_log_goes_on(log, tmp_path):
    log.append([[0]])
    log.close()
    with open(log.paths()[0], "ab") as f: f.write(b"12345678 [[1")
    again = EventLog(tmp_path / "log", {})
    again.append([[1], [2]])
    assert again.end == 3 and rows_of(tmp_path / "log") == [[0], [1], [2]] and list(again.replay(2)) == [[2]]

def test_damage_before_the_end_is_refused_and_named(log, tmp_path):
    for i in range(3): log.append([[i]])
    path = log.paths()[0]
    content = bytearray(path.read_bytes())
    second = content.index(b"[[1]]")
    content[second + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name}: damaged at byte {second - 9}.*another folder"): rows_of(tmp_path / "log")

def test_damage_in_a_file_that_is_not_the_last_is_refused_even_at_its_end(log, tmp_path):
    log.append([[0]])
    log.start(1, None)
    log.append([[1]])
    first = log.paths()[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"): rows_of(tmp_path / "log")

def test_a_missing_file_between_is_noticed(log, tmp_path):
    for i in range(3):
        log.append([[i]])
        log.start(i + 1, i)
    log.paths()[1].unlink()
    with pytest.raises(ValueError, match="missing"): rows_of(tmp_path / "log")

def test_other_formats_and_other_contents_are_refused(log, tmp_path):
    with pytest.raises(ValueError, match="what: None|written for other what"): EventLog(tmp_path / "log", {"what": 1})
    path = log.paths()[0]
    path.write_bytes(frame({"format": 99, "about": {}, "newest": None}))
    with pytest.raises(ValueError, match="format 99, this version reads 1"): EventLog(tmp_path / "log", {})
    path.write_bytes(b"rubbish\n")
    with pytest.raises(ValueError, match="first line is damaged"): EventLog(tmp_path / "log", {})

def test_what_is_acknowledged_is_on_the_disk_first(log, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (real(fd), synced.append(os.fstat(fd).st_size)))
    for i in range(4):
        log.append([[i]*50])
        assert synced[-1] == log.paths()[0].stat().st_size and len(synced) == i + 1

FULL = """
import resource, sys
from mlscale.event_log import EventLog
log = EventLog(sys.argv[1], {})
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
for i in range(1000):
    try: log.append([[i, "x"*60]])
    except OSError as e:
        print(i, e.filename, e, sep="\\n")
        break
try: log.append([[i]])
except ValueError as e: print(e)
"""

def test_a_full_disk_is_an_error_that_names_the_file_and_loses_nothing_acknowledged(tmp_path):
    n, file, message, closed = subprocess.run([sys.executable, "-c", FULL, tmp_path / "log"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    assert file == str(tmp_path / "log" / "0000000000000000.log") and "send them again" in message and "open it again" in closed
    assert [row[0] for row in rows_of(tmp_path / "log")] == list(range(int(n))) and int(n) > 20

# The durable state

RATE = Rolling("rate", value="late", by="key", window=10*HOUR, agg="rate", prior=(.2, 3.))
COUNT = Rolling("count", value=None, by="key", window=4*HOUR, agg="count")

def events(n, seed=0, keys="abcd", step=.5):
    rng = np.random.default_rng(seed)
    times = START + np.cumsum(rng.exponential(step, n))*HOUR
    drawn = zip(rng.choice(list(keys), n), times, rng.integers(0, 2, n), strict=True)
    return [{"event_id": i, "key": str(k), "created_timestamp": t.floor("us"), "late": float(x)} for i, (k, t, x) in enumerate(drawn)]

def offline(known, key, moment):
    if not known: known = [{"key": "nobody", "created_timestamp": START, "late": 0.}]
    asked = pd.DataFrame({"key": [key], "event_timestamp": [moment]})
    return {r.name: r.offline(pd.DataFrame(known), asked).iloc[0] for r in (RATE, COUNT)}

@settings(max_examples=20, deadline=None)
@given(st.data())
def test_closed_opened_repeated_and_snapshot_at_any_moment_it_is_the_offline_feature(tmp_path_factory, data):
    folder, sent = tmp_path_factory.mktemp("state"), events(40, seed=data.draw(st.integers(0, 99)))
    state, i = DurableState(folder, [RATE, COUNT], segment_bytes=data.draw(st.sampled_from([300, 10**6]))), 0
    while i < len(sent):
        n, back = data.draw(st.integers(1, 8)), data.draw(st.integers(0, 15))
        assert state.update(sent[max(0, i - back):i + n]) == len(sent[i:i + n])
        i += n
        if data.draw(st.booleans()):
            if data.draw(st.booleans()): state.snapshot()
            state.close()
            if data.draw(st.booleans()) and (folder / "snapshot.json").exists(): (folder / "snapshot.json").write_bytes(b"rubbish")
            state = DurableState(folder, [RATE, COUNT])
    now = sent[-1]["created_timestamp"] + data.draw(st.integers(0, 12))*HOUR
    assert [state.get(k, now) for k in "abcde"] == [offline(sent, k, now) for k in "abcde"]
    state.close()

LIVES = """
import os, sys, time
import pandas as pd
from mlscale.durable_state import DurableState
from mlscale.rolling import Rolling
HOUR = pd.Timedelta(hours=1)
RATE = Rolling("rate", value="late", by="key", window=10*HOUR, agg="rate", prior=(.2, 3.))
COUNT = Rolling("count", value=None, by="key", window=4*HOUR, agg="count")
events = pd.read_parquet(sys.argv[2]).to_dict("records")
def say(word, number): os.write(1, f"{word} {number}\\n".encode())   # whole or not at all; print may write in pieces
for line in sys.stdin:
    first = int(line)
    if not (pid := os.fork()):
        with DurableState(sys.argv[1], [RATE, COUNT], segment_bytes=2_000) as state:
            say("open", os.getpid())
            for i in range(first, len(events), 3):
                state.update(events[i:i + 3])
                say("acknowledged", min(i + 3, len(events)))
        os._exit(0)
    say("ended", os.waitpid(pid, 0)[1])
"""

def test_killed_at_random_moments_no_acknowledged_event_is_lost_and_none_counts_twice(tmp_path):
    sent, rng = events(3000, seed=1), np.random.default_rng(2)
    pd.DataFrame(sent).to_parquet(tmp_path / "events.parquet")
    command = [sys.executable, "-c", LIVES, tmp_path / "state", tmp_path / "events.parquet"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(tmp_path / "stderr").open("w"), text=True)
    def said(*expected):
        word, number = (child.stdout.readline() or "nothing 0").split()
        assert word in expected, (word, number, (tmp_path / "stderr").read_text())   # it died by itself
        return word, int(number)

    acknowledged, kills = 0, 0
    while acknowledged < len(sent):
        child.stdin.write(f"{max(0, acknowledged - int(rng.integers(0, 12)))}\n")
        child.stdin.flush()
        pid = said("open")[1]
        for _ in range(min(rng.integers(3, 80), (len(sent) - acknowledged)//3)): acknowledged = max(acknowledged, said("acknowledged")[1])
        time.sleep(rng.uniform(0, .004))
        with contextlib.suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
        while (last := said("acknowledged", "ended"))[0] != "ended": acknowledged = max(acknowledged, last[1])
        kills += last[1] == signal.SIGKILL
        with DurableState(tmp_path / "state", [RATE, COUNT]) as state:
            taken = max((e["event_id"] for e in state.events()), default=-1) + 1
            assert acknowledged <= taken <= acknowledged + 3
            if taken:
                now = sent[taken - 1]["created_timestamp"]
                assert state.get("a", now) == offline(sent[:taken], "a", now)
    child.stdin.close()
    assert child.wait() == 0 and kills >= 10
    with DurableState(tmp_path / "state", [RATE, COUNT]) as state:
        now = sent[-1]["created_timestamp"] + HOUR
        assert [state.get(k, now) for k in "abcd"] == [offline(sent, k, now) for k in "abcd"]

def test_memory_and_disk_hold_the_window_and_no_more(tmp_path):
    sent = events(3000, seed=3)
    with DurableState(tmp_path, [RATE, COUNT], segment_bytes=3_000) as state:
        sizes = []
        for i in range(0, len(sent), 50):
            state.update(sent[i:i + 50])
            sizes.append((len(state._seen), sum(p.stat().st_size for p in tmp_path.glob("*.log"))))
        within = sum(e["created_timestamp"] > sent[-1]["created_timestamp"] - 10*HOUR for e in sent)
        assert len(state._seen) == within
        assert max(s for _, s in sizes[20:]) < 4*max(s for _, s in sizes[:10])
        first_kept = next(iter(state.events()))["event_id"]
        assert 0 < first_kept < 3000 - within
        assert state.update(sent[:100]) == 0 and state.expired == 100 and state.update(sent[-5:]) == 0 and state.duplicates == 5

def test_a_call_with_one_bad_event_takes_none(tmp_path):
    sent = events(20)
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        state.update(sent[:10])
        before = (tmp_path / "0000000000000000.log").read_bytes()
        for bad in ([sent[10], {**sent[11], "late": 7.}], [sent[10], {**sent[11], "late": np.inf}], [sent[10], {**sent[11], "event_id": None}]):
            with pytest.raises(ValueError): state.update(bad)
        assert (tmp_path / "0000000000000000.log").read_bytes() == before
        assert state.get("a", sent[9]["created_timestamp"]) == offline(sent[:10], "a", sent[9]["created_timestamp"])
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        assert state.update(sent[10:]) == 10
        assert state.get("a", sent[-1]["created_timestamp"]) == offline(sent, "a", sent[-1]["created_timestamp"])

@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 99), st.booleans())
def test_in_whatever_order_and_however_often_events_come_later_answers_are_the_same(tmp_path_factory, random, seed, reopened):
    folder, sent = tmp_path_factory.mktemp("order"), events(40, seed=seed, step=.2)
    order = random.sample([*sent, *sent], 80)
    state = DurableState(folder, [RATE, COUNT], segment_bytes=400)
    for i in range(0, 80, 16):
        state.update(order[i:i + 16])
        if reopened:
            state.close()
            state = DurableState(folder, [RATE, COUNT], segment_bytes=400)
    now = sent[-1]["created_timestamp"]
    assert [state.get(k, now) for k in "abcd"] == [offline(sent, k, now) for k in "abcd"]
    state.close()

def test_without_a_window_ids_and_log_are_kept_for_ever(tmp_path):
    total = Rolling("total", value="late", by="key", window=None, agg="sum")
    sent = events(200, step=50.)
    with DurableState(tmp_path, [total, COUNT], segment_bytes=500) as state:
        for i in range(0, 200, 20): state.update(sent[i:i + 20])
        assert state.update(sent) == 0 and state.duplicates == 200 and state.expired == 0 and len(list(state.events())) == 200
    with DurableState(tmp_path, [total, COUNT]) as state: assert state.get("a", sent[-1]["created_timestamp"])["total"] == sum(e["late"] for e in sent if e["key"] == "a")

def test_of_an_event_that_comes_twice_in_one_call_the_first_counts(tmp_path):
    one = {"event_id": "x", "key": "a", "created_timestamp": START, "late": 1.}
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        assert state.update([one, {**one, "late": 0.}]) == 1 and state.duplicates == 1
        assert state.get("a", START) == {"rate": (1 + .6)/(1 + 3), "count": 1}

def test_all_aggregates_survive(tmp_path):
    rollings = [Rolling(agg, value="late", by="key", window=10*HOUR, agg=agg) for agg in ("sum", "mean", "rate", "std", "min", "max", "last", "distinct")]
    sent = events(100, seed=8)
    now, asked = sent[-1]["created_timestamp"], pd.DataFrame({"key": list("abcd"), "event_timestamp": sent[-1]["created_timestamp"]})
    for last in (50, 100):
        with DurableState(tmp_path, rollings, segment_bytes=900) as state: state.update(sent[:last])
    with DurableState(tmp_path, rollings) as state: answers = pd.DataFrame([state.get(k, now) for k in "abcd"])
    for r in rollings: np.testing.assert_allclose(answers[r.name], r.offline(pd.DataFrame(sent), asked), rtol=1e-12)

@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=30))
def test_an_id_is_remembered_while_its_event_is_in_the_window_of_the_newest(times):
    seen, last = SeenIds(10), {}
    for i, moment in enumerate(times):
        if seen.past(moment): continue
        seen.add(i, moment)
        last[i] = moment
    newest = max(last.values(), default=None)
    expected = {i for i, moment in last.items() if moment > newest - 10}
    assert {i for i in last if i in seen} == expected and len(seen) == len(expected) == len(seen.entries())
    again = SeenIds(10, json.loads(json.dumps(seen.entries())))
    assert sorted(again.entries()) == sorted(seen.entries()) and again.newest == newest

def test_a_window_forgets_exactly_and_an_id_is_remembered_exactly_as_long(tmp_path):
    one = {"event_id": "x", "key": "a", "created_timestamp": START, "late": 1.}
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        state.update([one, {**one, "event_id": "y", "created_timestamp": START + 10*HOUR - US}])
        assert state.update(one) == 0 and state.duplicates == 1
        state.update({**one, "event_id": "z", "created_timestamp": START + 10*HOUR})
        assert state.update(one) == 0 and state.expired == 1
        assert state.get("a", START + 10*HOUR) == {"rate": (2 + .6)/(2 + 3), "count": 2}

def test_without_values_or_keys_events_are_logged_and_not_counted(tmp_path):
    base = {"key": "a", "created_timestamp": START, "late": 1.}
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        assert state.update([{**base, "event_id": 1, "late": None}, {**base, "event_id": 2, "late": np.nan}, {**base, "event_id": 3, "key": None}, {**base, "event_id": 4, "key": np.nan}]) == 4
        assert state.get("a", START) == {"rate": pytest.approx(.2, abs=1e-15), "count": 2}

def test_keys_mean_the_same_before_and_after_a_restart_whatever_type_they_came_in(tmp_path):
    count = Rolling("count", value=None, by=["a", "b"], window=HOUR, agg="count")
    forms = [(1, "x"), (np.int64(1), "x"), (1.0, "x"), (np.float64(1), np.str_("x"))]
    with DurableState(tmp_path, count) as state:
        state.update([{"event_id": np.int64(i), "created_timestamp": START, "a": a, "b": b} for i, (a, b) in enumerate(forms)])
        assert [state.get(f, START)["count"] for f in forms] == [4]*4 and state.get((2, "x"), START)["count"] == 0
    with DurableState(tmp_path, count) as state: assert [state.get(f, START)["count"] for f in forms] == [4]*4
    assert len({partition(f, 97) for f in forms}) == 1

def test_a_snapshot_that_is_damaged_or_of_another_version_is_only_slower(tmp_path, caplog):
    sent = events(50)
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        state.update(sent)
        state.snapshot()
        now = sent[-1]["created_timestamp"]
        right = [state.get(k, now) for k in "abcd"]
    good = unframe((tmp_path / "snapshot.json").read_bytes())
    for content, noticed in ((frame(good), False), (b"", True), (frame(good)[:-5], True), (frame({**good, "format": 2}), True), (frame({**good, "about": {}}), True)):
        (tmp_path / "snapshot.json").write_bytes(content)
        caplog.clear()
        with DurableState(tmp_path, [RATE, COUNT]) as state: assert [state.get(k, now) for k in "abcd"] == right and state.update(sent) == 0
        assert ("replayed from the log" in caplog.text) == noticed

def test_a_log_that_ends_before_the_snapshot_is_refused(tmp_path):
    with DurableState(tmp_path, COUNT) as state:
        state.update(events(5))
        state.snapshot()
    for path in tmp_path.glob("*.log"): path.unlink()
    with pytest.raises(ValueError, match="files of the log are missing"): DurableState(tmp_path, COUNT)

def test_one_process_at_a_time(tmp_path):
    with DurableState(tmp_path, COUNT), pytest.raises(BlockingIOError, match="one at a time"): DurableState(tmp_path, COUNT)
    DurableState(tmp_path, COUNT).close()

def test_other_features_in_the_same_folder_are_refused(tmp_path):
    DurableState(tmp_path, COUNT).close()
    for other in (RATE, Rolling("count", value=None, by="key", window=5*HOUR, agg="count")):
        with pytest.raises(ValueError, match="written for other"): DurableState(tmp_path, other)
    DurableState(tmp_path, COUNT).close()

def test_after_an_error_of_the_disk_reads_go_on_and_updates_wait_for_a_new_start(tmp_path, monkeypatch):
    sent = events(10)
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        state.update(sent[:5])
        now = sent[4]["created_timestamp"]
        right = state.get("a", now)
        real = os.fsync
        def broken(fd): raise OSError(5, "Input/output error")
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="send them again"): state.update(sent[5:])
        monkeypatch.setattr(os, "fsync", real)
        with pytest.raises(ValueError, match="open it again"): state.update(sent[5:])
        assert state.get("a", now) == right
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        state.update(sent[5:])
        assert state.get("a", sent[-1]["created_timestamp"]) == offline(sent, "a", sent[-1]["created_timestamp"])

# Partitions

def test_a_partition_is_for_ever():
    assert [partition(k, 1000) for k in ("JFK", 1001, ("JFK", "LAX"))] == PARTITIONS_OF_1000
    shares = np.bincount([partition(i, 8) for i in range(8000)], minlength=8)
    assert shares.min() > 880 and shares.max() < 1120   # 4 standard deviations of 1000

PARTITIONS_OF_1000 = [374, 914, 688]

@pytest.mark.parametrize("n", [1, 3, 8])
def test_partitions_answer_as_one_and_so_does_another_number_of_them(tmp_path, n):
    sent = events(300, seed=4, keys="abcdefghij")
    now = sent[-1]["created_timestamp"]
    with PartitionedState(tmp_path / "old", [RATE, COUNT], n) as some:
        assert some.update(sent[:200]) == 200 and some.update(sent[150:]) == 100
        right = [offline(sent, k, now) for k in "abcdefghijk"]
        assert [some.get(k, now) for k in "abcdefghijk"] == right
        with some.repartition(tmp_path / "new", 5) as more: assert [more.get(k, now) for k in "abcdefghijk"] == right and more.update(sent) == 0
    with pytest.raises(ValueError, match="repartition"): PartitionedState(tmp_path / "old", [RATE, COUNT], n + 1)

def test_a_repartition_that_was_interrupted_is_run_again(tmp_path):
    sent = events(300, seed=5, keys="abcdefghij")
    now = sent[-1]["created_timestamp"]
    with PartitionedState(tmp_path / "old", [RATE, COUNT], 3) as old:
        old.update(sent)
        with PartitionedState(tmp_path / "new", [RATE, COUNT], 4) as half: half.update(list(old.parts[0].events())[:40])
        shutil.rmtree(tmp_path / "new")
        with old.repartition(tmp_path / "new", 4) as new: assert [new.get(k, now) for k in "abcdefghij"] == [offline(sent, k, now) for k in "abcdefghij"]
        with old.repartition(tmp_path / "new", 4) as new: assert [new.get(k, now) for k in "abcdefghij"] == [offline(sent, k, now) for k in "abcdefghij"]

# Bad input

@pytest.fixture(scope="module")
def sqlite(tmp_path_factory): return repository(tmp_path_factory.mktemp("bad"), View("v", facts([0], key="a"), "key", HOUR, "value"))

@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda s: read(s, "w", keys("a"), START), ValueError, "view='w'"),
    (lambda s: read(s, "v", keys("a"), START.tz_localize(None)), ValueError, "at="),
    (lambda s: read(s, "v", keys("a"), pd.NaT), ValueError, "at="),
    (lambda s: read(s, "v", keys("a"), "2013-03-01"), ValueError, "at='2013-03-01'"),
    (lambda s: read(s, "v", pd.DataFrame({"other": ["a"]}), START), ValueError, "missing"),
    (lambda s: read(s, "v", keys(1), START), ValueError, "String"),
    (lambda s: write(s, "w", facts([0])), ValueError, "view='w'"),
    (lambda s: write(s, "v", facts([0]).drop(columns="value")), ValueError, "missing are 'value'"),
    (lambda s: write(s, "v", facts([0]).assign(event_timestamp=pd.NaT)), (TypeError, ValueError), "event_timestamp"),
    (lambda s: write(s, "v", facts([0]).assign(created_timestamp=pd.Series([pd.NaT], dtype="datetime64[us, UTC]"))), ValueError, "missing in 1 of 1"),
    (lambda s: write(s, "v", facts([0]).assign(event_timestamp=START.tz_localize(None))), TypeError, "time zone"),
    (lambda s: write(s, "v", facts([0], key=1)), ValueError, "String"),
    (lambda s: materialize(s, START.tz_localize(None)), ValueError, "until="),
    (lambda s: materialize(s, START, views="w"), ValueError, "view='w'"),
    (lambda s: materialize(s, START, since="yesterday"), ValueError, "since="),
])
def test_bad_input_of_the_store_is_named(sqlite, call, kind, words):
    with pytest.raises(kind, match=words): call(sqlite)

@pytest.mark.parametrize(("views", "options", "kind", "words"), [
    ([], {}, ValueError, "at least one"),
    ([View("v", facts([0]), "key", None, "value")]*2, {}, ValueError, "different names"),
    (View("v", facts([0]), "key", None, "value"), {"online": "postgres"}, ValueError, "online='postgres'"),
    (View("v", facts([0]), "key", None, "value"), {"online": None}, ValueError, "online=None"),
    (View("v", facts([0]), "key", None, "value"), {"online": "redis://"}, ValueError, "online="),
    (View("v", facts([0]).assign(value=at(0)), "key", None, "value"), {}, ValueError, "turn times into a number"),
    (View("v", facts([0]).assign(event_timestamp=START.tz_localize(None), created_timestamp=START.tz_localize(None)), "key", None, "value"), {}, TypeError, "time zone"),
    ([View("v", facts([0]), "key", None, "value"), View("w", facts([0], key=1), "key", None, "value")], {}, ValueError, "one type a key"),
    (View("v", facts([0], key=1.5), "key", None, "value"), {}, ValueError, "whole numbers or text"),
    (View("v", facts([0], key=True), "key", None, "value"), {}, ValueError, "whole numbers or text"),
])
def test_bad_views_are_named(tmp_path, views, options, kind, words):
    with pytest.raises(kind, match=words): repository(tmp_path, views, **options)

def test_feast_configurations_pass_as_they_are(tmp_path):
    repository(tmp_path, View("v", facts([0]), "key", None, "value"), online={"type": "sqlite", "path": "elsewhere.db"})
    assert (tmp_path / "elsewhere.db").exists() and not (tmp_path / "online.db").exists()

def test_a_store_that_does_not_carry_its_clocks_is_refused(tmp_path):
    from mlscale.features import driver_repository
    with pytest.raises(ValueError, match="carry its clocks"): read(driver_repository(tmp_path), "driver_statistics", pd.DataFrame({"driver_id": [1001]}), START)

def test_the_year_has_a_repository(tmp_path):
    flights, weather = load_flights().head(500), load_weather().head(500)
    assert {v.name for v in flight_repository(tmp_path, flights, weather).list_feature_views()} == {"weather", "last_dep", "last_arr", "carrier_rates", "route_rates"}
    assert set(WEATHER) <= set(flight_views(flights, weather)[0].open().column_names)

GOOD = {"event_id": 1, "key": "a", "created_timestamp": START, "late": 1.}

@pytest.mark.parametrize(
    "change",
    [
        {"key": float(2**53)},
        {"key": np.float32(2**24)},
        {"event_id": np.float32(2**24)},
        {"event_id": float(2**60)},
    ],
)
def test_events_whose_key_or_id_may_be_two_are_refused(tmp_path, change):
    words = r"2\*\*(53|24) on several whole numbers share one"
    with PartitionedState(tmp_path, [RATE, COUNT], 2) as state:
        with pytest.raises(ValueError, match=words):
            state.update({**GOOD, **change})
        for part in state.parts:
            with pytest.raises(ValueError, match=words):
                part.update([{**GOOD, "event_id": 7}, {**GOOD, **change}])
            assert list(part.events()) == []
        if "key" in change:
            with pytest.raises(ValueError, match=words):
                state.get(change["key"], START)
            with pytest.raises(ValueError, match=words):
                state.parts[0].get(change["key"], START)

@pytest.mark.parametrize(("event", "kind", "words"), [
    ({k: v for k, v in GOOD.items() if k != "event_id"}, ValueError, r"\['event_id'\] missing"),
    ({k: v for k, v in GOOD.items() if k != "late"}, ValueError, r"\['late'\] missing"),
    ({**GOOD, "event_id": None}, ValueError, "event_id=None"),
    ({**GOOD, "event_id": 1.5}, ValueError, "event_id=1.5"),
    ({**GOOD, "event_id": [1]}, TypeError, "numbers and text"),
    ({**GOOD, "created_timestamp": START.tz_localize(None)}, ValueError, "created_timestamp"),
    ({**GOOD, "created_timestamp": None}, ValueError, "created_timestamp"),
    ({**GOOD, "late": np.inf}, ValueError, "late"),
    ({**GOOD, "late": 2.}, ValueError, "late"),
    ({**GOOD, "late": "much"}, (TypeError, ValueError), "much"),
    ({**GOOD, "key": ("a",)}, TypeError, "tuple"),
])
def test_bad_events_are_named_and_not_stored(tmp_path, event, kind, words):
    with DurableState(tmp_path, [RATE, COUNT]) as state:
        with pytest.raises(kind, match=words): state.update(event)
        assert state.update([]) == 0 and list(state.events()) == []
        with pytest.raises(kind, match=words): state.update([{**GOOD, "event_id": 0}, event])
        assert list(state.events()) == []

@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda p: DurableState(p, []), ValueError, "at least one"),
    (lambda p: DurableState(p, [RATE, RATE]), ValueError, "different names"),
    (lambda p: DurableState(p, [RATE, Rolling("n", value=None, by="other", window=HOUR, agg="count")]), ValueError, "one key"),
    (lambda p: DurableState(p, RATE, segment_bytes=0), ValueError, "segment_bytes=0"),
    (lambda p: DurableState(p, RATE, segment_bytes=True), ValueError, "segment_bytes=True"),
    (lambda p: PartitionedState(p, RATE, 0), ValueError, "n=0"),
    (lambda p: PartitionedState(p, RATE, 2.0), ValueError, "n=2.0"),
    (lambda p: partition("a", True), ValueError, "n=True"),
    (lambda p: DurableState(p, RATE).get("a", START.tz_localize(None)), ValueError, "at="),
    (lambda p: DurableState(p, RATE).get(("a", "b"), START), ValueError, "key="),
    (lambda p: rolling_facts([RATE, Rolling("n", value=None, by="other", window=HOUR, agg="count")], pd.DataFrame(events(3)), at(1)), ValueError, "one key"),
])
def test_bad_arguments_are_named(tmp_path, make, kind, words):
    with pytest.raises(kind, match=words): make(tmp_path)


# ---- what they show of themselves

def test_what_lies_on_the_disk_shows_itself_in_a_line(tmp_path):
    event = lambda i: {"event_id": i, "created_timestamp": START + i*HOUR, "key": f"k{i}", "value": 1.}
    definition = Rolling("r", value="value", by="key", window=2*HOUR, agg="sum")
    with DurableState(tmp_path / "one", definition) as state:
        state.update([event(i) for i in range(3)])
        assert repr(state) == f"DurableState({str(tmp_path / 'one')!r}: 3 rows)"
    with PartitionedState(tmp_path / "many", definition, n=2) as states: assert "many" in repr(states) and "2 partitions" in repr(states)
    log = EventLog(tmp_path / "log", {})
    log.append([1, 2])
    assert "2 rows so far" in repr(log)
    seen = SeenIds((2*HOUR).value)
    for i in range(3): seen.add(f"id{i}", (i*HOUR).value)
    assert repr(seen) == "SeenIds(2 ids of the last 2 hours)" and repr(SeenIds(None)) == "SeenIds(0 ids)"


def test_a_durable_state_is_for_its_owner_alone(tmp_path):
    before = os.umask(0o022)
    try:
        DurableState(tmp_path / "one", COUNT).close()
        PartitionedState(tmp_path / "many", COUNT, 2).close()
    finally: os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
