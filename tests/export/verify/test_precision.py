"""PyTorch in float64, whatever the network asks for."""

import pytest
import torch

from export.verify.reference import InDoublePrecision

SINGLE = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda: SINGLE.double().float(), torch.float64),
        (lambda: SINGLE + 1, torch.float64),
        (lambda: SINGLE.half() * SINGLE.bfloat16(), torch.float64),
        (lambda: torch.zeros(2, dtype=torch.float32), torch.float64),
        (lambda: torch.zeros(2, dtype=torch.bfloat16), torch.float64),
        (lambda: SINGLE.sum(dtype=torch.float16), torch.float64),
        (lambda: torch.zeros(2, dtype=torch.complex64), torch.complex128),
        (lambda: torch.zeros(2, dtype=torch.int32) + 1, torch.int32),
        (lambda: SINGLE > 1, torch.bool),
    ],
)
def test_floating_point_numbers_are_of_64_bits_and_others_as_they_were(run, kind):
    with InDoublePrecision():
        assert run().dtype == kind


def test_nothing_is_rounded_to_fewer_digits():
    with InDoublePrecision(), torch.autocast("cpu", torch.bfloat16):
        product = (SINGLE.float()[None] + 2**-40) @ torch.ones(2, 1)
    assert product.item() == 3 + 2**-39


def test_the_options_of_an_operator_are_kept():
    with InDoublePrecision():
        assert torch.full((2,), 3.0, dtype=torch.float32).add(SINGLE, alpha=2).tolist() == [5, 7]
