"""Settings of Sphinx: `tox -e docs` builds the site."""

import re

import aicontent

project = "aicontent"
author = "The aicontent authors"
copyright = "The aicontent authors"
release = version = aicontent.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "aicontent"
exclude_patterns = ["_build", "pypi.md"]  # the page of the package index
default_role = "code"  # the docstrings quote code as Markdown does

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

myst_heading_anchors = 3


def shorten_aliases(app, what, name, obj, options, signature, returns):
    """Write the aliases of the enumerations in a signature, not the texts of all their members."""
    for kind in ("ContentType", "ContentStatus"):
        members = ", ".join(repr(str(member)) for member in getattr(aicontent, kind))
        pattern = rf"[\w.~]*{kind} \| [\w.~]*Literal\[{re.escape(members)}\]"
        signature = signature and re.sub(pattern, f"aicontent.{kind}Like", signature)
    return signature, returns


def setup(app):
    app.connect("autodoc-process-signature", shorten_aliases)
