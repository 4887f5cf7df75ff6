"""Batch norm over all ranks, on a CPU too, where torch has none."""

from typing import cast

from lightning import LightningModule
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import Tensor, nn, no_grad, stack, var_mean
from torch.nn.modules.batchnorm import _BatchNorm

from kindred.distributed import gather, world_size
from kindred.sphere import raise_precision


class SyncBatchNorm(_BatchNorm):
    """A layer that normalises with the global batch's statistics, whose gradient reaches every rank.

    As torch's, which is for GPUs only: ranks must hold as many values of each channel as one another, an evaluation is
    each rank's own, and so is everything once there is a `process_group` (`kindred.models.key_splits.make_local`).
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


def synchronise(model: nn.Module) -> nn.Module:
    """Every batch norm of `model` becomes a SyncBatchNorm, in place: it has the parts of one, and another forward."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            before, layer.__class__ = type(layer), SyncBatchNorm
            cast(SyncBatchNorm, layer).before = before
    return model


class SyncedLayers(TorchSyncBatchNorm):
    """Lightning's way of synchronising the layers of a module while it trains: torch's, and ours on a CPU."""

    def apply(self, model: LightningModule) -> nn.Module:
        return synchronise(model) if model.trainer.strategy.root_device.type == "cpu" else super().apply(model)

    def revert(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if isinstance(layer, SyncBatchNorm):
                layer.__class__ = layer.before
        return super().revert(model)
