"""Group advantages (arXiv 2402.03300): hand arithmetic and the standard library's statistics as reference."""

import statistics

import pytest
import torch

from ptdpo_cli.objectives import group_advantages


def test_by_hand():
    """R = (1, 0, 0, 0): mean 1/4, squares 9/16 + 3/16 = 12/16, over G − 1 = 3 -> 1/4, std 1/2 -> 1.5, −0.5."""
    advantages_PG = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(advantages_PG, torch.tensor([[1.5, -0.5, -0.5, -0.5]]), atol=1e-5, rtol=0)
    centred_PG = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), scale="none")
    torch.testing.assert_close(centred_PG, torch.tensor([[0.75, -0.25, -0.25, -0.25]]))


def test_equals_the_reference_and_groups_do_not_mix():
    rewards_PG = torch.rand(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, found in zip(rewards_PG.tolist(), group_advantages(rewards_PG).tolist(), strict=True):
        mean, std = statistics.mean(row), statistics.stdev(row)
        assert found == pytest.approx([(r - mean) / (std + 1e-6) for r in row], abs=1e-12)


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.9, 1.0, 0.7])
def test_equal_rewards_give_exactly_zero(reward, scale):
    """In float32 the mean of five 0.9 need not be 0.9: the rounding over eps = 1e-6 would be a signal of percents."""
    for group in (2, 3, 5, 7, 8, 16):
        assert (group_advantages(torch.full((2, group), reward), scale=scale) == 0).all()


def test_a_group_of_one_uses_mean_zero_and_std_one():
    rewards_PG = torch.tensor([[0.9], [0.0]])
    torch.testing.assert_close(group_advantages(rewards_PG), rewards_PG / (1 + 1e-6))
    torch.testing.assert_close(group_advantages(rewards_PG, scale="none"), rewards_PG)


def test_advantages_ignore_a_shift_and_integers_are_welcome():
    rewards_PG = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]])
    assert group_advantages(rewards_PG).dtype == torch.float32
    torch.testing.assert_close(group_advantages(rewards_PG + 3), group_advantages(rewards_PG))


def test_wrong_input_is_refused():
    for shape in ((4,), (2, 0), (1, 2, 3)):
        with pytest.raises(ValueError, match="problems, rollouts"):
            group_advantages(torch.zeros(shape))
    with pytest.raises(ValueError, match="scale must be"):
        group_advantages(torch.zeros(2, 3), scale="max")
