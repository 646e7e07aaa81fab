"""Sphinx's settings of the site; `python -m docs_site` builds it."""

import sys
from pathlib import Path

# Sphinx runs this file by its path: the generator's own modules are found from the repository.
sys.path.insert(0, str(Path(__file__).parents[1]))

import lopsided

project = "Lopsided"
version = release = lopsided.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs_site.mathml_formulas"]

# -- pages -----------------------------------------------------------------------------------------
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
# Headings are linked to as on a code host.
myst_heading_anchors = 4
nitpicky = True

# -- look ------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = f"Lopsided {version}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []
# Neither is known to a static host that has no address yet.
html_baseurl = ""
