"""Collectives: values, order, types, and the gradient that plain all_gather loses."""

import time

import pytest
import torch
from ranks import run_ranks

from kindred import distributed


def test_one_process():
    x = torch.arange(3)
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    for function in (distributed.gather, distributed.gather_uneven, distributed.sum_over_ranks):
        assert function(x) is x


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def everything():
    rank, results = distributed.rank(), {}
    for dtype in DTYPES:
        x = torch.tensor([[rank, 1], [0, rank]]).to(dtype)
        uneven = torch.tensor([[rank, r] for r in range(2 * rank)]).reshape(-1, 2).to(dtype)  # none on rank 0
        results[dtype] = distributed.gather(x), distributed.gather_uneven(uneven)
    transposed = torch.arange(6.0).view(2, 3).T + 10 * rank  # not contiguous
    x = torch.tensor([1.0 + rank, 2.0 + rank], dtype=torch.float64, requires_grad=True)
    gathered = distributed.gather(x)
    weights = torch.arange(1.0, 1 + len(gathered), dtype=torch.float64) * 10**rank
    (gathered.square() * weights).sum().backward()
    return {
        "identity": (rank, distributed.world_size()),
        "types": results,
        "empty": distributed.gather_uneven(torch.zeros(0, 4)),
        "transposed": distributed.gather(transposed),
        "gradient": x.grad,
        "sum": distributed.sum_over_ranks(torch.tensor([rank, 1])),
    }


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks(world_size):
    for rank, result in enumerate(run_ranks(everything, world_size)):
        assert result["identity"] == (rank, world_size)
        for dtype, (even, uneven) in result["types"].items():
            assert torch.equal(
                even, torch.tensor([[[r, 1], [0, r]] for r in range(world_size)]).flatten(0, 1).to(dtype)
            )
            rows = [[r, i] for r in range(world_size) for i in range(2 * r)]
            assert torch.equal(uneven, torch.tensor(rows).to(dtype))
        assert result["empty"].shape == (0, 4)
        assert torch.equal(result["transposed"][3 * rank : 3 * rank + 3], torch.arange(6.0).view(2, 3).T + 10 * rank)
        # d/dx of sum over ranks r of 10^r * weight * x^2: every rank's loss counts, none is scaled by the world size.
        scale = sum(10**r for r in range(world_size))
        x, weight = torch.tensor([1.0 + rank, 2.0 + rank]), torch.tensor([2.0 * rank + 1, 2.0 * rank + 2])
        assert torch.equal(result["gradient"], (2 * x * weight * scale).double())
        assert result["sum"].tolist() == [sum(range(world_size)), world_size]


def one_rank_fails():
    if distributed.rank() == 1:
        raise KeyError("the culprit")
    distributed.gather(torch.ones(1))


def test_run_ranks_reports_errors_and_time_outs():
    with pytest.raises(RuntimeError, match=r"rank 1 failed[\s\S]*one_rank_fails[\s\S]*the culprit"):
        run_ranks(one_rank_fails, 2)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="did not finish"):
        run_ranks(time.sleep, 2, 60, timeout=1)
    assert time.monotonic() - start < 10
