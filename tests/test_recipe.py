"""Recipes: what ships loads, what is wrong is named, and what overrides what."""

import typing

import pytest
import yaml

from command import RECIPES, done, refused
from ptdpo_cli.errors import UsageError
from ptdpo_cli.recipe import Recipe, Section, load_recipe, recipes_folder
from ptdpo_cli.stages.workspace import dump_recipe


def fault(path=None, *overrides) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2 and caught.value.hint
    return str(caught.value)


def write(folder, text: str | bytes):
    path = folder / "mine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load_and_come_back_from_their_dump(path, tmp_path):
    recipe = load_recipe(path)
    assert recipe.run == f"runs/{path.stem}"
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("name", ["tiny", "baselines/tiny-grpo"])
def test_a_shipped_recipe_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load_recipe(recipes_folder() / f"{name}.yaml")
    assert load_recipe(f"recipes/{name}.yaml") == load_recipe(f"{name}.yaml") == shipped
    (tmp_path / "mine").mkdir()
    assert "no recipe at mine/tiny.yaml" in fault("mine/tiny.yaml")      # not the shipped one of that name
    assert "baselines/tiny-grpo.yaml" in fault("tiny-grpo")


def test_every_section_says_what_it_is_and_every_default_is_valid():
    sections = [field.annotation for field in Recipe.model_fields.values()
                if isinstance(field.annotation, type) and issubclass(field.annotation, Section)]
    assert len(sections) >= 9
    for section in (Recipe, *sections):
        assert section.__doc__ and section.__doc__ != Section.__doc__, section
        section.model_validate(section().model_dump())
    # The numbers that the paper gives are quoted beside the defaults that differ from them or repeat them.
    documented = [field.description or "" for section in sections for field in section.model_fields.values()]
    assert sum("Paper" in text for text in documented) >= 8


def test_flags_override_set_which_overrides_the_file(tmp_path, monkeypatch):
    path = write(tmp_path, "seed: 1\ntrain: {iterations: 7, learning_rate: 1e-4}\ndata: {name: of-the-file}\n")
    recipe = load_recipe(path, ["train.iterations=8", "train.iterations=9", "data.count=null"])
    assert (recipe.seed, recipe.train.iterations, recipe.train.learning_rate) == (1, 9, 1e-4)
    assert recipe.train.clip_high == Recipe().train.clip_high
    refused(2, "build-hints", "--recipe", path, says=("called of-the-file",))
    refused(2, "build-hints", "--recipe", path, "--set", "data.name=of-set", says=("called of-set",))
    refused(2, "build-hints", "--recipe", path, "--set", "data.name=of-set", "--data", "flag", says=("called flag",))
    refused(2, "build-hints", "--data", "2024", says=("called 2024",))       # a flag is text, whatever YAML thinks
    refused(2, "build-hints", "--data", "a: b", says=("called a: b",))


@pytest.mark.parametrize(("override", "expected"), [
    ("train.learning_rate=1e-5", 1e-5), ("train.trackers=[]", []), ("data.kinds=[top row]", ["top row"]),
    ("prompt.instruction=", None), ("prompt.instruction=''", ""), ("data.columns={answer: label}", {"answer": "label"}),
    ("data.name=a=b", "a=b"), ("data.name=[", "["), ("train.dual_clip=null", None), ("model.path=a/b:c", "a/b:c"),
])
def test_set_reads_values_as_yaml(override, expected):
    if override == "prompt.instruction=":
        assert "prompt.instruction" in fault(None, override)
        return
    section, key = override.partition("=")[0].split(".")
    assert getattr(getattr(load_recipe(None, [override]), section), key) == expected


@pytest.mark.parametrize(("override", "words"), [
    ("train.learnin_rate=1", "the nearest key of section train is learning_rate"),
    ("trian.learning_rate=1", "the nearest key of the top level is train"),
    ("learning_rate=1", "did you mean train.learning_rate?"),
    ("rollout.top_k=1", "the nearest key of section rollout is top_p"),
    ("rollout.distill_weight=1", "did you mean train.distill_weight?"),
    ("data.xyzzy=1", "section data has name, split"),
    ("xyzzy=1", "the top level has seed, run, model"),
    ("train=5", "train is a section"),
    ("train.iterations.more=5", "unknown key train.iterations.more"),
    ("train.iterations=abc", "found 'abc'"), ("train.iterations=0", "greater than or equal to 1 (found 0)"),
    ("train.iterations=2.5", "found 2.5"),
    ("train.learning_rate=.inf", "finite"), ("train.learning_rate=.nan", "finite"),
    ("rollout.top_p=2", "less than or equal to 1"), ("rollout.rollouts_per_problem=1", "greater than or equal to 2"),
    ("train.schedule=cosin", "'constant', 'linear' or 'cosine'"), ("train.trackers=[mlflow]", "train.trackers.0"),
    ("teacher.context=Hint", "'hint', 'none'"), ("train.adam_betas=[0.9]", "train.adam_betas"),
    ("noequals", "--set takes section.key=value"), ("=1", "--set takes section.key=value"),
])
def test_a_wrong_override_is_named(override, words):
    if override == "train.iterations.more=5":      # the section is made by the override itself: no such section
        assert "train.iterations" in fault(None, override)
        return
    assert words in fault(None, override)


def test_a_value_is_no_section_when_the_file_says_so(tmp_path):
    path = write(tmp_path, "train: {iterations: 7}\n")
    assert "iterations is not a section" in fault(path, "train.iterations.more=5")


def test_several_faults_come_in_one_message(tmp_path):
    path = write(tmp_path, "seeed: 1\ntrain: {iterations: many, lambda: 1}\nrollout: {top_p: 2}\n")
    text = fault(path)
    assert all(words in text for words in ("unknown key seeed", "train.iterations", "train.lambda", "rollout.top_p"))


@pytest.mark.parametrize(("text", "words"), [
    ("- a\n- b\n", "found     list"), ("", "an empty file"), ("just words", "found     str"),
    (b"\xff\xfe\x00bad", "is not UTF-8 text"), ("train: {iterations: 7", "is not valid YAML"),
    ("a: b: c\n", "is not valid YAML"), ("train: [1]\n", "train is a section"), ("train: 5\n", "train is a section"),
    ("1: 2\n", "1: "), ("train: {1: 2}\n", "train.1"), ("!!python/object:os.system {}\n", "is not valid YAML"),
])
def test_a_file_that_is_no_recipe(tmp_path, text, words):
    path = write(tmp_path, text)
    assert words in fault(path)
    refused(2, "train", "--recipe", path, "--run", tmp_path / "run", says=(words,))
    refused(2, "train", "--recipe", path, "--run", tmp_path / "run", "--dry-run")
    assert not (tmp_path / "run").exists()


def test_a_section_with_every_key_commented_out_is_all_defaults(tmp_path):
    assert load_recipe(write(tmp_path, "train:\n#  iterations: 3\n")).train == Recipe().train


def test_the_hint_of_a_faulty_recipe_is_a_command_that_works(tmp_path):
    hint = refused(2, "train", "--set", "xyzzy=1").rpartition("hint: ")[2]
    command = hint.partition("`")[2].partition("`")[0]
    shown = done(*command.split()[1:], "--run", tmp_path / "run", "--set", "data.count=8")       # 8: to be quick
    recipe = Recipe.model_validate(yaml.safe_load(shown.out.partition("\nok  ")[0]))
    assert recipe == load_recipe(None, ["data.count=8"])
    assert not (tmp_path / "run").exists()


def test_types_are_strict_where_yaml_guesses():
    for override in ("data.name=2024", "data.split=yes", "model.path=1.5"):
        assert "valid string" in fault(None, override)
    assert typing.get_type_hints(Recipe)["seed"] is int


def test_another_data_set_brings_its_own_split():
    """tiny.yaml says train and test, which are digit-grid's."""

    def splits(*overrides):
        recipe = load_recipe(RECIPES / "tiny.yaml", overrides)
        return recipe.data.split, recipe.eval.split

    assert splits() == splits("data.name=digit-grid", "eval.data=digit-grid") == ("train", "test")
    assert splits("eval.data=mathvista") == ("train", None)
    assert splits("data.name=virl39k") == (None, None)
    assert splits("data.name=virl39k", "eval.data=digit-grid") == (None, "test")
    assert splits("data.name=virl39k", "data.split=a", "eval.split=b") == ("a", "b")
