"""The documentation site: `python -m docs_site`, or `make docs`.

What stands under `docs/` is taken as it is; the rest is generated from what the library says of itself. A source tree
for Sphinx is written to `build/site-source`, and the site to `build/site`, which any static host can serve.

build_site         stage, then build: read this first
conf               Sphinx's settings
staged_tree        the source tree: files are written where they changed, and removed where nothing makes them any more
existing_pages     the pages of `docs/`, with links that work on the site
link_targets       where a link of a page leads on the site
source_pages       the source files and folders that pages link to
method_pages       a page per method, with `method_facts`, `method_costs`, `method_evidence`, `method_example`
command_pages      a page per verb of the command line
api_pages          a page per package with public names
contents           the front page with the menu, and a page per folder of pages
page_parts         pieces of generated pages
docstring_markup, mathml_formulas, source_backlinks      extensions of Sphinx
site_checks        what is looked at once the site is built
"""
