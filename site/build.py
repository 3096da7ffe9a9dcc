"""The book on the web, from stored outputs and without the network.

    python3 workbook.py site [--to FOLDER] [--serve [PORT]]
"""
import argparse
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import webbrowser
from pathlib import Path

from fixed import exercises_index, front, reference_index, reference_page, results
from pages import CHAPTERS, EXERCISES, MODULES, NBS, ROOT, module, page

HERE = Path(__file__).resolve().parent
FONT = range(0x20, 0x250), range(0x370, 0x400), range(0x2000, 0x2400), range(0x1D400, 0x1D7FF)


def write(path, text):
    "Only what differs, so that Sphinx reads only that again."
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def stage(folder):
    "Everything that Sphinx reads."
    made, steps = [], {}
    for path in [*CHAPTERS, NBS / "index.ipynb"]:
        nb, steps[path.stem] = page(path)
        made.append(write(folder / "chapters" / path.name, json.dumps(nb)))
    for path in EXERCISES:
        made.append(write(folder / "exercises" / path.name, json.dumps(page(path, "exercises")[0])))
    for path in MODULES:
        made.append(write(folder / "api" / f"{module(path)}.md", reference_page(path)))
    others = {"index": front, "results": results, "api/index": reference_index,
              "exercises/index": exercises_index}
    for name, make in others.items(): made.append(write(folder / f"{name}.md", make()))
    made.append(write(folder / "steps.json", json.dumps(steps)))
    shutil.copy(NBS / "images" / "year.png", folder / "year.png")
    for path in folder.rglob("*"):   # of a chapter that is no more
        if path.is_file() and path not in made and path.suffix in (".md", ".ipynb"): path.unlink()


def font(target):
    "The font of the formulas, with the letters that formulas use."
    from fontTools import subset
    from ziamath import fonts
    options = subset.Options(flavor="woff", layout_features=["*"])
    source = subset.load_font(Path(fonts.__file__).parent / "STIXTwoMath-Regular.ttf", options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[c for some in FONT for c in some])
    subsetter.subset(source)
    subset.save_font(source, str(target), options)


def build(target):
    "Make the site aside; where it was made as a whole it takes its place."
    if target.exists() and any(target.iterdir()) and not (target / "searchindex.js").exists():
        sys.exit(f"--to {target}: holds something else; give a new folder, or one with a site")
    with tempfile.TemporaryDirectory() as box:
        work = ROOT / ".mlscale" / "cache" / "site" if target == ROOT / "_site" else Path(box)
        html = work / "html"
        stage(work / "source")
        call("sphinx", "-b", "html", "-c", HERE, "-d", work / "doctrees", "-j", 2, "-W",
             "--keep-going", "-q", work / "source", html)
        left_out = shutil.ignore_patterns(".ipynb_checkpoints", "solutions")
        shutil.copytree(NBS, html / "notebooks", dirs_exist_ok=True, ignore=left_out)
        font(html / "_static" / "math.woff")
        for path in html.glob("[ace]*/*.html"):   # of a chapter that is no more
            source = work / "source" / path.relative_to(html)
            if not any(source.with_suffix(s).exists() for s in (".md", ".ipynb")): path.unlink()
        shutil.rmtree(html / "pagefind", ignore_errors=True)
        call("pagefind", "--site", html, "--root-selector", "article", "--quiet")
        new = target.with_name(f"{target.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(html, new)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)


def call(module, *words):
    done = subprocess.run([sys.executable, "-m", module, *map(str, words)])
    if done.returncode: sys.exit(f"{module} has found something wrong; no site was made")


def serve(folder, port):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        print(f"{url} (Ctrl+C ends it)", flush=True)
        webbrowser.open(url)
        try: server.serve_forever()
        except KeyboardInterrupt: pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="workbook.py site", description="the book on the web")
    parser.add_argument("--to", type=Path, default=ROOT / "_site", help="the folder; default _site")
    parser.add_argument("--serve", nargs="?", type=int, const=8000, metavar="PORT",
                        help="show it on this machine; default port 8000")
    args = parser.parse_args()
    target = args.to.resolve()
    build(target)
    print(f"{os.path.relpath(target / 'index.html')} is the front page")
    if args.serve is not None: serve(target, args.serve)
