"""Formats layer by layer, found by sensitivity and measured: `mx.search`."""

from __future__ import annotations

from mxexport.searching.finding import search
from mxexport.searching.problem import finetuned
from mxexport.searching.result import Evaluation, SearchResult

__all__ = ["Evaluation", "SearchResult", "finetuned", "search"]
