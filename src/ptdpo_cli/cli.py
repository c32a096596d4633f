"""The commands: parse, print, dispatch. Heavy imports happen inside, so that `ptdpo --help` is instant."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ptdpo_cli import console
from ptdpo_cli.errors import PtdpoError, Terminated, UsageError

app = typer.Typer(
    name="ptdpo",
    help="Post-train vision-language models with privileged tutoring (PTD-PO).",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _group(name: str) -> typer.Typer:
    """Commands of a common first word."""
    group = typer.Typer(rich_markup_mode="markdown", context_settings={"help_option_names": ["-h", "--help"]})
    app.add_typer(group, name=name)
    return group


data_app, hints_app = _group("data"), _group("hints")

RecipeFile = Annotated[str | None, typer.Option("--recipe", help="Recipe (YAML); default: RUN/recipe.yaml.")]
Run = Annotated[Path | None, typer.Option("--run", help="Folder of the run's artifacts; default: the recipe's.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override section.key; repeatable.")]
DataName = Annotated[str | None, typer.Option("--data", help="Data set name, or path to a file or folder.")]
Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="ROLE=NAME,…", help="Names in your file: `problem=question,answer=label`."),
]
DataRoot = Annotated[
    str | None, typer.Option("--data-root", help="Folder of local copies of public data sets; nothing is downloaded.")
]
OnBadRow = Annotated[str | None, typer.Option("--on-bad-row", help="error (default): stop with a list; skip: go on.")]
Exclude = Annotated[
    str | None, typer.Option("--exclude", help="File of problem ids to train without, as from `ptdpo data overlap`.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do all checks, print the resolved recipe, touch nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again although it is already done.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N problems.")]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Make part I (from 0) of N, as one task of a job array; see merge."),
]
Export = Annotated[
    list[str] | None,
    typer.Option("--export", metavar="FORMAT", help="lmms-eval or vlmevalkit: also into RUN/exports; repeatable."),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="More messages.")]
JudgeModel = Annotated[
    str | None, typer.Option("--judge", metavar="MODEL", help="Let this language model judge answers of type text.")
]
JudgeUrl = Annotated[
    str | None, typer.Option("--judge-url", metavar="URL", help="Its endpoint, say http://localhost:8000/v1.")
]
PolicyDir = Annotated[str | None, typer.Option("--policy", help="Model folder or hub id; default: the recipe's model.")]


def _start(recipe, run, overrides, data, quiet, verbose, *, reader=None):
    """Recipe and run folder from the options; flags override --set, which overrides the file.

    `reader` is asked where the recipe names none.
    """
    from ptdpo_cli.recipe import load_recipe

    console.Verbosity.quiet, console.Verbosity.verbose = quiet or not console.is_first_rank(), verbose
    if recipe is None and run is not None and (run / "recipe.yaml").is_file():
        recipe = run / "recipe.yaml"
    flags = _flags({"data.name": data})
    loaded = load_recipe(recipe, [*(overrides or []), *flags], reader=reader)
    run = run or Path(loaded.run or "runs/default")
    console.detail(f"recipe {recipe or 'defaults'}, run {run}, seed {loaded.seed}, model {loaded.model.path}")
    return loaded, run


def _flags(given: dict) -> list[str]:
    """Options as overrides, quoted: a file called 2024 or `a: b` is still a file."""
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def _data_flags(overrides, columns=None, data_root=None, on_bad_row=None, exclude=None) -> list[str]:
    """The options that say how data is read, after --set."""
    names = None if columns is None else _columns(columns)
    given = {
        "data.columns": names, "data.root": data_root, "data.on_bad_row": on_bad_row, "data.exclude": exclude,
    }
    return [*(overrides or []), *_flags(given)]


def _columns(text: str) -> dict[str, str | None]:
    """`problem=question,answer=label` as {"problem": "question", …}; a role without a name has no column."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not pairs or not all(role.strip() and equals for role, equals, _ in pairs):
        raise UsageError("--columns takes role=name, …", found=text, hint="--columns problem=question,answer=label")
    return {role.strip(): name.strip() or None for role, _, name in pairs}


def _part(shard: str | None):
    from ptdpo_cli.artifacts.parts import Part

    return Part.parse(shard) if shard is not None else None


def _workspace(loaded, run, force: bool):
    from ptdpo_cli.models.parallel import join
    from ptdpo_cli.stages.workspace import Workspace

    _quiet_libraries()
    return Workspace(loaded, run, force=force, say=console.say, ranks=join(loaded.distributed.timeout_minutes))


def _make(work, plan, part, make, *, force: bool):
    """The artifact, made by this process or by several together, and whether it was there before."""
    from ptdpo_cli.stages.together import join_parts, made_together

    done = not force and plan.finished(part) is not None
    if _has_copies(work.recipe):  # they have made it, in parts
        force = False
        if part is None:
            join_parts(plan)
    with console.bar(plan.stage) as progress:
        artifact = made_together(work.ranks, plan, lambda part: make(part=part, force=force, progress=progress), part)
    return artifact, done


def _has_copies(loaded) -> bool:
    from ptdpo_cli.stages.copies import is_copy

    is_alone = os.environ.get("WORLD_SIZE", "1") == "1" and not is_copy()
    return is_alone and loaded.rollout.engine == "vllm" and loaded.vllm.data_parallel > 1


def _by_copies(loaded, part):
    """Let every copy of the engine make its part, where the recipe wants several; the part to go on with."""
    if not _has_copies(loaded):
        return part
    from ptdpo_cli.stages.copies import run_copies

    return run_copies(sys.argv[1:], loaded.vllm.data_parallel, loaded.vllm.tensor_parallel, part)


def _only_one_way(iteration: int | None, **named) -> None:
    """Refuse `--iteration`, by which artifacts are found, beside the options that name them."""
    if given := [f"--{name}" for name, value in named.items() if value is not None and iteration is not None]:
        raise UsageError(f"--iteration finds what {given[0]} names", hint=f"give --iteration or {given[0]}, not both")


def _quiet_libraries() -> None:
    """Other people's progress bars and notices would land between ours."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _say_counts(text: str, artifact) -> None:
    """A part without shards counts nothing."""
    part = f"part {artifact.manifest.extra['part']}: " if "part" in artifact.manifest.extra else ""
    console.say(part + text.format_map(defaultdict(int, artifact.manifest.counts)))


def _say_reader(artifact) -> None:
    """What the way `model` of an extraction read, where there is one."""
    if "reader_asked" in artifact.manifest.counts:
        _say_counts("reader: asked about {reader_asked} responses: {reader_quoted} answers quoted, {reader_none} have "
                    "none, {reader_failed} failures, {reader_requests} requests", artifact)


def _report(artifact, *, done_before: bool, as_json: bool, **more) -> None:
    """The artifact's path, or everything about it as JSON."""
    if done_before:
        console.say(f"already done: {artifact.path} (--force makes it again)")
    manifest = artifact.manifest
    console.detail(
        f"input key {manifest.input_key[:8]}, content {manifest.content_hash[:8]}, {len(manifest.files)} files, "
        f"made in {manifest.wall_s:.1f} s from {', '.join(manifest.inputs) or 'nothing'}"
    )
    console.emit(
        {
            "path": str(artifact.path),
            "kind": manifest.kind,
            "content_hash": manifest.content_hash,
            "counts": manifest.counts,
            "already_done": done_before,
            **more,
        },
        as_json=as_json,
        line=str(artifact.path),
    )


def _say_skipped(counts: dict, what: str, *, why: str = "their prompts are too long (prompt.too_long is skip)") -> None:
    if counts.get("skipped"):
        console.say(f"{counts['skipped']} {what} left out: {why}")


def _dry_run(stage: str, loaded, run, *, as_json: bool, **details) -> None:
    from ptdpo_cli.stages.preflight import preflight, render_preflight

    _quiet_libraries()
    _print(preflight(stage, loaded, run, say=console.say, **details), render_preflight, as_json=as_json)


def _print(result: dict, render, *, as_json: bool) -> None:
    """A result that is data: as one JSON object, or as `render(result, console)` shows it."""
    if as_json:
        console.emit(result, as_json=True, line="")
    else:
        render(result, console.results)


@app.command("build-hints")
def build_hints(
    recipe: RecipeFile = None,
    data: DataName = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="regions, steps, attention, expert, joined by +; solution, answer, rationale; "
                     "none, shuffled, generic."),
    ] = None,
    run: Run = None,
    overrides: Set = None,
    columns: Columns = None,
    data_root: DataRoot = None,
    on_bad_row: OnBadRow = None,
    exclude: Exclude = None,
    limit: Limit = None,
    shard: Shard = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Make the teacher's hints: where to look and how to think, never the answer.

    Example: `ptdpo build-hints --data digit-grid --source attention+steps --run runs/tiny`
    """
    overrides = _data_flags(overrides, columns, data_root, on_bad_row, exclude) + _flags({"hints.source": source})
    loaded, run = _start(recipe, run, overrides, data, quiet, verbose)
    part = _part(shard)
    if dry_run:
        return _dry_run("build-hints", loaded, run, as_json=as_json, limit=limit)
    from ptdpo_cli.stages.build_hints import require_few_refused
    from ptdpo_cli.stages.expert_hints import said_cost

    work = _workspace(loaded, run, force and part is None)
    plan = work.plan_hints(limit=limit)
    work.store_recipe()
    hints, done = _make(work, plan, part, partial(work.make_hints, plan), force=force)
    _say_counts("{hints} hints for {problems} problems, {refused} refused", hints)
    if cost := said_cost(hints.manifest.counts):
        console.say(cost)
    if part is None:
        require_few_refused(hints.manifest.counts, loaded.hints.max_refused, where=hints.path)
    _report(hints, done_before=done, as_json=as_json)


@app.command()
def rollout(
    recipe: RecipeFile = None,
    data: DataName = None,
    run: Run = None,
    overrides: Set = None,
    columns: Columns = None,
    data_root: DataRoot = None,
    on_bad_row: OnBadRow = None,
    exclude: Exclude = None,
    policy: PolicyDir = None,
    iteration: Annotated[
        int | None,
        typer.Option(min=0, help="Of which iteration: by the policy in RUN after N iterations; default: the policy's."),
    ] = None,
    limit: Limit = None,
    shard: Shard = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Sample answers from a policy, question only.

    Example: `ptdpo rollout --recipe recipes/tiny.yaml --run runs/tiny`
    """
    overrides = _data_flags(overrides, columns, data_root, on_bad_row, exclude)
    loaded, run = _start(recipe, run, overrides, data, quiet, verbose)
    part = _part(shard)
    if dry_run:
        return _dry_run("rollout", loaded, run, as_json=as_json, limit=limit, policy=policy, iteration=iteration)
    part = _by_copies(loaded, part)
    from ptdpo_cli.engines import open_engine
    from ptdpo_cli.stages.grading import require_functions
    from ptdpo_cli.stages.iterations import find_policy
    from ptdpo_cli.stages.rollout import make_rollouts, plan_rollout
    from ptdpo_cli.stages.workspace import iterations_done

    require_functions(loaded)
    work = _workspace(loaded, run, force and part is None)
    path = policy or find_policy(work, iteration or 0)
    sampler = work.policy(path)
    iteration = iterations_done(path) if iteration is None else iteration
    plan = plan_rollout(loaded, run, work.problems, sampler.hashes, iteration=iteration, limit=limit)
    work.store_recipe()
    book = work.book(sampler, work.problems)
    make = partial(make_rollouts, loaded, plan, book, open_engine(loaded, sampler), sampler)
    rollouts, done = _make(work, plan, part, make, force=force)
    _say_counts("{rollouts} rollouts of {problems} problems, {correct} correct", rollouts)
    _say_reader(rollouts)
    _say_skipped(rollouts.manifest.counts, "problems")
    _report(rollouts, done_before=done, as_json=as_json)


@app.command("score-ref")
def score_ref(
    recipe: RecipeFile = None,
    data: DataName = None,
    run: Run = None,
    overrides: Set = None,
    columns: Columns = None,
    data_root: DataRoot = None,
    on_bad_row: OnBadRow = None,
    exclude: Exclude = None,
    rollouts: Annotated[Path | None, typer.Option(help="Rollouts to score; default: the only ones in RUN.")] = None,
    hints: Annotated[Path | None, typer.Option(help="Hints; default: the recipe's in RUN.")] = None,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="Score the rollouts of this iteration in RUN.")
    ] = None,
    limit: Limit = None,
    shard: Shard = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Score failed rollouts by the frozen teacher, who reads the hint.

    Example: `ptdpo score-ref --run runs/tiny`
    """
    overrides = _data_flags(overrides, columns, data_root, on_bad_row, exclude)
    loaded, run = _start(recipe, run, overrides, data, quiet, verbose)
    part = _part(shard)
    _only_one_way(iteration, rollouts=rollouts)
    if dry_run:
        named = {"iteration": iteration, "rollouts": rollouts, "hints": hints}
        return _dry_run("score-ref", loaded, run, as_json=as_json, limit=limit, **named)
    from ptdpo_cli.artifacts.store import Artifact
    from ptdpo_cli.stages.iterations import find_rollouts
    from ptdpo_cli.stages.score_ref import make_scores, plan_score_ref
    from ptdpo_cli.stages.workspace import require_same_problems

    work = _workspace(loaded, run, force and part is None)
    reference = work.reference
    if iteration is not None:
        sampled = find_rollouts(work, iteration)
    else:
        sampled = Artifact.open(rollouts or run, kind="rollouts")
    require_same_problems(sampled, work.problems)
    guidance = work.hints(hints)
    plan = plan_score_ref(loaded, run, sampled, guidance, reference, limit=limit)
    book = work.book(reference, work.problems, guidance)
    make = partial(make_scores, loaded, plan, book, reference, sampled)
    scores, done = _make(work, plan, part, make, force=force)
    _say_counts("{gated} of {rollouts} rollouts gated, {gated_tokens} tokens", scores)
    _say_skipped(scores.manifest.counts, "rollouts", why="with their hints the prompts are too long")
    _report(scores, done_before=done, as_json=as_json)


@app.command()
def train(
    recipe: RecipeFile = None,
    data: DataName = None,
    run: Run = None,
    overrides: Set = None,
    columns: Columns = None,
    data_root: DataRoot = None,
    on_bad_row: OnBadRow = None,
    exclude: Exclude = None,
    policy: PolicyDir = None,
    rollouts: Annotated[Path | None, typer.Option(help="One update from these rollouts instead of the loop.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Their scores (for one update).")] = None,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="The one update of this iteration, from its rollouts and scores in RUN.")
    ] = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Train: the whole loop, or one update from artifacts that other jobs made.

    Example: `ptdpo train --recipe recipes/tiny.yaml`
    """
    overrides = _data_flags(overrides, columns, data_root, on_bad_row, exclude)
    loaded, run = _start(recipe, run, overrides, data, quiet, verbose)
    if scores is not None and rollouts is None:
        raise UsageError("--scores needs --rollouts", hint="without either, `ptdpo train` runs the whole loop")
    _only_one_way(iteration, rollouts=rollouts, policy=policy)
    if limit is not None:
        loaded = loaded.model_copy(update={"data": loaded.data.model_copy(update={"count": limit})})
    if dry_run:
        named = {"iteration": iteration, "policy": policy, "rollouts": rollouts, "scores": scores}
        return _dry_run("train", loaded, run, as_json=as_json, **named)
    work = _workspace(loaded, run, force)
    if iteration is not None:
        return _train_iteration(work, iteration, as_json=as_json, force=force)
    if rollouts is not None:
        return _train_once(work, policy, rollouts, scores, as_json=as_json, force=force)
    from ptdpo_cli.stages.train import run_loop

    console.say(f"{work.problems.manifest.counts['problems']} problems")
    work.store_recipe()
    with console.bar("train") as progress:
        artifact, done = run_loop(work, policy, force=force, warn=console.warn, say=console.say, progress=progress)
    _report(artifact, done_before=done, as_json=as_json)


def _train_iteration(work, iteration: int, *, as_json: bool, force: bool) -> None:
    from ptdpo_cli.stages.iterations import find_policy, find_rollouts, find_scores

    policy = find_policy(work, iteration)
    rollouts = find_rollouts(work, iteration)
    scores = find_scores(work, rollouts)
    path = scores.path if scores else None
    _train_once(work, policy, rollouts.path, path, is_first=iteration == 0, as_json=as_json, force=force)


def _train_once(work, policy, rollouts, scores, *, as_json: bool, force: bool, is_first: bool = False) -> None:
    from ptdpo_cli.artifacts.store import Artifact
    from ptdpo_cli.stages.train import plan_update, update_once
    from ptdpo_cli.stages.train_state import load_state, new_state
    from ptdpo_cli.stages.workspace import require_same_problems

    sampled = Artifact.open(rollouts, kind="rollouts")
    require_same_problems(sampled, work.problems)
    scored = Artifact.open(scores, kind="scores") if scores else None
    student = work.policy(policy or work.recipe.model.path)
    plan = plan_update(work.recipe, work.run, student, sampled, scored)
    artifact, metrics = (None if force else plan.finished()), {}
    done = artifact is not None
    work.ranks.wait("looking for the policy")
    work.store_recipe()
    if not done:
        book = work.book(student, work.problems)
        state = (new_state if is_first else load_state)(work.recipe, student, work.ranks)
        artifact, metrics = update_once(work.recipe, plan, book, state, sampled, scored, force=force)
    _report(artifact, done_before=done, as_json=as_json, metrics=metrics)


@app.command("eval")
def evaluate(
    recipe: RecipeFile = None,
    data: DataName = None,
    run: Run = None,
    overrides: Set = None,
    columns: Columns = None,
    data_root: DataRoot = None,
    on_bad_row: OnBadRow = None,
    policy: PolicyDir = None,
    split: Annotated[str | None, typer.Option(help="Split to evaluate on.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=0, help="Samples per problem.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature of the samples.")] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Leave the pictures out: what the questions alone give away.")
    ] = False,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="The policy in RUN after N iterations; 0: the recipe's model.")
    ] = None,
    judge: JudgeModel = None,
    judge_url: JudgeUrl = None,
    export: Export = None,
    limit: Limit = None,
    shard: Shard = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Evaluate a policy on problems it has not seen: greedy and sampled, with intervals.

    Example: `ptdpo eval --run runs/tiny --n 8`
    """
    overrides = _data_flags(overrides, columns, data_root, on_bad_row)
    given = {"eval.data": data, "eval.split": split, "eval.samples": n, "eval.temperature": temperature}
    flags = _flags(given | {"eval.blind": blind or None})
    flags += _flags({"eval.judge.model": judge, "eval.judge.url": judge_url})
    loaded, run = _start(recipe, run, [*overrides, *flags], None, quiet, verbose)
    part = _part(shard)
    _only_one_way(iteration, policy=policy)
    _check_export(export, part)
    if dry_run:
        return _dry_run("eval", loaded, run, as_json=as_json, limit=limit, policy=policy, iteration=iteration)
    part = _by_copies(loaded, part)
    from ptdpo_cli.engines import open_engine
    from ptdpo_cli.stages.evaluate import make_eval, plan_eval
    from ptdpo_cli.stages.iterations import find_policy
    from ptdpo_cli.stages.summary_tables import render_summary
    from ptdpo_cli.stages.train import final_policy

    work = _workspace(loaded, run, force and part is None)
    if policy is None:
        policy = final_policy(work) if iteration is None else find_policy(work, iteration)
    student = work.policy(policy)
    problems = work.eval_problems()
    plan = plan_eval(loaded, run, problems, student.hashes, limit=limit)
    book = work.book(student, problems, max_new_tokens=loaded.eval.max_new_tokens, blind=loaded.eval.blind)
    make = partial(make_eval, loaded, plan, book, open_engine(loaded, student), student)
    if not (run / "recipe.yaml").is_file():     # the training's, where there was one, stays
        work.store_recipe()
    evals, done = _make(work, plan, part, make, force=force)
    summary = evals.manifest.extra.get("summary")
    if summary is None:
        _say_counts("{answers} answers to {problems} problems", evals)
    elif not quiet:
        render_summary(summary, console.messages)
    _say_skipped(evals.manifest.counts, "problems")
    _say_reader(evals)
    if loaded.eval.judge is not None:
        _say_counts("judge: {judged} answers judged, {unjudged} unjudged, {judge_requests} requests", evals)
    exported = []
    if export and part is None and console.is_first_rank():
        exported = _export(evals, problems, export, run / "exports" / evals.path.name)
    for file in exported:
        console.say(f"exported {file}")
    _report(evals, done_before=done, as_json=as_json, summary=summary, exported=exported)


def _check_export(formats, part) -> None:
    """Refuse before any work what could not be written after it; a copy of an engine makes a part that is joined."""
    if formats:
        from ptdpo_cli.stages.copies import is_copy
        from ptdpo_cli.stages.export import require_formats

        require_formats(formats)
        if part is not None and not is_copy():
            raise UsageError("a part of an evaluation cannot be exported",
                             hint="merge the parts first, then `ptdpo export RUN/evals --format FORMAT`")


def _export(evals, problems, formats, out: Path, name: str | None = None) -> list[str]:
    from ptdpo_cli.artifacts.problems import read_problems
    from ptdpo_cli.stages.export import export

    return [str(path) for path in export(evals, read_problems(problems), formats, out, model=name)]


@app.command("export")
def export_evals(
    path: Annotated[Path, typer.Argument(help="An evaluation, in its run.")],
    formats: Annotated[
        list[str], typer.Option("--format", metavar="FORMAT", help="lmms-eval or vlmevalkit; repeatable.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write below; default: RUN/exports/<evaluation>.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the policy; default: ptdpo-<hash>.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Write an evaluation as lmms-eval or VLMEvalKit would have saved it; their own tools then open it.

    Example: `ptdpo export runs/tiny/evals --format lmms-eval`
    """
    console.Verbosity.quiet = quiet
    from ptdpo_cli.artifacts.store import Artifact
    from ptdpo_cli.stages.show import problems_of, run_of

    _check_export(formats, None)
    evals = Artifact.open(path, kind="evals")
    out = out or run_of(evals) / "exports" / evals.path.name
    written = _export(evals, problems_of(evals), formats, out, name)
    console.emit({"path": str(out), "files": written}, as_json=as_json, line="\n".join(written))


@app.command()
def regrade(
    path: Annotated[Path, typer.Argument(help="Rollouts or an evaluation, in their run.")],
    recipe: RecipeFile = None,
    overrides: Set = None,
    judge: JudgeModel = None,
    judge_url: JudgeUrl = None,
    limit: Annotated[int, typer.Option(min=0, help="How many changed rows to show.")] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would change, write nothing.")] = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Apply the recipe's present rules to text that was sampled before, and list what changes.

    Example: `ptdpo regrade runs/tiny/evals --set eval.extraction=[boxed] --dry-run`
    """
    from ptdpo_cli.stages import regrade as stage
    from ptdpo_cli.stages.quoting import former_reader
    from ptdpo_cli.stages.show import problems_of, run_of

    old = stage.open_graded(path)
    run = run_of(old)
    if recipe is None and not (run / "recipe.yaml").is_file():
        raise UsageError(f"{run} has no recipe.yaml, so there are no rules to apply", hint="name one: `--recipe FILE`")
    flags = _flags({"eval.judge.model": judge, "eval.judge.url": judge_url})
    reader = former_reader(old.manifest)
    loaded, _ = _start(recipe, run, [*(overrides or []), *flags], None, quiet, verbose, reader=reader)
    if old.manifest.kind == "evals":
        loaded = stage.with_former_judge(loaded, old)
        if dry_run and loaded.eval.judge is not None:
            raise UsageError("a dry run asks no judge, so it cannot say what would change",
                             hint="leave out --dry-run; what the judge has said before costs nothing again")
    extraction = (loaded.eval if old.manifest.kind == "evals" else loaded.reward).extraction
    if dry_run and "model" in extraction:
        raise UsageError("a dry run asks no model, so it cannot say what would change",
                         hint="leave out --dry-run, or `model` out of the extraction; what the reader has said before "
                         "costs nothing again")
    problems = problems_of(old)
    kind, plan = old.manifest.kind, stage.plan_regrade(loaded, old)
    before, answers = old.table(kind).to_pylist(), stage.answers_of(problems)
    if dry_run:
        found = stage.changes(before, stage.preview(loaded, old, problems), answers)
        return _print(found, partial(stage.render_changes, limit=limit), as_json=as_json)
    done = not force and plan.finished() is not None
    with console.bar("regrade") as progress:
        artifact = stage.make_regraded(loaded, plan, old, problems, force=force, progress=progress)
    found = stage.changes(before, artifact.table(kind).to_pylist(), answers)
    _say_reader(artifact)
    if not quiet:
        stage.render_changes(found, console.messages, limit=limit)
    _report(artifact, done_before=done, as_json=as_json, summary=artifact.manifest.extra.get("summary"), **found)


@app.command()
def sft(
    recipe: RecipeFile = None,
    run: Run = None,
    overrides: Set = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Supervised training on worked solutions: makes the base model that the demo starts from.

    Example: `ptdpo sft --recipe recipes/tiny-base.yaml`
    """
    loaded, run = _start(recipe, run, overrides, None, quiet, verbose)
    if dry_run:
        return _dry_run("sft", loaded, run, as_json=as_json)
    from ptdpo_cli.stages.sft import make_base

    _quiet_libraries()
    with console.bar("sft") as progress:
        artifact, done = make_base(loaded, run, force=force, progress=progress, say=console.say)
    _report(artifact, done_before=done, as_json=as_json)


@app.command("merge-adapter")
def merge_adapter(
    adapter: Annotated[Path, typer.Argument(help="A policy trained with LoRA, or RUN/policy with one in it.")],
    base: Annotated[str | None, typer.Option("--base", help="Where its base lies now; default: where it was.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Where to write; default: RUN/merged.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: the base's.")] = None,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
):
    """Merge an adapter into its base: a full model folder that any tool opens.

    Example: `ptdpo merge-adapter runs/lora/policy --dtype bfloat16`
    """
    console.Verbosity.quiet = quiet
    if dtype not in (None, "float32", "bfloat16"):
        raise UsageError(f"unknown dtype {dtype}", expected="float32 or bfloat16", hint="leave --dtype out")
    from ptdpo_cli.stages.merge_adapter import make_merged, open_adapter, plan_merge

    _quiet_libraries()
    policy = open_adapter(adapter, base)
    kinds = (folder for folder in Path(policy.path).absolute().parents if folder.name == "policy")
    run = run or next(kinds, Path(policy.path).absolute()).parent / "merged"
    plan = plan_merge(policy, run, dtype)
    done = not force and plan.finished() is not None
    _report(make_merged(plan, policy, force=force), done_before=done, as_json=as_json)


@app.command()
def merge(
    path: Annotated[Path, typer.Argument(help="A run, RUN/<kind>, or one artifact in it.")],
    as_json: Json = False,
):
    """Join the parts that tasks made with `--shard`; the result is what one task would have made.

    Example: `ptdpo merge runs/tiny/rollouts`
    """
    from ptdpo_cli.stages.merge import merge as join_parts
    from ptdpo_cli.stages.merge import render_merge

    found = {"path": str(path), "artifacts": join_parts(path)}
    _print(found, lambda result, to: render_merge(result["artifacts"], to), as_json=as_json)


@app.command()
def chain(
    recipe: Annotated[str, typer.Argument(help="Recipe (YAML); its section `slurm` has the resources.")],
    run: Annotated[Path, typer.Argument(help="Folder of the run's artifacts.")],
    iterations: Annotated[int, typer.Argument(help="How many iterations.")],
    shards: Annotated[int | None, typer.Option(min=1, help="Tasks of the arrays of rollout and score-ref.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the scripts, print the plan, submit nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Submit the jobs of some iterations to Slurm; again: only those that are missing.

    Example: `ptdpo chain recipes/8b.yaml runs/8b 200 --shards 8 --dry-run`
    """
    flags = _flags({"slurm.shards": shards})
    loaded, run = _start(recipe, run, flags, None, quiet, verbose)
    from ptdpo_cli.recipe import find_recipe
    from ptdpo_cli.stages.chain import render_chain, run_chain

    result = run_chain(loaded, find_recipe(recipe), run, iterations, is_dry=dry_run, say=console.say)
    _print(result, render_chain, as_json=as_json)


@app.command()
def doctor(
    recipe: RecipeFile = None,
    data: DataName = None,
    run: Run = None,
    overrides: Set = None,
    columns: Columns = None,
    data_root: DataRoot = None,
    on_bad_row: OnBadRow = None,
    policy: PolicyDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Look at model, processor, data and engine before any training: one line per check, exit code 1 if one fails.

    Example: `ptdpo doctor --recipe recipes/tiny.yaml`
    """
    overrides = _data_flags(overrides, columns, data_root, on_bad_row)
    loaded, run = _start(recipe, run, overrides, data, quiet, verbose)
    from ptdpo_cli.stages.doctor import diagnose, render, write

    _quiet_libraries()
    result = diagnose(loaded, run, policy)
    _print(result, render, as_json=as_json)
    console.say(f"written to {write(result, run)}")
    if result["verdict"] == "fail":
        raise typer.Exit(1)


@app.command()
def estimate(
    recipe: RecipeFile = None,
    data: DataName = None,
    run: Run = None,
    overrides: Set = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="How many GPUs; default: the recipe's, else 1.")] = None,
    lengths: Annotated[
        Path | None, typer.Option(help="A run whose rollouts and scores say how long things are; default: the worst.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="What a GPU sustains (peak x MFU): also say the time.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Estimate memory per GPU, disk, tokens and FLOPs of a recipe from the model's config; no weights are read.

    Example: `ptdpo estimate --recipe recipes/tiny.yaml --gpus 8`
    """
    loaded, _ = _start(recipe, run, overrides, data, quiet, verbose)
    from ptdpo_cli.stages.estimate import estimate as work_out
    from ptdpo_cli.stages.estimate import lengths_of, render

    _quiet_libraries()
    measured = None if lengths is None else lengths_of(lengths, loaded)
    _print(work_out(loaded, gpus=gpus, lengths=measured, tflops=tflops), render, as_json=as_json)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="The evaluation that the others are compared with.")],
    others: Annotated[list[Path], typer.Argument(metavar="B...", help="One or more others, of the same problems.")],
    difference: Annotated[
        float | None,
        typer.Option(help="Say how many problems show this difference in accuracy; default: the one observed."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the intervals as a picture (PNG) here.")] = None,
    as_json: Json = False,
):
    """Compare evaluations of the same problems with the first: paired difference, interval, p-value.

    Example: `ptdpo compare runs/grpo/evals runs/tiny/evals --out compare.png`
    """
    from ptdpo_cli.artifacts.store import Artifact
    from ptdpo_cli.stages.compare import compare as compare_evals
    from ptdpo_cli.stages.compare import draw_comparison, render_comparison

    evals = [Artifact.open(path, kind="evals") for path in (a, *others)]
    result = compare_evals(evals, difference=difference)
    result["picture"] = str(draw_comparison(result, out)) if out is not None else None
    _print(result, render_comparison, as_json=as_json)


@app.command()
def status(run: Annotated[Path, typer.Argument(help="A run's folder.")], as_json: Json = False):
    """List a run's artifacts: finished, unfinished, locked, stale.

    Example: `ptdpo status runs/tiny`
    """
    from ptdpo_cli.stages.status import render_status
    from ptdpo_cli.stages.status import status as list_artifacts

    found = {"run": str(run), "artifacts": list_artifacts(run)}
    _print(found, lambda result, to: render_status(result["artifacts"], to), as_json=as_json)


@data_app.callback(invoke_without_command=True)
def data_sets(context: typer.Context, as_json: Json = False):
    """List the data sets by name: size, licence, what for, how scored.

    Example: `ptdpo data`
    """
    if context.invoked_subcommand is not None:
        return
    from ptdpo_cli.stages.data import data_sets as list_sets
    from ptdpo_cli.stages.data import render_data_sets

    found = {"data_sets": list_sets()}
    _print(found, lambda result, to: render_data_sets(result["data_sets"], to), as_json=as_json)


@data_app.command("check")
def check_data(
    data: Annotated[str, typer.Argument(help="Path to a file or folder, or a data set's name.")],
    columns: Columns = None,
    split: Annotated[str | None, typer.Option(help="Split to look at; default: the one for training.")] = None,
    data_root: DataRoot = None,
    overrides: Set = None,
    as_json: Json = False,
):
    """Say what is wrong with a data set, row by row, or what is in it; exit code 2 if a row is bad.

    Example: `ptdpo data check my.jsonl --columns problem=question,answer=label`
    """
    overrides = _data_flags(overrides, columns, data_root)
    loaded, _ = _start(None, None, overrides, data, False, False)
    from ptdpo_cli.stages.data import check, render_check

    result = check(loaded, split)
    _print(result, render_check, as_json=as_json)
    if result["bad_rows"]:
        raise typer.Exit(2)


@data_app.command("overlap")
def data_overlap(
    train: Annotated[str, typer.Argument(help="Data set name, path to a file or folder, or a `problems` artifact.")],
    test: Annotated[list[str], typer.Argument(help="Likewise; several are looked at one by one.")],
    split: Annotated[str | None, typer.Option(help="Of TRAIN; default: its own for training.")] = None,
    test_split: Annotated[str | None, typer.Option(help="Of each TEST; default: its own for testing.")] = None,
    data_root: DataRoot = None,
    columns: Columns = None,
    out: Annotated[Path, typer.Option(help="Folder for pairs, exclude list and picture sheets.")] = Path("overlap"),
    text: Annotated[
        float, typer.Option(min=0.01, max=1, help="Questions match from this Jaccard similarity on.")
    ] = 0.8,
    image: Annotated[
        int, typer.Option(min=0, max=63, help="Pictures match up to this Hamming distance, of 64 bits.")
    ] = 4,
    strict: Annotated[bool, typer.Option("--strict", help="Exclude weak matches too.")] = False,
    sheets: Annotated[int, typer.Option(min=0, help="How many picture sheets, of 40 pairs each.")] = 5,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Find test problems in the training set, by their questions and pictures; write the list to exclude.

    Example: `ptdpo data overlap train.jsonl test.jsonl --out overlap`
    """
    console.Verbosity.quiet = quiet
    from ptdpo_cli.stages.overlap import audit, render_overlap

    with console.bar("overlap") as progress:
        result = audit(
            train, test, out, split=split, test_split=test_split, data_root=data_root,
            columns=None if columns is None else _columns(columns),
            text=text, image=image, is_strict=strict, sheets=sheets, progress=progress,
        )
    if not quiet:
        render_overlap(result, console.messages)
    console.emit(result, as_json=as_json, line=result["exclude"])


@hints_app.callback(invoke_without_command=True)
def hint_sources(context: typer.Context, as_json: Json = False):
    """List what hints can be made of; audit, score and show look at hints that are there.

    Example: `ptdpo hints`
    """
    if context.invoked_subcommand is not None:
        return
    from ptdpo_cli.stages.build_hints import list_sources, render_sources

    found = {"sources": list_sources()}
    _print(found, lambda result, to: render_sources(result["sources"], to), as_json=as_json)


@hints_app.command("audit")
def audit_hints(
    path: Annotated[Path, typer.Argument(help="Hints, in their run.")],
    probe: Annotated[
        bool, typer.Option("--probe", help="Also ask the reference for the answer, from the hint alone.")
    ] = False,
    samples: Annotated[int, typer.Option("--n", min=1, help="Answers per hint of the probe.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Where refused hints are written (JSONL).")] = None,
    recipe: RecipeFile = None,
    overrides: Set = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Say which hints give the answer away, and why, by the present rules and by choice by asking the model.

    Example: `ptdpo hints audit runs/tiny/hints --probe`
    """
    loaded, hints = _hints_and_recipe(path, recipe, overrides, quiet, verbose)
    from ptdpo_cli.stages.audit import audit, render_audit

    with console.bar("audit") as progress:
        result = audit(loaded, hints, probe=samples if probe else None, out=out, limit=limit, progress=progress)
    _print(result, render_audit, as_json=as_json)


@hints_app.command("score")
def score_hints(
    path: Annotated[Path, typer.Argument(help="Hints, in their run.")],
    samples: Annotated[int, typer.Option("--n", min=1, help="Answers per problem with the hint, and without.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Also draw what came out (PNG) here.")] = None,
    recipe: RecipeFile = None,
    overrides: Set = None,
    limit: Limit = None,
    shard: Shard = None,
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
):
    """Measure whether hints help: the frozen reference with and without them, before anything is trained.

    Example: `ptdpo hints score runs/tiny/hints --n 8 --out utility.png`
    """
    loaded, hints = _hints_and_recipe(path, recipe, overrides, quiet, verbose)
    part = _by_copies(loaded, _part(shard))
    from ptdpo_cli.engines import open_engine
    from ptdpo_cli.stages.show import run_of
    from ptdpo_cli.stages.utility import make_utility, plan_utility
    from ptdpo_cli.stages.utility_summary import draw_utility, open_pyplot, render_utility
    from ptdpo_cli.stages.workspace import require_same_problems

    if out is not None:
        open_pyplot(out)
    work = _workspace(loaded, run_of(hints), force and part is None)
    require_same_problems(hints, work.problems)
    reference = work.reference
    plan = plan_utility(loaded, work.run, hints, reference.hashes, samples=samples, limit=limit)
    book = work.book(reference, work.problems, hints)
    make = partial(make_utility, loaded, plan, book, open_engine(loaded, reference), reference)
    utility, done = _make(work, plan, part, make, force=force)
    _say_skipped(utility.manifest.counts, "problems")
    summary = utility.manifest.extra.get("summary")     # a part has none
    if summary and not quiet:
        render_utility(summary, console.messages)
    picture = str(draw_utility(summary, out)) if summary and out is not None else None
    _report(utility, done_before=done, as_json=as_json, summary=summary, picture=picture)


@hints_app.command("show")
def show_hints(
    path: Annotated[Path, typer.Argument(help="Hints, in their run.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: RUN/hints-<hash>.html.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Also a sheet of the first ones (PNG) here.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many hints.")] = 1000,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """Write a page to look at: picture, map, boxes, question, hint and verdict; one file, opens without a network.

    Example: `ptdpo hints show runs/tiny/hints --sheet hints.png`
    """
    console.Verbosity.quiet = quiet
    from ptdpo_cli.artifacts.store import Artifact
    from ptdpo_cli.stages.hints_page import write_page

    with console.bar("hints show") as progress:
        result = write_page(Artifact.open(path, kind="hints"), out, sheet=sheet, limit=limit, progress=progress)
    console.emit(result, as_json=as_json, line=result["page"])


def _hints_and_recipe(path: Path, recipe, overrides, quiet: bool, verbose: bool):
    """The recipe of the run that hints lie in, and the hints."""
    from ptdpo_cli.artifacts.store import Artifact
    from ptdpo_cli.stages.show import run_of

    hints = Artifact.open(path, kind="hints")
    loaded, _ = _start(recipe, run_of(hints), overrides, None, quiet, verbose)
    _quiet_libraries()
    return loaded, hints


@app.command()
def verify(path: Annotated[Path, typer.Argument(help="An artifact, or a whole run.")], as_json: Json = False):
    """Re-hash every file of an artifact or a run and check its schema.

    Example: `ptdpo verify runs/tiny`
    """
    from ptdpo_cli.stages.verify import render_verify
    from ptdpo_cli.stages.verify import verify as check

    result = check(path)
    _print(result, render_verify, as_json=as_json)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="An artifact, or RUN/<kind>.")],
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Also write a picture sheet (PNG) here.")] = None,
    as_json: Json = False,
):
    """Show the first rows of an artifact, and its problems as a picture sheet.

    Example: `ptdpo show runs/tiny/problems --out sheet.png`
    """
    from ptdpo_cli.stages.show import render_show
    from ptdpo_cli.stages.show import show as read_rows

    result = read_rows(path, limit=limit, out=out)
    _print(result, render_show, as_json=as_json)


@app.command()
def stages(as_json: Json = False):
    """List the stages in the order of the data flow: what each reads, writes and needs.

    Example: `ptdpo stages --json`
    """
    from ptdpo_cli.stages.contracts import STAGES, render_stages

    found = {"stages": [stage.to_dict() for stage in STAGES]}
    _print(found, lambda _, to: render_stages(to), as_json=as_json)


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", help="Folder for the demo's artifacts.")] = Path("runs/demo"),
    overrides: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
):
    """The method in minutes: PTD-PO against GRPO from one start on pictures of real handwriting, on a laptop.

    Example: `ptdpo demo --run runs/demo`
    """
    console.Verbosity.quiet = quiet
    from ptdpo_cli.stages.demo import run_demo

    result = run_demo(run, overrides or [], say=console.say, console=console.messages)
    console.emit(result, as_json=as_json, line=str(run / "demo.json"))


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (or PTDPO_DEBUG=1).")] = False,
):
    if version:
        import importlib.metadata

        print(f"ptdpo {importlib.metadata.version('ptdpo')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run a command; a fault ends in one message and the exit code of its class."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # wherever it stands
    debug = len(arguments) < len(sys.argv) - 1 or bool(os.environ.get("PTDPO_DEBUG"))
    from ptdpo_cli import signals

    signals.install()
    try:
        code = app(arguments, prog_name="ptdpo", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Terminated as signal:
        code = signal.exit_code
        console.messages.print("terminated; what was finished is saved, run the same command again to go on from there")
    except Exception as error:
        if debug:
            raise
        known = _as_ptdpo_error(error)
        console.fail(known)
        code = known.exit_code
    if code == 130:  # Ctrl-C, whichever way this version of typer reports it
        console.messages.print("interrupted; run the same command again to go on from what is finished")
    code = code if isinstance(code, int) else 0
    _leave_ranks(code)
    sys.exit(code)


def _leave_ranks(code: int) -> None:
    """What torchrun started ends in a way of its own."""
    if "ptdpo_cli.models.parallel" in sys.modules:
        from ptdpo_cli.models.parallel import leave

        leave(code)


def _as_ptdpo_error(error: Exception) -> PtdpoError:
    """The error as a user should read it."""
    if isinstance(error, PtdpoError):
        return error
    if hasattr(error, "format_message"):  # click's own: a wrong option, a missing argument
        context = getattr(error, "ctx", None)
        return UsageError(error.format_message(), hint=f"`{context.command_path if context else 'ptdpo'} --help`")
    number = error.errno if isinstance(error, OSError) else None
    # safetensors, written in Rust, raises a class of its own that only quotes the system's words.
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if number in full or any(os.strerror(n) in str(error) for n in full):
        return PtdpoError(f"the disk is full: {error}", hint="make room and run the same command again")
    if number in (errno.ENOTDIR, errno.EEXIST):
        return PtdpoError(f"{error.filename or error} is in the way", hint="give another folder with --run")
    if number is not None and error.filename:
        return PtdpoError(
            f"cannot read or write {error.filename}: {error.strerror}",
            hint="mend its permissions, or give another folder with --run",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return PtdpoError("out of memory", hint="lower train.tokens_per_micro_batch or rollout.problems_per_shard")
    return PtdpoError(
        f"unexpected {type(error).__name__}: {error}",
        hint="run again with `ptdpo --debug …` for the traceback, and report it",
    )
