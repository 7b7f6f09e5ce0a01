"""Build the documentation site with Sphinx: script/docs calls it. Pages are Markdown, as they are read on GitHub.

The source directory is the repository, so that links between pages of all directories are the same here and there. The
lists of links in docs/README.md are the navigation. Lines such as ``<!-- site: commands -->`` are replaced by what
docs/site/generated.py makes from the code.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.transforms import Transform
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import generated

from pipeline.version import __version__

ROOT = Path(__file__).parent.parent.parent

project = "Procline"
author = "The authors of Procline"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "tests/*/README.md", "ansible/README.md", "ansible/roles/*/README.md"]
exclude_patterns = [".*", "build", "dist", "**/node_modules"]

myst_heading_anchors = 4
myst_enable_extensions: list[str] = []
suppress_warnings = [
    # Some pages begin a list of sections at level 3, as GitHub shows well.
    "myst.header",
    # JSON with "..." and configuration files with placeholders are shown without colours.
    "misc.highlighting_failure",
]

# Names between single quotes in docstrings are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "inherited-members": True, "show-inheritance": False}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Procline"
html_copy_source = False
html_show_sphinx = False
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]
html_theme_options = {
    # Fonts of the reader's system: the site loads nothing from elsewhere.
    "light_css_variables": {"font-stack": "system-ui, sans-serif", "font-stack--monospace": "ui-monospace, monospace"},
}

_ANCHOR = re.compile(r'^<a id="([^"]+)">(?:</a>)?$')
_LINK = re.compile(r"\]\(([^()\s#]+\.md)\)")


class Anchors(Transform):
    """Makes ``<a id="x"></a>`` a target that links can name."""

    default_priority = 800  # before MyST resolves links

    def apply(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.raw)):
            found = _ANCHOR.match(node.astext().strip())
            if found and found[1] in self.document.ids:
                node.parent.remove(node)  # the heading that follows has the same name
            elif found:
                target = nodes.target("", "", ids=[found[1]], names=[nodes.fully_normalize_name(found[1])])
                node.replace_self(target)
                self.document.note_explicit_target(target)
            elif node.astext().strip() == "</a>":
                node.parent.remove(node)


def navigation() -> str:
    """Return a hidden list of pages for each section of docs/README.md, in its order."""
    parts = ["```{toctree}\n:hidden:\n\ndocs/README\n```\n"]
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        pages = [(ROOT / "docs" / link).resolve().relative_to(ROOT) for link in _LINK.findall(body)]
        names = [str(page.with_suffix("")) for page in pages if str(page) != f"{root_doc}.md"]
        lines = ["```{toctree}", ":hidden:", f":caption: {title}", "", *dict.fromkeys(names), "```", ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def complete(app: Sphinx, name: str, source: list[str]) -> None:
    """Add what a page does not have in the repository: the navigation, and what is made from the code."""
    source[0] = re.sub(r"^<!-- site: (\w+) -->$", lambda found: generated.page(found[1]), source[0], flags=re.M)
    if name == root_doc:
        source[0] += "\n" + navigation()


def begin_attribute(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let napoleon not take the first words of an attribute's description, up to a colon, for its type."""
    if what in ("attribute", "property"):
        lines.insert(0, "")


def setup(app: Sphinx) -> None:
    """Register the steps above with Sphinx."""
    app.connect("autodoc-process-docstring", begin_attribute, priority=400)
    app.add_transform(Anchors)
    app.connect("source-read", complete)
