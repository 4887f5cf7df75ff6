"""What a value must be, by its annotation, and how that is said."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import pytest
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.values import fault


class Anything(Protocol):
    size: int


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 3),
        (float, 3),  # a whole number is a number
        (float | Tensor, 0.1),
        (bool, True),
        (str | None, None),
        (tuple[int, ...], [1, 2]),
        (tuple[float, float], [1, 2.5]),
        (Sequence[str], []),
        (Literal["a", 2], 2),
        (dict | None, {"a": [1]}),
        (Annotated[float, Gt(0), Le(1)], 1),
        (Annotated[int, Ge(1)] | Annotated[float, Gt(0), Le(1)], 0.5),
        (Any, "anything"),
    ],
)
def test_what_fits_is_left_alone(annotation, value):
    assert fault(value, annotation) is None


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "three", "must be a whole number, got 'three'"),
        (int, True, "must be a whole number, got true"),
        (int, 2.0, "must be a whole number, got 2.0"),
        (float, True, "must be a number, got true"),
        (float, "0.1", "must be a number, got '0.1'"),
        (float, float("inf"), "must be a number, got Infinity"),
        (bool, 1, "must be true or false, got 1"),
        (str, 3, "must be a text, got 3"),
        (int | None, "a", "must be a whole number, or null, got 'a'"),
        (tuple[int, ...], 8, "must be a list of whole numbers, got 8"),
        (tuple[float, float] | None, [1], "must be a list of 2 numbers, or null, got [1]"),
        (tuple[Annotated[int, Ge(1)], ...], [0], "must be a list of whole numbers, each 1 or more, got [0]"),
        (Literal["a", "b"], "c", "must be a or b, got 'c'"),
        (Annotated[float, Gt(0)] | nn.Module, 0, "must be greater than 0, got 0"),
        (Annotated[float, Ge(0), Le(1)], 2, "must be from 0 to 1, got 2"),
        (nn.Module, "resnet", "must be Module built by a _target_, got 'resnet'"),
        (partial[Optimizer], "sgd", "must be Optimizer built by a _target_, got 'sgd'"),
        (Anything, 3, "must be Anything built by a _target_, got 3"),
        (Callable[[int], int], "f", "must be Callable built by a _target_, got 'f'"),
    ],
)
def test_what_does_not_fit_is_said_in_words(annotation, value, message):
    assert fault(value, annotation) == message
