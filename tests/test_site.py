"The book on the web: built from stored outputs, every page whole, readable by all, searchable, without a foreign server."
import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

from mlscale.storage import locked

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "site"))
import fixed  # noqa: E402
import pages  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="not installed: chromium")


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id):
    "The folder of the site, built once for all processes of a test run, in a folder below the server's root."
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "web" / "sub path" / "book"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / "built"):
        if not (folder / "pagefind").exists():
            done = subprocess.run([sys.executable, ROOT / "site" / "build.py", "--to", folder], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
            assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="session")
def documents(site):
    "Path to text of each page."
    return {p: p.read_text(encoding="utf-8") for p in [*site.glob("*.html"), *site.glob("[ace]*/*.html")]}


@pytest.fixture(scope="session")
def url(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site.parent.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/sub%20path/book/"
    server.shutdown()


@pytest.fixture(scope="module")   # its event loop runs in this thread until it ends; other tests start their own
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        live = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield live
        live.close()


@pytest.fixture
def tab(browser):
    "A tab of an empty browser at 1280 x 800; what it complains of is in `tab.complaints`."
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    listen(page)
    yield page
    context.close()


def listen(page):
    page.complaints = []
    page.on("console", lambda m: m.type in ("error", "warning") and page.complaints.append(m.text))
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    page.on("requestfailed", lambda r: "ERR_ABORTED" in (r.failure or "") or page.complaints.append(f"not loaded: {r.url}"))


# ---- what the files say

def test_every_notebook_and_every_module_has_its_page(site):
    assert all((site / "chapters" / f"{p.stem}.html").exists() and (site / "notebooks" / p.name).exists() for p in pages.CHAPTERS)
    assert all((site / "api" / f"{pages.module(p)}.html").exists() for p in pages.MODULES) and {pages.module(p) for p in pages.CHAPTERS if p not in pages.MODULES} == {"takeaways"}
    assert {p.stem for p in (site / "exercises").glob("*.html")} == {"index", *(p.stem for p in pages.EXERCISES)}


def targets(text):
    return {html.unescape(m) for m in re.findall(r'<(?:a|link|script|img)\b[^>]*?\s(?:href|src)="([^"]*)"', text)}


def test_every_link_inside_leads_to_a_file_and_a_place_in_it(documents):
    places = {p: {html.unescape(m) for m in re.findall(r'\bid="([^"]*)"', text)} for p, text in documents.items()}
    count = 0
    for path, text in documents.items():
        for target in targets(text):
            address, _, place = target.partition("#")
            if re.match(r"[a-z]+:", address): continue
            assert not address.startswith("/"), f"{path.name} links to {target}, which no sub-path has"
            to = (path.parent / urllib.parse.unquote(address.partition("?")[0])).resolve() if address else path
            assert to.is_file(), f"{path.name} links to {target}"
            if place and to in places: assert urllib.parse.unquote(place) in places[to], f"{path.name} links to {target}"
            count += 1
    assert count > 10_000


def test_nothing_is_loaded_from_a_foreign_server(site, documents):
    for path, text in documents.items():
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\ssrc="([^"]*)"', text) + re.findall(r'<link\b[^>]*rel="(?:stylesheet|preload|icon)"[^>]*href="([^"]*)"', text)
        assert not [to for to in loaded if re.match(r"(https?:)?//", to)], path.name
    for path in site.rglob("*.css"): assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import\s+['\"]?https?:", path.read_text(encoding="utf-8")), path.name


def test_every_figure_has_a_text_for_those_who_cannot_see_it(documents):
    texts = [(path.name, alt) for path, text in documents.items() for alt in re.findall(r'<img\b(?![^>]*alt="")[^>]*?alt="([^"]*)"', text)]
    images = sum(len(re.findall(r"<img\b", text)) for text in documents.values())
    assert len(texts) == images > 100
    poor = [(name, alt) for name, alt in texts if len(alt.split()) < 3 or "_images" in alt or alt.endswith(".png")]
    assert not poor


def test_a_figure_takes_its_text_from_its_directive_its_titles_or_its_axes():
    assert pages.figure_text('#| figure\n#| fig-alt: a hill, and a valley\nax.set(title="no")') == "a hill, and a valley"
    assert pages.figure_text('ax.set(title="Late labels come later", xlabel="day")\nax.legend(title="which")') == "Late labels come later. across: day"
    assert pages.figure_text('fig.suptitle(f"{n} of 25 come late")') == "… of 25 come late"
    assert pages.figure_text("test.plot();", "## Head\n\nThe test *after* [a day](x.ipynb). More.") == "Figure. The test  after  a day."
    assert pages.figure_text("test.plot();") is None


def test_each_entry_of_the_reference_leads_to_its_chapter_and_back(site, documents):
    for path in pages.MODULES:
        name = pages.module(path)
        names = [n for m, n in pages.NAMES if m == name]
        entries, chapter = documents[site / "api" / f"{name}.html"], documents[site / "chapters" / f"{path.stem}.html"]
        for n in names:
            assert f'id="mlscale.{name}.{n}"' in entries, f"{name}.{n} has no entry"
            assert f'href="../chapters/{path.stem}.html#{pages.label(name, n)}"' in entries, f"{name}.{n}: no way to the chapter"
            assert f'href="../api/{name}.html#mlscale.{name}.{n}"' in chapter, f"{name}.{n}: no way to the reference"


def test_each_module_says_what_it_needs(site, documents):
    for name, needs in fixed.extras().items():
        words = re.findall(r"`(\w+)`", needs) or [needs.split(":")[0]]
        text = documents[site / "api" / f"{name}.html"]
        about = re.search(r"Extra: (.*?)</p>", text, re.S)[1]
        assert all(word in about for word in words), name


def test_the_results_are_those_of_the_benchmarks(site, documents):
    text = re.sub(r"<[^>]+>", "", documents[site / "results.html"])
    for path in pages.RESULTS.glob("*.json"):
        kept = json.loads(path.read_text())
        assert all(html.escape(str(kept[key])) in text for key in ("date", "command", "commit")) and html.escape(next(iter(kept["rows"][0]))) in text, path.name
    assert text.count("Measured on") == len(list(pages.RESULTS.glob("*.json")))


def test_the_front_page_says_what_readme_says(site, documents):
    text = documents[site / "index.html"]
    assert fixed.readme().split("**")[1] in text and "python3 workbook.py run" in text and "year.png" in text
    with pytest.raises(ValueError, match="no section 'Nothing'"): fixed.readme("Nothing")
    assert all(f'href="chapters/{p.stem}.html"' in text for p in pages.CHAPTERS if re.match(r"(0[0-68]|09|1[12])_", p.name))


def test_an_answer_is_not_shown_before_it_is_asked_for(documents, site):
    text = documents[site / "chapters" / "09_experiments.html"]
    assert text.count('class="guess"') == 2 and text.count('class="answer"') == 3 and "You have recorded no guess" not in text


def test_a_docstring_on_a_page_is_cut_to_its_summary_and_the_code_still_runs():
    source = 'def f(x):\n    """Double it.\n\n    Parameters\n    ----------\n    x : int\n        Any.\n    """\n    return 2*x'
    cut = pages.summary_only(source)
    assert cut == 'def f(x):\n    """Double it.\n    ..."""\n    return 2*x'
    space = {}
    exec(cut, space)
    assert space["f"](2) == 4
    assert pages.summary_only('def f(): "Short."') == 'def f(): "Short."'


# ---- what a browser shows

def longest(text):
    "The letters in the longest line of code of a page."
    code = "\n".join(re.findall(r'<div class="(?:doctest )?highlight-(?:i?python3?|default) [^>]*><div class="highlight"><pre>(.*?)</pre>', text, re.S))
    return max(len(html.unescape(line)) for line in ["", *re.sub("<[^>]+>", "", code).splitlines()])


@in_a_browser
@pytest.mark.parametrize("kind", ["chapters", "api", "others"])
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_page_opens_without_a_complaint_and_no_code_scrolls_sideways(tab, url, site, documents, kind, every):
    "A fourth of the pages, and those with the longest lines of code and the most figures; all of them with --slow."
    wide = """() => [...document.querySelectorAll('div.cell_input pre, div.highlight-python pre, div.highlight-default pre')]
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.split('\\n').sort((a, b) => b.length - a.length)[0])"""
    found = {}
    mine = [p for p in documents if p.parent.name == kind or kind == "others" and p.parent.name not in ("chapters", "api")]
    for path in {*sorted(mine)[::every], *sorted(mine, key=lambda p: longest(documents[p]))[-3:], *sorted(mine, key=lambda p: documents[p].count("<img"))[-3:]}:
        tab.complaints.clear()
        tab.goto(url + urllib.parse.quote(str(path.relative_to(site))), wait_until="load")
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        if trouble := [*tab.complaints, *tab.evaluate(wide)]: found[path.name] = trouble[:2]
    assert mine and not found


@in_a_browser
@pytest.mark.parametrize("theme, names", [("light", ["index", "chapters/index", "chapters/08e_performance", "api/intervals", "results"]),
                                          ("dark", ["index", "chapters/05_batch"])], ids=["light", "dark"])
def test_an_accessibility_check_finds_no_serious_issue(browser, url, theme, names):
    from axe_playwright_python.sync_playwright import Axe
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
    page, found = context.new_page(), {}
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (theme == "dark")
    for name in names:
        page.goto(f"{url}{name}.html")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in violations if v["impact"] in ("serious", "critical")]
        if serious: found[name] = serious
    context.close()
    assert not found


@in_a_browser
@pytest.mark.parametrize("name", ["index", "chapters/index", "chapters/09_experiments", "api/intervals", "results"])
def test_a_page_fits_a_phone(browser, url, name):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(f"{url}{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


@in_a_browser
def test_a_guess_is_kept_in_the_browser_and_fixed_once_the_answer_was_seen(tab, url):
    tab.goto(f"{url}chapters/09_experiments.html")
    form, answer = tab.locator("form.guess").first, tab.locator("details.answer").first
    form.locator("input[name=value]").fill("0.8")
    form.locator("input[name=sure]").fill("0.7")
    form.locator("button").click()
    tab.reload()
    assert form.locator("input[name=value]").input_value() == "0.8" and "70 % sure" in form.inner_text()
    assert not answer.locator("p").is_visible()
    answer.locator("summary").click()
    tab.wait_for_function("document.querySelector('details.answer output').textContent.includes('right')")
    tab.reload()
    assert form.locator("input[name=value]").is_disabled()
    tab.goto(f"{url}chapters/index.html")
    assert "1 guesses, 1 of them right" in tab.locator("div.guesses").inner_text()
    assert not tab.complaints


QUESTIONS = {
    "point in time join": ["01_features", "01e_point_in_time", "01d_join_engines", "point_in_time"],
    "why did my A/B test say significant": ["09_experiments", "09e_analyzer"],
    "feature older than ttl": ["01_features", "01f_lookup", "01l_feature_store", "01m_online"],
    "how many users do I need": ["09_experiments", "09c_planning", "planning"],
    "sample ratio mismatch": ["09_experiments", "09c_planning", "planning"],
    "peeking at results every day": ["10_sequential", "10f_duration", "10b_boundaries"],
    "is pickle safe": ["03_artifacts", "03c_bundle", "bundle"],
    "onnx gives other predictions": ["03_artifacts", "03b_conversion"],
    "rollback a bad release": ["04_registry", "04c_promotion", "12_lifecycle", "04b_ledger"],
    "spark without java": ["05_batch", "05b_spark", "spark"],
    "half written parquet": ["05_batch", "05c_parquet", "05d_predictions"],
    "swap model without failed request": ["06_serving", "06d_hot_swap", "hot_swap"],
    "delete one person from the log": ["06l_log_archive", "log_archive"],
    "drift false alarms": ["07_drift", "07c_drift_monitor", "07a_bins"],
    "labels that come late": ["00_data", "08_monitoring", "08d_outcomes", "11d_online_learning", "12h_faults"],
    "alert keeps ringing": ["08_monitoring", "08b_alerts", "alerts"],
    "CUPED": ["09_experiments", "09d_effects", "effects"],
    "learning rate after concept drift": ["11_schedules", "11e_concept_drift", "11b_learning_rates"],
    "training serving skew": ["01_features", "01n_skew", "skew"],
    "confidence interval for the difference of two proportions": ["09_experiments", "09b_intervals", "intervals"],
}


@in_a_browser
def test_twenty_questions_find_their_page_in_the_first_three_hits(tab, url):
    tab.goto(f"{url}index.html")
    tab.keyboard.press("Control+k")
    box, wrong = tab.locator("#pst-search-dialog input"), {}
    for question, wanted in QUESTIONS.items():
        box.fill(question)
        tab.wait_for_function("q => document.querySelector('ol.found').dataset.question === q", arg=question)
        hits = [urllib.parse.urlparse(a.get_attribute("href")).path.rsplit("/", 1)[1].removesuffix(".html") for a in tab.locator("ol.found a").all()]
        if not set(hits[:3]) & set(wanted): wrong[question] = hits
    assert len(QUESTIONS) == 20 and not wrong
    box.press("Enter")
    tab.wait_for_url("**/" + hits[0] + ".html*")
    assert not tab.complaints


@in_a_browser
def test_it_opens_from_a_file_too(tab, site):
    tab.goto((site / "chapters" / "09_experiments.html").as_uri())
    tab.keyboard.press("Control+k")
    tab.locator("#pst-search-dialog input").fill("peeking")
    tab.locator("#pst-search-dialog input").press("Enter")
    tab.locator("#search-results li a").first.wait_for()
    assert not tab.complaints


def test_a_folder_with_something_else_is_left_alone_and_nothing_stands_beside_the_site(site, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    done = subprocess.run([sys.executable, ROOT / "site" / "build.py", "--to", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "holds something else" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    assert {p.name for p in site.parent.iterdir()} <= {"book", "built", "built.lock"}
