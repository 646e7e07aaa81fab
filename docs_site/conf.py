"""Sphinx's settings of the site; `python -m docs_site` builds it."""

import sys
from pathlib import Path

# Sphinx runs this file by its path: the generator's own modules are found from the repository.
sys.path.insert(0, str(Path(__file__).parents[1]))

import lopsided

project = "Lopsided"
version = release = lopsided.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docs_site.docstring_markup",
    "docs_site.mathml_formulas",
    "docs_site.source_backlinks",
]

# -- pages -----------------------------------------------------------------------------------------
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
# Headings are linked to as on a code host.
myst_heading_anchors = 4
# Every reference has to lead somewhere, but for those that signatures make of types: of other libraries, whose pages
# are not here, and of the library's own that are not public.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(numpy|torch|transformers|peft|datasets|collections|pathlib|os)\..*"),
    ("py:(class|exc)", r"Undefined|TaskType|PeftType|InitVar"),
    ("py:(class|exc|obj)", r"lopsided\.(\w+\.)+[A-Z]\w*"),
]

# -- docstrings ------------------------------------------------------------------------------------
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Shapes", "Units", "Source", "Notation", ("Class attributes", "Attributes")]

# -- look ------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = f"Lopsided {version}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
templates_path: list[str] = []
# Neither is known to a static host that has no address yet.
html_baseurl = ""
