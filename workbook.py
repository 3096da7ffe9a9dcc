#!/usr/bin/env python3
"""mlscale from a bare Python: builds the environment, then runs, tests or opens the workbook.

    python3 workbook.py run       the whole lifecycle on the year of flights; writes a report
    python3 workbook.py test      exports and cleanliness, every notebook in a fresh kernel, pytest
    python3 workbook.py lab       JupyterLab on the index of the chapters
    python3 workbook.py nb PATH   one notebook in a fresh kernel
    python3 workbook.py refresh   executes notebooks and stores their outputs
    python3 workbook.py site      the book on the web, in _site; `--serve` shows it on this machine

Further words are passed on: `test -k registry --slow`, `lab --no-browser`, `refresh
nbs/00_data.ipynb`.
"""
import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV, LOCK = ROOT / ".venv", ROOT / "requirements.lock"
PYTHON, STAMP = VENV / "bin" / "python", VENV / "complete.json"
UV = "uv==0.13.9"
NEEDED_BYTES = 3_000_000_000
WORKERS = min((os.cpu_count() or 1) + 1, 8)   # tests often wait: for Spark, a server, a kill
WARM = "from mlscale.flight_features import load_features; load_features()"   # many wait for it
SOON_DONE = "-XX:TieredStopAtLevel=1"   # a Java of minutes is not worth its second compiler
VERBS = ("run", "test", "lab", "nb", "refresh", "site")


class Problem(Exception):
    "Something the user can mend; its text is one clear line."


def check_python():
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise Problem(
            f"Python 3.11, 3.12 or 3.13 is needed, this is {sys.version.split()[0]}"
            f" ({sys.executable}): start workbook.py with another, such as python3.11"
        )
    if sys.platform == "win32":
        raise Problem("Windows is not supported: use WSL2 or the dev container")
    if importlib.util.find_spec("ensurepip") is None:
        raise Problem(
            "this Python has no ensurepip, so it can make no environments: install your system's"
            " package for it (Debian, Ubuntu: apt install python3-venv)"
        )


def check_disk():
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED_BYTES:
        raise Problem(
            f"the disk of {ROOT} has {free / 1e9:.1f} GB free, the environment needs"
            f" {NEEDED_BYTES / 1e9:.0f} GB: free some and run the same command again"
        )


def wanted():
    "What a complete environment was built from; it is rebuilt when this changes."
    sources = {
        name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        for name in ("requirements.lock", "settings.ini", "setup.py")
    }
    return {"python": sys.version.split()[0], "root": str(ROOT), "uv": UV, **sources}


def built():
    try: return json.loads(STAMP.read_text())
    except (OSError, ValueError): return None


@contextlib.contextmanager
def one_at_a_time():
    "Only one process builds; the others wait for it."
    with open(ROOT / ".venv.lock", "a") as f:
        try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process is building the environment; waiting for it", file=sys.stderr)
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def diagnose(what, output):
    "The one line for a command of the installation that failed."
    text = output.lower()
    if "no space left" in text or "os error 28" in text:
        return Problem(
            f"the disk became full while {what}: free {NEEDED_BYTES / 1e9:.0f} GB on the disk of"
            f" {ROOT} and run the same command again"
        )
    signs = (
        "name resolution",
        "name or service",
        "dns error",
        "failed to establish",
        "connection refused",
        "connection error",
        "timed out",
        "timeout",
        "network is unreachable",
        "failed to fetch",
        "error sending request",
        "no matching distribution",
        "proxy",
    )
    if any(sign in text for sign in signs):
        return Problem(
            f"the package index cannot be reached ({what}): check the network or pip's index"
            f" settings, then run the same command again\n{output.strip()[-500:]}"
        )
    return Problem(f"failed: {what}\n{output.strip()[-2000:]}")


def step(what, command, env):
    "Run a command of the installation silently, with the seconds ticking on a terminal."
    done, start = threading.Event(), time.monotonic()

    def tick():
        while not done.wait(1):
            print(
                f"\r{what} ... {time.monotonic() - start:.0f} s",
                end="",
                file=sys.stderr,
                flush=True,
            )

    print(f"{what} ...", end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
    ticker = threading.Thread(target=tick if sys.stderr.isatty() else done.wait, daemon=True)
    ticker.start()
    try:
        result = subprocess.run(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=env,
            cwd=ROOT,
        )
    finally:
        done.set()
        ticker.join()
        if sys.stderr.isatty(): print(file=sys.stderr)
    if result.returncode: raise diagnose(what, result.stdout)
    return result.stdout


def clean_environment():
    """Our environment variables without what would lead Python or uv to another installation, or
    have each process compile all modules anew; threads that wait sleep, and leave the cores to
    others."""
    unwanted = (
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
    )
    env = {k: v for k, v in os.environ.items() if k not in unwanted}
    return {
        **env,
        "VIRTUAL_ENV": str(VENV),
        "PATH": f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}",
        "PYTHONNOUSERSITE": "1",
        "OMP_WAIT_POLICY": env.get("OMP_WAIT_POLICY", "passive"),
    }


def index_settings(env):
    "uv does not read pip's configuration: hand it the index that pip uses."
    if "UV_DEFAULT_INDEX" in env or "UV_INDEX_URL" in env: return env
    url = subprocess.run(
        [PYTHON, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        env=env,
    ).stdout.strip()
    url = env.get("PIP_INDEX_URL") or url
    return {**env, "UV_DEFAULT_INDEX": url} if url else env


def build(env):
    """Make the environment; the stamp is written last, so one without it was interrupted and is
    made anew."""
    check_disk()
    state = built()
    if state is None or any(state.get(k) != wanted()[k] for k in ("python", "root", "uv")):
        if VENV.exists():
            print(
                (
                    "an incomplete or moved environment is removed"
                    if state is None
                    else "the environment was made by another Python or elsewhere; it is made anew"
                ),
                file=sys.stderr,
            )
            shutil.rmtree(VENV)
        step("making the environment .venv", [sys.executable, "-m", "venv", VENV], env)
        step(
            f"installing {UV}",
            [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV],
            env,
        )
    STAMP.unlink(missing_ok=True)
    env = index_settings(env)
    step(
        "installing the packages of requirements.lock (once, about 2 GB)",
        [VENV / "bin" / "uv", "pip", "sync", "--python", PYTHON, "--require-hashes", LOCK],
        env,
    )
    step(
        "installing mlscale itself",
        [
            VENV / "bin" / "uv",
            "pip",
            "install",
            "--python",
            PYTHON,
            "--no-deps",
            "--no-build-isolation",
            "--editable",
            ROOT,
        ],
        env,
    )
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps(wanted(), indent=1))
    os.replace(new, STAMP)


def ready():
    "Whether the environment is complete and of the present lock."
    return PYTHON.exists() and built() == wanted()


def ensure(env):
    if not ready():
        with one_at_a_time():
            if not ready(): build(env)


def without_java(env):
    "Tests run as on a machine without Java: a `java` that fails stands first on the path."
    folder = ROOT / ".mlscale" / "cache" / "no java"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "java").write_text("#!/bin/sh\necho 'java is hidden from the tests' >&2\nexit 127\n")
    (folder / "java").chmod(0o755)
    env = {k: v for k, v in env.items() if k != "JAVA_HOME"}
    return {**env, "PATH": f"{folder}{os.pathsep}{env['PATH']}"}


def begin(command, env):
    "Start a command, whose output `aloud` reads."
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**env, "PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
    )


def aloud(running):
    "Pass on what a command prints: its exit status, and the lines that name a failure."
    failures = []
    with running:
        for line in running.stdout:
            print(line, end="", flush=True)
            if line.startswith("FAILED "): failures.append(line.rstrip())
    return running.returncode, failures


def test(words, env):
    "All parts run, whatever fails; what failed is named once more at the end."
    env = env if "--java" in words else without_java(env)
    words = [w for w in words if w != "--java"]
    runner, pytest = [PYTHON, ROOT / "tests" / "notebooks.py"], [PYTHON, "-m", "pytest"]
    chosen = any(not w.startswith("-") or w.startswith("-k") for w in words)
    many = ["-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder"]
    workers = [] if chosen else many   # a few tests are soon done
    names = "notebooks valid, clean and exported", "notebooks run", "pytest"
    quiet = subprocess.DEVNULL
    with subprocess.Popen([PYTHON, "-c", WARM], env=env, cwd=ROOT, stdout=quiet, stderr=quiet):
        checking, notebooks = begin([*runner, "check"], env), begin([*runner, "run"], env)
        results = [aloud(checking), aloud(notebooks)]   # both at once, for the check needs one core
        results.append(aloud(begin([*pytest, *workers, *words], env)))
    for name, (code, failures) in zip(names, results, strict=True):
        if not code: continue
        print(f"FAILED: {name} (exit status {code})", *failures, sep="\n  ", file=sys.stderr)
    return max(abs(code) for code, _ in results)


def main(words):
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    if verb not in VERBS: raise Problem(f"unknown verb {verb!r}: one of {', '.join(VERBS)}")
    if verb == "nb" and len(rest) != 1:
        raise Problem("nb takes one notebook: python3 workbook.py nb nbs/00_data.ipynb")
    check_python()
    env = clean_environment()
    ensure(env)
    if verb != "lab": env = {"SPARK_SUBMIT_OPTS": SOON_DONE, **env}
    if verb == "test": return test(rest, env)
    paths = [str(Path(w).resolve()) if Path(w).exists() else w for w in rest]
    if verb == "lab":   # our settings come before the user's own
        folders = [str(ROOT / ".jupyter"), env.get("JUPYTER_CONFIG_PATH", "")]
        env["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, folders))
    command = {
        "run": [PYTHON, "-m", "mlscale.cli", "run", *rest],
        "lab": [
            PYTHON,
            "-m",
            "jupyterlab",
            f"--ServerApp.root_dir={ROOT}",
            "--LabApp.default_url=/lab/tree/nbs/index.ipynb",
            *(["--allow-root"] if os.geteuid() == 0 else []),
            *rest,
        ],
        "nb": [PYTHON, ROOT / "tests" / "notebooks.py", "run", *paths],
        "refresh": [PYTHON, ROOT / "tests" / "notebooks.py", "refresh", *paths],
        "site": [PYTHON, ROOT / "site" / "build.py", *rest],
    }[verb]
    return subprocess.run(list(map(str, command)), env=env, cwd=ROOT).returncode


if __name__ == "__main__":
    try: sys.exit(main(sys.argv[1:]))
    except Problem as e: sys.exit(f"workbook.py: {e}")
    except KeyboardInterrupt:
        sys.exit("workbook.py: interrupted; run the same command again to go on")
    except OSError as e:
        if e.errno != errno.ENOSPC: raise
        sys.exit(
            f"workbook.py: the disk is full: free {NEEDED_BYTES / 1e9:.0f} GB on the disk of {ROOT}"
            " and run the same command again"
        )
