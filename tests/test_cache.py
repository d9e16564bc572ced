"""The cache: what killed processes leave goes, and so does what nobody uses."""

from __future__ import annotations

import os
import time

import pytest

from mxexport import cache


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache._sweep.cache_clear()
    return cache.cache_dir()


def aged(path, days):
    path.mkdir(parents=True)
    (path / "file").write_text("x")
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


def test_what_is_abandoned_or_long_unused_goes(room):
    aged(room / ".synthesis-killed", 2)
    aged(room / ".synthesis-running", 0.1)
    aged(room / "synthesis-old", 61)
    aged(room / "synthesis-new", 59)
    cache.cached("kind", "key", lambda directory: (directory / "a").write_text("1"))
    assert {p.name for p in room.iterdir()} == {".synthesis-running", "synthesis-new", "kind-key"}


def test_an_entry_that_is_used_stays(room):
    aged(room / "kind-key", 59)
    assert cache.cached("kind", "key", lambda directory: pytest.fail("it is there")) == room / "kind-key"
    assert time.time() - (room / "kind-key").stat().st_mtime < 60


def test_the_last_used_entries_are_kept(room, monkeypatch):
    monkeypatch.setattr(cache, "_MOST", 2)
    for days in (1, 2, 3):
        aged(room / f"kind-{days}", days)
    cache.cached("kind", "key", lambda directory: None)
    assert {p.name for p in room.iterdir()} == {"kind-1", "kind-2", "kind-key"}


def test_what_fails_to_be_made_leaves_nothing(room):
    with pytest.raises(ZeroDivisionError):
        cache.cached("kind", "key", lambda directory: 1 / 0)
    assert list(room.iterdir()) == []
