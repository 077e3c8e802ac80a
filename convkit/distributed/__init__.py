"""Training on several processes over MPI (mpi4py): start them with ``mpiexec -n 2 python ...``.

Every process (rank) has the whole network and works on its share of each batch; gradients
are summed between them while backward still runs. docs/distributed.md tells which cuts of a
batch give the same bits.
"""

from __future__ import annotations

from convkit.distributed.data_parallel import DistributedDataParallel
from convkit.distributed.group import (
    DistributedError,
    Group,
    abort,
    barrier,
    default_group,
    destroy_process_group,
    get_rank,
    get_world_size,
    init_process_group,
    is_available,
    is_initialized,
    is_launched,
)
from convkit.distributed.sampler import DistributedSampler
from convkit.distributed.tensors import all_gather_object, all_reduce, broadcast

__all__ = [
    "DistributedDataParallel",
    "DistributedError",
    "DistributedSampler",
    "Group",
    "abort",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "default_group",
    "destroy_process_group",
    "get_rank",
    "get_world_size",
    "init_process_group",
    "is_available",
    "is_initialized",
    "is_launched",
]
