"""What a command works with: the run's folder and the artifacts and models that its recipe means."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import yaml

from ptdpo_cli.artifacts.hints import read_hints
from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.store import Artifact, again
from ptdpo_cli.errors import ArtifactError
from ptdpo_cli.models import checks
from ptdpo_cli.models.load import Policy, is_adapter, load_policy
from ptdpo_cli.models.lora import BASE, load_adapter
from ptdpo_cli.models.parallel import ALONE, Ranks
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.build_hints import make_hints, needs_reference, plan_build_hints, require_hints
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.keep_helpful import find_utility, is_helpful, make_helpful, plan_keep_helpful, require_helpful
from ptdpo_cli.stages.plan import Plan, made_by_one
from ptdpo_cli.stages.problems import make_problems, plan_eval_problems, plan_problems, warn_of_test_data
from ptdpo_cli.stages.step_hints import columns_of, require_columns


class Workspace:
    """A run's folder seen through a recipe; everything is opened once, when first asked for.

    `force` makes anew what is made on the way, problems and the loop's hints, so that it mends damaged ones too;
    `guard` refuses a model whose tokenizer, chat template or processor does not fit its weights.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        *,
        force: bool = False,
        guard: bool = True,
        say: Callable[[str], None] = lambda text: None,
        ranks: Ranks = ALONE,
    ):
        self.recipe = recipe
        self.run = run
        self.force = force
        self.guard = guard
        self.say = say if ranks.world == 1 else lambda text: None  # that a rank waits for its peers is no news
        self.ranks = ranks

    @cached_property
    def problems(self) -> Artifact:
        """The training problems; made here when they are not there yet."""
        plan = plan_problems(self.recipe, self.run)
        if plan.finished() is None:
            warn_of_test_data(plan, self.say)
        return self._problems(plan)

    def eval_problems(self) -> Artifact:
        return self._problems(plan_eval_problems(self.recipe, self.run))

    def _problems(self, plan: Plan) -> Artifact:
        return made_by_one(lambda: make_problems(self.recipe, plan, force=self.force, say=self.say), self.say)

    @cached_property
    def reference(self) -> Policy:
        """The initial model, frozen: reference without a hint, teacher with one."""
        reference = self._load(self.recipe.model.path)
        reference.model.requires_grad_(False)
        return reference

    @cached_property
    def base_hashes(self) -> dict[str, str]:
        """Hashes of the initial model; where nothing else needs it, it is loaded beside the accelerator and dropped."""
        if "reference" in self.__dict__:
            return self.reference.hashes
        settings = self.recipe.model
        return load_policy(
            settings.path, dtype=settings.dtype, device="cpu", trust_remote_code=settings.trust_remote_code
        ).hashes

    def policy(self, path: str | Path) -> Policy:
        """A model ready for work; of a policy artifact also checked that its weights are those that were saved.

        With LoRA it is made of the reference's own model: there is one copy of the base, and one adapter at a time.
        """
        if Path(path).name == "policy" and Path(path).is_dir():     # RUN/policy with one artifact in it
            path = Artifact.open(path, kind="policy").path
        artifact = Artifact.open(path, kind="policy") if (Path(path) / MANIFEST).is_file() else None
        if is_adapter(path):
            policy = load_adapter(self.reference, Path(path))
        elif self.recipe.lora.rank and str(path) == self.recipe.model.path:
            policy = self.reference
        else:
            policy = self._load(path)
        if artifact is not None:
            _require_same_weights(artifact, policy)
        return policy

    def _load(self, path: str | Path) -> Policy:
        settings = self.recipe.model
        policy = load_policy(
            path,
            dtype=settings.dtype,
            attention=settings.attention,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
        )
        for check in checks.INTERFACE.values() if self.guard else ():
            checks.require(check(policy, self.recipe.prompt.instruction))
        return policy

    def hints(self, path: Path | None = None, *, make: bool = False) -> Artifact | None:
        """The hints that this recipe means: at a path, or by their key in the run; None where no teacher reads any.

        Where `hints.min_gain` is set, those of them that help.
        Errors: ArtifactError when they are not there and not to be made, or belong to other problems.
        """
        if not self.recipe.needs_teacher or self.recipe.teacher.context == "none":
            return None
        if path is not None:
            hints = Artifact.open(path, kind="hints")
            require_same_problems(hints, self.problems)
        else:
            plan = self.plan_hints()
            made = partial(self.make_hints, plan, force=self.force)
            hints = made_by_one(made, self.say) if make else plan.finished()
            if hints is None:
                raise no_hints(self.run)
        require_hints(
            hints.manifest.counts, source=hints.manifest.section["source"], max_refused=self.recipe.hints.max_refused
        )
        return hints if self.recipe.hints.min_gain is None or is_helpful(hints, self.recipe) else self.helpful(hints)

    def helpful(self, hints: Artifact) -> Artifact:
        """Those of these hints that help (recipe key hints.min_gain); made when they are not there, in no time.

        Errors: ArtifactError when the hints were not measured; UsageError when none helps.
        """
        utility = find_utility(self.recipe, hints, self.reference.hashes)
        plan = plan_keep_helpful(self.recipe, hints, utility)
        kept = made_by_one(lambda: make_helpful(plan, hints, utility, force=self.force), self.say)
        counts = kept.manifest.counts
        self.say(f"{counts['dropped']} of {hints.manifest.counts['hints']} hints are dropped: they do not help")
        require_helpful(counts, self.recipe.hints.min_gain)
        return kept

    def plan_hints(self, *, limit: int | None = None) -> Plan:
        """The hints that this recipe means, of the first `limit` problems."""
        require_columns(self.recipe, columns_of(self.problems), say=self.say)
        reference = self.base_hashes if needs_reference(self.recipe) else None
        return plan_build_hints(self.recipe, self.run, self.problems, reference=reference, limit=limit)

    def make_hints(self, plan: Plan, **how) -> Artifact:
        return make_hints(self.recipe, plan, self.problems, reference=lambda: self.reference, **how)

    def book(
        self,
        policy: Policy,
        problems: Artifact,
        hints: Artifact | None = None,
        *,
        max_new_tokens: int | None = None,
        blind: bool = False,
    ) -> PromptBook:
        """Prompts of these problems that leave room for `max_new_tokens` (None: the rollouts')."""
        texts = read_hints(hints) if hints else None
        return PromptBook(
            self.recipe, policy, read_problems(problems), texts, max_new_tokens=max_new_tokens, blind=blind
        )

    def store_recipe(self) -> None:
        """RUN/recipe.yaml, complete: later commands on this run need no --recipe."""
        if not self.ranks.is_first:
            return
        self.run.mkdir(parents=True, exist_ok=True)
        # Tasks of an array do this at the same time.
        temporary = self.run / f"recipe.yaml.{platform.node()}.{os.getpid()}.tmp"
        temporary.write_text(dump_recipe(self.recipe))
        os.replace(temporary, self.run / "recipe.yaml")


def _require_same_weights(artifact: Artifact, policy: Policy) -> None:
    """The sizes of the files are right, and safetensors holds no checksum: only the hash shows a changed weight."""
    saved = artifact.manifest.extra.get("weights")
    file = BASE if policy.adapter is not None else "config.json"
    was_cast = json.loads((artifact.path / file).read_text()).get("dtype") not in str(policy.model.dtype)
    if saved is not None and not was_cast and saved != policy.hashes["weights"]:
        raise ArtifactError(
            f"the weights of {artifact.path} are damaged",
            expected=f"sha256 {saved[:8]}",
            found=f"sha256 {policy.hashes['weights'][:8]}",
            hint=again(artifact.manifest),
        )


def dump_recipe(recipe: Recipe) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def no_hints(run: Path) -> ArtifactError:
    return ArtifactError(
        f"no hints for these problems in {run}",
        hint=f"make them with `ptdpo build-hints --run {run}`, or name others with `--hints DIR`",
    )


def require_same_problems(artifact: Artifact, problems: Artifact) -> None:
    if artifact.manifest.inputs.get("problems") != problems.manifest.content_hash:
        raise ArtifactError(
            f"{artifact.path} was made from other problems",
            expected=f"problems {problems.manifest.content_hash[:8]}",
            found=f"problems {artifact.manifest.inputs.get('problems', '')[:8]}",
            hint="make it again from this recipe's data, or give the `--data` and seed that it was made with",
        )


def iterations_done(policy_path: str | Path) -> int:
    """How many iterations a policy has behind it; 0 for a base model."""
    counters = Path(policy_path) / "trainer.json"
    return json.loads(counters.read_text())["iteration"] if counters.is_file() else 0
