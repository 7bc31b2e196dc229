"""The documentation as a site: `make site`. Sphinx, since MkDocs has had no release since August 2024; the pages stay plain
Markdown, which GitHub and `kacore docs` show as well.

The sources are the repository's own files, which `make site` copies to build/site-source/.
"""

import re

import kacore
import kacore._core

project = "kacore"
author = "the authors of kacore"
copyright = author
version = release = kacore.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"
include_patterns = ["*.md", "*.rst", "docs/*.md", "benches/README.md"]
exclude_patterns = ["README.md"]  # index.md is there for it

# Markdown as GitHub reads it: links to headings, and to files that are no pages, which are copied.
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

# Names that kacore imports when they are first asked for.
for name in kacore.__all__:
    setattr(kacore, name, getattr(kacore, name))
autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_docstring_signature = True

html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False, "logo": {"text": "kacore"}}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False


def as_restructuredtext(app, what, name, object_, options, lines):
    """Docstrings are plain text for editors and help(): paragraphs, and lists of arguments that are aligned by hand, which
    stay as they are written."""
    made = []
    for paragraph in "\n".join(lines).strip("\n").split("\n\n"):
        names = re.findall(r"^[a-z]\w*: +", paragraph, re.MULTILINE)
        if len(names) > 1 or re.search(r"^\s", paragraph, re.MULTILINE):
            made += [".. code-block:: text", "", *("    " + line for line in paragraph.split("\n")), ""]
        else:
            made += [*re.sub(r"`([^`\n]+)`|([*|_\\])", in_restructuredtext, paragraph).split("\n"), ""]
    lines[:] = made


def in_restructuredtext(found):
    return f"``{found[1]}``" if found[1] else "\\" + found[2]


def setup(app):
    app.connect("autodoc-process-docstring", as_restructuredtext)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
