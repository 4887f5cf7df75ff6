"""Weights, gradients and the optimiser's state in shards, one on each rank: trainer=fsdp."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, cast

from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from kindred.errors import ConfigError
from kindred.optimisers.lars import LARS
from kindred.temperature import Temperature
from kindred.training.trainer import Trainer


class FullySharded(DDPStrategy):
    """As DDP, but of every weight a rank holds 1/W (torch's fully_shard, "FSDP2"; Zhao et al. 2023, arXiv:2304.11277).

    Each network of a method, and each of its parts, is put together when it is used, and taken apart again. Batch norm is
    over all ranks, as with DDP, and checkpoints are those of any other run: whole tensors in one file, so that a run may
    go on with another trainer, and be judged and exported. (Lightning's ModelParallelStrategy has fully_shard too; it
    leaves batch norm to each rank, and numbers the optimiser's state in a checkpoint by the module's weights, where other
    strategies number it by the optimiser's groups.)
    """

    def connect(self, model: LightningModule) -> None:
        check(model, cast(Trainer, model.trainer))
        super().connect(model)

    def configure_ddp(self) -> None:
        """Where DDP would wrap the module."""
        # Of features that end in a view; it comes anew in every epoch.
        warnings.filterwarnings("once", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for network in networks(self.module):
            for part in network.children():
                if any(weight.ndim > 1 for weight in part.parameters()) and not isinstance(part, nn.ModuleList):
                    fully_shard(part, mesh=mesh, reshard_after_forward=True)
            # Also the outermost one, which else stays whole until a backward pass: evaluations and key encoders have none.
            fully_shard(network, mesh=mesh, reshard_after_forward=True)

    @property
    def module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {name: _whole(value) for name, value in self.module.state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        own, given = self.module.state_dict(), checkpoint["state_dict"]
        shards = {name: _as(own[name], value) if name in own else value for name, value in given.items()}
        self.module.load_state_dict(shards, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        found = optimizer.state_dict()
        state = {number: {key: _whole(value) for key, value in of.items()} for number, of in found["state"].items()}
        return found | {"state": state}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        super().load_optimizer_state_dict(checkpoint)
        for optimizer in self.optimizers:
            for weight, state in optimizer.state.items():
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        state[key] = _as(weight, value)


def check(module: LightningModule, trainer: Trainer) -> None:
    """Refuse what was not seen to work in shards; Lightning asks before a run directory exists."""
    chunks, optimizer = getattr(module, "chunks", 1), getattr(module, "optimizer", None)
    learnt = [part for part in module.children() if isinstance(part, Temperature) and any(part.parameters())]
    ddp = "or choose trainer=ddp"
    refused = (
        (
            chunks > 1,
            f"model.chunks={chunks}",
            f"a weight in shards has a gradient of each pass by itself: set 1, {ddp}",
        ),
        (learnt, "model.temperature", f"one that is learnt is in no shard: give a number, {ddp}"),
        (
            optimizer and optimizer.func is LARS,
            "model.optimizer",
            f"LARS needs norms of whole weights: choose another, {ddp}",
        ),
        (trainer.compile, "trainer.compile=true", f"not seen to work: set false, {ddp}"),
        (trainer.channels_last, "trainer.channels_last=true", f"shards keep the usual order: set false, {ddp}"),
        (trainer.precision == "16-mixed", "trainer.precision=16-mixed", f"not seen to work: choose bf16-mixed, {ddp}"),
        (trainer.gradient_clip_val, "trainer.gradient_clip_val", f"not seen to work: set null, {ddp}"),
    )
    for found, key, right in refused:
        if found:
            raise ConfigError(f"{key} with trainer=fsdp: {right}")


def networks(module: LightningModule) -> Iterator[nn.Module]:
    """The parts of a method that have weights; no queue, no temperature."""
    return (part for part in module.children() if any(weight.ndim > 1 for weight in part.parameters()))


def _whole(value: Any) -> Any:
    """A tensor put together from all ranks, each of which must ask; what is no shard as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _as(own: Any, value: Any) -> Any:
    """This rank's shard of `value` where `own` is one."""
    return distribute_tensor(value, own.device_mesh, own.placements) if isinstance(own, DTensor) else value
