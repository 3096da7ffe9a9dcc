"""The pages that are no notebooks: the front page, the results, the reference, one a module."""
import ast
import html
import json
import re

from pages import (
    CHAPTERS,
    EXERCISES,
    MODULES,
    RESULTS,
    ROOT,
    companions,
    drawing,
    place,
    prose,
    read,
    short_title,
    toctree,
)
from pages import module as module_of


def readme(heading=None):
    "A section of README without its heading; without a word, what stands before the first."
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^## (.+)$", text.split("\n", 1)[1])
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if heading is not None and heading not in found:
        raise ValueError(f"README.md has no section {heading!r}; the front page shows it")
    return (parts[0] if heading is None else found[heading]).strip()


def doors():
    three = [("chapters/index.html", "Read", "The course, chapter by chapter, with its figures and "
              "results. Each begins with something that went wrong."),
             ("api/index.html", "Import", "The library, module by module: what each function takes,"
              " gives and refuses, and the chapter that builds it."),
             ("exercises/index.html", "Exercise", "Two exercises a chapter, ten and twenty minutes,"
              " which check themselves in your own Jupyter.")]
    cards = [f'<a class="door" href="{to}"><strong>{name}</strong><span>{what}</span></a>'
             for to, name, what in three]
    return f'<div class="doors">{"".join(cards)}</div>'


def front():
    "What the project is, its figure, three doors, the map, and how to run it: README's own words."
    bold, question = readme().split("\n\n")[:2]
    picture, story = readme("What you will see").split("\n\n", 1)
    code = re.search(r"```python\n[\s\S]*?```", readme("Where to start reading"))[0]
    typed = readme("What to type").split("`lab` opens")[0].strip()
    return "\n\n".join([
        "# mlscale", bold, question, doors(),
        "## A year in service", picture.replace("nbs/images/", ""), story,
        "## The map", "Each box is a chapter.", drawing(""),
        "## Run it", typed, "## Import it", code,
        toctree(["Course <chapters/index>", "Exercises <exercises/index>",
                 "Reference <api/index>", "Results <results>"]),
    ])


def cell_text(value):
    text = f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
    return html.escape(text)


def table(rows):
    head = "".join(f'<th scope="col">{html.escape(k)}</th>' for k in rows[0])
    lines = ["<tr>" + "".join(f"<td>{cell_text(v)}</td>" for v in row.values()) + "</tr>"
             for row in rows]
    return (f'<div class="wide" tabindex="0" role="region" aria-label="table"><table class="table">'
            f'<thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>')


def results():
    "Every table that the benchmarks have kept, with how and when it was measured."
    found, sections = {p.stem: json.loads(p.read_text(encoding="utf-8"))
                       for p in sorted(RESULTS.glob("*.json"))}, []
    subject = None
    for name, kept in found.items():
        script = re.search(r"benchmarks/\w+\.py", kept["command"])[0]
        if script != subject:
            subject = script
            doc = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8")))
            about = doc.split("\n\n")[0]
            head, _, rest = about.partition(": ")
            sections.append(f"## {head}\n\n{rest[:1].upper()}{rest[1:]}" if rest
                            else f"## {module_name(script)}\n\n{about}")
        versions = ", ".join(f"{k} {v}" for k, v in kept["versions"].items())
        sections.append(
            f"### {name.split('_', 1)[-1].replace('_', ' ').capitalize()}\n\n"
            f"{table(kept['rows'])}\n\n"
            f"Measured on {kept['date']} with `{kept['command']}` (commit {kept['commit']}, Python "
            f"{kept['python']}, {kept['cores']} cores; {versions}).")
    intro = ("What was measured, as the scripts in `benchmarks/` have kept it: ratios to peers and"
             " floors, measured in one run. Where a column holds seconds, they are those of that"
             " machine.")
    return "\n\n".join(["# Results", intro, *sections])


def module_name(script):
    return script.split("/")[1].removesuffix(".py").capitalize()


def extras():
    "Module to what to install, from the table in CONTRIBUTING.md."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text, found = text.split("## From module to extra")[1], {}
    for names, extra in re.findall(r"(?m)^\| (.+?) \| (.+?) \|$", text):
        for name in re.findall(r"`(\w+)`", names): found[name] = extra
    return found


def passed_on(name):
    "The public names of a module that live in another: (name, its module)."
    path = ROOT / "mlscale" / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = next(ast.literal_eval(n.value) for n in tree.body
                  if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")
    return [(a.name, node.module) for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.level and node.module
            for a in node.names if a.name in public]


def reference_page(path):
    "The page of a module: its chapter, what to install, what it passes on, its entries."
    name = module_of(path)
    needs = extras().get(name)
    if needs is None: raise ValueError(f"CONTRIBUTING.md does not say which extra {name} needs")
    rows = [f"Built in [{short_title(path)}](../chapters/{path.name}). Extra: {needs}.",
            f"```{{eval-rst}}\n.. automodule:: mlscale.{name}\n   :members:\n"
            "   :ignore-module-all:\n```"]
    others = {}
    for other, home in passed_on(name): others.setdefault(home, []).append(other)
    if others:
        rows += ["## From its companions", "These can be imported from here as well."]
        links = {home: ", ".join(f"{{py:obj}}`{n} <mlscale.{home}.{n}>`" for n in names)
                 for home, names in others.items()}
        rows.append("\n".join(f"- {{py:mod}}`mlscale.{m}`: {some}" for m, some in links.items()))
    mine = [p for p in companions(path) if p in MODULES]
    if mine: rows.append(toctree([f"{module_of(p)} <{module_of(p)}>" for p in mine]))
    return "\n\n".join([f"# mlscale.{name}", *rows])


def summary(path):
    return read(path)["cells"][0]["source"].split("\n> ")[1].split("\n")[0]


def reference_index():
    from mlscale import __doc__ as about
    groups = ["# Reference", "The library, one page a module. People import from the module of a"
              " chapter; it passes on the names of its companions.",
              "```python\n" + "\n".join(re.findall(r"(?m)^>>> (.+)$", about)) + "\n```"]
    entries = []
    for path in [p for p in CHAPTERS if not place(p)[1]]:
        groups.append(f"## {short_title(path)}")
        groups.append("\n".join(f"- {{py:mod}}`mlscale.{module_of(p)}`: {prose(summary(p))}"
                                for p in [path, *companions(path)] if p in MODULES))
        entries.append(f"{module_of(path)} <{module_of(path)}>")
    return "\n\n".join([*groups, toctree(entries)])


def exercises_index():
    rows = ["# Exercises", "They check themselves, offline and in your own kernel: each try brings"
            " a more specific hint. To solve them, run `python3 workbook.py lab` in a checkout and"
            " open them in `nbs/exercises`; here you can read what they ask."]
    rows.append("\n".join(f"- [{title(p)}]({p.name}): {prose(summary(p), 'exercises')}"
                          for p in EXERCISES))
    return "\n\n".join([*rows, toctree(f"{title(p).split(':')[0]} <{p.stem}>" for p in EXERCISES)])


def title(path):
    return read(path)["cells"][0]["source"].splitlines()[0].removeprefix("# ")
