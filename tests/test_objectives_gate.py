"""The gate (arXiv 2606.07000, eqs. 6-8): the table of thresholds for groups of 5 and 8, counted by hand."""

import pytest
import torch

from ptdpo_cli.objectives import distill_mask

# threshold -> how many correct rollouts leave the group open
OPEN = {
    5: {0.2: [0], 0.4: [0, 1], 0.6: [0, 1, 2], 1.0: [0, 1, 2, 3, 4], 0.0: []},
    8: {0.2: [0, 1], 0.4: [0, 1, 2, 3], 0.5: [0, 1, 2, 3], 1.0: [0, 1, 2, 3, 4, 5, 6, 7], 0.0: []},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.int64])
@pytest.mark.parametrize("group", [5, 8])
def test_the_table(group, dtype):
    accuracy_PG = torch.tensor([[1] * n + [0] * (group - n) for n in range(group + 1)]).to(dtype)
    for threshold, is_open in OPEN[group].items():
        failed_PG = distill_mask(accuracy_PG, max_group_accuracy=threshold)
        every_PG = distill_mask(accuracy_PG, max_group_accuracy=threshold, rollouts="all")
        assert failed_PG.dtype == torch.bool
        for n in range(group + 1):
            assert failed_PG[n].tolist() == [n in is_open and i >= n for i in range(group)]
            assert every_PG[n].tolist() == [n in is_open] * group


def test_the_threshold_is_strict_for_every_fraction_a_recipe_can_name():
    for group in range(1, 33):
        for n in range(group + 1):
            accuracy_PG = torch.tensor([[1.0] * n + [0.0] * (group - n)])
            assert not distill_mask(accuracy_PG, max_group_accuracy=n / group).any()


def test_a_partial_score_is_a_failure():
    assert distill_mask(torch.tensor([[1.0, 0.5, 0.0]])).tolist() == [[False, True, True]]


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="problems, rollouts"):
        distill_mask(torch.zeros(4))
    with pytest.raises(ValueError, match="rollouts must be"):
        distill_mask(torch.zeros(2, 3), rollouts="some")
