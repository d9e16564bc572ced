"""Where independent tasks run: in this process, in processes of this machine, or on a cluster of dask.

    with cluster.connected("tcp://head:8786") as runner:
        areas = runner.map(synthesized, units, resources={"synth": 1})

Results are those of a plain loop, in its order, wherever they were computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mxexport.cluster.in_process import InProcess
from mxexport.cluster.runner import Runner
from mxexport.errors import MissingToolError, OptionError

__all__ = ["InProcess", "Runner", "connected"]


@contextlib.contextmanager
def connected(where: object = None) -> Iterator[Runner]:
    """A runner for the block.

    Args:
        where: None for this process; a number of processes on this machine; the address of a scheduler
            ("tcp://host:port"); a `distributed.Client`; or a runner, which stays open behind the block.

    Raises:
        OptionError: anything else, or no scheduler there.
        MissingToolError: dask.distributed is not installed.
    """
    if isinstance(where, Runner):
        yield where
    elif where is None:
        yield InProcess()
    else:
        runner = _on_dask(where)
        try:
            yield runner
        finally:
            runner.close()


def _on_dask(where: object) -> Runner:
    try:
        from mxexport.cluster import on_dask
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise MissingToolError("tasks on several processes need dask: pip install 'mxexport[cluster]'") from None
    if isinstance(where, int) and not isinstance(where, bool) and where > 0:
        return on_dask.processes(where)
    if isinstance(where, str):
        return on_dask.at(where)
    if isinstance(where, on_dask.Client):
        return on_dask.OnDask(where)
    raise OptionError(
        f"cluster is {where!r}; expected None, a number of processes, the address of a scheduler such as "
        "tcp://host:8786, or a distributed.Client"
    )
