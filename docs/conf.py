"""The documentation site: ``make docs`` builds it, and takes every warning for an error."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "hiddenkey"
copyright = "the hiddenkey authors"
version = release = version_of("hiddenkey")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "outside_links",
    "command_reference",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext", "_build", "plans"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page of results may begin below the first level

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
toc_object_entries = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
nitpicky = False

smartquotes = False  # of --flags too

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "hiddenkey"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = "$ "
