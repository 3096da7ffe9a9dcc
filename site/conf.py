"What Sphinx is told; `build.py` starts it."
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project, author = "mlscale", "The mlscale authors"
copyright = "2026 onwards, The mlscale authors. Apache-2.0"
html_title = "mlscale"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton",
              "extension"]
html_math_renderer = "mathml"
suppress_warnings = ["ref.python"]   # one word that names several things is no link

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_dmath_allow_space = False
myst_dmath_allow_digits = False
myst_heading_anchors = 4

default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
add_module_names = False
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = ">>> "
copybutton_exclude = ".linenos, .go"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Keys", "params_style")]

html_theme = "pydata_sphinx_theme"
html_static_path = ["static"]
templates_path = ["templates"]
html_favicon = "static/icon.svg"
html_show_search_summary = False   # read from the pages, which a file may not do
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = html_use_index = html_domain_indices = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "collapse_navigation": False,
    "show_nav_level": 1,
    "navigation_depth": 3,
    "show_toc_level": 2,
    "navbar_persistent": ["search-button-field"],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "article_header_start": [],
    "footer_start": ["copyright"],
    "footer_end": [],
    "back_to_top_button": False,
    "search_bar_text": "Search: point in time join, peeking, ...",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "results": []}
