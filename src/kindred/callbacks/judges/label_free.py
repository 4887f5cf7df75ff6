"""What can be said of the representation without labels, during training."""

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from lightning import Callback
from torch import Tensor

from kindred.callbacks.judges.feature_store import Features, feature_store
from kindred.callbacks.record import record
from kindred.data.loading import Subset
from kindred.data.views import Views
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
        views: by these too, with the results as `val/common_lidar`, ...: a run whose own views hardly differ has an easier
            task than others, and is not the better for it. `+views@callbacks.label_free.views=small` chooses them.
    """

    def __init__(
        self,
        images: Annotated[int, Ge(2)] = 384,
        draws: Count = 2,
        temperature: Positive = 0.2,
        views: Views | None = None,
    ) -> None:
        self.images, self.draws, self.temperature, self.views = images, draws, temperature, views

    def setup(self, trainer: Trainer, module: ContrastiveModule, stage: str) -> None:
        if self.views is not None:
            self.views.expect_as(trainer.datamodule.views)

    def on_validation_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        store = feature_store(trainer)
        for prefix, share in (("", store.query), ("projector_", store.projected)):
            spread = _spread(share)
            if not sum_over_ranks((~spread.isfinite()).sum()):
                _record(trainer, prefix, {"rankme": rankme(spread), "alpha_req": alpha_req(spread)})
        for views, whose in ((trainer.datamodule.views, ""), (self.views, "common_")):
            if views is None or len(views) * self.draws < 2:
                continue
            for prefix, embeddings in zip(("", "projector_"), self._encoded(trainer, module, views), strict=True):
                if embeddings.isfinite().all():
                    one_draw = embeddings[: max(2, len(views))]
                    values = {"lidar": lidar(embeddings), "alignment": alignment(embeddings)}
                    _record(trainer, prefix + whose, values | {"info_nce": info_nce(one_draw, self.temperature)})

    def _encoded(self, trainer: Trainer, module: ContrastiveModule, views: Views) -> tuple[Tensor, Tensor]:
        """Features [draws x V, B, F] and projections [draws x V, B, D] on every rank, the images in their order."""
        data = trainer.datamodule
        images = np.linspace(0, len(data.query) - 1, min(self.images, len(data.query))).astype(int)
        dataset = Subset(data.query.examples, data.query.positions[images], views)
        own = np.arange(trainer.global_rank, len(images), trainer.world_size)
        read = own if len(own) else np.zeros(1, dtype=int)  # for the shapes; none of it is kept
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for items in np.array_split(read, -(-len(read) // data.eval_batch_size)):
            inputs: list[Tensor] = []
            for epoch in range(-self.draws, 0):
                batch = dataset.train_items(items, epoch)
                inputs += views.augment(batch.raw.to(module.device), batch.index.to(module.device), epoch)
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                features = [module(each) for each in inputs]
                projections = [module.projector(each) for each in features]
            for parts, encoded in zip(found, (features, projections), strict=True):
                parts.append(torch.stack(encoded, dim=1).float())
        order = gather_uneven(torch.from_numpy(own).to(module.device)).argsort()
        features, projections = (gather_uneven(torch.cat(parts)[: len(own)])[order].transpose(0, 1) for parts in found)
        return features, projections


def _record(trainer: Trainer, prefix: str, values: dict[str, Tensor]) -> None:
    split = trainer.datamodule.monitor
    record(trainer, {f"{split}/{prefix}{name}": value for name, value in values.items() if not value.isnan()})


def _spread(share: Features) -> Tensor:
    """This rank's part of at most SPECTRUM_IMAGES images, evenly spread over all ranks' [n, F]."""
    count = int(sum_over_ranks(torch.tensor(len(share.positions), device=share.positions.device)))
    return share.features[share.positions % -(-count // SPECTRUM_IMAGES) == 0]
