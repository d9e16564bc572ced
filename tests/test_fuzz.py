"""Some hundred wrong files through every command (`make fuzz`: as many as there is time for)."""

from __future__ import annotations

import os

import pytest

from tests.fuzz import COMMANDS, fuzz
from tests.helpers import FULL

CASES = 10_000 if FULL else 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of time and memory are those of POSIX")
def test_wrong_files_give_one_clear_error():
    """In make test-full other cases every time; a failure says its seed and number, and `python -m tests.fuzz` runs it
    again."""
    seed = int.from_bytes(os.urandom(3), "little") if FULL else 1
    tally = fuzz(CASES, 1, seed)
    assert not tally.wrong, f"seed {seed}: " + "\n".join(f"case {case}: {wrong}" for case, wrong in tally.wrong)
    assert sum(sum(counts.values()) for counts in tally.became.values()) == CASES
    assert all(tally.became[command] for command in COMMANDS)
