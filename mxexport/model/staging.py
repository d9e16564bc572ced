"""Files that appear whole: made in a hidden directory beside their place, then renamed. What the dead left is swept.

Locks are those of the operating system, which end with the process that holds them; where there are none (Windows),
what was left goes after a day, and writers of one place do not wait for each other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

fcntl = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None

_YOUNG, _OLD = 10, 86_400
"""Seconds: made a moment ago and perhaps not locked yet; surely left behind."""


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A hidden directory beside `path`, on the same file system, gone afterwards. Raises OSError."""
    prefix = f".{path.name[:100]}."
    _sweep(path.parent, prefix)
    directory = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=_SUFFIX))
    try:
        with locked(directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_SUFFIX = ".tmp"


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Wait until no other process is in here with this directory. Raises OSError."""
    if fcntl is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sweep(directory: Path, prefix: str) -> None:
    """Remove what killed processes left of the same name."""
    try:
        left = [p for p in directory.iterdir() if p.name.startswith(prefix) and p.name.endswith(_SUFFIX)]
    except OSError:  # no such directory, or it may not be read: making one says so
        return
    for path in left:
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if path.is_dir() and not path.is_symlink() and age > _YOUNG and (age > _OLD or _abandoned(path)):
                shutil.rmtree(path)


def _abandoned(directory: Path) -> bool:
    if fcntl is None:
        return False
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def replace_files(staged: Path, target: Path, names: list[str]) -> None:
    """Move files into `target`, in order; if one cannot be moved, those moved before go back to what they were.

    The last one vouches for the others: where there are several, it is away while they are moved, so that a process
    killed here leaves no file beside others that do not belong to it. Raises OSError.
    """
    done: list[str] = []
    try:
        for name in names:
            if (target / name).is_file():
                _keep(target / name, staged / f"{name}.before")
        if len(names) > 1:
            done.append(names[-1])
            (target / names[-1]).unlink(missing_ok=True)
        for name in names:
            _move(staged / name, target / name)
            done.append(name)
    except BaseException:
        for name in dict.fromkeys(done):
            before = staged / f"{name}.before"
            if before.exists():
                os.replace(before, target / name)
            else:
                (target / name).unlink(missing_ok=True)
        raise


def _move(source: Path, target: Path) -> None:
    os.replace(source, target)


def _keep(file: Path, other: Path) -> None:
    try:
        os.link(file, other)
    except OSError:  # not every file system has hard links
        shutil.copy2(file, other)
