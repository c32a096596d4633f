"""Recipes: typed, strict YAML. Every setting, its default and its meaning stand here and nowhere else.

A recipe is a YAML file with some of the sections below; what it leaves out has the default written here. `--set
train.learning_rate=1e-5` overrides the file, flags override `--set`. An unknown key is refused with the nearest one.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.prompt import DEFAULT_INSTRUCTION

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Strict and frozen; the text under a field is its documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


def _plain_address(url: str, section: str) -> str:
    """Addresses are stored with what was made there. The error does not repeat one: a key may be in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or set("@?#") & set(url):
        raise UsageError(
            f"{section}.url is not a plain address",
            expected="http(s)://HOST[:PORT]/PATH without user, password, query or fragment",
            hint=f"give the key in an environment variable ({section}.key_variable), never in the address",
        )
    return url


class Model(Section):
    """Which model is trained; a frozen copy of it is the reference and the teacher."""

    path: str = "tiny-base"
    """A folder in Hugging Face layout, a hub id, or `tiny-base` (shipped with the package)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights and all that is computed with them; `train.master_weights` says what the optimizer keeps."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """transformers' implementation."""
    device: str = "auto"
    """`auto`: the first GPU, else the CPU; or a torch device such as `cuda:1`."""
    trust_remote_code: bool = False
    """Whether code that comes with a model may run."""


class Prompt(Section):
    """How a problem is put to the model; the same for rollouts, teacher, training and evaluation."""

    instruction: str = DEFAULT_INSTRUCTION
    """Stands below the question (and the hint); empty: none."""
    max_prompt_tokens: Positive = 4096
    """A longer prompt is never cut (that loses image tokens or the generation header); nor is one that leaves no room
    for `max_new_tokens` within the model's positions."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """refuse: stop, with a list of them; skip: leave these problems out, and count them in the artifact."""


class Data(Section):
    """The problems, from a known data set or from a file of yours."""

    name: str = "digit-grid"
    """A data set that `ptdpo data` lists, or a path to a .jsonl, .json or .parquet file or a folder."""
    split: str | None = None
    """Which part of the data set; null: its own for training. For a single file a label only."""
    count: Positive | None = None
    """digit-grid: how many problems to draw; others: read the first `count` rows."""
    kinds: list[str] | None = None
    """digit-grid: which kinds of question; null takes the default mix."""
    columns: dict[str, str | None] | None = None
    """Names in your file, where they are others: `{problem: text, answer: label}`; see docs/data.md."""
    image_root: str | None = None
    """Where relative paths of pictures start; null: the data file's folder."""
    max_image_pixels: Positive = 50_000_000
    """A larger picture is refused before it is decoded (decompression bombs)."""
    root: str | None = None
    """A folder with local copies of public data sets, each under its hub id; null: the hub, or its cache."""
    on_bad_row: Literal["error", "skip"] = "error"
    """error: stop with a list of them; skip: leave them out, count them, and keep them with their reasons."""
    exclude: str | None = None
    """A file of problem ids to leave out, such as `ptdpo data overlap` writes."""
    fetch_urls: bool = False
    """Whether pictures given by http(s) address may be fetched."""


class AttentionHints(Section):
    """Source `attention`: where the frozen reference looks while it reads question and solution."""

    read: Annotated[list[Literal["question", "solution", "answer"]], Field(min_length=1)] | None = None
    """Whose tokens' attention counts; null: the solution's where there is one, else the question's and answer's."""
    gradient: bool = False
    """Times the gradient of the solution's log-prob (Grad-CAM): a backward pass more."""
    max_regions: Positive = 4
    """Regions named at most, the most salient first."""
    threshold: Fraction = 0.2
    """A region is as salient as this share of the most salient one, or more."""
    tokens_per_batch: Positive = 16_384
    """Padded tokens that go through the model at once."""


class StepHints(Section):
    """Source `steps`: what to do, extracted from how somebody did it."""

    read: Literal["auto", "steps", "solution", "rollouts"] = "auto"
    """steps: the data set's own; solution: cut from its solution; rollouts: from a right answer sampled before;
    auto: the first of these that a problem has."""
    rollouts: str | None = None
    """Rollouts (an artifact) whose right answers serve problems without a solution."""
    max_steps: Annotated[int, Field(ge=2)] = 6
    """A hint has 2 to 6 steps, as short imperatives."""
    expert: bool = False
    """Ask the expert (`hints.expert`) to rewrite a solution where the rules find no steps, or only leaking ones."""


class ExpertHints(Section):
    """Source `expert`: a strong model behind an OpenAI-compatible endpoint, which sees picture, question and answer."""

    model: str
    """Its name there; kept in the artifact. Paper: Qwen3-VL-235B-A22B-Thinking."""
    url: str
    """The endpoint, `http://localhost:8000/v1`."""
    fallback_model: str | None = None
    """Asked where the first gives no hint that passes. Paper: Gemini-3.0-Pro."""
    fallback_url: str | None = None
    """Its endpoint; null: the same one."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is never stored."""
    fallback_key_variable: str | None = None
    """Likewise for the fallback; null: the same one."""
    max_tokens: Positive = 16_384
    """Budget of one reply, thought included. Paper: 16,384."""
    temperature: Annotated[float, Field(ge=0)] = 0.6
    """Of the first attempt."""
    retry_temperature: Annotated[float, Field(ge=0)] = 0.9
    """Of the one more attempt that a refused hint gets, with the reason of the refusal."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the endpoint is made to answer in JSON; none: by the prompt alone."""
    images: bool = True
    """Whether pictures are sent."""
    max_image_side: Positive = 1536
    """Larger pictures are sent smaller."""
    concurrency: Positive = 8
    """Requests at once."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """No more than these are begun in a minute by one process; null: as many as there is room for."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts after a failure of the service."""
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Of one request."""
    max_requests: Positive | None = None
    """Stop, with all that is paid for kept, before more than these are sent in a run, by all commands; null: no
    limit."""
    prompt_price: Annotated[float, Field(ge=0)] = 0.0
    """Of a million prompt tokens, in a currency of yours: what was spent is then said."""
    completion_price: Annotated[float, Field(ge=0)] = 0.0
    """Of a million completion tokens."""

    @field_validator("url", "fallback_url")
    @classmethod
    def _holds_no_secret(cls, url: str | None) -> str | None:
        return url and _plain_address(url, "hints.expert")


class Hints(Section):
    """What the teacher reads beside the problem."""

    source: str = "regions+steps"
    """What hints are made of, joined by `+`: regions, steps, attention, expert. Revealing: solution, answer, rationale.
    Controls: none, shuffled, generic."""
    audit: bool = True
    """Refuse what gives the answer away (never the sources that are meant to)."""
    max_refused: Fraction = 0.5
    """The stage fails, its artifact kept, when a larger share of the hints is refused."""
    shuffle: str | None = None
    """shuffled: whose hints (an artifact); null: the only ones in the run."""
    generic: str = "Look closely at what the question names in the picture. Go in small steps and check each of them."
    """generic: the words that every problem gets."""
    min_gain: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Train without hints that raise a problem's accuracy by less (`ptdpo hints score` measures it); null: with all."""
    attention: AttentionHints = AttentionHints()
    steps: StepHints = StepHints()
    expert: ExpertHints | None = None
    """Needed by the source `expert`: `{model: …, url: …}`."""


class Rollout(Section):
    """G samples per problem from the current policy, question only."""

    engine: Literal["hf", "vllm", "auto"] = "hf"
    """What samples, in eval too: `hf`: the transformers model itself; `auto`: vllm where it and a GPU are there."""
    problems_per_iteration: Positive = 384
    """Paper: 384 prompts per rollout batch."""
    rollouts_per_problem: Annotated[int, Field(ge=2)] = 8
    """Paper: 8 (ablations 5)."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the samples, and of every log-prob of student, teacher and reference."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Paper: 0.99. Log-probs are of the full softmax whatever this is."""
    max_new_tokens: Positive = 4096
    """A longer response is cut, counts as wrong, and has finish_reason `length`."""
    problems_per_shard: Positive = 16
    """Problems sampled together and finished together: the unit of work that a killed stage never repeats."""


def _model_last(ways: list[str]) -> list[str]:
    if "model" in ways[:-1]:
        last = [way for way in ways if way != "model"] + ["model"]
        raise UsageError(
            "a model is asked only about what no rule reads, so `model` must be the last way of an extraction",
            expected=f"[{', '.join(last)}]",
            found=f"[{', '.join(ways)}]",
            hint="put `model` at the end, once",
        )
    return ways


Way = Literal["boxed", "tag", "phrase", "letter", "yes-no", "option-text", "bare", "model"]
Extraction = Annotated[list[Way], Field(min_length=1), AfterValidator(_model_last)]
Reads = Literal["answer", "text"]


class Overlong(Section):
    """DAPO's soft penalty: 0 up to max − buffer tokens, then down to −1 at max."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the penalty."""
    max_tokens: Positive | None = None
    """Where it reaches −1; null: rollout.max_new_tokens."""
    buffer_tokens: Positive = 512
    """How long before that it begins. DAPO: 4096 of 20480."""


class Repetition(Section):
    """−(share of n-grams of words that repeat an earlier one)."""

    weight: Annotated[float, Field(ge=0)] = 0.1
    """Of the penalty."""
    ngram: Positive = 4
    """Words of an n-gram."""


class RewardFunction(Section):
    """A Python function of yours; see docs/rewards.md for its signature."""

    function: str
    """`module:function`, found as `import module` finds it, and in the current folder."""
    weight: float = 1.0
    """Of what it returns."""


class Reader(Section):
    """The way `model`: a language model behind an OpenAI-compatible endpoint, which quotes answers no rule reads."""

    model: str
    """Its name there; kept in the artifact."""
    url: str
    """The endpoint, `http://localhost:8000/v1`."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is never stored."""
    concurrency: Positive = 8
    """Requests at once."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts after a failure; then the response has no answer."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Of one request."""

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, url: str) -> str:
        return _plain_address(url, "reward.reader")


class Reward(Section):
    """R = accuracy_weight · accuracy + format_weight · format + the terms below, each times its weight."""

    accuracy_weight: Annotated[float, Field(ge=0)] = 0.9
    """Of the answer: 1 right, 0 wrong."""
    format_weight: Annotated[float, Field(ge=0)] = 0.1
    """Of the form: 1 when the response keeps it."""
    overlong: Overlong | None = None
    """DAPO's penalty for long responses: `{weight: 1, buffer_tokens: 512}`; null: none."""
    repetition: Repetition | None = None
    """A penalty for repeated n-grams: `{weight: 0.1, ngram: 4}`; null: none."""
    functions: list[RewardFunction] = []
    """Your own: `[{function: "my_rewards:brevity", weight: 0.2}]`; they run in worker processes."""
    extraction: Extraction = ["boxed"]
    """Where an answer is looked for, in this order; docs/rewards.md has what each way takes. Paper: the box alone."""
    reads: Reads = "answer"
    """answer: what follows the thought of a response that ended; text: all of it, thought and truncated ones included,
    as the released codes do."""
    reader: Reader | None = None
    """Who quotes the answer, where an extraction ends with `model`: `{model: …, url: …}`; null: nobody."""
    time_limit_s: Annotated[float, Field(gt=0)] = 5.0
    """Of one verdict or one call of a function of yours; then its worker process is killed, and the outcome is
    `timeout`."""


class Teacher(Section):
    """score-ref: what the frozen teacher reads, and which rollouts it reads (the gate)."""

    context: Literal["hint", "none", "shuffled", "blind"] = "hint"
    """hint: the method. Controls: none (no hint), shuffled (another problem's hint), blind (hint, but no picture)."""
    hint_place: Literal["question", "system", "nowhere"] = "question"
    """Where the hint's words stand: below the question, as the system's turn, or nowhere (with draw_regions)."""
    hint_template: str = "{{ hint }}"
    """Jinja, in a sandbox: the words around `hint`, `spatial` and `steps` (a list) of a hint, and `question`."""
    draw_regions: bool = False
    """Draw the boxes of a hint's regions on the teacher's pictures."""
    top_k: Positive = 100
    """K of the support: top-K of the sampler ∪ top-K of the teacher. Paper: 100."""
    max_group_accuracy: Fraction = 1.0
    """τ_ptd: distil in groups whose accuracy is strictly below. Paper: 1.0."""
    rollouts: Literal["failed", "all"] = "failed"
    """failed: wrong rollouts of those groups (the paper); all: every rollout of those groups."""

    @model_validator(mode="after")
    def _reads_the_hint(self) -> Teacher:
        if self.hint_place == "nowhere" and not self.draw_regions:
            raise ValueError("hint_place nowhere leaves the teacher without a hint, unless draw_regions is true")
        return self


class Train(Section):
    """loss = GRPO + distill_weight · JSD on gated tokens + kl_weight · KL to the reference (k3)."""

    iterations: Positive = 200
    """Rollout batches; more of them go on from a finished run."""
    updates_per_iteration: Positive = 1
    """Optimizer steps per rollout batch. Paper: 384 / 128 = 3."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Of AdamW, after warm-up."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of linear warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up; linear and cosine end at 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Of AdamW, decoupled."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    """Of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient of a step is scaled down to this norm."""
    distill_weight: Annotated[float, Field(ge=0)] = 0.5
    """λ. Paper: 5e-2 (2B, 8B), 5e-1 (4B). 0 is plain GRPO."""
    distill_beta: Fraction = 0.5
    """β of the generalised Jensen-Shannon divergence; 0: KL(teacher ‖ student), 1: KL(student ‖ teacher)."""
    distill_reduction: Literal["token", "group"] = "token"
    """token: mean over the gated tokens of the step (eq. 11); group: token mean per problem, then mean (eq. 80)."""
    kl_weight: Annotated[float, Field(ge=0)] = 1e-2
    """β of the KL term. Paper: 1e-2."""
    kl_in_gated_groups: bool = True
    """The released code drops the KL term wherever it distils; the paper does not."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The ratio is clipped below 1 − clip_low."""
    clip_high: Annotated[float, Field(gt=0)] = 0.3
    """0.2 / 0.3 as in the released scripts."""
    dual_clip: Annotated[float, Field(gt=1)] | None = 3.0
    """The loss of a token with a negative advantage A is at most −A · dual_clip; null: no bound."""
    mismatch_correction: Literal["auto"] | bool = "auto"
    """Truncated importance weights where sampler and trainer differ; auto: if another engine sampled and they do."""
    mismatch_cap: Annotated[float, Field(ge=1)] = 2.0
    """Largest weight of a token: min(π_trainer / π_sampler, mismatch_cap)."""
    ratio: Literal["token", "sequence"] = "token"
    """sequence: GSPO; its clip bounds are of the order of 3e-4 / 4e-4."""
    reduction: Literal["token", "sequence"] = "token"
    """token: mean over all response tokens of the step; sequence: mean over responses of each one's token mean."""
    advantage_scale: Literal["std", "none"] = "std"
    """std: divided by the group's standard deviation; none: only centred."""
    tokens_per_micro_batch: Positive = 16_384
    """Padded tokens that go through the model at once; the result does not depend on it."""
    logits_per_chunk: Positive = 50_000_000
    """Response tokens × vocabulary whose logits are held at once."""
    freeze_vision: bool = False
    """Leave the vision tower as it is."""
    master_weights: bool = True
    """With model.dtype bfloat16: the optimizer keeps weights and moments in float32; false: both in bfloat16, where
    steps below 1/256 of a weight are lost. No effect in float32."""
    gradient_checkpointing: bool = False
    """Forget activations and compute them again in the backward pass: less memory, a prompt per row, more time."""
    checkpoint_every: Positive = 25
    """Iterations between checkpoints; a signal makes one besides."""
    keep_checkpoints: Positive = 2
    """Checkpoints that stay beside the final policy."""
    keep_iterations: Positive = 2
    """Rollouts and scores of the last N iterations stay on disk; the metrics of all do."""
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = ["tensorboard"]
    """Where metrics go besides logs/metrics.jsonl; `[]`: nowhere."""


class Distributed(Section):
    """Training in several processes that `torchrun` starts; no part of any artifact's key."""

    strategy: Literal["auto", "none", "ddp", "fsdp2"] = "auto"
    """ddp: a whole copy in every process; fsdp2: weights, gradients and optimizer in parts; auto: ddp among several."""
    timeout_minutes: Annotated[float, Field(gt=0)] = 30.0
    """How long a process waits for its peers before the run fails, naming who is missing."""


class Lora(Section):
    """Train an adapter (through peft, `pip install 'ptdpo[peft]'`); teacher and reference are the base without it."""

    rank: Annotated[int, Field(ge=0)] = 0
    """r of W + (α / r) B A; 0: no adapter, all weights are trained."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """α; of the order of twice the rank."""
    modules: list[str] | None = None
    """Last names of linear layers, `[q_proj, v_proj]`; null: all of the language model's."""
    vision: bool = False
    """Also those of the vision tower."""


class Vllm(Section):
    """How vLLM is placed, where `rollout.engine` is vllm; none of it is part of an artifact's key."""

    tensor_parallel: Positive = 1
    """GPUs that share one copy of the model."""
    data_parallel: Positive = 1
    """Copies of the engine in `rollout` and `eval`, each a process with its own GPUs; in `train` every rank has one."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each GPU's memory that vLLM takes; the trainer and the teacher live on the rest."""
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    """Size of the key-value cache; null: what the share leaves (1 GiB on a CPU)."""
    max_num_seqs: Positive = 256
    """Responses in progress at once."""
    max_num_batched_tokens: Positive = 16_384
    """Tokens that go through the model at once; raised to the longest prompt and response."""
    max_images: Positive = 8
    """Pictures per problem that memory is kept for."""
    enforce_eager: bool = False
    """Without CUDA graphs: starts faster, samples slower."""
    prefix_caching: bool = False
    """Read a prompt's common beginning once; then rounding depends on the order of requests."""
    sleep: bool = True
    """On a GPU: give memory back while the policy is updated."""
    probe_tolerance: Annotated[float, Field(gt=0)] | None = None
    """Mean difference to the trainer's log-probs allowed after loading weights; null: 1e-4, in bfloat16 0.05 nats."""


class Judge(Section):
    """A language model behind an OpenAI-compatible endpoint that compares answers which no rule can."""

    model: str
    """Its name there; kept in the artifact."""
    url: str
    """The endpoint, `http://localhost:8000/v1`."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is never stored."""
    answer_types: list[str] = ["text"]
    """Which answers it judges instead of the rule."""
    concurrency: Positive = 8
    """Requests at once."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts after a failure; then the answer stays unjudged."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Of one request."""

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, url: str) -> str:
        return _plain_address(url, "eval.judge")


class Eval(Section):
    """Question-only evaluation: one greedy answer and n samples per problem."""

    data: str | None = None
    """Another data set than the training one; a training file without splits of its own needs it."""
    split: str | None = None
    """Which part of the data set; null: its own for evaluation."""
    count: Positive | None = None
    """Only so many problems; null: all, or the data set's own number."""
    greedy: bool = True
    """One answer without chance per problem."""
    samples: Annotated[int, Field(ge=0)] = 8
    """Answers drawn per problem."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the samples."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the samples."""
    max_new_tokens: Positive = 4096
    """A longer response is cut and counts as wrong."""
    problems_per_shard: Positive = 64
    """Problems answered together and finished together."""
    bootstrap_resamples: Positive = 10_000
    """Draws for the 95 % interval."""
    extraction: Extraction = ["boxed", "tag", "phrase", "letter", "yes-no", "option-text", "bare"]
    """Where an answer is looked for, in this order; `reward.reader` serves `model`. The paper's benchmarks read the box
    alone."""
    reads: Reads = "answer"
    """As `reward.reads`, for evaluations."""
    blind: bool = False
    """Without the pictures: what the questions alone give away."""
    judge: Judge | None = None
    """Ask a language model about answers of some types; null: rules alone."""


class Job(Section):
    """What a job asks Slurm for; null leaves it to the lines of its stage's run.sbatch."""

    partition: str | None = None
    """`--partition`."""
    account: str | None = None
    """`--account`."""
    qos: str | None = None
    """`--qos`."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """`--gpus-per-node`, in the stages that run a model; with several under torchrun."""
    cpus: Positive | None = None
    """`--cpus-per-task`."""
    mem: str | None = None
    """`--mem`, for example 64G."""
    time: str | None = None
    """`--time`, for example `08:00:00`, in quotes; at its end a stage saves, is queued again and goes on."""
    setup: list[str] | None = None
    """Lines of bash before the command: `module load …`, `source …/bin/activate`."""
    container: str | None = None
    """Words before the command: `apptainer exec --nv ptdpo.sif`."""
    flags: list[str] | None = None
    """Other options of sbatch, each with its dashes: `--constraint=h100`."""
    shards: Positive | None = None
    """Tasks of the array that makes the artifact in parts, which a job then merges; null: one job, no array."""


class SlurmStages(Section):
    """What single stages ask for instead, with the same keys."""

    build_hints: Job = Job()
    rollout: Job = Job()
    score_ref: Job = Job()
    merge: Job = Job()
    train: Job = Job()
    eval: Job = Job()


class Slurm(Job):
    """Jobs of `stages/chain.sh`; no part of any artifact's key. `shards` counts for rollout and score-ref."""

    stages: SlurmStages = SlurmStages()
    """The same keys per stage: `stages: {train: {gpus: 8}}`."""


class Recipe(Section):
    """All of it. A stage's artifacts are keyed by the sections that the stage reads, and by nothing else."""

    seed: int = 0
    run: str | None = None
    """Where artifacts go; default runs/<recipe's name>."""
    model: Model = Model()
    prompt: Prompt = Prompt()
    data: Data = Data()
    hints: Hints = Hints()
    rollout: Rollout = Rollout()
    reward: Reward = Reward()
    teacher: Teacher = Teacher()
    train: Train = Train()
    lora: Lora = Lora()
    distributed: Distributed = Distributed()
    eval: Eval = Eval()
    vllm: Vllm = Vllm()
    slurm: Slurm = Slurm()
    sft: dict | None = None

    @property
    def needs_teacher(self) -> bool:
        return self.train.distill_weight > 0

    @property
    def needs_reference(self) -> bool:
        return self.train.kl_weight > 0

    @property
    def needs_scores(self) -> bool:
        return self.needs_teacher or self.needs_reference


def recipes_folder() -> Path:
    """`recipes/` of the checkout, or the copy inside an installed wheel."""
    here = Path(__file__).resolve()
    return next((p for p in (here.parent / "recipes", here.parents[2] / "recipes") if p.is_dir()), here.parent)


_EXAMPLE = "a recipe to begin with: `recipes/tiny.yaml`"


def reader_of(reward: Reward, extraction: Sequence[str]) -> Reader | None:
    """Who is asked about what these ways' rules do not read; None where `model` is none of them.

    Errors: UsageError where it is, and the recipe does not say who.
    """
    if "model" not in extraction:
        return None
    if reward.reader is None:
        raise UsageError(
            "the extraction ends with `model`, and the recipe does not say which",
            expected="reward.reader: {model: NAME, url: ADDRESS}",
            found="reward.reader: null",
            hint="`--set reward.reader.model=NAME --set reward.reader.url=http://localhost:8000/v1`, or leave `model` "
            "out of reward.extraction and eval.extraction",
        )
    return reward.reader


def load_recipe(
    path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = (), *, reader: Reader | None = None
) -> Recipe:
    """The recipe of a YAML file (None: all defaults) with `section.key=value` overrides; UsageError on any fault.

    An override that names another data set drops the split that the file names beside its own. `reader` stands in for
    `reward.reader` where the recipe has none.
    """
    tree = _read_yaml(find_recipe(path)) if path is not None else {}
    if path is not None:
        tree.setdefault("run", f"runs/{Path(path).stem}")
    named = _data_names(tree)
    for override in overrides:
        _set(tree, override)
    overridden = {override.partition("=")[0] for override in overrides}
    for section, name in _data_names(tree).items():
        if name != named[section] and f"{section}.split" not in overridden and isinstance(tree.get(section), dict):
            tree[section].pop("split", None)
    try:
        recipe = _with_engine(Recipe.model_validate(tree))
    except ValidationError as error:
        raise UsageError(
            "\n".join(_explain(fault) for fault in error.errors()),
            hint="all keys and their defaults: `ptdpo build-hints --dry-run`",
        ) from None
    if recipe.reward.reader is None:
        recipe = recipe.model_copy(update={"reward": recipe.reward.model_copy(update={"reader": reader})})
    for extraction in (recipe.reward.extraction, recipe.eval.extraction):
        reader_of(recipe.reward, extraction)
    return recipe


def _data_names(tree: dict) -> dict[str, object]:
    """Which data set the sections name: a split that stands beside a name is no other data set's."""
    data, evaluation = (part if isinstance(part, dict) else {} for part in (tree.get("data"), tree.get("eval")))
    name = data.get("name", Data.model_fields["name"].default)
    return {"data": name, "eval": evaluation.get("data") or name}


def _with_engine(recipe: Recipe) -> Recipe:
    """`auto` decided here, once: what samples is part of keys, so no later step may meet the word."""
    if recipe.rollout.engine != "auto":
        return recipe
    engine = "vllm" if importlib.util.find_spec("vllm") and _has_gpu() else "hf"
    return recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"engine": engine})})


def _has_gpu() -> bool:
    """Whether the driver shows an NVIDIA or AMD card; asking torch would cost every command its import."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))


def find_recipe(path: str | Path) -> Path:
    """The file itself, or the shipped recipe of this name, with `recipes/` before it or without."""
    for candidate in (Path(path), recipes_folder() / path, recipes_folder().parent / path):
        if candidate.is_file():
            return candidate
    known = sorted(str(p.relative_to(recipes_folder())) for p in recipes_folder().rglob("*.yaml"))
    raise UsageError(f"no recipe at {path}", hint=f"shipped recipes: {', '.join(known)}")


def _read_yaml(path: Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML", found=" ".join(str(error).split()), hint=_EXAMPLE) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text", hint=_EXAMPLE) from None
    if not isinstance(tree, dict):
        found = "an empty file" if tree is None else type(tree).__name__
        raise UsageError(f"{path} is not a recipe", expected="a mapping of sections", found=found, hint=_EXAMPLE)
    # `train:` with every key below it commented out reads as null.
    return {key: {} if value is None and _section(key) else value for key, value in tree.items()}


def _section(name: str, of: type[Section] | None = None) -> type[Section] | None:
    """The section that a key of another one (None: of the whole recipe) holds, also where it may be null or a list."""
    field = (of or Recipe).model_fields.get(name)
    return field and next(filter(_is_section, _parts(field.annotation)), None)


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _parts(annotation: object) -> Iterator[object]:
    """A type, and what it is made of: `Judge | None` holds Judge."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _set(tree: dict, override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UsageError(
            "--set takes section.key=value", found=override, hint="for example `--set train.learning_rate=1e-5`"
        )
    *sections, key = dotted.split(".")
    for section in sections:
        if tree.setdefault(section, {}) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise UsageError(
                f"--set {override}: {section} is not a section", hint="for example `--set train.learning_rate=1e-5`"
            )
    try:
        tree[key] = yaml.safe_load(text)
    except yaml.YAMLError:
        tree[key] = text


def _explain(fault: dict) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "model_type":
        return f"{where} is a section: it takes keys (found {fault['input']!r})"
    if fault["type"] != "extra_forbidden":
        return f"{where}: {fault['msg'][:1].lower()}{fault['msg'][1:]} (found {fault['input']!r})"
    *sections, key = fault["loc"]
    model: type[Section] = Recipe
    for section in sections:
        model = model if isinstance(section, int) else _section(section, model)      # a number: a place in a list
    here = difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0.5)
    place = f"section {'.'.join(map(str, sections))}" if sections else "the top level"
    if here:
        return f"unknown key {where}; the nearest key of {place} is {here[0]}"
    everywhere = {
        name: f"{section}.{name}"
        for section in filter(_section, Recipe.model_fields)
        for name in _section(section).model_fields
    }
    near = difflib.get_close_matches(str(key), everywhere, n=1, cutoff=0.6)
    return f"unknown key {where}" + (
        f"; did you mean {everywhere[near[0]]}?" if near else f"; {place} has {', '.join(model.model_fields)}"
    )
