"""Batch norm over all ranks, on a CPU too, where torch has none."""

from typing import cast

from lightning import LightningModule
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import Tensor, nn, no_grad, stack, var_mean
from torch.nn.modules.batchnorm import _BatchNorm

from kindred.distributed import gather, world_size
from kindred.errors import ConfigError
from kindred.sphere import raise_precision


class SyncBatchNorm(_BatchNorm):
    """A layer that normalises with the global batch's statistics, whose gradient reaches every rank.

    As torch's, which is for GPUs only: ranks must hold as many values of each channel as one another, an evaluation is
    each rank's own, and so is everything once there is a `process_group` (`kindred.models.parts.key_splits.make_local`).
    """

    before: type[_BatchNorm]  # what the layer is when it does not train
    process_group = None
    _check_input_dim = nn.SyncBatchNorm._check_input_dim

    def forward(self, input: Tensor) -> Tensor:
        ranks = world_size() if self.training and self.process_group is None else 1
        if ranks == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = raise_precision(input)
        over = [dim for dim in range(x.ndim) if dim != 1]
        variances, means = gather(stack(var_mean(x, over, correction=0))[None]).unbind(1)  # [W, C] each
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), ranks * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        shape = (-1, *[1] * (x.ndim - 2))
        return (x * scale.view(shape) + shift.view(shape)).to(input.dtype)

    @no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; their variance is the unbiased one, of `count` values."""
        tracked, means, variances = self.num_batches_tracked, self.running_mean, self.running_var
        assert tracked is not None
        assert means is not None
        assert variances is not None
        tracked.add_(1)
        momentum = 1 / int(tracked) if self.momentum is None else self.momentum
        means.lerp_(mean.to(means.dtype), momentum)
        variances.lerp_((variance * count / (count - 1)).to(variances.dtype), momentum)


class SyncBatchNormAct(SyncBatchNorm):
    """The same of timm's BatchNormAct2d, in which a batch norm is followed by what else it holds."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def synchronise(model: nn.Module) -> nn.Module:
    """Every batch norm of `model` becomes a SyncBatchNorm, in place: it has the parts of one, and another forward.

    Raises:
        ConfigError: one that does more than a batch norm, in a way that is not known.
    """
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            before, layer.__class__ = type(layer), _synchronised(layer)
            cast(SyncBatchNorm, layer).before = before
    return model


def _synchronised(layer: _BatchNorm) -> type[SyncBatchNorm]:
    if _is_plain(layer):
        return SyncBatchNorm
    if {"drop", "act"} == {name for name, _ in layer.named_children()}:
        return SyncBatchNormAct
    raise ConfigError(
        f"encoder: {type(layer).__name__} is a batch norm of its own kind, which cannot be synchronised between devices: "
        "trainer.sync_batchnorm=false leaves each device its own statistics"
    )


def _is_plain(layer: _BatchNorm) -> bool:
    """Whether `layer` does what torch's batch norms do, and no more."""
    return type(layer).forward in (_BatchNorm.forward, SyncBatchNorm.forward, nn.SyncBatchNorm.forward)


class SyncedLayers(TorchSyncBatchNorm):
    """Lightning's way of synchronising the layers of a module while it trains: torch's, or ours where that will not do."""

    def apply(self, model: LightningModule) -> nn.Module:
        # Torch's takes a batch norm for no more than that: what timm's do after it would be lost.
        batch_norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        ours = model.trainer.strategy.root_device.type == "cpu" or not all(map(_is_plain, batch_norms))
        return synchronise(model) if ours else super().apply(model)

    def revert(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if isinstance(layer, SyncBatchNorm):
                layer.__class__ = layer.before
        return super().revert(model)
