"""Settings of Sphinx: `tox -e docs` builds the site."""

import aicontent

project = "aicontent"
author = "The aicontent authors"
copyright = "The aicontent authors"
release = version = aicontent.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
html_theme = "furo"
html_title = "aicontent"
exclude_patterns = ["_build"]
default_role = "code"  # the docstrings quote code as Markdown does

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]
