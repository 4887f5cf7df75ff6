"""The temperature tau as a part of a method: a fixed number, a schedule, or learnt. A method only asks for its value."""

import math

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from kindred.errors import ConfigError
from kindred.values import Positive


class Temperature(nn.Module):
    """A fixed tau; what the others are kinds of. Called with the epochs trained so far, it gives the value to use now.

    Args:
        value: tau > 0.

    Raises:
        ValueError: value <= 0.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        if not value > 0:
            raise ConfigError(f"model.temperature must be greater than 0, got {value}")
        self.value = value

    def forward(self, epoch: float) -> float | Tensor:
        """tau after `epoch` epochs, with the part of the running one: a number, or a 0-d tensor that may be learnt."""
        return self.value

    def optimizer(self) -> Optimizer | None:
        """What trains tau, if that is not what trains the weights."""
        return None

    def bound(self) -> None:
        """Bring back into its bounds what an optimiser step has changed."""


class Cosine(Temperature):
    """tau swings between two values, from the larger one on (Kukleva et al. 2023, arXiv:2303.13664).

    tau = tau_min + (tau_max - tau_min) (1 + cos(2 pi epoch / period_epochs)) / 2: a large tau groups, a small one tells
    images apart, and the method does both in turn.

    Args:
        tau_min, tau_max: 0 < tau_min <= tau_max.
        period_epochs: from one largest value to the next.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        tau_min: Positive = 0.1,
        tau_max: Positive = 1.0,
        period_epochs: Positive = 200,
    ) -> None:
        super().__init__(tau_max)
        if not 0 < tau_min <= tau_max:
            raise ConfigError(
                f"model.temperature.tau_min must be greater than 0, up to tau_max={tau_max}, got {tau_min}"
            )
        if not period_epochs > 0:
            raise ConfigError(f"model.temperature.period_epochs must be greater than 0, got {period_epochs}")
        self.tau_min = tau_min
        self.period_epochs = period_epochs

    def forward(self, epoch: float) -> float:
        swing = (1 + math.cos(2 * math.pi * epoch / self.period_epochs)) / 2
        return self.tau_min + (self.value - self.tau_min) * swing


class Learnable(Temperature):
    """tau is trained with the weights, by its logarithm (CLIP, Radford et al. 2021, arXiv:2103.00020, section 2.3).

    By Adam, whatever trains the weights: their learning rates are made for gradients of another size, and LARS, which has
    no trust ratio for a single number, would throw tau from bound to bound. The rate follows the method's schedule, as in
    CLIP, and there is no weight decay. The bounds are kept after each step, as CLIP's, and not by a clamp of the value:
    beyond one there is no gradient that could bring tau back.

    Args:
        initial: tau at the start.
        minimum, maximum: what it stays between; CLIP's minimum is 0.01.
        lr: Adam's learning rate for log tau, about what a step changes tau by, relative to it; CLIP's.

    Raises:
        ValueError: not 0 < minimum <= initial <= maximum, or lr <= 0.
    """

    def __init__(
        self,
        initial: Positive = 0.07,
        minimum: Positive = 0.01,
        maximum: Positive = 1.0,
        lr: Positive = 5e-4,
    ) -> None:
        super().__init__(initial)
        if not 0 < minimum <= initial <= maximum:
            raise ConfigError(
                "model.temperature must have 0 < minimum <= initial <= maximum, got "
                f"minimum={minimum}, initial={initial}, maximum={maximum}"
            )
        if not lr > 0:
            raise ConfigError(f"model.temperature.lr must be greater than 0, got {lr}")
        self.lr = lr
        self.log_tau = nn.Parameter(torch.tensor(math.log(initial)))
        self.log_bounds = math.log(minimum), math.log(maximum)

    def forward(self, epoch: float) -> Tensor:
        return self.log_tau.exp()

    def optimizer(self) -> Adam:
        return Adam([self.log_tau], lr=self.lr)

    @torch.no_grad()
    def bound(self) -> None:
        self.log_tau.clamp_(*self.log_bounds)
