"""The notebooks: valid, clean, exported, run.

    python tests/notebooks.py check             JSON and schema, cleanliness, names, the export, the exercises
    python tests/notebooks.py run [PATH ...]    chapters and solutions, each in a fresh kernel, several at a time, with a deadline
    python tests/notebooks.py refresh [PATH ...]  run and store the outputs; from a solution, generate the exercise
    python tests/notebooks.py navigate [PATH ...]  write the navigation of the chapters anew, collapse cells that check
"""
import ast
import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
SOLUTIONS, EXERCISES = NBS / "solutions", NBS / "exercises"
KERNEL = {"IN_TEST": "1", "TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PLATFORM_DIRS": "1"}   # what kernels see beside our own environment
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}   # kernels share the cores; with more threads they wait for one another
SECONDS = 60   # what a notebook may take on two quiet cores, unless its metadata {"mlscale": {"timeout": ...}} say otherwise
WORKERS = min((os.cpu_count() or 1) + 1, 8)   # notebooks at a time: some wait for Spark or a server
PATIENCE = 8   # it is stopped after so many times as long: that ends what hangs, and other machines are far slower, and busy


def find(names):
    "Notebooks by path, or by the beginning of their name below nbs/; all chapters and solutions where none is named."
    everything = [*sorted(NBS.glob("*.ipynb")), *sorted(SOLUTIONS.glob("*.ipynb"))]
    chosen = []
    for name in names:
        some = [Path(name).resolve()] if Path(name).is_file() else [p for p in everything if str(p.relative_to(NBS)).startswith(name)]
        if not some: sys.exit(f"no notebook {name!r}: there are {', '.join(p.stem for p in everything)}")
        chosen += some
    return chosen or everything


def read(path):
    "A notebook as JSON with its sources joined, or a ValueError that names the file."
    try: nb = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e: raise ValueError(f"{path.name} is not valid JSON: {e}") from e
    if not isinstance(nb, dict) or "cells" not in nb: raise ValueError(f"{path.name} is not a notebook: it holds no cells")
    for cell in nb["cells"]: cell["source"] = "".join(cell["source"])
    return nb


def write(nb, path):
    "In the form in which nbdev stores notebooks: sorted, indented by one, sources in lines."
    for cell in nb["cells"]: cell["source"] = cell["source"].splitlines(keepends=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, path)


def set_ids(nb):
    "Ids that depend on the sources alone, so that they do not change from save to save."
    seen = {}
    for cell in nb["cells"]:
        text = cell["cell_type"] + cell["source"]
        seen[text] = seen.get(text, 0) + 1
        cell["id"] = hashlib.sha256((text + (str(seen[text]) if seen[text] > 1 else "")).encode()).hexdigest()[:8]


def part(source):
    "What a reader may leave closed: checks, the code of a figure, what only passes names on; else None."
    for word in ("checks", "figure"):
        if source.startswith(f"#| {word}"): return word
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    if not lines and source.startswith("#| default_exp"): return "plumbing"
    if not source.startswith("#| export"): return None
    try: body = ast.parse(source).body
    except SyntaxError: return None
    passes_on = lambda x: isinstance(x, (ast.Import, ast.ImportFrom)) or isinstance(x, ast.Assign) and ast.unparse(x.targets[0]) == "_all_"
    return "plumbing" if all(map(passes_on, body)) else None


def collapse(nb):
    "Such cells are collapsed in JupyterLab; their tag lets a web page do the same."
    for cell in nb["cells"]:
        if cell["cell_type"] != "code": continue
        others = {k: v for k, v in cell["metadata"].items() if k not in ("jupyter", "tags")}
        tag = part(cell["source"])
        cell["metadata"] = {**others, **({"jupyter": {"source_hidden": True}, "tags": [tag]} if tag else {})}


MARK = "<!-- navigation: written by tests/notebooks.py -->"
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 8   # of prose, and of code that is read with care and run


def place(path):
    "(number, letter) of a chapter: 09b_intervals is ('09', 'b')."
    return re.match(r"(\d+)([a-z]?)_", path.name).groups()


def title(path):
    "Number and title of a chapter, without what follows a colon; of one that cannot be read the file's name."
    try: head = read(path)["cells"][0]["source"].splitlines()[0].removeprefix("# ").split(":")[0]
    except (ValueError, IndexError): return path.stem
    return f"{''.join(place(path))} {head}"


def minutes(nb):
    "Whole minutes to read the prose, and to read it with the code."
    words = sum(len(c["source"].split()) for c in nb["cells"] if c["cell_type"] == "markdown" and MARK not in c["source"])
    code = "\n".join(re.sub(r'"""[\s\S]*?"""', "", c["source"]) for c in nb["cells"] if c["cell_type"] == "code" and not part(c["source"]))
    lines = sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in code.splitlines())
    return max(1, round(words / WORDS_A_MINUTE)), max(1, round(words / WORDS_A_MINUTE + lines / LINES_A_MINUTE))


PLACE = "!$&'*+,-./:;=?@_~"   # what may stand unquoted in the name of a place


def contents(nb):
    "Links to the sections of a notebook, in the form of JupyterLab's anchors: it finds no place whose name is quoted where it need not be."
    heads = [line[3:].strip() for c in nb["cells"] if c["cell_type"] == "markdown" for line in re.sub(r"```[\s\S]*?```", "", c["source"]).splitlines() if line.startswith("## ")]
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", h).replace("`", "").replace("*", "") for h in heads]
    plain = [h for h in plain if not h.startswith(("Three questions", "Exercises", "References"))]   # everybody knows the way
    return " · ".join(f"[{h}](#{urllib.parse.quote(h.replace(' ', '-'), safe=PLACE)})" for h in plain)


def navigate(nb, path, chapters):
    "Put the cells of navigation after the title and at the end; chapters holds all of them, in order."
    nb["cells"] = [c for c in nb["cells"] if MARK not in c["source"]]
    facts, number = nb["metadata"].get("mlscale", {}), place(path)
    link = lambda p: f"[{title(p)}]({p.name})"
    order = list(chapters)
    main = [p for p in order if not place(p)[1] and len(place(p)[0]) == 2]
    plumbing = [p for p in order if len(place(p)[0]) > 2]
    companions = [p for p in order if place(p)[0] == number[0] and place(p)[1]]
    if path in main: before, after = ([p for p in main if p < path][-1:], [p for p in main if p > path][:1])
    else:
        row = plumbing if path in plumbing else [next(p for p in main if place(p)[0] == number[0]), *companions, *[p for p in main if p > path][:1]]
        here = row.index(path)
        before, after = row[max(0, here - 1):here], row[here + 1:here + 2]
    steps = " · ".join([*(f"previous: {link(p)}" for p in before), "[index](index.ipynb)", *(f"next: {link(p)}" for p in after)])
    if path in main and companions: steps += " · companions: " + ", ".join(map(link, companions))
    prose, all_ = minutes(nb)
    about = [f"**{all_} minutes**, {prose} of them for the prose."]
    if path in plumbing: about.append("Plumbing: skip it on a first reading.")
    if number[1]: about.append(f"A companion of {link(row[0])}: skip it on a first reading.")
    if facts.get("needs"): about.append(f"**You need** {facts['needs'].rstrip('.')}.")
    if facts.get("skip"): about.append(f"**On a first reading, skip** {facts['skip'].rstrip('.')}.")
    cell = lambda text: {"cell_type": "markdown", "id": "", "metadata": {}, "source": text}
    top = cell("\n\n".join([MARK, steps, " ".join(about), f"**On this page:** {contents(nb)}"]))
    nb["cells"] = [nb["cells"][0], top, *nb["cells"][1:], cell(f"{MARK}\n\n---\n\n{steps}")]


def prose_first(nb):
    "Readers meet prose before code: what stands above it, such as imports, moves below the first of it; but for a guess, which is asked for in the title's cell."
    title, *cells = (c for c in nb["cells"] if MARK not in c["source"])
    kinds = [c["cell_type"] for c in cells]
    begin = kinds.index("markdown")
    if any("guess(" in c["source"] for c in cells[:begin]): return
    end = next((i for i, kind in enumerate(kinds) if i > begin and kind == "code"), len(cells))
    nb["cells"] = [title, *cells[begin:end], *cells[:begin], *cells[end:]]


def in_form(nb, path):
    "A notebook as it is stored: cells that check collapsed, prose first, navigation and ids up to date."
    collapse(nb)
    chapters = sorted(NBS.glob("[0-9]*.ipynb"))
    if path in chapters:
        prose_first(nb)
        navigate(nb, path, chapters)
    set_ids(nb)


def navigation(names):
    for path in find(names):
        nb = read(path)
        in_form(nb, path)
        write(nb, path)


def no_duplicates(pairs):
    keys = [k for k, _ in pairs]
    if len(keys) != len(set(keys)): raise ValueError(f"a key stands twice in {keys}")
    return dict(pairs)


def findings(path):
    "What is wrong with a stored notebook."
    import nbformat
    try: nb = read(path)
    except ValueError as e: return [str(e)]
    found = []
    try:
        json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=no_duplicates)
        nbformat.validate(nbformat.from_dict(json.loads(path.read_text(encoding="utf-8"))))
    except Exception as e: found.append(f"{path.name}: {str(e).splitlines()[0]}")
    stored = json.dumps(nb["cells"])
    in_form(nb, path)
    if stored != json.dumps(nb["cells"]): found.append(f"{path.name}: ids, navigation or collapsed cells that do not follow from the sources: .venv/bin/python tests/notebooks.py navigate")
    for i, cell in enumerate(nb["cells"]):
        outputs = cell.get("outputs", [])
        where = f"{path.name}, cell {i}"
        if any(o["output_type"] == "error" for o in outputs): found.append(f"{where}: an error is stored")
        if any(o.get("name") == "stderr" for o in outputs): found.append(f"{where}: stderr is stored")
        if str(ROOT) in json.dumps(outputs): found.append(f"{where}: the output holds a path of this machine")
        if "nbdev_export(" in cell["source"]: found.append(f"{where}: a notebook does not export itself")
    if path.stat().st_size > 1_000_000: found.append(f"{path.name}: larger than 1 MB")
    return found


def check_export_and_clean():
    "Export into the package emptied of its .py files, clean the notebooks: nothing may change."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md"): shutil.copy(ROOT / name, copy)
        shutil.copytree(NBS, copy / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        (copy / "mlscale").mkdir()
        shutil.copy(ROOT / "mlscale" / "__init__.py", copy / "mlscale")   # ours: the version, and where to start
        found = []
        env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}   # with it nbdev_export does nothing
        for tool in ("nbdev_clean", "nbdev_export"):
            done = subprocess.run([Path(sys.executable).parent / tool], cwd=copy, capture_output=True, text=True, env=env)
            if done.returncode: found.append(f"{tool} failed: {done.stderr.strip()[-1500:]}")
        for path in [*sorted(NBS.glob("*.ipynb")), *sorted(SOLUTIONS.glob("*.ipynb"))]:
            if (copy / path.relative_to(ROOT)).read_bytes() != path.read_bytes():
                found.append(f"{path.name} is not clean: run nbdev_clean")
        files = {p.name for folder in (ROOT, copy) for p in (folder / "mlscale").glob("*.py")}
        for name in sorted(files):
            ours, exported = ROOT / "mlscale" / name, copy / "mlscale" / name
            if not exported.exists(): found.append(f"mlscale/{name} comes from no notebook: delete it")
            elif not ours.exists() or ours.read_bytes() != exported.read_bytes(): found.append(f"mlscale/{name} is not what the notebooks export: run nbdev_export")
        return found


def exercises():
    "The module that makes the exercises, from this checkout."
    sys.path.insert(0, str(ROOT))
    import mlscale.exercises
    return mlscale.exercises


ANSWER = re.compile(r'^with check\("', re.M)   # begins what a reader fills in


def given(path):
    "The cells that an exercise hands out, but for those that a reader fills in."
    return [(c["cell_type"], c["source"]) for c in read(path)["cells"] if not ANSWER.search(c["source"])]


def alike(made, present):
    """Whether a file of an exercise is what its solution generates: answers up to noise, since they may come from another machine;
    of a notebook what it hands out, in its order. What a reader wrote, ran or added is the reader's."""
    try:
        if made.suffix == ".json": return exercises().same(*(json.loads(p.read_text(encoding="utf-8")) for p in (made, present)))
        there = iter(given(present))
        return all(cell in there for cell in given(made))
    except (OSError, ValueError): return False


def check_exercises():
    "Generate the exercises anew, which refuses a line of a solution in them: what is handed out may not differ."
    found, made = [], []
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(SOLUTIONS.glob("*.ipynb")):
            try: made += exercises().generate(path, folder)
            except Exception as e: found.append(f"{path.name}: no exercise can be made of it: {e}")
        names = [str(p.relative_to(folder)) for p in made]
        for name, path in zip(names, made, strict=True):
            if not alike(path, EXERCISES / name): found.append(f"exercises/{name} is not what its solution generates: python3 workbook.py refresh nbs/solutions/{path.stem}_solution.ipynb")
    left = [p for p in sorted((EXERCISES / ".cases").iterdir()) if not (SOLUTIONS / f"{p.stem}_solution.ipynb").exists()]
    return found + [f"exercises/.cases/{p.name} comes from no solution: delete it" for p in left]


def check():
    notebooks = [*sorted(NBS.glob("*.ipynb")), *sorted(SOLUTIONS.glob("*.ipynb"))]
    found = [f for p in notebooks for f in findings(p)] + check_export_and_clean() + check_exercises()
    for f in found: print(f)
    print(f"{len(notebooks)} notebooks: {f'{len(found)} findings' if found else 'valid, clean, the package is what they export, the exercises what the solutions generate'}")
    return bool(found)


def clean_outputs(cell):
    "Outputs without what changes from run to run."
    cell["execution_count"] = None
    streams = []
    for out in cell["outputs"]:   # how a stream is cut into messages is chance
        if streams and out["output_type"] == "stream" and streams[-1].get("name") == out["name"]: streams[-1]["text"] = "".join([*streams[-1]["text"], *out["text"]])
        else: streams.append(out)
    cell["outputs"] = streams
    for out in streams:
        if "metadata" in out: out["metadata"] = {}
        if "execution_count" in out: out["execution_count"] = None
        for key, value in out.get("data", {}).items():
            if isinstance(value, str) and not key.startswith("image/png"): out["data"][key] = value.splitlines(keepends=True)
        if isinstance(out.get("text"), str): out["text"] = out["text"].splitlines(keepends=True)
        out.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def seconds(nb):
    "What a notebook may take on two quiet cores."
    return nb["metadata"].get("mlscale", {}).get("timeout", SECONDS)


def longest_first(paths):
    "The longest first, so that none of them runs alone at the end."
    def key(path):
        try: return -seconds(read(path))
        except (OSError, ValueError): return 0   # it fails when its turn comes
    return sorted(paths, key=key)


def execute(path):
    "Run a notebook in a fresh kernel: seconds, what went wrong (or None), the executed notebook."
    start = time.monotonic()
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
        nb = read(path)
        deadline = PATIENCE * seconds(nb)
        skipped = [i for i, c in enumerate(nb["cells"]) if any(line.replace(" ", "").startswith("#|eval:false") for line in c["source"].splitlines())]
        live = nbformat.from_dict(json.loads(json.dumps({**nb, "cells": [c for i, c in enumerate(nb["cells"]) if i not in skipped]})))
        client = NotebookClient(live, timeout=deadline, kernel_name="python3", resources={"metadata": {"path": str(NBS)}})

        async def with_deadline():
            async with client.async_setup_kernel(stderr=subprocess.DEVNULL, env=dict(os.environ)):
                async with asyncio.timeout(deadline):
                    for i, cell in enumerate(live.cells): await client.async_execute_cell(cell, i)

        problem = None
        try: asyncio.run(with_deadline())
        except CellExecutionError as e: problem = str(e)
        except Exception as e:   # a deadline can surface as a time-out or as a dead kernel
            problem = f"not done after {deadline} s" if time.monotonic() - start > deadline else f"{type(e).__name__}: {e}"
        done = iter(json.loads(nbformat.writes(live))["cells"])
        cells = [c if i in skipped else {**c, **({"outputs": next_cell["outputs"]} if (next_cell := next(done))["cell_type"] == "code" else {})} for i, c in enumerate(nb["cells"])]
        return time.monotonic() - start, problem, {**nb, "cells": cells}
    except Exception as e:
        return time.monotonic() - start, f"{type(e).__name__}: {e}", None


def run(names, store=False):
    import kernels
    paths, failed = longest_first(find(names)), {}
    os.environ.update({**THREADS, **os.environ, **KERNEL})
    if len(paths) > WORKERS: kernels.use_forked_kernels()   # for fewer the imports ahead are not worth it
    with ThreadPoolExecutor(WORKERS) as pool:
        jobs = {pool.submit(execute, p): p for p in paths}
        for n, job in enumerate(as_completed(jobs), 1):
            path, (took, problem, nb) = jobs[job], job.result()
            if problem is not None: failed[path.name] = problem
            print(f"[{n}/{len(paths)}] {path.name}: {f'FAILED{chr(10)}{problem}' if problem else 'runs'} ({took:.0f} s)", flush=True)
            if store and nb is not None and problem is None:
                for cell in nb["cells"]:
                    if cell["cell_type"] == "code": clean_outputs(cell)
                in_form(nb, path)
                write(nb, path)
                if path.parent == SOLUTIONS: exercises().generate(path, EXERCISES)
    for name, problem in failed.items():   # once more, where it is looked for
        said = [line for line in re.sub(r"\x1b\[[\d;]*m", "", problem).splitlines() if line.strip()]
        print(f"FAILED {name}: {' | '.join(said[-4:])}")
    return bool(failed)


if __name__ == "__main__":
    verb, names = (sys.argv[1:2] or ["check"])[0], sys.argv[2:]
    sys.exit({"check": lambda _: check(), "navigate": navigation}.get(verb, lambda names: run(names, store=verb == "refresh"))(names))
