"A living system and its faults: each is noticed by what should notice it, its protection is worth what is claimed, and nothing is decided by luck."
import json
import math
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from mlscale.faults import FAULTS, Fault, fault_table, plot_faults, try_fault, try_faults
from mlscale.forked_days import HOUR, FaultResult, ForkedDays, excess_bill, excess_loss, killable_server, told
from mlscale.policy import launch
from mlscale.system import NAME, START, served_version

TRIED = [name for name in FAULTS if name != "disk" or sys.platform == "linux"]   # who sets the limits of another process


def below(folder): return {p.relative_to(folder) for p in folder.rglob("*") if "checkpoints" not in p.parts}


@pytest.fixture(scope="module")
def system(tmp_path_factory): return launch(tmp_path_factory.mktemp("faults") / "state", say=lambda line: None)


@pytest.fixture(scope="module")
def found(system):
    before, told_before = below(system.folder.parent), len(system.events)
    results = try_faults(system, TRIED)
    assert below(system.folder.parent) == before and len(system.events) == told_before   # the system itself lives on
    assert served_version(system) == 1 and set(system.registry.history(NAME).version) == {1}
    return {r.name: r for r in results}


def test_lifecycle_every_fault_is_tried_detected_and_told_in_plain_values(found):
    assert [*found] == TRIED and len(FAULTS) == 12
    for name, r in found.items():
        told_of_it = json.loads(json.dumps(r.to_dict()))
        assert told_of_it["format"] == 1 and told_of_it["name"] == name and pd.Timestamp(told_of_it["began"]) == r.began
        assert r.began == START + FAULTS[name].begins and 0 <= r.detected_at <= 24 * FAULTS[name].days
        assert r.affected > 0 and r.acted and r.detected_by
        assert all(map(math.isfinite, (r.loss_with, r.loss_without, r.dollars_with, r.dollars_without)))


@pytest.mark.parametrize("name", ["celsius", "stale", "disordered", "labels", "leak", "clock"])
def test_lifecycle_without_the_protection_the_answers_are_worse(found, name):
    r = found[name]
    assert r.loss_with < r.loss_without and r.dollars_with < r.dollars_without and r.loss_without > .002


@pytest.mark.parametrize("name", ["renamed", "killed", "registry"])
def test_lifecycle_without_the_protection_flights_are_not_answered(found, name):
    r = found[name]
    assert r.lost == "flights unanswered" and r.lost_with < r.lost_without / 4 and r.lost_without > 100
    assert r.dollars_with < r.dollars_without


def test_lifecycle_a_greatest_age_does_not_help_when_old_weather_is_better_than_none(found):
    assert found["silent"].detected_at <= 6 and found["silent"].loss_with > found["silent"].loss_without


def test_lifecycle_what_cannot_see_a_fault_is_told_beside_what_does(found):
    more = found["celsius"].more
    assert more["outside_of_the_contract"] == 0 and more["change_alarm_rang_for"] == [] and 10 < more["allowed_jump"] < 30
    assert found["stale"].dollars_with < found["stale"].more["dollars_if_switched_off"] < found["stale"].dollars_without
    assert found["leak"].more["gate_passed"] and found["leak"].lost_with == 0


def test_lifecycle_nothing_acknowledged_is_lost_and_nothing_is_taken_in_twice(found):
    assert not any(found["killed"].more.values())
    more = found["disordered"].more
    assert more["asked"] == 2 * more["rows_in_the_log"] and more["answers_differ"] == more["outcomes_new_the_second_time"] == 0
    assert found["disordered"].lost_with < found["disordered"].lost_without
    assert found["clock"].more["known_before_predicted"] > 100 and found["clock"].lost_with == 0


def test_lifecycle_a_flipped_bit_is_never_served_and_without_a_digest_some_are(found):
    r, more = found["corrupt"], found["corrupt"].more
    assert "changed" in more["error"] and r.loss_with == r.dollars_with == r.lost_with == 0 < r.lost_without
    assert more["refused"] + more["unnoticed"] + more["answered_otherwise"] == more["bits"] and min(more["refused"], more["answered_otherwise"]) > 0


def test_lifecycle_a_release_waits_for_the_registry_and_the_service_does_not(found):
    assert found["registry"].more == {"refused": "this file is no SQLite database; name another", "tried_again": "done"}


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limits of another process")
def test_lifecycle_on_a_full_disk_one_mode_refuses_and_the_other_catches_up(found):
    r = found["disk"]
    assert "503" in r.more["error"] and r.more["ready"] is False and r.more["refused_in_time"] == r.lost_without == r.affected
    assert r.lost_with == r.more["refused_by_available"] == r.more["not_in_the_log_of_available"] == 0


def test_lifecycle_the_same_fault_has_the_same_result_wherever_it_is_tried(system, found, tmp_path):
    for name in ("silent", "killed"):
        assert json.dumps(try_fault(system, name, folder=tmp_path).to_dict()) == json.dumps(found[name].to_dict())
    assert not any(tmp_path.iterdir())   # the copies are gone


def test_lifecycle_faults_are_drawn_and_listed_by_their_titles(found):
    table, ax = fault_table([*found.values()]), plot_faults([*found.values()])
    titles = [FAULTS[name].title for name in TRIED]
    assert [*table.index] == titles == [label.get_text() for label in ax.get_yticklabels()]
    assert [*table["dollars without"]] == [round(r.dollars_without) for r in found.values()]
    bars = sorted(bar.get_width() for bar in ax.patches)
    assert np.allclose(bars, sorted(x / 1000 for r in found.values() for x in (r.dollars_with, r.dollars_without)))


def test_a_fault_that_nobody_noticed_says_so():
    r = FaultResult("celsius", START, None, "", "nothing", 1, 0., 0., 0., 0., "answers", 0, 0)
    assert "never detected" in repr(r) and r.to_dict()["detected_at"] is None


def test_lifecycle_days_are_compared_with_themselves(system, tmp_path):
    day = ForkedDays(system, "none", START, tmp_path, 1, 6 * HOUR)
    assert excess_bill(day, day.usual) == excess_loss(day, day.usual) == 0
    nobody = day.usual * np.nan
    late, acted = day.rows.late[day.faulty], system.world.desk.decide(day.rows.index[day.faulty].to_numpy(), day.usual[day.faulty].to_numpy())
    world, ids = system.world, day.rows.index[day.faulty].to_numpy()
    assert excess_bill(day, nobody) == world.cost(ids, np.zeros(len(ids), bool)) - world.cost(ids, acted.acted.to_numpy()) and excess_loss(day, nobody) == 0
    flipped = excess_loss(day, 1 - day.usual)
    p = np.where(late == 1, day.usual[day.faulty], 1 - day.usual[day.faulty])[late.notna()]
    assert np.isclose(flipped, np.mean(np.log(p) - np.log(1 - p)))
    assert sum(len(X) for _, X in day.hours()) == len(day.rows) and all((day.when[X.index].dt.floor("h") == hour).all() for hour, X in day.hours())


def test_lifecycle_a_killed_server_answers_nothing_and_a_broken_one_says_so(system, tmp_path):
    day = ForkedDays(system, "none", START, tmp_path, 1, 6 * HOUR)
    copy = day.fork("copy")
    with killable_server(copy) as (url, process):
        assert np.allclose(day.ask(url, day.X.head(5))[0], day.usual.head(5), atol=1e-6)
        process.kill()
        process.wait()
        scores, said = day.ask(url, day.X.head(5))
        assert scores.isna().all() and said and told(url, "/health/ready") == {}
    parent = subprocess.Popen([sys.executable, "-c", "import sys, time; from pathlib import Path; from types import SimpleNamespace; "
                               "from mlscale.forked_days import killable_server\n"
                               "with killable_server(SimpleNamespace(bundles=Path(sys.argv[1]), log=Path(sys.argv[2]))) as (url, process):\n"
                               "    print(process.pid, flush=True)\n    time.sleep(600)", copy.bundles, copy.log], stdout=subprocess.PIPE, text=True)
    server = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while subprocess.run(["ps", "-o", "stat=", "-p", str(server)], capture_output=True, text=True).stdout.strip()[:1] not in ("", "Z"):
        assert time.monotonic() < deadline, "a server outlives the process that started it"
        time.sleep(.05)
    copy.log.unlink()
    copy.log.write_text("no log")
    with pytest.raises(RuntimeError, match="did not answer"), killable_server(copy): pass


@pytest.mark.parametrize("arguments, said", [
    ({"name": "gremlins"}, "name"), ({"name": "killed", "at": START + HOUR}, "at"), ({"name": "killed", "at": pd.Timestamp("2013-04-01")}, "at"),
    ({"name": "killed", "at": pd.Timestamp("2014-03-03", tz="UTC")}, "no flight"),
])
def test_lifecycle_what_cannot_be_tried_is_named(system, arguments, said):
    with pytest.raises(ValueError, match=said): try_fault(system, **arguments)
    if said == "name":
        with pytest.raises(ValueError, match="names"): try_faults(system, ["killed", "gremlins"])


def test_every_fault_says_what_it_is():
    assert all(isinstance(f, Fault) and f.title and f.what and f.protection and f.days >= 1 and f.begins < f.days * 24 * HOUR for f in FAULTS.values())
