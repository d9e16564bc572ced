"""Runs commands and kills them at random moments (`test_killed.py`): one process that has everything imported forks a
child for each. Prints one JSON object: how often each was killed and how often it had ended before."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnx  # noqa: F401 - what children need is imported once
import torch

import mxexport as mx
from mxexport import cli

for _name in mx.__all__:
    getattr(mx, _name)
MODEL = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
"""
COMMANDS = {
    "export": (["export", "killed_net:build", "m.onnx", "--input", "1,32", "-f"], ["m.onnx"]),
    "data": (
        ["export", "killed_net:build", "d.onnx", "--input", "1,32", "-f", "--external-data"],
        ["d.onnx", "d.onnx.data"],
    ),
    "clean": (["clean", "given.onnx", "c.onnx", "-f"], ["c.onnx"]),
    "convert": (["convert", "given.onnx", "q.onnx", "--to", "qdq", "-f"], ["q.onnx"]),
    "compile": (["compile", "given.onnx", "design", "--calibration", "x.npy"], ["design"]),
    "simulate": (["simulate", "done", "x.npy", "--out", "y.npy"], ["y.npy"]),
}


def child(arguments: list[str]) -> int:
    """Process of a command; it says nothing."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(os.open("stdout" if stream == 1 else "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        torch.set_num_threads(1)
        sys.argv = ["mxexport", *arguments]
        cli.main()
    except SystemExit as done:
        code = done.code or 0
    finally:
        os._exit(code)


def finish(arguments: list[str]) -> float:
    """Run a command to its end; seconds. Raises RuntimeError where it fails."""
    start = time.monotonic()
    _, status = os.waitpid(child(arguments), 0)
    if status:
        raise RuntimeError(f"{arguments}: {status}: {Path('stderr').read_text()}")
    return time.monotonic() - start


def tree(names: list[str]) -> dict[str, str] | None:
    """File -> hash of all that a command wrote; of a design None where no report.json vouches for it."""
    if names == ["design"] and not Path("design/report.json").exists():
        return None
    files = [f for n in names for f in ([Path(n)] if not Path(n).is_dir() else sorted(Path(n).rglob("*")))]
    return {
        str(f): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
        if f.is_file() and f.name != "time_per_step.json"
    }


def hidden() -> list[str]:
    return sorted(str(p) for p in Path().rglob(".*") if p.name.endswith(".tmp"))


def main(count: int, seed: int) -> dict:
    Path("killed_net.py").write_text(MODEL)
    np.save("x.npy", np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32))
    for arguments in (
        ["export", "killed_net:build", "given.onnx", "--input", "1,32"],
        ["compile", "given.onnx", "done", "--calibration", "x.npy"],
    ):
        finish(arguments)
    whole, seconds = {}, {}
    for name, (arguments, written) in COMMANDS.items():
        finish(arguments)
        seconds[name] = finish(arguments)  # caches are warm
        whole[name] = tree(written)
    draw = random.Random(seed)
    counts = {name: {"killed": 0, "ended": 0} for name in COMMANDS}
    for i in range(count):
        name = list(COMMANDS)[i % len(COMMANDS)]
        arguments, written = COMMANDS[name]
        pid = child(arguments)
        time.sleep(draw.random() * seconds[name])
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        counts[name]["killed" if os.WIFSIGNALED(status) else "ended"] += 1
        found = tree(written)
        allowed = [whole[name], None if name == "compile" else {}]
        if name == "data":
            allowed.append({"d.onnx.data": whole[name]["d.onnx.data"]})  # no model beside data that are not its own
        if found not in allowed:
            raise RuntimeError(f"{name}, killed the {i}th time: half-written {sorted(found)}")
        if found != whole[name]:
            finish(arguments)
            if tree(written) != whole[name]:
                raise RuntimeError(f"{name}: the run behind a killed one gives something else")
    left = hidden()
    for path in left:
        os.utime(path, (1, 1))
    for arguments, _ in COMMANDS.values():
        finish(arguments)
    return {"counts": counts, "left": len(left), "left_after_next_run": hidden()}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
