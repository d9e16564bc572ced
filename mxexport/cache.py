"""A directory of results that take long to make (compiled kernels and simulations, synthesis reports), keyed by hash.

Entries are directories that appear whole: they are made beside their final place and renamed, so that parallel
processes neither see half an entry nor wait for each other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


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
        return entry
    entry.parent.mkdir(parents=True, exist_ok=True)
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
