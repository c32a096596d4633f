"""The one place where a prompt is put together, for the student, the teacher and evaluation alike."""

from __future__ import annotations

DEFAULT_INSTRUCTION = "Reason step by step inside <think></think>, then put the final answer in \\boxed{}."


def user_message(
    question: str,
    n_images: int,
    *,
    hint: str | None = None,
    instruction: str = DEFAULT_INSTRUCTION,
    system: str | None = None,
):
    """One user turn: images, question, blank line, hint, blank line, instruction (the last two if present).

    The student's message is the same call without a hint, so the two contexts differ in the hint and nothing else.
    With `system` that text is a turn of its own before the user's.
    """
    text = "\n\n".join(part for part in (question, hint, instruction) if part)
    content = [*({"type": "image"} for _ in range(n_images)), {"type": "text", "text": text}]
    before = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return [*before, {"role": "user", "content": content}]
