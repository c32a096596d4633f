"""Coarse distributions and divergences against float64 references written from the equations (arXiv 2606.07000)."""

import math

import pytest
import torch

from ptdpo_cli.objectives import coarse_logprobs, jensen_shannon, kl_divergence

INF = math.inf
EXACT = 1e-12            # float64: a few roundings
FLOAT32 = 2e-6           # float32: a few roundings of numbers around 1
LN2 = math.log(2)


def random_logits(n, v, *, seed=0, spread=3.0, dtype=torch.float64):
    return (spread * torch.randn(n, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def random_support(n, v, s, *, seed=0):
    return torch.rand(n, v, generator=torch.Generator().manual_seed(seed)).topk(s).indices


def random_case(n=6, v=25, s=7, *, seed=0, spread=3.0, dtype=torch.float64):
    """Student and teacher logits and a support, all different."""
    student_NV, teacher_NV = (random_logits(n, v, seed=2 * seed + k, spread=spread, dtype=dtype) for k in (0, 1))
    return student_NV, teacher_NV, random_support(n, v, s, seed=seed)


def coarse_divergence(student_NV, teacher_NV, support_NS, beta=0.5):
    """The code under test, from logits."""
    return jensen_shannon(coarse_logprobs(student_NV, support_NS), coarse_logprobs(teacher_NV, support_NS), beta=beta)


# ---- the references: probabilities, Python loops, no logarithm of a sum, nothing shared with the code ----------------

def coarse_probabilities(logits_V, support_S):
    """The coarse distribution of one row, the tail summed over the other tokens."""
    p_V = torch.softmax(logits_V.double(), dim=0)
    ids = [int(i) for i in support_S if i >= 0]
    rest = [u for u in range(len(p_V)) if u not in ids]
    tail = p_V[rest].sum() if rest else p_V.new_zeros(())
    return torch.stack([p_V[i] for i in ids] + [tail])


def kl_by_loop(p, q):
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def jsd_by_loop(p, q, beta=0.5):
    m = beta * q + (1 - beta) * p
    return beta * kl_by_loop(q, m) + (1 - beta) * kl_by_loop(p, m)


def coarse_jsd(student_NV, teacher_NV, support_NS, beta=0.5):
    rows = zip(student_NV, teacher_NV, support_NS, strict=True)
    return torch.stack([jsd_by_loop(coarse_probabilities(z, s), coarse_probabilities(t, s), beta) for z, t, s in rows])


def gradient_by_formula(student_NV, teacher_NV, support_NS):
    """1/2 p_v (log(p_v / m_v) − c) on the support, 1/2 p_u (log(p_tail / m_tail) − c) outside, c = KL(p || m)."""
    gradient_NV = torch.zeros_like(student_NV, dtype=torch.float64)
    for n, support_S in enumerate(support_NS):
        p_C, q_C = (coarse_probabilities(x[n], support_S) for x in (student_NV, teacher_NV))
        log_ratio_C = torch.log(p_C / ((p_C + q_C) / 2))
        c = (p_C * log_ratio_C).sum()
        gradient_NV[n] = torch.softmax(student_NV[n].double(), 0) / 2 * (log_ratio_C[-1] - c)
        for k, v in enumerate(support_S):
            gradient_NV[n, v] = p_C[k] / 2 * (log_ratio_C[k] - c)
    return gradient_NV


def released_variant(p_NC, q_NC):
    """A planted copy of the released objective: p is detached as the weight of KL(p || m), m keeps its gradient."""
    q_NC = q_NC.detach()
    m_NC = torch.logaddexp(p_NC, q_NC) - LN2
    return ((q_NC.exp() * (q_NC - m_NC) + p_NC.detach().exp() * (p_NC - m_NC)) / 2).sum(dim=1)


def student_gradient(student_NV, teacher_NV, support_NS, *, divergence=jensen_shannon, **options):
    z_NV = student_NV.clone().requires_grad_()
    loss = divergence(coarse_logprobs(z_NV, support_NS), coarse_logprobs(teacher_NV, support_NS), **options).sum()
    return torch.autograd.grad(loss, z_NV)[0]


# ---- coarse_logprobs -------------------------------------------------------------------------------------------------

def test_coarse_logprobs_by_hand():
    """p = (0.6, 0.3, 0.1), S = (0): the support has 0.6 and the tail 0.3 + 0.1."""
    logits_NV = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log() + 7.0
    probabilities_NC = coarse_logprobs(logits_NV, torch.tensor([[0]])).exp()
    torch.testing.assert_close(probabilities_NC, torch.tensor([[0.6, 0.4]]).double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_coarse_logprobs_are_exact_and_sum_to_one(dtype):
    logits_NV, support_NS = random_logits(7, 40, dtype=dtype), random_support(7, 40, 9)
    logprobs_NC = coarse_logprobs(logits_NV, support_NS)
    expected_NC = torch.stack([coarse_probabilities(z, s) for z, s in zip(logits_NV, support_NS, strict=True)])
    tolerance = EXACT if dtype == torch.float64 else FLOAT32
    torch.testing.assert_close(logprobs_NC.exp().double(), expected_NC, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(logprobs_NC.exp().sum(1).double(), torch.ones(7).double(), atol=1e-6, rtol=0)
    assert logprobs_NC.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_bf16_logprobs_would_fail_the_tolerance():
    """The spacing of bf16 near 16 is 0.125: mass and divergence are off by far more than float32 allows."""
    student_NV, teacher_NV, support_NS = random_case(50, 300, 60)
    p_NC, q_NC = (coarse_logprobs(z, support_NS) for z in (student_NV, teacher_NV))
    for dtype, passes in ((torch.float32, True), (torch.bfloat16, False)):
        mass_error = (p_NC.to(dtype).double().exp().sum(1) - 1).abs().max()
        error = (jensen_shannon(p_NC.to(dtype), q_NC.to(dtype)) - jensen_shannon(p_NC, q_NC)).abs().max()
        assert (mass_error < 1e-6) == passes and (error < FLOAT32) == passes


@pytest.mark.parametrize("log_tail", [-5.0, -16.0, -25.0, -60.0])
def test_a_vanishing_tail_keeps_its_precision_in_float32(log_tail):
    """Two tokens hold all but exp(log_tail); 1 − Σ_S p would be rounding noise or 0 in float32."""
    logits_NV = torch.tensor([[1.0, 0.0, log_tail, log_tail - 1]])
    support_NS = torch.tensor([[0, 1]])
    tail = coarse_logprobs(logits_NV, support_NS)[0, -1]
    z = logits_NV[0].double()
    expected = torch.logsumexp(z[2:], 0) - torch.logsumexp(z, 0)
    torch.testing.assert_close(tail.double(), expected, atol=0, rtol=1e-6)


def test_the_gradient_through_a_vanishing_tail_is_exact_in_float32():
    """KL(q || p) with q_tail = 1/2, p_tail = 1e-11: all tail logits together are pulled by −1/2, however small p."""
    z_NV = torch.tensor([[1.0, 0.0, -25.0, -26.0]]).requires_grad_()
    support_NS = torch.tensor([[0, 1]])
    teacher_NC = torch.tensor([[0.25, 0.25, 0.5]]).log()
    jensen_shannon(coarse_logprobs(z_NV, support_NS), teacher_NC, beta=0).sum().backward()
    p_V = torch.softmax(z_NV.detach().double()[0], 0)
    share = p_V[2:] / p_V[2:].sum()
    expected = torch.cat([p_V[:2] - 0.25, p_V[2:] - 0.5 * share])
    torch.testing.assert_close(z_NV.grad[0].double(), expected, atol=1e-7, rtol=1e-6)


def test_padding_is_minus_inf_and_changes_nothing():
    student_NV, teacher_NV, support_NS = random_case(5, 30, 6)
    padding_N2 = torch.full((5, 2), -1)
    padded_NS = torch.cat([padding_N2, support_NS[:, :3], padding_N2, support_NS[:, 3:]], dim=1)
    p_NC = coarse_logprobs(student_NV, padded_NS)
    assert torch.isneginf(p_NC[:, [0, 1, 5, 6]]).all()
    for beta in (0, 0.3, 0.5, 1):
        for function in (coarse_divergence, student_gradient):
            padded = function(student_NV, teacher_NV, padded_NS, beta=beta)
            plain = function(student_NV, teacher_NV, support_NS, beta=beta)
            torch.testing.assert_close(padded, plain, atol=EXACT, rtol=0)


def test_the_order_of_the_support_does_not_matter():
    student_NV, teacher_NV, support_NS = random_case(5, 30, 6)
    shuffled_NS = support_NS[:, torch.tensor([4, 2, 0, 5, 1, 3])]
    divergence_N = coarse_divergence(student_NV, teacher_NV, shuffled_NS)
    torch.testing.assert_close(divergence_N, coarse_jsd(student_NV, teacher_NV, support_NS), atol=EXACT, rtol=0)


def test_a_support_row_may_be_all_padding():
    logprobs_NC = coarse_logprobs(random_logits(2, 5), torch.full((2, 3), -1))
    torch.testing.assert_close(logprobs_NC, torch.tensor([[-INF, -INF, -INF, 0.0]] * 2).double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_masked_vocabulary_has_zero_gradient_and_no_nan(dtype):
    """Image tokens are −inf for student and teacher; the tail may be empty but for them (log 0, and its gradient)."""
    student_NV, teacher_NV, _ = random_case(4, 8, dtype=dtype)
    student_NV[:, 6:], teacher_NV[:, 6:] = -INF, -INF
    for support in ([0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 6, 7, 1], list(range(8))):
        support_NS = torch.tensor([support] * 4)
        p_NC = coarse_logprobs(student_NV, support_NS)
        assert torch.isneginf(p_NC[:, -1]).all() == (set(range(6)) <= set(support))
        for beta in (0, 0.5, 1):
            gradient_NV = student_gradient(student_NV, teacher_NV, support_NS, beta=beta)
            assert gradient_NV.isfinite().all() and (gradient_NV[:, 6:] == 0).all()
            assert gradient_NV[:, :6].norm() > 1e-3
            # Exactly as if the vocabulary had six tokens.
            small_NS = support_NS[:, support_NS[0] < 6]
            small_NV = student_gradient(student_NV[:, :6], teacher_NV[:, :6], small_NS, beta=beta)
            tolerance = EXACT if dtype == torch.float64 else FLOAT32
            torch.testing.assert_close(gradient_NV[:, :6], small_NV, atol=tolerance, rtol=0)


def test_no_tokens_and_no_support_are_fine():
    logits_NV = torch.zeros(0, 5, requires_grad=True)
    divergence_N = coarse_divergence(logits_NV, torch.zeros(0, 5), torch.zeros(0, 0, dtype=torch.int32))
    divergence_N.sum().backward()
    assert divergence_N.shape == (0,) and logits_NV.grad.shape == (0, 5)
    assert (coarse_logprobs(torch.zeros(2, 5), torch.zeros(2, 0, dtype=torch.int32)) == 0).all()


def test_coarse_logprobs_gradcheck():
    support_NS = torch.tensor([[0, 4, 2], [3, -1, 1], [-1, -1, -1]])
    assert torch.autograd.gradcheck(
        lambda z: coarse_logprobs(z, support_NS).masked_fill(torch.nn.functional.pad(support_NS, (0, 1)) < 0, 0.0),
        random_logits(3, 6).requires_grad_(),
    )


def test_coarse_logprobs_refuses_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(N, V\) and \(N, S\)"):
        coarse_logprobs(torch.zeros(3, 5), torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises((IndexError, RuntimeError)):
        coarse_logprobs(torch.zeros(1, 5), torch.tensor([[5]]))


# ---- jensen_shannon: value -------------------------------------------------------------------------------------------

def test_jensen_shannon_by_hand():
    """q = (0.6, 0.4), p = (0.9, 0.1), m = (0.75, 0.25), all but the first token in the tail (K = 1).

    KL(p||m) = 0.9 ln 1.2 + 0.1 ln 0.4 = 0.16409 − 0.09163 = 0.07246
    KL(q||m) = 0.6 ln 0.8 + 0.4 ln 1.6 = −0.13389 + 0.18800 = 0.05411          D = 0.06329
    d/dz on the support: 1/2 · 0.9 (ln 1.2 − 0.07246) = 0.04944, and in the tail its opposite
    """
    student_NV = torch.tensor([[0.9, 0.06, 0.04]], dtype=torch.float64).log()
    teacher_NV = torch.tensor([[0.6, 0.1, 0.3]], dtype=torch.float64).log()
    support_NS = torch.tensor([[0]])
    divergence_N = coarse_divergence(student_NV, teacher_NV, support_NS)
    assert divergence_N.item() == pytest.approx(0.06329, abs=1e-5)
    gradient_NV = student_gradient(student_NV, teacher_NV, support_NS)
    torch.testing.assert_close(
        gradient_NV, torch.tensor([[0.04944, -0.04944 * 0.6, -0.04944 * 0.4]]).double(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("spread", [0.5, 3.0, 12.0])
def test_jensen_shannon_equals_the_reference(beta, spread):
    student_NV, teacher_NV, support_NS = random_case(spread=spread)
    divergence_N = coarse_divergence(student_NV, teacher_NV, support_NS, beta)
    if 0 < beta < 1:
        expected_N = coarse_jsd(student_NV, teacher_NV, support_NS, beta)
    else:
        from_NV, to_NV = (teacher_NV, student_NV) if beta == 0 else (student_NV, teacher_NV)
        rows = zip(from_NV, to_NV, support_NS, strict=True)
        pairs = [(coarse_probabilities(a, s), coarse_probabilities(b, s)) for a, b, s in rows]
        expected_N = torch.stack([kl_by_loop(a_C, b_C) for a_C, b_C in pairs])
    torch.testing.assert_close(divergence_N, expected_N, atol=1e-11, rtol=1e-11)


def test_support_of_the_whole_vocabulary_gives_the_dense_divergence():
    student_NV, teacher_NV, _ = random_case()
    support_NS = torch.arange(25).expand(6, 25)
    divergence_N = coarse_divergence(student_NV, teacher_NV, support_NS)
    p_NV, q_NV = student_NV.softmax(1), teacher_NV.softmax(1)
    dense_N = torch.stack([jsd_by_loop(p, q) for p, q in zip(p_NV, q_NV, strict=True)])
    torch.testing.assert_close(divergence_N, dense_N, atol=1e-10, rtol=0)


def test_nested_supports_are_monotone_and_the_gap_is_the_divergence_inside_the_tail():
    """D_full − D = 1/2 q_tail KL(q inside || m inside) + 1/2 p_tail KL(p inside || m inside)   (eqs. 61-63)"""
    student_NV, teacher_NV, order_NV = random_case(s=25)
    p_NV, q_NV = student_NV.softmax(1), teacher_NV.softmax(1)
    dense_N = torch.stack([jsd_by_loop(p, q) for p, q in zip(p_NV, q_NV, strict=True)])
    previous_N = torch.zeros(6).double()
    for size in range(26):
        support_NS = order_NV[:, :size] if size else torch.full((6, 1), -1)
        divergence_N = coarse_divergence(student_NV, teacher_NV, support_NS)
        assert (divergence_N >= previous_N - EXACT).all()
        previous_N = divergence_N
        for n in range(6):
            p, q = p_NV[n, order_NV[n, size:]], q_NV[n, order_NV[n, size:]]
            m = (p + q) / 2
            gap = sum(x.sum() / 2 * kl_by_loop(x / x.sum(), m / m.sum()) for x in (p, q)) if len(p) else 0.0
            assert dense_N[n].item() - divergence_N[n].item() == pytest.approx(float(gap), abs=EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bounds_hold_on_random_one_hot_and_disjoint_rows(dtype):
    hot, cold = 80.0, -200.0
    student_NV = torch.cat([
        random_logits(200, 12, seed=9, spread=8.0, dtype=dtype),
        torch.tensor([[hot] + [cold] * 11, [hot] + [cold] * 11, [0.0] * 12, [-INF] * 11 + [0.0]], dtype=dtype),
    ])
    teacher_NV = torch.cat([
        random_logits(200, 12, seed=10, spread=8.0, dtype=dtype),
        torch.tensor([[cold] * 11 + [hot], [hot] + [cold] * 11, [hot] + [cold] * 11, [0.0] + [-INF] * 11], dtype=dtype),
    ])
    for support in ([0, 11], [0], [5], list(range(12))):
        support_NS = torch.tensor([support] * len(student_NV))
        divergence_N = coarse_divergence(student_NV, teacher_NV, support_NS)
        gradient_NV = student_gradient(student_NV, teacher_NV, support_NS)
        assert gradient_NV.isfinite().all()
        assert (divergence_N >= -1e-6).all() and (divergence_N <= LN2 + 1e-6).all()
    assert divergence_N[200].item() == pytest.approx(LN2, abs=1e-6)      # disjoint one-hot rows
    assert divergence_N[203].item() == pytest.approx(LN2, abs=1e-6)      # disjoint with exact zeros
    assert divergence_N[201].item() == pytest.approx(0.0, abs=1e-6)      # the same one-hot row


@pytest.mark.parametrize("beta", [0.2, 0.8])
def test_the_upper_bound_for_any_beta_is_the_entropy_of_the_weights(beta):
    disjoint_NC, other_NC = torch.tensor([[0.0, -INF]]), torch.tensor([[-INF, 0.0]])
    entropy = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert jensen_shannon(disjoint_NC, other_NC, beta=beta).item() == pytest.approx(entropy, abs=1e-6)


def test_a_uniform_teacher_against_a_sure_student_is_near_the_ceiling():
    student_NV = torch.zeros(1, 5000)
    student_NV[0, 17] = 40.0
    support_NS = torch.arange(100)[None]
    divergence_N = coarse_divergence(student_NV, torch.zeros(1, 5000), support_NS)
    assert 0.6 < divergence_N.item() < LN2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 5e-7)])
def test_student_equal_to_teacher_gives_zero_and_no_gradient(dtype, tolerance):
    logits_NV, support_NS = random_logits(20, 50, dtype=dtype), random_support(20, 50, 10)
    for beta in (0, 0.3, 0.5, 1):
        p_NC = coarse_logprobs(logits_NV, support_NS)
        assert jensen_shannon(p_NC, p_NC, beta=beta).abs().max() <= tolerance
        gradient_NV = student_gradient(logits_NV, logits_NV, support_NS, beta=beta)
        assert gradient_NV.abs().max() <= tolerance


# ---- jensen_shannon: gradient ----------------------------------------------------------------------------------------

def relative_gradient_error(divergence, dtype=torch.float64):
    """Autograd against the closed form and against autograd of the dense loops; the larger of the two errors."""
    student_NV, teacher_NV, support_NS = random_case(dtype=dtype)
    found_NV = student_gradient(student_NV, teacher_NV, support_NS, divergence=divergence)
    z_NV = student_NV.double().requires_grad_()
    dense_NV = torch.autograd.grad(coarse_jsd(z_NV, teacher_NV, support_NS).sum(), z_NV)[0]
    formula_NV = gradient_by_formula(student_NV, teacher_NV, support_NS)
    assert dense_NV.norm() > 0.01
    return max((found_NV - expected_NV).norm() / expected_NV.norm() for expected_NV in (dense_NV, formula_NV))


def test_the_gradient_is_the_one_of_the_paper():
    assert relative_gradient_error(jensen_shannon) < 1e-12
    assert relative_gradient_error(jensen_shannon, torch.float32) < 1e-5


def test_the_same_gradient_test_catches_the_released_variant():
    student_NV, teacher_NV, support_NS = random_case()
    p_NC, q_NC = (coarse_logprobs(z, support_NS) for z in (student_NV, teacher_NV))
    torch.testing.assert_close(released_variant(p_NC, q_NC), jensen_shannon(p_NC, q_NC))    # its value looks right
    assert student_gradient(student_NV, teacher_NV, support_NS, divergence=released_variant).norm() < 1e-14
    assert relative_gradient_error(released_variant) > 0.99


@pytest.mark.parametrize("beta", [0.2, 0.5])
def test_the_gradient_in_log_probabilities(beta):
    """(1 − beta) p_v log(p_v / m_v), before any softmax could hide a constant."""
    student_NV, teacher_NV, support_NS = random_case()
    p_NC, q_NC = (coarse_logprobs(z, support_NS) for z in (student_NV, teacher_NV))
    p_NC.requires_grad_()
    gradient_NC = torch.autograd.grad(jensen_shannon(p_NC, q_NC, beta=beta).sum(), p_NC)[0]
    m_NC = beta * q_NC.exp() + (1 - beta) * p_NC.exp()
    torch.testing.assert_close(gradient_NC, (1 - beta) * p_NC.exp() * (p_NC.exp() / m_NC).log(), atol=EXACT, rtol=0)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_jensen_shannon_gradcheck(beta):
    teacher_NV, support_NS = random_logits(3, 8, seed=13), torch.tensor([[0, 4, 2], [3, -1, 1], [5, 6, 7]])
    teacher_NC = coarse_logprobs(teacher_NV, support_NS)
    assert torch.autograd.gradcheck(
        lambda z: jensen_shannon(coarse_logprobs(z, support_NS), teacher_NC, beta=beta),
        random_logits(3, 8, seed=14).requires_grad_(),
    )


def test_logit_gradients_sum_to_zero_and_the_teacher_has_none():
    student_NV, teacher_NV, support_NS = random_case()
    student_NV.requires_grad_()
    teacher_NV.requires_grad_()
    for beta in (0, 0.5, 1):
        p_NC, q_NC = (coarse_logprobs(z, support_NS) for z in (student_NV, teacher_NV))
        gradients = torch.autograd.grad(
            jensen_shannon(p_NC, q_NC, beta=beta).sum(), (student_NV, teacher_NV), allow_unused=True
        )
        assert gradients[0].norm() > 0.01 and gradients[0].sum(1).abs().max() < EXACT
        assert gradients[1] is None


def test_the_tail_takes_part_in_the_gradient():
    """Same shape on the support, too much mass in it: the gradient must push the support down and the tail up."""
    teacher_NV = torch.tensor([[0.2, 0.1, 0.35, 0.35]], dtype=torch.float64).log()
    student_NV = torch.tensor([[0.6, 0.3, 0.05, 0.05]], dtype=torch.float64).log()
    gradient_NV = student_gradient(student_NV, teacher_NV, torch.tensor([[0, 1]]))
    assert (gradient_NV[0, :2] > 0).all() and (gradient_NV[0, 2:] < 0).all()


def test_categories_empty_on_both_sides_count_nothing_and_pass_no_gradient():
    for beta in (0, 0.5, 1):
        p_NC = torch.tensor([[math.log(0.9), -INF, math.log(0.1)]], dtype=torch.float64, requires_grad=True)
        q_NC = torch.tensor([[math.log(0.6), -INF, math.log(0.4)]], dtype=torch.float64)
        divergence_N = jensen_shannon(p_NC, q_NC, beta=beta)
        divergence_N.sum().backward()
        torch.testing.assert_close(divergence_N, jensen_shannon(p_NC[:, [0, 2]], q_NC[:, [0, 2]], beta=beta))
        assert p_NC.grad[0, 1] == 0 and p_NC.grad.isfinite().all()


def test_categories_empty_on_one_side():
    """p = (1, 0), q = (1/2, 1/2): KL(p||q) = ln 2, KL(q||p) = inf, JSD = 1/2 ln 4/3 + 1/2 (1/2 ln 2/3 + 1/2 ln 2)."""
    p_NC = torch.tensor([[0.0, -INF]], dtype=torch.float64, requires_grad=True)
    q_NC = torch.tensor([[math.log(0.5)] * 2], dtype=torch.float64)
    assert jensen_shannon(p_NC, q_NC, beta=1).item() == pytest.approx(LN2)
    assert jensen_shannon(p_NC, q_NC, beta=0).item() == INF
    expected = math.log(4 / 3) / 2 + (math.log(2 / 3) / 2 + math.log(2) / 2) / 2
    divergence_N = jensen_shannon(p_NC, q_NC)
    assert divergence_N.item() == pytest.approx(expected, abs=EXACT)
    assert torch.autograd.grad(divergence_N.sum(), p_NC)[0].isfinite().all()


def test_jensen_shannon_refuses_wrong_input():
    with pytest.raises(ValueError, match="same categories"):
        jensen_shannon(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\]"):
        jensen_shannon(torch.zeros(2, 3), torch.zeros(2, 3), beta=1.5)


# ---- kl_divergence ---------------------------------------------------------------------------------------------------

def test_kl_divergence_by_hand():
    """p = (0.6, 0.4), q = (0.9, 0.1): KL(p||q) = 0.6 ln 2/3 + 0.4 ln 4 = 0.5545 − 0.2433; KL(q||p) = 0.2263"""
    p_NC, q_NC = torch.tensor([[0.6, 0.4]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert kl_divergence(p_logprobs_NC=p_NC, q_logprobs_NC=q_NC).item() == pytest.approx(0.3112, abs=1e-4)
    assert kl_divergence(p_logprobs_NC=q_NC, q_logprobs_NC=p_NC).item() == pytest.approx(0.2263, abs=1e-4)


@pytest.mark.parametrize("q_last", [-3.0, -INF])
def test_kl_divergence_of_an_impossible_category_is_zero_with_zero_gradient(q_last):
    """p is exactly 0, or underflows to 0, in the last category; q is there or not."""
    for p_last in (-INF, -200.0):
        p_NC = torch.tensor([[math.log(0.5), math.log(0.5), p_last]], requires_grad=True)
        q_NC = torch.tensor([[math.log(0.2), math.log(0.7), q_last]], requires_grad=True)
        divergence_N = kl_divergence(p_logprobs_NC=p_NC, q_logprobs_NC=q_NC)
        divergence_N.sum().backward()
        assert divergence_N.item() == pytest.approx(0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.7), abs=1e-6)
        assert p_NC.grad[0, 2] == 0 and q_NC.grad[0, 2] == 0
        assert p_NC.grad.isfinite().all() and q_NC.grad.isfinite().all()
