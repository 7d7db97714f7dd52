from __future__ import annotations

import pytest
import torch

from dinotrain.commands.assembly import default_precision, divide_batch
from dinotrain.errors import UserError


@pytest.mark.parametrize(
    ("images", "processes", "micro_batch", "limit", "expected"),
    [
        (64, 1, None, None, (64, 1)),
        (64, 2, None, None, (32, 1)),
        (3072, 256, None, 12, (12, 1)),
        (3072, 8, None, 12, (12, 32)),
        (3072, 512, None, 12, (6, 1)),
        (3072, 1, None, 32, (32, 96)),
        (100, 1, None, 32, (25, 4)),
        (7, 1, None, 2, (1, 7)),
        (64, 2, 8, None, (8, 4)),
        (64, 2, 32, 8, (32, 1)),
    ],
)
def test_the_global_batch_is_kept(
    images: int, processes: int, micro_batch: int | None, limit: int | None, expected: tuple[int, int]
) -> None:
    micro, passes = divide_batch(images, processes, micro_batch=micro_batch, limit=limit)
    assert (micro, passes) == expected
    assert micro * passes * processes == images


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UserError, match=r"optim\.global_batch: 10 is not a multiple of the 4 processes"):
        divide_batch(10, 4, micro_batch=None, limit=None)
    with pytest.raises(UserError, match=r"optim\.micro_batch: 4 does not divide the 10 images"):
        divide_batch(20, 2, micro_batch=4, limit=None)


def test_a_cpu_gets_bf16_only_where_it_has_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert default_precision(torch.device("cpu")) == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert default_precision(torch.device("cpu")) == "fp32"
