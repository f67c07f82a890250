"""Configuration of the documentation site, which Sphinx makes of the pages in this folder; ``make site`` builds it."""

import pgconv

project = "pgconv"
author = "The pgconv authors"
copyright = f"2026, {author}"
version = release = pgconv.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
nitpicky = False

# Anchors as GitHub makes them: the same links work in both places.
myst_heading_anchors = 3

# Single backticks in docstrings name something of the library, or are code.
default_role = "py:obj"
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"pgconv {release}"
html_show_sourcelink = False
