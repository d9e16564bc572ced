"""Tasks on real processes: the same results as a loop, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mxexport import cluster
from mxexport.cluster.runner import Work
from mxexport.errors import MXExportError, OptionError, UnsupportedError

ROOT = Path(__file__).resolve().parent.parent


def note(folder: str, n: int) -> int:
    """Counts how often it ran."""
    with open(Path(folder) / f"{n}", "a") as file:
        file.write("x")
    return n * n


def slow_note(folder: str, n: int) -> int:
    time.sleep(0.2)
    return note(folder, n)


def deadly(folder: str, n: int) -> int:
    """The process that has the third item for the first time dies of it."""
    if n == 3 and not (Path(folder) / "died").exists():
        (Path(folder) / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return slow_note(folder, n)


def unlucky(folder: str, n: int) -> int:
    """Fails the first time."""
    if note(folder, n) and len((Path(folder) / f"{n}").read_text()) == 1:
        raise OSError("out of luck")
    return n


def refuse(folder: str, n: int) -> int:
    note(folder, n)
    raise UnsupportedError("no", [("layer", "why")])


def where_am_i(n: int) -> int:
    return os.getpid()


def runs(folder: Path) -> dict[str, int]:
    return {path.name: len(path.read_text()) for path in folder.iterdir() if path.name.isdigit()}


@pytest.fixture(scope="module")
def two():
    with cluster.connected(2) as runner:
        yield runner


@pytest.fixture(params=["in process", "two processes"])
def runner(request):
    return request.getfixturevalue("two") if request.param == "two processes" else cluster.InProcess()


def test_results_come_in_order_and_equal_keys_are_computed_once(runner, tmp_path):
    seen = []
    found = runner.map(
        note, [5, 1, 5, 2], shared=(str(tmp_path),), keys=[5, 1, 5, 2], progress=lambda *n: seen.append(n)
    )
    assert found == [25, 1, 25, 4] and runs(tmp_path) == {"5": 1, "1": 1, "2": 1}
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]


def test_a_task_that_fails_is_tried_again_and_a_refusal_is_an_answer(runner, tmp_path):
    assert runner.map(unlucky, [7], shared=(str(tmp_path),)) == [7] and runs(tmp_path) == {"7": 2}
    with pytest.raises(OSError, match="out of luck"):
        runner.map(unlucky, [8], shared=(str(tmp_path),), retries=0)
    with pytest.raises(UnsupportedError, match="no\n  layer: why") as caught:
        runner.map(refuse, [9], shared=(str(tmp_path),))
    assert caught.value.problems == [("layer", "why")] and runs(tmp_path)["9"] == 1


def test_a_worker_that_is_killed_costs_its_task_only(two, tmp_path):
    pids = set(two.map(where_am_i, range(8)))
    assert len(pids) == 2 and os.getpid() not in pids
    found = two.map(deadly, range(10), shared=(str(tmp_path),), resources={"synth": 1})
    assert found == [n * n for n in range(10)]
    assert (tmp_path / "died").exists() and set(two.map(where_am_i, range(8))) != pids


def suicidal(n: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return n


def test_a_task_that_kills_whoever_takes_it_is_named(two):
    with pytest.raises(MXExportError, match="suicidal: the workers that ran it died, one after the other"):
        two.map(suicidal, [1])
    assert two.map(where_am_i, [1])


class Site:
    """A scheduler and two workers as processes of their own."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address, self.held = f"tcp://127.0.0.1:{self.port}", []

    def start(self) -> None:
        places = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        how = {"env": os.environ | {"PYTHONPATH": places}, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        python = [sys.executable, "-m"]
        scheduler = [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--no-dashboard"]
        worker = [*python, "distributed.cli.dask_worker", self.address, "--no-nanny", "--no-dashboard"]
        self.held.append(subprocess.Popen([*scheduler, "--port", str(self.port)], **how))
        for _ in range(2):
            self.held.append(subprocess.Popen([*worker, "--nthreads", "1", "--death-timeout", "60"], **how))

    def kill(self) -> None:
        for process in self.held:
            process.kill()
            process.wait()
        self.held = []


@contextlib.contextmanager
def site():
    there = Site()
    try:
        there.start()
        yield there
    finally:
        there.kill()


def connect(address: str):
    """Once it is up."""
    from distributed import Client

    for _ in range(60):
        try:
            client = Client(address, timeout="1s")
            client.wait_for_workers(1, timeout=30)
            return client
        except OSError:
            time.sleep(0.2)
    raise AssertionError("no scheduler")


def test_a_scheduler_that_is_restarted_costs_running_tasks_only(tmp_path):
    with site() as there, connect(there.address) as client, cluster.connected(client) as runner:

        def restart() -> None:
            there.kill()
            there.start()

        done, other = {}, threading.Thread(target=restart)
        for i, result in runner.completed(Work(slow_note, range(24), (str(tmp_path),))):
            done[i] = result
            if len(done) == 6:
                other.start()
        other.join()
        assert done == {n: n * n for n in range(24)}
        again = {name for name, n in runs(tmp_path).items() if n > 1}
        assert len(again) <= 24 - 6 and sum(runs(tmp_path).values()) <= 24 + 8, runs(tmp_path)


def test_a_scheduler_that_stays_away_is_named(tmp_path):
    from mxexport.cluster.on_dask import OnDask

    with site() as there, connect(there.address) as client:
        runner = OnDask(client, patience=3)
        with pytest.raises(MXExportError, match=f"scheduler at {there.address} went away .* within 3 s"):
            for _ in runner.completed(Work(slow_note, range(24), (str(tmp_path),))):
                there.kill()


@pytest.mark.parametrize("where, words", [("tcp://127.0.0.1:9", "no scheduler at"), (0, "cluster is 0; expected None")])
def test_what_is_no_cluster_is_refused(where, words, monkeypatch):
    monkeypatch.setattr("mxexport.cluster.on_dask._ANSWER", 1)
    with pytest.raises(OptionError, match=words), cluster.connected(where):
        raise AssertionError("entered")
