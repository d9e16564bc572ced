"""Tasks on workers of dask.distributed.

Nothing that is done is lost but by its own end: results are taken as they come, a task of a worker that dies runs on
another one, and where the scheduler goes away this waits for one at the same address and submits what is left anew.
"""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any

import cloudpickle
import dask
from distributed import Client, Future, KilledWorker, LocalCluster, wait
from distributed.utils import CancelledError, TimeoutError as DaskTimeout

import mxexport
from mxexport.cluster.runner import Refused, Runner, Work, attempt
from mxexport.errors import MXExportError, OptionError

PATIENCE = 600.0
"""Seconds to wait for a scheduler that went away."""
_ANSWER = 10.0
"""Seconds within which a scheduler has to answer at first."""
_POLL = 1.0
"""Seconds after which to look whether the scheduler is still there."""
_LOST = (CancelledError, DaskTimeout, OSError)
"""What asking for a result raises once the scheduler that knew it is gone."""
_BEFORE_START = "distributed.nanny.pre-spawn-environ"
_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 25}
"""Of workers: bytes that glibc keeps for the next tensors. dask has them give back all above 64 KB at once, and a
network takes 1.7 times as long to measure in new pages."""


def processes(count: int) -> OnDask:
    """So many processes of one thread on this machine, which end with the runner."""
    environment = dask.config.get(_BEFORE_START) | _ENVIRONMENT
    with dask.config.set({_BEFORE_START: environment, "distributed.worker.profile.enabled": False}):
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            dashboard_address=None,
            memory_limit=0,  # dask would stop processes by a share of memory that synthesis may well need
            silence_logs=logging.CRITICAL,
            resources={"synth": 1, "sim": 1},
        )
    return OnDask(Client(cluster), [cluster])


def at(address: str) -> OnDask:
    """The scheduler at an address. Raises OptionError where none answers."""
    try:
        client = Client(address, timeout=_ANSWER)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"cluster: no scheduler at {address!r} ({error}); start one with `dask scheduler`, workers with `dask "
            f"worker {address}`"
        ) from None
    return OnDask(client, [client])


class OnDask(Runner):
    """`client` stays open unless it is among `owned`."""

    def __init__(self, client: Client, owned: list[Any] | None = None, patience: float = PATIENCE):
        self.client, self._owned, self._patience = client, owned or [], patience
        if owned and client not in owned:
            self._owned = [client, *owned]
        self._address = client.scheduler.address
        self._shared: tuple[bytes, Future] | None = None

    def close(self) -> None:
        for held in self._owned:
            held.close()

    def completed(self, work: Work) -> Iterator[tuple[int, Any]]:
        groups = dict(enumerate(work.groups()))
        running: dict[Future, int] = {}
        try:
            while groups:
                if not running:
                    running = self._submit(work, groups)
                done, lost = self._look(running)
                for future in done:
                    result = self._result(work, future)
                    if result is _GONE:
                        lost = True
                        continue
                    group = groups.pop(running.pop(future))
                    for i in group:
                        yield i, result
                if lost:
                    running = {}
                    self._reconnect()
        finally:
            if self.client.status == "running":
                self.client.cancel(list(running))

    def _submit(self, work: Work, groups: dict[int, list[int]]) -> dict[Future, int]:
        """What is left, with what all of it shares as a task of its own: the scheduler can make that again when the
        worker that holds it dies."""
        run = uuid.uuid4().hex
        try:
            limits = self._declared(work)
            shared = self._brought(cloudpickle.dumps(work.shared), run)
            return {
                self.client.submit(
                    _task,
                    work.function,
                    shared,
                    work.items[group[0]],
                    work.retries,
                    mxexport.__version__,
                    key=f"mxexport-{getattr(work.function, '__name__', 'task')}-{run}-{n}",
                    resources=limits,
                    pure=False,
                ): n
                for n, group in groups.items()
            }
        except _LOST:
            self._reconnect()
            return {}

    def _brought(self, pickled: bytes, run: str) -> Future:
        """What tasks share, on the workers: that of the call before where it is the same and nothing was lost."""
        if self._shared is None or self._shared[0] != pickled or self._shared[1].status not in ("pending", "finished"):
            future = self.client.submit(_loaded, pickled, key=f"mxexport-shared-{run}")
            self._shared = pickled, future
        return self._shared[1]

    def _declared(self, work: Work) -> dict[str, float] | None:
        """The resources of `work` that some worker declares."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        there = set(itertools.chain.from_iterable(worker.get("resources", {}) for worker in workers))
        return {name: n for name, n in (work.resources or {}).items() if name in there} or None

    def _look(self, running: dict[Future, int]) -> tuple[list[Future], bool]:
        """What ended, in the order of submission, and whether the scheduler lost something."""
        try:
            wait(list(running), timeout=_POLL, return_when="FIRST_COMPLETED")
        except DaskTimeout:
            pass  # nothing ended; statuses say whether anything was lost
        except _LOST:
            return [], True
        lost = self.client.status != "running" or any(f.status in ("cancelled", "lost") for f in running)
        return [f for f in running if f.status in ("finished", "error")], lost

    def _result(self, work: Work, future: Future) -> Any:
        try:
            result = future.result(timeout=60)
        except KilledWorker as error:
            name = getattr(work.function, "__name__", "task")
            raise MXExportError(
                f"{name}: the workers that ran it died, one after the other ({error}); give them more memory, or run "
                "it without a cluster to see why"
            ) from None
        except _LOST:
            if future.status == "error":  # it is the task's own
                raise
            return _GONE
        if isinstance(result, Refused):
            raise result.error
        return result

    def _reconnect(self) -> None:
        """Wait for a scheduler at the same address. Raises MXExportError where none comes."""
        self._shared = None
        end = time.monotonic() + self._patience
        while time.monotonic() < end:
            time.sleep(_POLL)
            if self.client.status == "running":
                return
            if self.client.status != "connecting":
                try:
                    self.client = Client(self._address, timeout="5s")
                    self._owned.append(self.client)
                    return
                except OSError:
                    pass  # not there yet
        raise MXExportError(
            f"cluster: the scheduler at {self._address} went away and did not come back within {self._patience:g} s; "
            "start it again and repeat the call: a journal and the cache keep what is done"
        )


_GONE = object()


def _loaded(pickled: bytes) -> tuple:
    return cloudpickle.loads(pickled)


def _task(function, shared: tuple, item, retries: int, version: str):
    """On a worker. Those of dask would also count workers that die, and give a task several times as many."""
    if version != mxexport.__version__:
        return Refused(MXExportError(f"cluster: a worker has mxexport {mxexport.__version__}; expected {version}"))
    return attempt(function, shared, item, retries)
