"""What can be said of the representation without labels, during training."""

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from lightning import Callback
from torch import Tensor

from kindred.callbacks.feature_store import Features, feature_store
from kindred.callbacks.record import record
from kindred.distributed import gather_uneven, sum_over_ranks
from kindred.evaluation.geometry import alignment
from kindred.evaluation.label_free import alpha_req, info_nce, lidar, rankme
from kindred.models.contrastive import ContrastiveModule
from kindred.training.trainer import Trainer
from kindred.values import Count, Positive

SPECTRUM_IMAGES = 25_600  # as many as RankMe's authors take


class LabelFreeCallback(Callback):
    """Logs `val/rankme`, `val/alpha_req`, `val/lidar`, `val/alignment` and `val/info_nce` of the held-out images' features.

    `val/projector_rankme`, ... are of the projector's output. The first two read the validation's features. The others need
    augmented views: some held-out images are encoded again, the same ones in the same views at each evaluation, since these
    are drawn from (seed, index, view) and an epoch that no training has. No label is read.

    Args:
        images: held-out images, evenly spread, that are augmented; better more than there are features.
        draws: how often each of them is augmented, every time by all of the run's views: LiDAR sees draws x V views.
        temperature: of InfoNCE, the same for all runs that are to be compared, whatever they are trained with.
    """

    def __init__(self, images: Annotated[int, Ge(2)] = 384, draws: Count = 2, temperature: Positive = 0.2) -> None:
        self.images, self.draws, self.temperature = images, draws, temperature

    def on_validation_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        store, split = feature_store(trainer), trainer.datamodule.monitor
        augmented = self._augmented(trainer, module)
        for prefix, share, views in zip(("", "projector_"), (store.query, store.projected), augmented, strict=True):
            if sum_over_ranks((~share.features.isfinite()).sum()) or not views.isfinite().all():
                continue
            spread = _spread(share)
            values = {"rankme": rankme(spread), "alpha_req": alpha_req(spread)}
            if len(views) > 1:
                one_draw = views[: max(2, len(views) // self.draws)]
                values |= {"lidar": lidar(views), "alignment": alignment(views)}
                values["info_nce"] = info_nce(one_draw, self.temperature)
            record(trainer, {f"{split}/{prefix}{name}": value for name, value in values.items() if not value.isnan()})

    def _augmented(self, trainer: Trainer, module: ContrastiveModule) -> tuple[Tensor, Tensor]:
        """Features [V, B, F] and projections [V, B, D] of all ranks' views, the images in their order."""
        data = trainer.datamodule
        items = np.linspace(0, len(data.query) - 1, min(self.images, len(data.query))).astype(int)
        own = np.arange(trainer.global_rank, len(items), trainer.world_size)
        read = own if len(own) else np.zeros(1, dtype=int)  # for the shapes; none of it is kept
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for part in np.array_split(read, -(-len(read) // data.eval_batch_size)):
            views = self._views(trainer, module, items[part])
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                features = [module(view) for view in views]
                projections = [module.projector(x) for x in features]
            for each, parts in zip(found, (features, projections), strict=True):
                each.append(torch.stack(parts, dim=1).float())
        order = gather_uneven(torch.from_numpy(own).to(module.device)).argsort()
        whole = (gather_uneven(torch.cat(each)[: len(own)])[order] for each in found)
        features, projections = (each.transpose(0, 1) for each in whole)
        return features, projections

    def _views(self, trainer: Trainer, module: ContrastiveModule, items: np.ndarray) -> list[Tensor]:
        """draws x V views [n, ...] of the held-out images at `items`."""
        data, views = trainer.datamodule, []
        for draw in range(self.draws):
            epoch = -1 - draw
            batch = data.query.train_items(items, epoch)
            views += data.views.augment(batch.raw.to(module.device), batch.index.to(module.device), epoch)
        return views


def _spread(share: Features) -> Tensor:
    """This rank's part of at most SPECTRUM_IMAGES images, evenly spread over all ranks' [n, F]."""
    count = int(sum_over_ranks(torch.tensor(len(share.positions), device=share.positions.device)))
    return share.features[share.positions % -(-count // SPECTRUM_IMAGES) == 0]
