"""Four weeks of chapter 12 on an eighth of the flights, in processes that die where they are told.

    python small_year.py FOLDER [--spark] [--copy] [MOMENT ...]

For each moment a process runs what is in the folder and kills itself there; a last one runs to the end. The processes are copies of
one that has loaded everything, so that a death costs little. A moment is a call of something that a run must survive: `12` dies before
the sixth such call, `13` after it. Without Spark, Arrow scores the batches. With `--copy`, FOLDER.launched is what FOLDER holds once
the system is launched. What each process did is a line of JSON."""
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from unittest.mock import patch

import mlscale.lifecycle as lifecycle
import mlscale.policy as policy
import mlscale.system as system
import mlscale.world as world
from mlscale.lifecycle import START, WEEK, run
from mlscale.registry import Registry
from mlscale.story import Run

HOOKS = [(lifecycle, name) for name in ("request_predictions", "act", "record_known_outcomes", "watch", "watch_day", "judge_release", "release")]
HOOKS += [(policy, name) for name in ("batch_scores", "deploy", "record_training")] + [(Registry, name) for name in ("register", "promote", "rollback", "deploy", "withdraw")]
HOOKS += [(system, name) for name in ("write_checkpoint", "read_checkpoint", "_copy_database", "record_outcomes")] + [(lifecycle, "write_run")]
WEEKS, BAD = 4, START + 2 * WEEK


class Moments:
    "Counts the calls of what a run must survive, and dies at one of them."
    def __init__(self, deadly): self.deadly, self.count, self.lock, self.names = deadly, itertools.count(), threading.Lock(), []

    def passes(self, name):
        with self.lock: now = next(self.count); self.names.append(name)
        if now == self.deadly:
            print(json.dumps({"died": f"{now}: {name}"}), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(self, call, name):
        @functools.wraps(call)
        def wrapper(*args, **words):
            self.passes(f"before {name}")
            result = call(*args, **words)
            self.passes(f"after {name}")
            return result
        return wrapper


def copied_once(call, folder):
    "A call before which a folder is copied, the first time."
    @functools.wraps(call)
    def wrapper(*args, **words):
        if not os.path.exists(f"{folder}.launched"): shutil.copytree(folder, f"{folder}.launched")
        return call(*args, **words)
    return wrapper


def lived(folder, deadly, spark, copy):
    "Run what is in the folder, to its end or to the deadly moment."
    moments, full = Moments(deadly), policy.load_features()
    wrong = lambda features, until: world.without_horizon(full.set_index("flight_id"), until).loc[features.index]
    with contextlib.ExitStack() as stack:
        change = lambda where, name, what: stack.enter_context(patch.object(where, name, what))
        change(policy, "load_features", lambda: full.iloc[::8])
        change(lifecycle, "without_horizon", wrong)
        for where, name in HOOKS: change(where, name, moments.wrapped(getattr(where, name), name))
        if not spark: change(lifecycle, "session", contextlib.nullcontext)
        if copy: change(lifecycle, "run_weeks", copied_once(lifecycle.run_weeks, folder))
        change(Run, "report", lambda self, path: path)   # it is drawn in other tests
        result = run(folder=folder, until=START + WEEKS * WEEK, bad_release=BAD, progress=False)
    print(json.dumps({"digest": result.digest, "moments": next(moments.count), "decisions": result.decisions}), flush=True)


if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    spark, copy = "--spark" in words, "--copy" in words
    policy.load_flights()
    world.without_horizon(policy.load_features().set_index("flight_id"), BAD)   # to build it after a fork would wait for Polars' threads for ever
    for deadly in [*(int(word) for word in words if word.isdigit()), None]:
        child = os.fork()
        if child == 0:
            lived(folder, deadly, spark, copy)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if deadly is None: sys.exit(os.waitstatus_to_exitcode(status))
