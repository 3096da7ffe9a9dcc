"What Sphinx does not do: formulas as MathML, the way from an entry to its chapter, the steps."
import json
import re
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from pages import HOMES, label, sections_of_code
from sphinx.util import logging

WORDS = {r"\\arg(?![a-z])": r"\\operatorname{arg}", r"\\_": "_"}   # unknown to the converter
FUNCTIONS = "ln|log|exp|min|max|arg|sup|inf|Pr"
LOG = logging.getLogger(__name__)
STEPS = "steps.json"   # written beside the sources by build.py


def mathml(latex, display):
    for word, known in WORDS.items(): latex = re.sub(word, known, latex)
    text = convert(latex, display=display)
    if "\\" in text or "&#x0005C;" in text: raise ValueError(f"not all is understood: {text}")
    spaced = rf'<m([io])>({FUNCTIONS})</m\1>(?!<mo stretchy="[a-z]+">&#x00028;)'
    return re.sub(spaced, r'<mo lspace="0.17em" rspace="0.17em">\2</mo>', text)


def visit(display):
    def visit_math(writer, node):
        try: text = mathml(node.astext(), display)
        except Exception as e:
            LOG.warning("a formula cannot be shown: %s (%s)", node.astext(), e, location=node)
            text = node.astext()
        block = '<div class="math" tabindex="0" role="group" aria-label="formula">'
        writer.body.append(text if display == "inline" else f"{block}{text}</div>")
        raise SkipNode
    return visit_math


def plain_docstring(app, what, name, obj, options, lines):
    "Docstrings are plain text with `code`: made reStructuredText before napoleon reads them."
    def code(m):
        shown = f":py:obj:`{m[1]} <{HOMES[m[1]]}>`" if m[1] in HOMES else f"``{m[1]}``"
        return rf"\ {shown}\ "   # whatever stands beside it

    def change(paragraph):
        if paragraph.lstrip().startswith(">>>"): return paragraph
        parts = re.split(r"(?<!`)(`[^`]+`)(?!`)", paragraph)
        parts[::2] = [re.sub(r"([|*])", r"\\\1", p) for p in parts[::2]]
        return re.sub(r"(?<!`)`([^`]+)`(?!`)", code, "".join(parts))

    lines[:] = "\n\n".join(map(change, "\n".join(lines).split("\n\n"))).split("\n")


def link_to_chapter(app, what, name, obj, options, lines):
    "Under an entry: the section of the chapter that builds it."
    module, _, function = name.removeprefix("mlscale.").partition(".")
    if (module, function) not in app.built_in: return
    chapter, section = app.built_in[module, function]
    where = re.sub(r"[`*]", "", f"{chapter}: {section}" if section else chapter)
    lines += ["", f"*Built in* :ref:`{where} <{label(module, function)}>`.", ""]


def steps(app, page, template, context, doctree):
    "Previous and next on the reading path, which leaves companions aside."
    path, _, here = page.rpartition("/")
    if path != "chapters": return
    for word, step in zip(("prev", "next"), app.steps.get(here, (None, None)), strict=True):
        context[word] = step and {"link": f"{step[0]}.html", "title": step[1]}


def setup(app):
    app.built_in = sections_of_code()
    app.steps = json.loads((Path(app.srcdir) / STEPS).read_text(encoding="utf-8"))
    app.add_html_math_renderer("mathml", (visit("inline"), None), (visit("block"), None))
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)
    app.connect("autodoc-process-docstring", link_to_chapter, priority=900)   # after napoleon
    app.connect("html-page-context", steps)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
