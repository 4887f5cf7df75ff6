"""Gradients summed over ranks in an order that does not depend on how long a process has run."""

from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def sum_parameter_by_parameter(trainer: Trainer, module: LightningModule) -> None:
    """Have DDP on CPUs reduce each parameter's gradient by itself; a hook for the start of a fit.

    DDP reduces buckets, and fills them anew after a process's first step, in the order in which gradients came. Where in a
    bucket a number lies decides in which order gloo adds the ranks' numbers. So of three ranks or more the step after a
    resume was another one than in a run that was never stopped, in the last bit.
    """
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel) and module.device.type == "cpu":
        model.register_comm_hook(None, _mean_of_each)


def _mean_of_each(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    bucket.buffer().div_(dist.get_world_size())
    for work in [dist.all_reduce(gradient, async_op=True) for gradient in bucket.gradients()]:
        work.wait()
    reduced = torch.futures.Future[Tensor]()
    reduced.set_result(bucket.buffer())
    return reduced
