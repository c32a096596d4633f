"""Source `attention`: weights equal to eager's, a content-free question that costs no forward, maps that lie where the
pixels are, words for them, and problems that cannot be read."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from command import TINY, done, jsonl, png, ptdpo
from families import FAMILIES, QWEN, contexts, folder, noise, prompts_of
from ptdpo_cli.artifacts.hints import read_hints, read_maps
from ptdpo_cli.artifacts.schemas import Problem, Region, Salient
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.errors import ArtifactError, PtdpoError, UsageError
from ptdpo_cli.hints.attention import draft_from_maps, name_region, place, salient_regions
from ptdpo_cli.hints.leakage import find_leak
from ptdpo_cli.models import attention
from ptdpo_cli.models.attention import (
    attention_gradient,
    evidence,
    image_attention,
    look,
    pack,
    read_with,
    require_readable,
    watching,
)
from ptdpo_cli.models.inputs import Context, build_prompts
from ptdpo_cli.models.load import Policy, load_policy
from ptdpo_cli.recipe import AttentionHints
from ptdpo_cli.stages import build_hints
from ptdpo_cli.stages.attention_hints import attention_source

SOLUTIONS = ["three of them", "the second one is, by far", "I see red and red", "two"]


@functools.cache
def frozen(family: str) -> Policy:
    policy = load_policy(folder(family))
    policy.model.requires_grad_(False)
    return policy


@functools.cache
def grouped(family: str) -> Policy:
    """The same family with two query heads for each key head, which the tiny models do not have."""
    policy = load_policy(folder(family))
    config = copy.deepcopy(policy.model.config)
    config.text_config.num_key_value_heads = 2
    torch.manual_seed(0)
    model = type(policy.model)(config).eval().requires_grad_(False)
    # Random weights hardly attend to anything; larger ones do.
    for name, parameter in model.named_parameters():
        if "q_proj.weight" in name or "k_proj.weight" in name:
            parameter.mul_(8)
    return replace(policy, model=model)


def readings_of(policy: Policy, some=None, **settings):
    some = some or contexts()[1:]
    settings = {"question": True, "response_counts": True, "instruction": ""} | settings
    return [
        read_with(policy, prompt, solution, **settings)
        for prompt, solution in zip(prompts_of(policy, some), SOLUTIONS, strict=False)
    ]


def packed(policy: Policy, readings):
    return pack(readings, pad_id=policy.tokenizer.pad_token_id, device="cpu")


def read_layers(policy: Policy, batch) -> list[torch.Tensor]:
    layers = []
    with torch.no_grad(), watching(
        policy.model, batch, lambda layer: layers.append(image_attention(policy.model, batch, layer, slice(None)))
    ):
        policy.model.model(**batch.inputs, use_cache=False)
    return layers


def eager_attention(policy: Policy, prompt, rest: np.ndarray, **settings) -> tuple:
    """attention_1HLL of each layer, and the output, of one sequence alone in a model that computes all of it."""
    model = copy.deepcopy(policy.model)
    model.set_attn_implementation("eager")
    features = policy.processor(text=[prompt.text], images=list(prompt.images), return_tensors="pt")
    ids = torch.from_numpy(rest).long()[None]
    features["input_ids"] = torch.cat([features["input_ids"], ids], 1)
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    types = features["mm_token_type_ids"]
    features["mm_token_type_ids"] = torch.cat([types, types.new_zeros(ids.shape)], 1)
    output = model(**features, output_attentions=True, use_cache=False, **settings)
    return output.attentions, output


@pytest.mark.parametrize("make", [frozen, grouped])
@pytest.mark.parametrize("family", QWEN)
def test_weights_are_those_of_eager_attention(family, make):
    """Several pictures, padding, grouped heads; each sequence alone in eager, all together in ours."""
    policy = make(family)
    readings = readings_of(policy)
    batch = packed(policy, readings)
    layers = read_layers(policy, batch)
    assert len({len(reading) for reading in readings}) == 3 and len(readings[1].prompt.images) == 3
    for b, reading in enumerate(readings):
        whole, _ = eager_attention(policy, reading.prompt, reading.response_ids_T)
        columns = reading.prompt.type_ids_L.eq(1)
        columns = torch.cat([columns, columns.new_zeros(len(reading.response_ids_T))])
        assert len(layers) == len(whole)
        for ours_BHRC, theirs_1HLL in zip(layers, whole, strict=True):
            ours = ours_BHRC[b, :, : len(reading.rows_R), : int(columns.sum())]
            theirs = theirs_1HLL[0][:, reading.rows_R][:, :, columns]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
            assert theirs.std() > 1e-4 and not ours_BHRC[b, :, :, int(columns.sum()) :].any()


@pytest.mark.parametrize("family", QWEN)
def test_the_content_free_question_reads_as_if_it_stood_alone(family):
    """Packed behind prompt and response it has the attention of a prompt of its own, which eager reads."""
    policy = grouped(family)
    readings = readings_of(policy)
    layers = read_layers(policy, packed(policy, readings))
    for b, reading in enumerate(readings):
        context = replace(contexts()[1 + b], question=attention.CONTENT_FREE)
        [alone] = prompts_of(policy, [context])
        whole, _ = eager_attention(policy, alone, np.zeros(0, np.int64))
        columns = alone.type_ids_L.eq(1)
        start, n_text = len(alone) - len(reading.free_ids_F), layers[0].shape[2] - len(reading.free_ids_F)
        assert alone.token_ids_L[start:].tolist() == reading.free_ids_F.tolist()
        for ours_BHRC, theirs_1HLL in zip(layers, whole, strict=True):
            theirs = theirs_1HLL[0, :, start:][:, :, columns]
            torch.testing.assert_close(ours_BHRC[b, :, n_text:, : int(columns.sum())], theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", QWEN)
def test_gradients_are_those_of_autograd_through_eager_attention(family):
    policy = grouped(family)
    readings = readings_of(policy)
    batch = packed(policy, readings)
    layers, gradients = attention._with_gradients(policy, batch, readings)
    for b, reading in enumerate(readings):
        copied = replace(policy, model=copy.deepcopy(policy.model))
        copied.model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_())
        with torch.enable_grad():
            whole, output = eager_attention(copied, reading.prompt, reading.response_ids_T)
            start, ids = len(reading.prompt), torch.from_numpy(reading.response_ids_T)
            logits = output.logits[0, start - 1 : -1].index_fill(1, torch.tensor(policy.media_ids), -torch.inf)
            logprob = logits.log_softmax(1).gather(1, ids[:, None]).sum()
            expected = torch.autograd.grad(logprob, whole)
        columns = reading.prompt.type_ids_L.eq(1).nonzero()[:, 0]
        for layer, gradient, theirs in zip(layers, gradients, expected, strict=True):
            ours = attention_gradient(batch, layer, gradient, slice(b, b + 1))[0]
            theirs = theirs[0][:, reading.rows_R][:, :, columns]
            torch.testing.assert_close(ours[:, : len(reading.rows_R), : len(columns)], theirs, rtol=1e-3, atol=1e-6)
            assert theirs.abs().max() > 1e-4


def hooks_of(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("gradient", [False, True])
def test_hooks_go_whatever_happens(gradient, monkeypatch):
    policy = frozen("qwen3_vl")
    readings = readings_of(policy)
    before = hooks_of(policy.model)
    look(policy, readings, gradient=gradient)
    assert hooks_of(policy.model) == before
    monkeypatch.setattr(attention, "image_attention", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look(policy, readings, gradient=gradient)
    monkeypatch.undo()
    monkeypatch.setattr(type(policy.model.model.language_model.norm), "forward", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look(policy, readings, gradient=gradient)
    assert hooks_of(policy.model) == before
    assert all(p.grad is None for p in policy.model.parameters())


def test_a_model_that_runs_with_eager_does_so_again_and_reads_the_same():
    policy = grouped("qwen3_vl")
    readings = readings_of(policy)
    plain = look(policy, readings)
    eager = replace(policy, model=copy.deepcopy(policy.model))
    eager.model.set_attn_implementation("eager")
    for one, other in zip(plain, look(eager, readings), strict=True):
        for map_HW, other_HW in zip(one, other, strict=True):
            np.testing.assert_allclose(map_HW, other_HW, atol=1e-6)
    assert eager.model.config._attn_implementation == "eager"
    assert eager.model.config.text_config._attn_implementation == "eager"


@pytest.mark.parametrize("gradient", [False, True])
def test_maps_do_not_depend_on_the_batch_or_on_how_much_is_held_at_once(gradient, monkeypatch):
    policy = grouped("qwen2_5_vl")
    readings = readings_of(policy)
    together = look(policy, readings, gradient=gradient)
    monkeypatch.setattr(attention, "_WEIGHTS_AT_ONCE", 1)
    monkeypatch.setattr(attention, "_LOGITS_PER_CHUNK", 1)
    for reading, maps, again in zip(readings, together, look(policy, readings, gradient=gradient), strict=True):
        [alone] = look(policy, [reading], gradient=gradient)
        for map_HW, alone_HW, again_HW in zip(maps, alone, again, strict=True):
            np.testing.assert_allclose(map_HW, alone_HW, atol=2e-6)
            np.testing.assert_allclose(map_HW, again_HW, atol=2e-6)


def test_maps_have_the_shapes_of_the_pictures_and_sum_to_one_over_a_problem():
    policy = grouped("qwen3_vl")
    for reading, maps in zip(readings_of(policy), look(policy, readings_of(policy)), strict=True):
        # 16 pixels are one image token; the processor rounds a picture's sides to whole ones.
        shapes = [(round(image.height / 16), round(image.width / 16)) for image in reading.prompt.images]
        fits = [max(image.size) <= 192 for image in reading.prompt.images]
        assert all(map_HW.shape == shape for map_HW, shape, fit in zip(maps, shapes, fits, strict=True) if fit)
        assert all(map_HW.dtype == np.float32 and (map_HW >= 0).all() for map_HW in maps)
        assert sum(map_HW.sum(dtype=np.float64) for map_HW in maps) == pytest.approx(1, abs=1e-6)
        assert max(map_HW.max() for map_HW in maps) > 1.2 / sum(map_HW.size for map_HW in maps)


def test_with_no_text_to_read_there_is_an_error_and_without_difference_no_evidence():
    policy = grouped("qwen3_vl")
    [prompt] = prompts_of(policy, [contexts()[1]])
    with pytest.raises(UsageError, match="no text"):
        read_with(policy, prompt, "", question=False, response_counts=True, instruction="")
    attention_BHRC = torch.full((1, 2, 3, 4), 0.1)
    assert not evidence(attention_BHRC, torch.ones(1, 2, dtype=bool), torch.ones(1, 1)).any()


def test_evidence_by_hand():
    """Two heads, two rows, three image tokens. What gets most of any text's attention is not what is looked at."""
    text = torch.tensor([[[0.5, 0.1, 0.0], [0.5, 0.0, 0.1]], [[0.0, 0.4, 0.02], [0.0, 0.4, 0.02]]])      # HRC
    free = torch.tensor([[[0.5, 0.05, 0.05]], [[0.0, 0.4, 0.03]]])
    weights = torch.ones(1, 1)
    found_RC = evidence(torch.cat([text, free], 1)[None], torch.ones(1, 2, dtype=bool), weights)[0]
    shares = text / text.sum(-1, keepdim=True)
    expected_RC = torch.zeros(2, 3, dtype=torch.float64)
    for h in range(2):
        anyway = 0.5 * free[h, 0] / free[h, 0].sum() + 0.5 * text[h].sum(0) / text[h].sum()
        for r in range(2):
            gain = sum(p * math.log(p / q) for p, q in zip(shares[h, r].tolist(), anyway.tolist(), strict=True) if p)
            expected_RC[r] += text[h, r].sum() * gain * (text[h, r] - text[h, r].sum() * anyway).clamp_min(0)
    torch.testing.assert_close(found_RC.double(), expected_RC, rtol=1e-4, atol=1e-8)
    assert found_RC.argmax(-1).tolist() == [1, 2] and found_RC[:, 0].max() < 1e-3
    # A row that does not count is in nobody's background.
    alone = evidence(torch.cat([text, free], 1)[None], torch.tensor([[True, False]]), weights)[0]
    only = evidence(torch.cat([text[:, :1], free], 1)[None], torch.ones(1, 1, dtype=bool), weights)[0]
    torch.testing.assert_close(alone[:1], only)
    assert not alone[1].any()


def test_rows_of_the_question_are_where_the_prompts_differ():
    policy = frozen("qwen3_vl")
    instruction = "Count, then say."
    [prompt] = build_prompts(policy, [contexts()[1]], instruction=instruction, max_tokens=2000, max_pixels=10**7)
    reading = read_with(policy, prompt, "", question=True, response_counts=False, instruction=instruction)
    words = policy.tokenizer.decode(prompt.token_ids_L[reading.rows_R])
    assert words.strip() == "How many red shapes?"
    both = read_with(policy, prompt, "two", question=True, response_counts=True, instruction=instruction)
    n = len(both.response_ids_T)
    assert both.rows_R[-n:].tolist() == list(range(len(prompt) - 1, len(prompt) - 1 + n))


def test_long_texts_are_read_at_evenly_spread_rows():
    policy = frozen("qwen3_vl")
    [prompt] = prompts_of(policy, [contexts()[1]])
    reading = read_with(policy, prompt, "three " * 200, question=False, response_counts=True, instruction="")
    assert len(reading.rows_R) == attention.MAX_ROWS and len(set(reading.rows_R)) == attention.MAX_ROWS
    assert reading.rows_R[0] == len(prompt) - 1
    assert reading.rows_R[-1] == len(prompt) + len(reading.response_ids_T) - 2


# --- where the pixels are ---------------------------------------------------------------------------------------------


def place_of_the_odd_patch(policy: Policy, size: tuple[int, int], cell: tuple[int, int]) -> tuple[int, int]:
    """The image token whose features change most when one patch of pixels does, read through the map's own order."""
    import io

    from PIL import Image

    features = []
    for changed in (False, True):
        pixels = np.array(Image.open(io.BytesIO(noise(size, 0))))
        if changed:
            row, column = cell
            pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] ^= 255
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        [prompt] = prompts_of(policy, [Context("one", "Where?", (data.getvalue(),))])
        with torch.no_grad():
            output = policy.model.model.get_image_features(prompt.pixel_values, prompt.image_grid_thw)
        features.append(torch.cat(list(output.pooler_output)))
    change_C = (features[1] - features[0]).norm(dim=1).numpy()
    [map_HW] = attention._on_grids(change_C, prompt.image_grid_thw.numpy() // [1, 2, 2])
    return tuple(int(i) for i in np.unravel_index(map_HW.argmax(), map_HW.shape))


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize(("size", "cell"), [((48, 48), (0, 2)), ((160, 64), (3, 7)), ((64, 160), (7, 1))])
def test_the_map_lies_where_the_pixels_are(family, size, cell):
    assert place_of_the_odd_patch(frozen(family), size, cell) == cell


@functools.cache
def digit_maps(read: tuple[str, ...]) -> tuple[list[Problem], list[np.ndarray]]:
    policy = load_policy("tiny-base")
    policy.model.requires_grad_(False)
    problems = digit_grid.load("validation", count=120, kinds=list(digit_grid.KINDS))
    prompts = build_prompts(
        policy, [Context(p.problem_id, p.question, p.images) for p in problems],
        instruction="", max_tokens=256, max_pixels=10**6,
    )
    readings = [
        read_with(policy, prompt, problem.solution, question="question" in read, response_counts="solution" in read,
                  instruction="")
        for prompt, problem in zip(prompts, problems, strict=True)
    ]
    return problems, [map_HW for maps in look(policy, readings) for map_HW in maps]


def evidence_ratio(problems, maps) -> float:
    """Mean attention of needed cells over that of the others."""
    needed, others = [], []
    for problem, map_HW in zip(problems, maps, strict=True):
        cells = [digit_grid.CELLS.index(region.label) for region in problem.regions]
        needed.append(map_HW.ravel()[cells].mean())
        others.append(np.delete(map_HW.ravel(), cells).mean())
    return float(np.mean(needed) / np.mean(others))


def test_needed_cells_of_digit_grid_hold_twice_the_attention_of_the_others():
    """Measured 19 on 512 test problems (docs/hints/attention.md); of kinds that the base was not taught too."""
    problems, maps = digit_maps(("solution",))
    assert evidence_ratio(problems, maps) >= 10
    untaught = [i for i, problem in enumerate(problems) if not digit_grid.KINDS[problem.category].taught]
    assert evidence_ratio([problems[i] for i in untaught], [maps[i] for i in untaught]) >= 10
    settings = AttentionHints().model_dump(include={"max_regions", "threshold"})
    named = [draft_from_maps(problem, [map_HW], **settings) for problem, map_HW in zip(problems, maps, strict=True)]
    hits = [
        len({region.label for region in draft.regions} & {region.label for region in problem.regions})
        for draft, problem in zip(named, problems, strict=True)
    ]
    assert sum(hits) / sum(len(draft.regions) for draft in named) >= 0.95
    assert sum(hits) / sum(len(problem.regions) for problem in problems) >= 0.95


def test_regions_are_named_in_reading_order_whatever_their_salience():
    """Three cells in the order of their salience; and of two pictures the first one's first."""
    map_HW = np.array([[0.1, 0.02, 0.2], [0.02, 0.02, 0.02], [0.02, 0.4, 0.02]], np.float32)
    draft = draft_from_maps(Problem("p", "q", [b""], "1"), [map_HW], max_regions=3, threshold=0.2)
    assert [one.label for one in draft.regions] == ["bottom", "top-right", "top-left"]
    assert draft.spatial == "Look only at top-left, top-right, bottom."
    both = draft_from_maps(Problem("p", "q", [b"", b""], "1"), [map_HW / 4, map_HW], max_regions=4, threshold=0.2)
    assert both.spatial.index("first picture") < both.spatial.index("second picture")


def test_words_that_go_by_while_a_place_is_looked_at_hardly_count():
    """A place counts by the row that looks at it most: the same row five times more only tells of the background."""
    policy = load_policy("tiny-base")
    [problem] = digit_grid.load("validation", count=1)
    context = Context(problem.problem_id, problem.question, problem.images)
    [prompt] = build_prompts(policy, [context], instruction="", max_tokens=256, max_pixels=10**6)
    reading = read_with(policy, prompt, problem.solution, question=False, response_counts=True, instruction="")
    repeated = replace(reading, rows_R=np.concatenate([reading.rows_R, reading.rows_R[[3] * 5]]))
    [[once]], [[often]] = look(policy, [reading]), look(policy, [repeated])
    np.testing.assert_allclose(once, often, atol=0.02)


# --- regions and words ------------------------------------------------------------------------------------------------


def spots(shape: tuple[int, int], *boxes: tuple[int, int, int, int], heights=(1.0,)) -> np.ndarray:
    """A map with rectangles (row, column, rows, columns) of these heights on a low ground."""
    map_HW = np.full(shape, 0.01, np.float32)
    for (row, column, rows, columns), height in zip(boxes, heights * len(boxes), strict=False):
        map_HW[row : row + rows, column : column + columns] = height
    return map_HW / map_HW.sum()


def test_cells_of_a_small_grid_are_named_one_by_one_the_most_salient_first():
    map_HW = np.array([[0.30, 0.25, 0.01], [0.01, 0.2, 0.01], [0.02, 0.05, 0.15]], np.float32)
    draft = draft_from_maps(Problem("p", "q", [b""], "1"), [map_HW], max_regions=4, threshold=0.5)
    assert [region.label for region in draft.regions] == ["top-left", "top", "center", "bottom-right"]
    assert [round(region.score, 2) for region in draft.regions] == [1, 0.83, 0.67, 0.5]
    assert draft.spatial == "Look only at top-left, top, center, bottom-right." and not draft.fault
    assert draft.regions[1].box == pytest.approx((1 / 3, 0, 2 / 3, 1 / 3))
    assert len(salient_regions([map_HW], 2, 0.5)) == 2 and len(salient_regions([map_HW], 9, 0.9)) == 1


def test_neighbours_of_a_fine_grid_are_one_region_and_a_diagonal_is_not_its_box():
    one, two = salient_regions([spots((20, 30), (2, 3, 4, 5), (12, 20, 6, 6), heights=(1.0, 0.8))], 4, 0.5)
    assert one.box == pytest.approx((3 / 30, 2 / 20, 8 / 30, 6 / 20), abs=0.06) and one.score == 1
    assert two.box == pytest.approx((20 / 30, 12 / 20, 26 / 30, 18 / 20), abs=0.06)
    diagonal = sum(spots((6, 6), (i, i, 1, 1)) for i in range(6)) + spots((6, 6), (0, 1, 1, 1))
    for region in salient_regions([diagonal], 9, 0.3):
        assert (region.box[2] - region.box[0]) * (region.box[3] - region.box[1]) <= 4 / 36 + 1e-9


def test_a_lone_spike_on_a_fine_grid_does_not_hide_the_rest():
    map_HW = spots((24, 24), (3, 3, 5, 5), (20, 20, 1, 1), heights=(1.0, 5.0))
    assert salient_regions([map_HW], 4, 0.5)[0].box[2] < 0.4


@pytest.mark.parametrize("maps", [
    [np.full((3, 3), 1 / 9, np.float32)], [np.ones((1, 1), np.float32)], [np.zeros((4, 5), np.float32)],
    [np.full((3, 3), np.nan, np.float32)], [np.full((20, 20), 1 / 500), np.full((10, 10), 1 / 500)],
])
def test_flat_maps_have_no_regions_and_say_so(maps):
    draft = draft_from_maps(Problem("p", "q", [b""], "1"), maps, max_regions=4, threshold=0.5)
    assert draft.regions == () and draft.spatial == "" and "no part" in draft.fault


def test_words_for_boxes():
    thirds = [place((c / 3, r / 3, (c + 1) / 3, (r + 1) / 3)) for r in range(3) for c in range(3)]
    assert tuple(thirds) == digit_grid.CELLS
    assert place((0.25, 0.65, 0.35, 0.75)) == "bottom-left around (0.30, 0.70)"
    assert place((0, 0, 0.5, 1)) == "the left half" and place((0, 0.5, 1, 1)) == "the bottom half"
    assert place((0.4, 0, 0.6, 0.9)) == "the middle column" and place((0, 0, 0.9, 0.2)) == "the top row"
    assert place((0, 0, 0.9, 0.9)) == "most of the picture"


def test_a_data_sets_label_is_used_where_it_lies():
    known = (Region("the red bar", (0.0, 0.0, 0.5, 0.5)),)
    on_it, beside = Salient(0, "", (0.05, 0.0, 0.5, 0.5)), Salient(0, "", (0.6, 0.6, 0.95, 0.95))
    assert name_region(on_it, n_images=1, known=known) == "the red bar"
    assert name_region(beside, n_images=1, known=known) == "bottom-right"
    assert name_region(replace(on_it, image=1), n_images=2, known=known) == "top-left of the second picture"
    assert name_region(on_it, n_images=2, known=known) == "the red bar of the first picture"


def test_words_do_not_look_like_answers():
    """Whatever small whole number is the answer, the words that name places pass the audit."""
    maps = [spots((20, 20), (2, 2, 2, 2), (10, 3, 2, 3)), spots((20, 20), (12, 12, 3, 3))]
    text = draft_from_maps(Problem("p", "q", [b"", b""], "2"), maps, max_regions=4, threshold=0.5).spatial
    assert "of the second picture" in text and "around (0." in text
    for answer in [*map(str, range(100)), "B", "yes"]:
        assert find_leak(text, answer) is None, answer


# --- problems that cannot be read, and the command line ---------------------------------------------------------------


def problem(problem_id: str, *images: bytes, question: str = "How many?", solution: str | None = "two") -> Problem:
    return Problem(problem_id, question, list(images), "2", solution=solution)


def test_a_problem_that_cannot_be_read_has_a_fault_and_the_others_go_on(small_recipe):
    recipe = small_recipe("prompt.max_prompt_tokens=120", "hints.attention.tokens_per_batch=100")
    good = noise((48, 48), 0)
    problems = [
        problem("good", good), problem("blind"), problem("broken", b"no picture"), problem("narrow", png(2, 900)),
        problem("long", good, question="How many? " * 100), problem("media", good, question="<|image_pad|>"),
        problem("leaky", good, solution="<|image_pad|>"), problem("beyond", good, solution="three " * 3000),
        problem("other", noise((64, 48), 1)), problem("bare", good, solution=None),
    ]
    policy = replace(frozen("qwen3_vl"))
    drafts = dict(zip([p.problem_id for p in problems], attention_source(recipe, policy)(problems), strict=True))
    says = {"blind": "no picture", "broken": "image", "narrow": "aspect ratio", "long": "too long",
            "media": "media token", "leaky": "media token", "beyond": "positions"}
    for problem_id, draft in drafts.items():
        if problem_id in says:
            assert says[problem_id] in draft.fault and not draft.spatial and not draft.maps, problem_id
        else:
            assert draft.maps and draft.maps[0].sum() == pytest.approx(1, abs=1e-5), problem_id


def test_a_damaged_artifact_is_no_fault_of_a_problem(small_recipe):
    class Lost:
        def __len__(self):
            return 1

        def __iter__(self):
            raise ArtifactError("the picture is gone")

    with pytest.raises(ArtifactError):
        attention_source(small_recipe(), frozen("qwen3_vl"))([replace(problem("p"), images=Lost())])


def test_damaged_weights_stop_the_stage():
    policy = replace(frozen("qwen3_vl"), model=copy.deepcopy(frozen("qwen3_vl").model))
    policy.model.model.language_model.layers[0].self_attn.q_proj.weight.data.fill_(torch.nan)
    with pytest.raises(PtdpoError, match="NaN"):
        look(policy, readings_of(policy))


def test_a_model_without_picture_grids_is_refused():
    assert set(FAMILIES) - set(QWEN) == {"llava"}
    with pytest.raises(UsageError, match="llava") as error:
        require_readable(load_policy(folder("llava")))
    assert "picture grids" in error.value.found


def test_from_the_command_line_in_one_piece_and_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(build_hints, "_COSTLY_SHARD_ROWS", 8)
    settings = (*TINY, "--set", "data.count=20", "--source", "attention+steps")
    whole = Artifact.open(done("build-hints", *settings, "--run", tmp_path / "whole").path, kind="hints")
    hints, maps = read_hints(whole), read_maps(whole)
    assert len(hints) == 20 == whole.manifest.counts["hints"] and len(maps) == 20
    assert all(hint.text.startswith("Look only at ") and hint.regions and hint.steps for hint in hints.values())
    assert all(len(of) == 1 and of[0].shape == (3, 3) for of in maps.values())
    for shard in (0, 1):
        done("build-hints", *settings, "--run", tmp_path / "parts", "--shard", f"{shard}/2")
    done("merge", tmp_path / "parts" / "hints")
    [merged] = (tmp_path / "parts" / "hints").glob("v1-????????")
    assert {p.name: p.read_bytes() for p in merged.iterdir() if p.suffix in (".parquet", ".safetensors")} == {
        p.name: p.read_bytes() for p in whole.path.iterdir() if p.suffix in (".parquet", ".safetensors")
    }


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(build_hints, "_COSTLY_SHARD_ROWS", 8)
    settings = (*TINY, "--set", "data.count=20", "--source", "attention")
    whole = done("build-hints", *settings, "--run", tmp_path / "whole").path
    read = attention_source

    def dies_in_the_second_shard(recipe, reference):
        source, calls = read(recipe, reference), iter(range(9))
        return lambda problems: source(problems) if next(calls) < 1 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr("ptdpo_cli.stages.attention_hints.attention_source", dies_in_the_second_shard)
        assert ptdpo("build-hints", *settings, "--run", tmp_path / "run").code == 1
    again = done("build-hints", *settings, "--run", tmp_path / "run").path
    for file in whole.iterdir():
        assert file.name == "manifest.json" or file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_a_users_own_data_with_several_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(noise((100, 60), 0))
    (tmp_path / "b.png").write_bytes(noise((64, 90), 1))
    data = jsonl(
        tmp_path / "own.jsonl",
        {"problem": "Which is brighter?", "images": ["a.png", "b.png"], "answer": "white",
         "solution": "Compare both."},
        {"problem": "What is two and two?", "images": [], "answer": "4", "solution": "Add them."},
    )
    made = done("build-hints", "--recipe", TINY[1], "--data", data, "--source", "attention", "--run", tmp_path / "run")
    artifact = Artifact.open(made.path, kind="hints")
    rows = artifact.table("hints").to_pylist()
    assert [row["fault"] for row in rows][1] == "attention: the problem has no picture to look at"
    [maps] = read_maps(artifact).values()
    assert [map_HW.shape for map_HW in maps] == [(4, 6), (6, 4)]
    assert {region["image"] for region in rows[0]["regions"]} <= {0, 1}
