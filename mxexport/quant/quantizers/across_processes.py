"""Statistics of activations where several processes train one model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def over_ranks(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest `low` and the largest `high` of all ranks, inside the forward of a DistributedDataParallel.

    Each rank sees its own part of a batch, and scales that differ would make models that differ. Elsewhere the two as
    they are: nobody says that other processes run the same layer now.
    """
    parallel = None if torch.compiler.is_compiling() else DistributedDataParallel._active_ddp_module
    if parallel is None:
        return low, high
    both = torch.cat([-low, high])
    torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX, group=parallel.process_group)
    return -both[: len(low)], both[len(low) :]
