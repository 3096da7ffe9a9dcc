"""What the benchmarks share: peers in environments of their own, timing side by side, one table and one file a result."""
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CACHE = ROOT / ".mlscale" / "cache" / "peers"


def peer(name: str, requirements: Sequence[str]) -> Path:
    "The Python of an environment that holds a peer; made once for these requirements."
    folder = CACHE / f"{name}-{hashlib.sha256(' '.join(requirements).encode()).hexdigest()[:8]}"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = Path(sys.executable).with_name("uv")
        index = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True).stdout.strip()
        env = {**os.environ, **({"UV_DEFAULT_INDEX": index} if index else {})}
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True, env=env)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *requirements], check=True, env=env, timeout=900)
        done.touch()
    return python


def ask(python: Path, code: str, **data) -> object:
    "Run code in a peer's environment: it finds `data` as a dict and leaves its answer, plain values, in `answer`."
    wrapped = "import json, sys\ndata = json.load(sys.stdin)\n" + code + "\nprint('\\n' + json.dumps(answer))"
    done = subprocess.run([python, "-c", wrapped], input=json.dumps(data), capture_output=True, text=True)
    if done.returncode: raise RuntimeError(f"{python.parent.parent.name}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def waiting(python: Path, code: str, **data) -> Iterator[Callable[[str], object]]:
    "A peer that stays, so that it can take turns: called with a word, it runs `turn(word)`, which its code defines from `data`, and gives what that returns."
    wrapped = "import json, sys\ndata = json.loads(sys.stdin.readline())\n" + code + "\nfor line in sys.stdin: print(json.dumps(turn(json.loads(line))), flush=True)"
    with subprocess.Popen([python, "-c", wrapped], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        def say(words: object) -> None:
            process.stdin.write(json.dumps(words) + "\n")
            process.stdin.flush()

        def turn(word: str) -> object:
            say(word)
            if not (answer := process.stdout.readline()): raise RuntimeError(f"{python.parent.parent.name}: ended at {word!r}")
            return json.loads(answer)

        say(data)
        yield turn


def seconds(contenders: dict[str, Callable], rounds: int = 5) -> dict[str, float]:
    "The median seconds of each contender; they take turns, so that what else the machine does meets all of them."
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: median(t) for name, t in times.items()}


def markdown(rows: Sequence[dict]) -> str:
    "Rows of equal keys as a Markdown table."
    cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(rows[0]), ["---"] * len(rows[0]), *cells])


def store(name: str, rows: Sequence[dict], packages: Sequence[str] = ("numpy", "pandas")) -> None:
    "Print the table and keep it in `results/<name>.json` with what it takes to measure it again."
    print(f"\n{name}\n\n{markdown(rows)}", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = {"command": " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]), "commit": commit, "date": date.today().isoformat(),
             "python": platform.python_version(), "cores": os.cpu_count(), "versions": {p: version(p) for p in packages}}
    RESULTS.mkdir(exist_ok=True)
    new = RESULTS / f"{name}.json.new"
    new.write_text(json.dumps({**about, "rows": list(rows)}, indent=1) + "\n")
    os.replace(new, RESULTS / f"{name}.json")
