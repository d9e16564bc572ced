"""The Jinja templates that hardware is written from: one way to read them, whoever writes."""

from __future__ import annotations

import functools

import jinja2

from mxexport.fpga.identifiers import one_line
from mxexport.fpga.tools.verilator import parameter_text


@functools.cache
def environment(folder: str = ".") -> jinja2.Environment:
    """Of the templates in a folder beside this file; a name that nobody gave is an error, no empty text.
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
