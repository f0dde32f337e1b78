"""Settings of the documentation site, built by `make site`."""

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

from docutils import nodes

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

project = "extractkit"
author = "extractkit contributors"
version = release = installed("extractkit")

LONGEST_TABLE = 130
"""Characters of a line up to which a block keeps its shape and scrolls. Longer lines fold."""

extensions = [
    "config_group",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.programoutput",
]
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# Docstrings are Markdown-like: single backquotes mark code.
default_role = "code"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "extractkit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "extractkit"},
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "show_toc_level": 2,
}
html_copy_source = False
# The search finds names. Pages without neighbours have no side bar.
html_use_index = html_domain_indices = False
html_sidebars = {"index": [], "tutorial": []}
copyright = "extractkit contributors, MIT licence"  # noqa: A001 - the name that Sphinx reads


def _literal(_app, _what, _name, _object, _options, lines) -> None:
    """Keep `|x|` and `*shape` in docstrings from being read as markup of reStructuredText."""
    lines[:] = [re.sub(r"\||(?<![\w`*\\])\*(?=\w)", r"\\\g<0>", one) for one in lines]


def _fold(_app, document) -> None:
    """Mark blocks that hold a message of one long line, for the style sheet."""
    for block in document.findall(nodes.literal_block):
        if max(map(len, block.astext().splitlines()), default=0) > LONGEST_TABLE:
            block["classes"].append("folded")


def setup(app) -> None:
    """Connect what is of this site alone."""
    app.connect("autodoc-process-docstring", _literal, priority=400)
    app.connect("doctree-read", _fold)
