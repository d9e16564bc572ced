"""What belongs to a layer is where the layer is; quantizers give the same bits wherever they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers import in_full

GPU = torch.cuda.is_available()


@in_full
def test_everything_works_on_a_device_that_is_not_the_cpu():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/far_device_checks.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout and (GPU or "skipped" not in done.stdout), done.stdout[-2000:]
