"""What turns raw batches into what an encoder eats: the one object that knows what an example is."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Views(ABC):
    """Views of one modality. What is not abstract may be left as it is where it makes no sense."""

    base_line = "inputs"  # what metrics call the accuracy of `as_features`: `inputs/knn_top1`
    base_line_axes = 128  # of largest variance, on which the linear probe judges `as_features` while training
    input_name = "inputs"  # of an exported encoder
    preparation: str | None = None  # Python that makes inputs of an exported encoder, for its model card

    @abstractmethod
    def __len__(self) -> int:
        """V, the views of an example in training."""

    @abstractmethod
    def augment(self, raw: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """V views [B, ...] of a raw batch for the encoder, on the batch's device; they may differ in size.

        Args:
            raw: as `Examples.read_train` gives it.
            index: int64 [B], each example's position in its source. What is drawn for it must be a function of
                (seed, epoch, index, view) alone (`kindred.data.counter`): no rank, batch or resume changes it then.
            epoch: another epoch, another augmentation.
        """

    @abstractmethod
    def plain(self, raw: Tensor) -> Tensor:
        """The unaugmented input [B, ...] that is evaluated, of a raw batch as `Examples.read` gives it."""

    def expect_as(self, other: "Views") -> None:
        """Expect the inputs that `other` is for; views that need not know, leave it."""
        return None

    def as_features(self, inputs: Tensor) -> Tensor | None:
        """Inputs as features [B, F], the base line without an encoder; None: there is no such thing."""
        return None

    def pictures(self, inputs: Tensor) -> Tensor | None:
        """Inputs as uint8 [B, 1 or 3, H, W], to be drawn; None: they are no pictures."""
        return None

    def texts(self, inputs: Tensor) -> list[str] | None:
        """Inputs as they can be read, to be shown; None: they are no texts."""
        return None

    def exported(self, encoder: nn.Module) -> nn.Module:
        """`encoder` behind as much of `plain` as a file can hold."""
        return encoder

    def example_inputs(self, count: int) -> Tensor | None:
        """Made-up inputs [count, ...] of an exported encoder, to try it on; None: real ones are taken."""
        return None
