"""Networks that sum up a sequence so far: latents up to a step in, the context at that step out (CPC, section 2.2)."""

from torch import Tensor, nn
from torch.nn.functional import pad

REACH = 3  # layers of the convolution, whose rows lie 1, 2 and 4 apart: it sees 7 steps back


class GRUContext(nn.Module):
    """A GRU along the steps of each column by itself, as the paper's for audio and for text."""

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(num_features, width, batch_first=True)

    def forward(self, latents: Tensor) -> Tensor:
        """z [B, T, C, F] -> c [B, T, C, width]; c at a step depends on z up to that step."""
        columns = latents.shape[2]
        contexts, _ = self.gru(latents.transpose(1, 2).flatten(0, 1))
        return contexts.unflatten(0, (-1, columns)).transpose(1, 2)


class ConvContext(nn.Module):
    """Causal convolutions along the steps that see neighbouring columns too, as the paper's PixelCNN for images does.

    Residual layers of 2 steps x 3 columns, of which each reaches twice as far back as the one before.
    """

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.start = nn.Conv2d(num_features, width, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, (2, 3), padding=(0, 1), dilation=(2**depth, 1)))
            for depth in range(REACH)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """z [B, T, C, F] -> c [B, T, C, width]; c at a step depends on z up to that step."""
        states = self.start(latents.permute(0, 3, 1, 2))
        for depth, layer in enumerate(self.layers):
            states = states + layer(pad(states, (0, 0, 2**depth, 0)))  # nothing from below
        return states.permute(0, 2, 3, 1)


CONTEXTS = {"gru": GRUContext, "conv": ConvContext}
