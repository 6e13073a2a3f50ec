"""The documentation site: `sphinx-build -W docs docs/_build/html`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from generated_pages import write_pages  # noqa: E402 - it stands beside this file

project = "fedjax_sim"
author = "The fedjax_sim authors"
extensions = ["myst_nb"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]
# The notebooks hold no outputs: a build runs those that have changed.
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables in outputs

html_theme = "furo"
html_title = "fedjax_sim"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False

write_pages(HERE / "generated")
