"""Terms of the reward that look at the form of a response alone: its length, and how much of it repeats."""

from __future__ import annotations


def overlong_penalty(n_tokens: int, *, max_tokens: int, buffer_tokens: int) -> float:
    """DAPO's soft penalty for a response of L tokens.

        0                                L ≤ max − buffer
        ((max − buffer) − L) / buffer    up to max
        −1                               beyond

    Source: DAPO (arXiv 2503.14476), eq. 13. Range: [−1, 0].
    By hand: max 100, buffer 20: L = 80 gives 0, 90 gives −0.5, 100 gives −1.
    Differs from the paper in: nothing.
    """
    over = n_tokens - (max_tokens - buffer_tokens)
    return -min(1.0, max(0.0, over / buffer_tokens))


def repetition_penalty(text: str, *, ngram: int) -> float:
    """−(share of a text's n-grams of words that repeat an earlier one); 0 where it has none. Range: (−1, 0].

    By hand: "a b a b a", n = 2: of ab, ba, ab, ba two repeat, so −0.5.
    """
    words = text.casefold().split()
    grams = list(zip(*(words[start:] for start in range(ngram)), strict=False))
    return len(set(grams)) / len(grams) - 1.0 if grams else 0.0
