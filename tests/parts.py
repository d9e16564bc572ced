"""One part of the suite: `pytest --part 2/5` runs every test whose id falls into the second of five parts.

The checksum of a test's id says which: cases of one slow test are spread over all parts, and a new test moves no other.
"""

from __future__ import annotations

import argparse
import re
import zlib


def part(text: str) -> tuple[int, int]:
    """(k, n) of "k/n". Raises argparse.ArgumentTypeError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    k, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= k <= n:
        raise argparse.ArgumentTypeError(f"is {text!r}; expected k/n with 1 <= k <= n, such as 2/5")
    return k, n


def holds(k: int, n: int, nodeid: str) -> bool:
    """Whether part k of n has that test."""
    return zlib.crc32(nodeid.encode()) % n == k - 1


def pytest_addoption(parser):
    parser.addoption("--part", type=part, metavar="k/n", help="only the tests of part k of n (tests/parts.py)")


def pytest_collection_modifyitems(config, items):
    chosen = config.getoption("part", None)
    if chosen is None:
        return
    others = [item for item in items if not holds(*chosen, item.nodeid)]
    items[:] = [item for item in items if holds(*chosen, item.nodeid)]
    config.hook.pytest_deselected(items=others)
