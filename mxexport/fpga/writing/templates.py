"""The Jinja templates that hardware is written from: one way to read them, whoever writes."""

from __future__ import annotations

import functools

import jinja2

from mxexport.fpga.tools.verilator import parameter_text
from mxexport.fpga.writing.identifiers import one_line


@functools.cache
def environment(folder: str = "writing") -> jinja2.Environment:
    """Of the templates in a folder of `mxexport.fpga`; a name that nobody gave is an error, no empty text.
    Made once: templates stay compiled."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("mxexport.fpga", folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"literal": parameter_text, "one_line": one_line}
    return found
