"""Batch normalisation over the batches of all processes of `convkit.distributed`."""

from __future__ import annotations

from typing import Any

from convkit.nn.batchnorm import BatchNorm1d, BatchNorm2d
from convkit.nn.module import Module

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(BatchNorm2d):
    """Batch normalisation of (N, C), (N, C, L) or (N, C, H, W) by all processes' samples.

    In training, mean and variance are those of the shares of all processes together, and the
    gradient of the input goes through them; those of weight and bias are this process's own,
    as for other layers. Without a process group, or in evaluation, it is `BatchNorm2d`, whose
    parameters and state it has.

    Raises
    ------
    DistributedError
        When another process does not answer.
    """

    ranks = (2, 3, 4)

    @property
    def _op(self) -> Any:
        from convkit import distributed

        if distributed.get_world_size() == 1:
            return None
        from convkit.distributed.batch_norm import SyncBatchNormTrain

        return SyncBatchNormTrain

    @classmethod
    def convert_sync_batchnorm(cls, module: Module) -> Module:
        """Replace the batch norm layers of a network by this one.

        Parameters
        ----------
        module : Module
            Changed in place, unless it is a batch norm layer itself.

        Returns
        -------
        Module
            `module`, or what stands for it. Parameters and buffers are the same tensors.
        """
        if isinstance(module, (BatchNorm1d, BatchNorm2d)) and not isinstance(module, cls):
            layer = cls(module.num_features, module.eps, module.momentum, module.affine,
                        module.track_running_stats)
            layer._parameters, layer._buffers = module._parameters, module._buffers
            layer.training = module.training
            return layer
        for name, child in module.named_children():
            setattr(module, name, cls.convert_sync_batchnorm(child))
        return module
