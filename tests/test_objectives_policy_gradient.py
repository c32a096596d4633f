"""The clipped surrogate and k3 against scalar arithmetic in Python floats, and under masks that hide garbage."""

import math

import pytest
import torch

from ptdpo_cli.objectives import clipped_surrogate, k3, truncated_importance_weights

INF, NAN = math.inf, math.nan


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def ones(x):
    return torch.ones_like(x, dtype=torch.bool)


def surrogate_by_hand(ratio, advantage, low, high, dual=None):
    clipped = min(max(ratio, 1 - low), 1 + high)
    loss = -min(ratio * advantage, clipped * advantage)
    return min(loss, -advantage * dual) if dual is not None and advantage < 0 else loss


@pytest.mark.parametrize(("ratio", "advantage", "dual", "loss", "slope"), [
    (1.0, 1.0, None, -1.0, -1.0),       # on-policy: the gradient of −A log π
    (1.0, -1.0, None, 1.0, 1.0),
    (1.5, 1.0, None, -1.3, 0.0),        # clipped above: no gradient
    (0.5, 1.0, None, -0.5, -0.5),       # too rare and good: still pulled
    (0.5, -1.0, None, 0.8, 0.0),        # clipped below
    (1.5, -1.0, None, 1.5, 1.5),        # too frequent and bad: still pushed
    (9.0, -1.0, 3.0, 3.0, 0.0),         # dual clip
    (9.0, 1.0, 3.0, -1.3, 0.0),         # dual clip leaves A > 0 alone
    (2.0, -2.0, 3.0, 4.0, 4.0),         # below the dual clip
    (9.0, 0.0, 3.0, 0.0, 0.0),
])
def test_each_branch_by_hand(ratio, advantage, dual, loss, slope):
    """clip 0.2 / 0.3; `slope` is d loss / d log π = −A ρ where the token is not clipped."""
    old_BT = row(-1.0)
    logprobs_BT = (old_BT + math.log(ratio)).requires_grad_()
    loss_BT = clipped_surrogate(
        logprobs_BT, old_BT, row(advantage), clip_low=0.2, clip_high=0.3, mask_BT=ones(old_BT), dual_clip=dual
    )
    loss_BT.sum().backward()
    assert loss_BT.item() == pytest.approx(loss, abs=1e-12)
    assert logprobs_BT.grad.item() == pytest.approx(slope, abs=1e-12)


def test_token_ratio_equals_the_reference():
    generator = torch.Generator().manual_seed(0)
    logprobs_BT, old_BT, advantages_BT = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    mask_BT = torch.rand(4, 6, generator=generator) < 0.7
    for dual in (None, 3.0):
        loss_BT = clipped_surrogate(
            logprobs_BT, old_BT, advantages_BT, clip_low=0.2, clip_high=0.28, mask_BT=mask_BT, dual_clip=dual
        )
        for b in range(4):
            for t in range(6):
                ratio = math.exp(logprobs_BT[b, t] - old_BT[b, t])
                expected = surrogate_by_hand(ratio, advantages_BT[b, t].item(), 0.2, 0.28, dual) if mask_BT[b, t] else 0
                assert loss_BT[b, t].item() == pytest.approx(expected, abs=1e-12)


def test_sequence_ratio_has_the_value_of_the_sequence_and_the_gradient_of_each_token():
    """log-ratios (0.3, −0.1, 0.4), mean 0.2: every token has ρ = e^0.2, and gradient −A ρ of its own."""
    old_BT = row(-1.0, -2.0, -3.0, -4.0)
    logprobs_BT = (old_BT + row(0.3, -0.1, 0.4, 5.0)).requires_grad_()
    mask_BT = torch.tensor([[True, True, True, False]])
    advantages_BT = row(2.0, 2.0, 2.0, 2.0)
    loss_BT = clipped_surrogate(
        logprobs_BT, old_BT, advantages_BT, clip_low=0.5, clip_high=0.5, ratio="sequence", mask_BT=mask_BT
    )
    loss_BT.sum().backward()
    expected = row(*[-2 * math.exp(0.2)] * 3, 0.0)
    torch.testing.assert_close(loss_BT, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(logprobs_BT.grad, expected, atol=1e-12, rtol=0)


def test_sequence_ratio_is_clipped_as_a_whole():
    """Mean log-ratio 0.2 against a clip at 1.1: no token of the sequence has a gradient, though one has ratio < 1."""
    old_BT = row(-1.0, -2.0, -3.0)
    logprobs_BT = (old_BT + row(0.3, -0.1, 0.4)).requires_grad_()
    loss_BT = clipped_surrogate(
        logprobs_BT, old_BT, torch.ones_like(old_BT), clip_low=0.1, clip_high=0.1, ratio="sequence",
        mask_BT=ones(old_BT),
    )
    loss_BT.sum().backward()
    torch.testing.assert_close(loss_BT, torch.full_like(old_BT, -1.1))
    assert (logprobs_BT.grad == 0).all()


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_masked_garbage_has_no_loss_and_no_gradient(ratio):
    garbage = (-INF, INF, NAN, 1e30)
    clean = (row(-1.0, -2.0), row(-1.1, -1.9), row(1.0, -1.0))
    dirty = [torch.cat([x, row(*garbage)], dim=1) for x in clean]
    mask_BT = torch.tensor([[True, True, False, False, False, False]])
    options = {"clip_low": 0.2, "clip_high": 0.3, "ratio": ratio, "dual_clip": 3.0}
    clean[0].requires_grad_()
    dirty[0].requires_grad_()
    expected_BT = clipped_surrogate(*clean, mask_BT=mask_BT[:, :2], **options)
    found_BT = clipped_surrogate(*dirty, mask_BT=mask_BT, **options)
    expected_BT.sum().backward()
    found_BT.sum().backward()
    assert (found_BT[:, 2:] == 0).all() and (dirty[0].grad[:, 2:] == 0).all()
    assert torch.equal(found_BT[:, :2], expected_BT) and torch.equal(dirty[0].grad[:, :2], clean[0].grad)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_a_sequence_without_tokens_and_huge_log_ratios_stay_finite(ratio):
    logprobs_BT = torch.tensor([[0.0, -500.0, -INF], [-1.0, -1.0, -1.0]], requires_grad=True)
    old_BT = torch.tensor([[-500.0, 0.0, -1.0], [-1.0, -1.0, -1.0]])
    mask_BT = torch.tensor([[True, True, True], [False, False, False]])
    for sign in (1.0, -1.0):
        loss_BT = clipped_surrogate(
            logprobs_BT, old_BT, torch.full((2, 3), sign), clip_low=0.2, clip_high=0.3, ratio=ratio, mask_BT=mask_BT
        )
        assert loss_BT.isfinite().all() and (loss_BT[1] == 0).all()
        assert torch.autograd.grad(loss_BT.sum(), logprobs_BT)[0].isfinite().all()
    assert loss_BT.abs().max() <= math.exp(20) * 1.001


def test_on_policy_the_gradient_is_the_policy_gradient_and_the_old_policy_has_none():
    generator = torch.Generator().manual_seed(1)
    logprobs_BT = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    old_BT = logprobs_BT.detach().clone().requires_grad_()
    advantages_BT = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    for ratio in ("token", "sequence"):
        loss_BT = clipped_surrogate(
            logprobs_BT, old_BT, advantages_BT, clip_low=0.2, clip_high=0.2, ratio=ratio, mask_BT=ones(old_BT)
        )
        gradient_BT, old_gradient = torch.autograd.grad(loss_BT.sum(), (logprobs_BT, old_BT), allow_unused=True)
        torch.testing.assert_close(gradient_BT, -advantages_BT)
        assert old_gradient is None


def test_clipped_surrogate_refuses_wrong_input():
    x = torch.zeros(2, 3)
    options = {"clip_low": 0.2, "clip_high": 0.2, "mask_BT": ones(x)}
    with pytest.raises(ValueError, match="one shape"):
        clipped_surrogate(x, x, torch.zeros(2, 1), **options)
    with pytest.raises(ValueError, match="ratio must be"):
        clipped_surrogate(x, x, x, ratio="word", **options)
    with pytest.raises(ValueError, match="dual_clip"):
        clipped_surrogate(x, x, x, dual_clip=1.0, **options)


# ---- k3 --------------------------------------------------------------------------------------------------------------

def test_k3_by_hand():
    """π = 1/2, π_ref = 1/4: d = ln 1/2, k3 = 0.5 + 0.6931 − 1; its gradient in log π is 1 − exp(d) = 0.5."""
    logprobs_BT = row(math.log(0.5)).requires_grad_()
    kl_BT = k3(logprobs_BT, row(math.log(0.25)), mask_BT=ones(logprobs_BT))
    kl_BT.sum().backward()
    assert kl_BT.item() == pytest.approx(0.193147, abs=1e-6)
    assert logprobs_BT.grad.item() == pytest.approx(0.5)


def test_k3_is_the_divergence_on_average():
    """Σ_v π_v k3(v) = KL(π || π_ref), exactly; with the arguments swapped it is not KL(π_ref || π)."""
    generator = torch.Generator().manual_seed(2)
    policy_V, reference_V = torch.randn(2, 9, generator=generator, dtype=torch.float64).log_softmax(1)
    kl_V = k3(policy_V[None], reference_V[None], mask_BT=torch.ones(1, 9))[0]
    expected = (policy_V.exp() * (policy_V - reference_V)).sum()
    assert (policy_V.exp() * kl_V).sum().item() == pytest.approx(expected.item())
    assert (kl_V >= 0).all()


def test_the_gradient_of_k3_is_on_average_that_of_the_other_direction():
    """Σ_v π_v ∂k3(v) = Σ_v (π_v − π_ref,v) ∂log π_v = ∂KL(π_ref || π), π_v as a weight held fixed."""
    generator = torch.Generator().manual_seed(3)
    logits_V, reference_V = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    reference_V = reference_V.log_softmax(0)
    logits_V = logits_V.clone().requires_grad_()
    policy_V = logits_V.log_softmax(0)
    expected_loss = policy_V.detach().exp() * k3(policy_V[None], reference_V[None], mask_BT=torch.ones(1, 9))[0]
    found_V = torch.autograd.grad(expected_loss.sum(), logits_V)[0]
    torch.testing.assert_close(found_V, (policy_V.exp() - reference_V.exp()).detach())


def test_k3_of_equal_policies_is_exactly_zero_and_small_values_keep_their_precision():
    """exp(d) − d − 1 loses everything to cancellation in float32 for d = 1e-4; expm1 keeps d²/2 = 5e-9."""
    x = torch.tensor([[-1.0, -2.0]])
    assert (k3(x, x, mask_BT=ones(x)) == 0).all()
    logprobs_BT, reference_BT = torch.tensor([[0.0]]), torch.tensor([[1e-3]])
    assert k3(logprobs_BT, reference_BT, mask_BT=ones(logprobs_BT)).item() == pytest.approx(5e-7, rel=1e-3)


def test_k3_clamps_and_masks():
    logprobs_BT = torch.tensor([[-100.0, 0.0, -INF, NAN, INF, -1.0]], requires_grad=True)
    reference_BT = torch.tensor([[0.0, -100.0, NAN, -INF, INF, -INF]])
    mask_BT = torch.tensor([[True, True, False, False, False, False]])
    kl_BT = k3(logprobs_BT, reference_BT, mask_BT=mask_BT)
    kl_BT.sum().backward()
    assert kl_BT.tolist() == [[10.0, 10.0, 0.0, 0.0, 0.0, 0.0]]
    assert (logprobs_BT.grad == 0).all()


def test_k3_refuses_wrong_input():
    with pytest.raises(ValueError, match="one shape"):
        k3(torch.zeros(2, 3), torch.zeros(2, 1), mask_BT=torch.ones(2, 3))


def test_truncated_importance_weights_by_hand():
    """π_old / π_sampler = 2, 0.5, 1, and one far above the cap; masked positions hide garbage."""
    old_BT = row(math.log(0.5), math.log(0.25), -3.0, -1.0, NAN, -INF).requires_grad_()
    sampler_BT = row(math.log(0.25), math.log(0.5), -3.0, -60.0, 0.0, -INF)
    mask_BT = torch.tensor([[1, 1, 1, 1, 0, 0]])
    weights_BT = truncated_importance_weights(old_BT, sampler_BT, cap=2.5, mask_BT=mask_BT)
    assert weights_BT[0].tolist() == pytest.approx([2.0, 0.5, 1.0, 2.5, 0.0, 0.0])
    assert not weights_BT.requires_grad
    assert truncated_importance_weights(old_BT, sampler_BT, cap=1.5, mask_BT=mask_BT)[0, 0] == 1.5


def test_truncated_importance_weights_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match="one shape"):
        truncated_importance_weights(row(1, 2), row(1), cap=2.0, mask_BT=ones(row(1)))
    with pytest.raises(ValueError, match="cap"):
        truncated_importance_weights(row(1), row(1), cap=0.5, mask_BT=ones(row(1)))
