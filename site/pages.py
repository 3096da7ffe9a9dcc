"""The notebooks as pages: what Sphinx reads is written from what a reader of Jupyter sees.

Nothing is run. Links lead to pages instead of files, cells that a reader may leave closed say what
is inside, figures get a text, guesses a box, and library code the way to the reference.
"""
import ast
import html
import json
import re
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, RESULTS = ROOT / "nbs", ROOT / "benchmarks" / "results"
CHAPTERS = sorted(NBS.glob("[0-9]*.ipynb"))
EXERCISES = sorted((NBS / "exercises").glob("*.ipynb"))
NAVIGATION = "<!-- navigation"
SECTIONS = ("Parameters", "Returns", "Yields", "Raises", "Warns", "See Also", "Notes", "Examples",
            "Attributes")
TITLES = ("suptitle", "set_title", "title")


def read(path):
    "A notebook with its sources joined."
    nb = json.loads(path.read_text(encoding="utf-8"))
    for cell in nb["cells"]: cell["source"] = "".join(cell["source"])
    return nb


def markdown(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def place(path):
    "Number and letter: 09b_intervals is ('09', 'b')."
    return re.match(r"(\d+)([a-z]?)_", path.stem).groups()


def module(path):
    "The module that a notebook exports: 09b_intervals is intervals."
    return path.stem.split("_", 1)[1]


# those that export a module; some only measure
MODULES = [p for p in CHAPTERS if (ROOT / "mlscale" / f"{module(p)}.py").exists()]


def short_title(path):
    "Number and title, without what follows a colon."
    head = read(path)["cells"][0]["source"].splitlines()[0].removeprefix("# ").split(":")[0]
    return f"{''.join(place(path))} {head}"


def slug(heading):
    "The anchor of a heading, from its text or from Jupyter's anchor."
    return re.sub(r"[^\w-]", "", urllib.parse.unquote(heading).lower().replace(" ", "-"))


def public_names():
    "Each public function and class: (module, name)."
    found = []
    for path in MODULES:
        tree = ast.parse((ROOT / "mlscale" / f"{module(path)}.py").read_text(encoding="utf-8"))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found += [(module(path), node.name) for node in tree.body
                  if isinstance(node, kinds) and not node.name.startswith("_")]
    return found


NAMES = public_names()


def homes():
    "Where a name of the library lives, for names that no other module and no plain word shares."
    all_names = [name for _, name in NAMES]
    speaking = re.compile(r"\w+_\w+|[A-Z]\w*[a-z]\w*[A-Z]?\w*")
    return {name: f"mlscale.{m}.{name}" for m, name in NAMES
            if all_names.count(name) == 1 and speaking.fullmatch(name)}


HOMES = homes()


def outside_code(pattern, change, text):
    "`re.sub` on prose: code blocks, inline code and comments stay, unless the pattern wants them."
    blocks = r"(^ *```[\s\S]*?^ *```|<!--[\s\S]*?-->)"
    parts = re.split(blocks, text, flags=re.M)
    return "".join(p if i % 2 else re.sub(pattern, change, p) for i, p in enumerate(parts))


def link(target, folder):
    "Where a link of a notebook (in `folder`, seen from nbs/) leads on the pages."
    path, _, anchor = target.partition("#")
    if ":" in path: return target
    anchor = f"#{slug(anchor)}" if anchor else ""
    if not path: return anchor
    full = (NBS / folder / urllib.parse.unquote(path)).resolve()
    if full.suffix == ".ipynb":
        page = ("exercises/" if full.parent.name == "exercises" else "chapters/") + full.name
        return f"../{page}{anchor}"
    return f"../notebooks/{full.relative_to(NBS)}"


def prose(source, folder=""):
    "Markdown of a notebook as MyST: links to pages, names of the library to the reference."
    def change_link(m):
        text, target = m.groups()
        to = link(target, folder)
        if to.startswith("../notebooks/"): return f'<a href="{to}">{html.escape(text)}</a>'
        return f"[{text}]({to})"

    def change_name(m):
        if m[1] in HOMES: return f"{{py:obj}}`{m[1]} <{HOMES[m[1]]}>`"
        return m[0]

    def change_line(line):
        if line.startswith("#"): return line
        parts = re.split(r"(\[[^\]]*\]\([^)]*\))", line)   # a link's text stays as it is
        return "".join(p if i % 2 else re.sub(r"(?<!`)`(\w+)`(?!`)", change_name, p)
                       for i, p in enumerate(parts))

    text = re.sub(r"!\[[^\]]*\]\(images/map\.svg\)", lambda m: drawing("../"), source)
    if text == source:
        text = outside_code(r"(?m)^.*$", lambda m: change_line(m[0]), text)
    return outside_code(r"(?<!!)\[((?:[^\[\]`]|`[^`]*`)*)\]\(([^()\s]+)\)", change_link, text)


def drawing(up):
    "The map of the boxes, each leading to its chapter."
    text = (NBS / "images" / "map.svg").read_text(encoding="utf-8")
    text = re.sub(r'href="(\w+)\.ipynb"', rf'href="{up}chapters/\1.html"', text)
    text = text.replace('role="img"', 'role="group"').replace('width="900" height="330"', "", 1)
    text = re.sub(r"<rect width=[^>]*/>", "", text, count=1)   # the paper: a page has its own
    return f'<div class="map">{re.sub(chr(10), "", text)}</div>'


def reader_steps(source):
    "The cell of navigation: (previous, next, lines that stay)."
    steps = {word: re.search(rf"{word}: \[([^\]]*)\]\(([^)]*)\)", source)
             for word in ("previous", "next")}
    keep = [p for p in source.split("\n\n") if p.startswith("**") and "On this page" not in p]
    companions = re.search(r"companions: .*", source)
    if companions: keep.append(f"**Companions:** {companions[0].removeprefix('companions: ')}")
    before, after = ((m[2].removesuffix(".ipynb"), m[1]) if m else None for m in steps.values())
    return before, after, keep


def figure_text(source, before=""):
    """What a figure shows, for those who cannot see it: its directive, else its titles and axes;
    where another function draws it, what the prose before says."""
    told = re.search(r"(?m)^#\| ?fig-alt: *(.+)$", source)
    if told: return told[1].strip().strip('"')
    words = {"title": [], "across": [], "up": []}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call): continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in TITLES and node.args: words["title"].append(words_of(node.args[0]))
        for keyword in node.keywords:
            kind = {"title": "title", "xlabel": "across", "ylabel": "up"}.get(keyword.arg)
            if kind and name != "legend": words[kind].append(words_of(keyword.value))
    titles, across, up = ([t for t in dict.fromkeys(found) if t] for found in words.values())
    if not titles: titles = sorted(sentences(source), key=len)[-1:]
    if not titles: return first_sentence(before)
    axes = [f"{way}: {', '.join(some)}" for way, some in (("across", across), ("up", up)) if some]
    return ". ".join(["; ".join(titles), *axes])


def first_sentence(text):
    "The beginning of the last paragraph of prose, without marks."
    paragraphs = [p for p in text.split("\n\n") if re.match(r"[A-Z*`\[]", p)]
    if not paragraphs: return None
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraphs[-1])
    return "Figure. " + re.split(r"(?<=[.:?!])\s", re.sub(r"[`*$\n]", " ", plain).strip())[0]


def words_of(node):
    "A text in code; what is computed in it is left open."
    if isinstance(node, ast.Constant) and isinstance(node.value, str): return node.value
    if isinstance(node, ast.JoinedStr):
        found = [words_of(v) if isinstance(v, ast.Constant) else "…" for v in node.values]
        return "" if set("".join(found)) <= set("…, ") else "".join(found)
    return ""


def sentences(source):
    "Texts in code that read like a sentence, such as the title handed to a function that draws."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "draw":
            yield from (t for t in map(words_of, node.args) if len(t.split()) > 3)


def summary_only(source):
    "Code with docstrings cut to what stands before their sections; the reference has them whole."
    lines = source.splitlines()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, kinds)]
    for node in sorted(filter(ast.get_docstring, nodes), key=lambda n: -n.lineno):
        first, last = node.body[0].lineno - 1, node.body[0].end_lineno - 1
        under = [i for i in range(first, last) if re.fullmatch(r" *-{3,}", lines[i])]
        heads = [i - 1 for i in under if lines[i - 1].strip() in SECTIONS]
        if not heads: continue
        kept = "\n".join(lines[first:heads[0]]).rstrip()
        lines[first:last + 1] = [kept, re.match(" *", lines[first])[0] + '..."""']
    return "\n".join(lines)


def closed(cell, tag):
    "A cell that opens on a click, with a word that says what is inside."
    source = cell["source"]
    asserts = len(re.findall(r"(?m)^\s*assert\b", source))
    what = {"checks": f"Checks: {asserts} statements that must hold" if asserts > 1 else "Checks",
            "figure": "The code of the figure", "plumbing": "Imports and names"}[tag]
    words = {"code_prompt_show": what, "code_prompt_hide": what}
    return {**cell, "metadata": {"tags": ["hide-input"], "mystnb": words}}


def guess_box(name, within):
    return markdown(
        f'<form class="guess" data-name="{name}" data-within="{within}"><p>Your guess</p>'
        '<label>a number <input name="value" type="number" step="any" required></label> '
        f'<label>how sure that it is within {within} of the truth, 0 to 1 '
        '<input name="sure" type="number" step="any" min="0" max="1" value="0.5"></label> '
        '<button type="submit">Keep it</button> '
        '<output>It stays in this browser.</output></form>')


def answer_box(name, truth):
    return markdown(
        f'<details class="answer" data-name="{name}" data-truth="{truth}"><summary>The answer to '
        f'your guess</summary><p>The answer: <strong>{truth}</strong>. '
        "<output>You have kept no guess in this browser.</output></p></details>")


def guessing(cell, asked):
    "The cells for a cell that asks for a guess, or shows an answer to one; None for others."
    source = cell["source"].strip()
    if m := re.fullmatch(r'guess\("([\w.]+)", \.\.\., sure=\.\.\., within=([\d.]+)\)', source):
        asked.add(m[1])
        return [guess_box(*m.groups())]
    m = re.search(r'(?m)^answer\("([\w.]+)", .*\)$', source)
    if not m or m[1] not in asked: return None
    others, truth = [], None
    for out in cell["outputs"]:
        told = re.match(r"The answer: (\S+)\. ", "".join(out.get("data", {}).get("text/plain", "")))
        if told: truth = told[1]
        else: others.append(out)
    if truth is None: return None
    code = source.replace(m[0], "").strip()
    shown = [{**cell, "source": code, "outputs": others}] if code else []
    return [*shown, answer_box(m[1], truth)]


def exported(source, name):
    "The public functions and classes that a cell exports from a module."
    if not re.match(r"#\| ?export\b", source): return []
    defined = [getattr(node, "name", "") for node in ast.parse(source).body]
    return [n for n in defined if (name, n) in NAMES]


def label(name, function):
    "The target of a cell that builds a function or class; targets know no capitals."
    kind = "class" if function[0].isupper() else "code"
    return f"{kind}-{name}-{function}".lower().replace("_", "-")


def code_cells(cell, name, asked, built, before):
    "The cells of the page for a cell of code."
    if made := guessing(cell, asked): return made
    source, outputs = cell["source"], cell["outputs"]
    if re.fullmatch(r"#\| ?default_exp \w+\s*", source): return []
    if "calibration().plot()" in source and name == "index":
        return [markdown('<div class="guesses">They appear here when you keep one in this '
                         "browser.</div>")]
    tag = (cell["metadata"].get("tags") or [""])[0]
    names = [n for n in exported(source, name) if n not in built]
    built.update(names)
    shown = summary_only(source) if source.startswith("#|") and names else source
    shown = re.sub(r"\A(?:#\|.*\n)+", "", shown)   # directives are for the tools
    new = {**cell, "source": shown, "metadata": {}}
    if tag in ("checks", "figure", "plumbing"): new = closed(new, tag)
    if any("image/png" in out.get("data", {}) for out in outputs):
        text = figure_text(source, before)
        new["metadata"].setdefault("mystnb", {})["image"] = {"alt": text} if text else {}
    if not names: return [new]
    targets = "\n".join(f"({label(name, n)})=" for n in names)
    links = ", ".join(f"{{py:obj}}`{n} <mlscale.{name}.{n}>`" for n in names)
    return [markdown(f"{targets}\n{{.exported}}\nIn the library: {links}"), new]


def page(path, folder=""):
    "The notebook that Sphinx reads, and its steps: (previous, next)."
    nb, cells, steps, asked, built = read(path), [], (None, None), set(), set()
    name = module(path) if path in CHAPTERS else path.stem
    before = ""
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown": before = cell["source"]
        if cell["cell_type"] == "code": cells += code_cells(cell, name, asked, built, before)
        elif NAVIGATION not in cell["source"]: cells.append(markdown(prose(cell["source"], folder)))
        elif steps == (None, None):
            *steps, keep = reader_steps(cell["source"])
            about = [prose(p) for p in keep]
            about.append(f'<a href="../notebooks/{path.name}" download>Download this notebook</a>')
            if path in MODULES: about[-1] += f" · {{py:mod}}`mlscale.{name}` in the reference"
            cells.append(markdown("\n\n".join(about)))
    cells.append(markdown(contents(path)))
    metadata = {"language_info": {"name": "python"}, "kernelspec": nb["metadata"]["kernelspec"]}
    for i, cell in enumerate(cells): cell["id"] = f"cell-{i}"
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, tuple(steps)


def toctree(entries, *options):
    return "\n".join(["```{toctree}", ":hidden:", *options, "", *entries, "```"])


def companions(path):
    "The notebooks that stand under a chapter."
    number, letter = place(path)
    return [p for p in CHAPTERS if place(p)[0] == number and place(p)[1] and not letter]


def contents(path):
    "The table of contents below a page: companions under their chapter, all below the index."
    entries = lambda paths: [f"{short_title(p)} <{p.stem}>" for p in paths]
    if path.stem == "index":
        main = [p for p in CHAPTERS if not place(p)[1]]
        plumbing = [p for p in main if len(place(p)[0]) == 3]
        return "\n\n".join([toctree(entries(p for p in main if p not in plumbing)),
                            toctree(entries(plumbing), ":caption: Plumbing")])
    mine = companions(path) if path in CHAPTERS else []
    return toctree(entries(mine)) if mine else ""


def sections_of_code():
    "Where each public name is built: (module, name) to the chapter's title and its section."
    found = {}
    for path in CHAPTERS:
        section = None
        for cell in read(path)["cells"]:
            if cell["cell_type"] == "markdown":
                heads = re.findall(r"(?m)^##+ (.+)$", re.sub(r"```[\s\S]*?```", "", cell["source"]))
                section = (heads or [section])[-1]
            else:
                for name in exported(cell["source"], module(path)):
                    found.setdefault((module(path), name), (short_title(path), section))
    return found
