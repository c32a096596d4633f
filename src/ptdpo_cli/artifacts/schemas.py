"""What each kind of artifact holds: schema versions, Parquet columns, tensor names. One place for all of them.

Within a version only optional columns are added; anything else is a new version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

SCHEMA_VERSIONS = {"problems": 1, "hints": 1, "rollouts": 1, "scores": 1, "policy": 1, "evals": 1, "utility": 1}

_BOX = pa.list_(pa.float32(), 4)                # x0, y0, x1, y1 in 0…1
REGION = pa.struct([("label", pa.string()), ("box", _BOX)])
SALIENT = pa.struct([("image", pa.int32()), ("label", pa.string()), ("box", _BOX), ("score", pa.float32())])


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a picture that matters for a problem: its name and its box (x0, y0, x1, y1), each in 0…1."""

    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the normalised problem table; every dataset adapter yields these.

    `images` are encoded files (PNG, JPEG, …) in order; those of an artifact are read when they are looked at. The
    question holds no image placeholder. `regions` and `steps` are what a hint may be made of: where to look, and what
    to do there, never what comes out.

    A multiple-choice answer is a letter, with the options' texts in `choices` where the data set names them. `family`
    joins rows that are variants or steps of one problem, so that they count as one in intervals. `metadata` keeps what
    a data set's own metrics read, as plain JSON values.
    """

    problem_id: str
    question: str
    images: Sequence[bytes]
    answer: str
    category: str = ""
    solution: str | None = None
    regions: tuple[Region, ...] = ()
    steps: tuple[str, ...] = ()
    answer_type: str = "integer"
    choices: tuple[str, ...] = ()
    source: str = ""
    split: str = ""
    license: str = ""
    precision: int | None = None        # decimals of a float answer that count; None: those that the answer has
    family: str = ""
    metadata: Mapping = field(default_factory=dict)


PROBLEMS = pa.schema([
    ("problem_id", pa.string()),
    ("question", pa.string()),
    ("images", pa.list_(pa.string())),          # sha256 of the encoded bytes, see IMAGES
    ("answer", pa.string()),
    ("answer_type", pa.string()),
    ("choices", pa.list_(pa.string())),
    ("solution", pa.string()),
    ("category", pa.string()),
    ("regions", pa.list_(REGION)),
    ("steps", pa.list_(pa.string())),
    ("source", pa.string()),
    ("split", pa.string()),
    ("license", pa.string()),
    ("precision", pa.int32()),                  # null: the decimals that the answer has
    ("family", pa.string()),                    # what variants and steps of one problem have in common
    ("metadata", pa.string()),                  # JSON: what the data set's own metrics read
])

IMAGES = pa.schema([
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("bytes", pa.binary()),
])

HINTS = pa.schema([
    ("problem_id", pa.string()),
    ("hint", pa.string()),                      # null: none could be made; the problem gets plain GRPO
    ("spatial", pa.string()),
    ("steps", pa.list_(pa.string())),
    ("source", pa.string()),                    # as in the recipe: "attention+steps"
    ("refusal", pa.string()),                   # why it was refused; null when it passed, or when there is none
    ("role", pa.string()),                      # see ROLES
    ("refused", pa.string()),                   # the text that was refused
    ("span", pa.list_(pa.int32())),             # first and last + 1 of its characters that show why; null: not refused
    ("flags", pa.list_(pa.string())),           # what a reader may want to look at, though it passed
    ("fault", pa.string()),                     # why a source had nothing to say; null: all had
    ("regions", pa.list_(SALIENT)),             # where to look
    ("expert", pa.string()),                    # the model that said it, as its server names itself
    ("requests", pa.int32()),                   # what was asked of experts, all attempts
    ("prompt_tokens", pa.int32()),
    ("completion_tokens", pa.int32()),
])
# Beside each Parquet shard of hints, where a source makes maps: M maps, each over the patch grid of one picture
#   map_offsets (M + 1,) · map_values (N,) float32 in reading order · map_shapes (M, 2) int32 rows and columns ·
#   map_of (M, 2) int32 row of the shard and number of the picture
HINT_TENSORS = ("map_offsets", "map_values", "map_shapes", "map_of")

# What a hint is for: help without the answer; the answer given away, as some methods do; a control of an experiment.
ROLES = ("hint", "revealing", "control")

ROLLOUTS = pa.schema([
    ("rollout_id", pa.string()),                # "<problem_id>/<rollout>"
    ("problem_id", pa.string()),
    ("rollout", pa.int32()),
    ("text", pa.string()),
    ("finish_reason", pa.string()),             # "stop" or "length"
    ("prompt_tokens", pa.int32()),
    ("image_tokens", pa.int32()),
    ("response_tokens", pa.int32()),
    ("extracted", pa.string()),                 # null: no answer could be read
    ("accuracy", pa.float32()),
    ("format", pa.float32()),
    ("reward", pa.float32()),
    ("extracted_by", pa.string()),              # a way of reward.extraction; null: no answer could be read
    ("outcome", pa.string()),                   # see OUTCOMES
    ("agreed", pa.bool_()),                     # whether a second, independent check agrees; null: none was made
    ("terms", pa.string()),                     # JSON: the other terms of the reward, before their weights
    ("reader", pa.string()),                    # what the way `model` said, or why it failed; null: not asked
])
# Beside each Parquet shard of rollouts, ragged over rollouts by `offsets` (R + 1):
#   token_ids (N,) int32 · sampler_logprobs (N,) float32 · sampler_top_ids (N, K) int32, K = 0 when not asked for
ROLLOUT_TENSORS = ("offsets", "token_ids", "sampler_logprobs", "sampler_top_ids")

SCORES = pa.schema([
    ("rollout_id", pa.string()),
    ("is_gated", pa.bool_()),
    ("teacher_prompt_tokens", pa.int32()),      # null when not gated
    ("image_tokens", pa.int32()),
    ("mean_teacher_logprob", pa.float32()),     # of the sampled tokens, nats; null when not gated
    ("retained_mass", pa.float32()),            # mean teacher mass on the support; null when not gated
])
# Beside each Parquet shard of scores; gated rollouts only, in row order:
#   token_offsets (gated + 1,) · support_offsets (N + 1,) · support_ids (M,) int32 · teacher_logprobs (M,) float32 ·
#   teacher_tail_logprobs (N,) float32; over all rollouts, when the KL term is on: reference_logprobs (N_all,) float32
SCORE_TENSORS = (
    "token_offsets", "support_offsets", "support_ids", "teacher_logprobs", "teacher_tail_logprobs",
    "reference_logprobs",
)

EVALS = pa.schema([
    ("problem_id", pa.string()),
    ("category", pa.string()),
    ("sample", pa.int32()),                     # −1: greedy
    ("text", pa.string()),
    ("finish_reason", pa.string()),
    ("response_tokens", pa.int32()),
    ("extracted", pa.string()),
    ("answer", pa.string()),
    ("accuracy", pa.float32()),                 # null: a judge was asked for and failed
    ("format", pa.float32()),
    ("source", pa.string()),                    # the benchmark
    ("family", pa.string()),
    ("answer_type", pa.string()),
    ("metadata", pa.string()),                  # JSON, as in problems
    ("extracted_by", pa.string()),              # as in rollouts
    ("outcome", pa.string()),
    ("agreed", pa.bool_()),
    ("published", pa.float32()),                # by the data set's own published rule; null where it has none
    ("judge", pa.string()),                     # what the judge said, or why it failed; null: not asked
    ("reader", pa.string()),                    # as in rollouts
])

UTILITY = pa.schema([
    ("problem_id", pa.string()),
    ("category", pa.string()),
    ("data_source", pa.string()),               # the benchmark
    ("hint_source", pa.string()),
    ("family", pa.string()),
    ("samples", pa.int32()),                    # with the hint, and as many without
    ("plain_correct", pa.int32()),
    ("hinted_correct", pa.int32()),
    ("plain_tokens", pa.float32()),             # mean length of a response
    ("hinted_tokens", pa.float32()),
    ("kl", pa.float32()),                       # mean KL(question only ‖ hinted) per token of question-only responses
    ("nll_change", pa.float32()),               # of these tokens: mean NLL hinted − question only
])

# What a verdict may be. Only "right" has accuracy 1; "unjudged" has none; the others have 0 and say why.
OUTCOMES = ("right", "wrong", "contradiction", "no_answer", "truncated", "refused", "timeout", "error", "unjudged")

# How an answer is compared; docs/rewards.md says what each takes for right.
ANSWER_TYPES = (
    "choice", "integer", "float", "expression", "quantity", "named", "ratio", "interval", "blanks", "alternatives",
    "statements", "list", "set", "text",
)


@dataclass(frozen=True, slots=True)
class Salient:
    """A part of picture number `image` that a hint points at: its name, its box in 0…1, and how much it stands out."""

    image: int
    label: str
    box: tuple[float, float, float, float]
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What an expert was asked for a hint, over all attempts, and its name as its server reports it."""

    expert: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


FREE = Cost()


@dataclass(frozen=True, slots=True)
class Hint:
    """Privileged context for one problem: where to look, what to do there; `text` is what the teacher reads.

    A refused hint has no text: what it said is in `refused`, with the characters (`span`) that show why. `fault` says
    why a source had nothing to say. `maps` (map_HW, one per picture) are over the pictures' patch grids.
    """

    problem_id: str
    text: str | None
    spatial: str = ""
    steps: tuple[str, ...] = ()
    source: str = ""
    refusal: str | None = None
    role: str = "hint"
    refused: str | None = None
    span: tuple[int, int] | None = None
    flags: tuple[str, ...] = ()
    fault: str | None = None
    regions: tuple[Salient, ...] = ()
    cost: Cost = FREE
    maps: tuple[np.ndarray, ...] = ()


# By the name of the file that holds them: `<name>-00000.parquet`, `<name>-00000.safetensors`.
TABLES = {
    "problems": PROBLEMS, "images": IMAGES, "hints": HINTS, "rollouts": ROLLOUTS, "scores": SCORES, "evals": EVALS,
    "utility": UTILITY,
}
TENSORS = {"hints": HINT_TENSORS, "rollouts": ROLLOUT_TENSORS, "scores": SCORE_TENSORS}
OPTIONAL_TENSORS = frozenset({"reference_logprobs"})
