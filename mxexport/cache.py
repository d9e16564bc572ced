"""A directory of results that take long to make (compiled kernels and simulations, synthesis reports), keyed by hash.

Entries are directories that appear whole: they are made beside their final place and renamed, so that parallel
processes neither see half an entry nor wait for each other.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_MOST = 8_000
"""Entries that are kept: the last ones used."""
_UNUSED, _ABANDONED = 60 * 86_400, 86_400
"""Seconds after which an entry that nobody used goes, and what a killed process left half-made."""


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/mxexport`, or `~/.cache/mxexport`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mxexport"


def digest(parts: Iterable[str | bytes]) -> str:
    """Hash of a list of strings; the borders between them count."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:32]


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The directory `<cache>/<kind>-<key>`; `make(directory)` fills it if it is not there yet."""
    entry = cache_dir() / f"{kind}-{key}"
    if entry.is_dir():
        with contextlib.suppress(OSError):  # a cache that only others may write still serves
            os.utime(entry)
        return entry
    entry.parent.mkdir(parents=True, exist_ok=True)
    _sweep(entry.parent)
    fresh = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=entry.parent))
    try:
        make(fresh)
        try:
            fresh.rename(entry)
        except OSError:
            if not entry.is_dir():  # otherwise another process made the same entry meanwhile
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return entry


@functools.cache
def _sweep(directory: Path) -> None:
    """Once a process that makes something: remove what is abandoned, long unused, or beyond `_MOST`."""
    now, used = time.time(), []
    for path in directory.iterdir():
        try:
            age = now - path.stat().st_mtime
        except OSError:  # another process removed it
            continue
        if age > (_ABANDONED if path.name.startswith(".") else _UNUSED):
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith("."):
            used.append((age, path))
    for _, path in sorted(used)[_MOST:]:
        shutil.rmtree(path, ignore_errors=True)
