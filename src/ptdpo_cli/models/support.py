"""Which models the rest of this package can work with, asked of the model itself when it is loaded.

The families in TESTED go through every stage in the tests. Any other model must show, on one small picture and one
line of text, that what training computes of it (each prompt once, right-padded, keys and values shared by its
responses, the head applied to chosen positions) is what one plain call of the model computes.
"""

from __future__ import annotations

import inspect
import io
from typing import TYPE_CHECKING

from ptdpo_cli.errors import UsageError

if TYPE_CHECKING:
    from ptdpo_cli.models.load import Policy

TESTED = ("qwen3_vl", "qwen2_5_vl")
_INPUTS = {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"}
_ROPE_ARGUMENTS = {
    "input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask",
}  # fmt: skip
_SUPPORTED = f"supported and tested: {', '.join(TESTED)}; docs/models.md says what another model must bring"


def require_processor(processor, path: str) -> None:
    """Refuse a folder whose processor is only a tokenizer, or has no chat template.

    Errors: UsageError that names what is missing.
    """
    parts = {"tokenizer": "tokenizer.json", "image_processor": "preprocessor_config.json or processor_config.json"}
    missing = [file for part, file in parts.items() if getattr(processor, part, None) is None]
    if missing:
        raise no_processor(path, f"no {' and no '.join(missing)}")
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise no_processor(path, "no chat template (chat_template.jinja)")


def no_processor(path: str, found: str) -> UsageError:
    return UsageError(
        f"{path} has no processor, so pictures cannot be put into prompts",
        expected="processor_config.json (or preprocessor_config.json), tokenizer and chat template beside the weights",
        found=found,
        hint="copy them from the model it was made from: `AutoProcessor.from_pretrained(BASE).save_pretrained(DIR)`",
    )


def require_supported(policy: Policy) -> None:
    """Refuse a model whose positions, cache, inputs or head are not those that sampling and training work with.

    Errors: UsageError that says which, at load rather than hours later.
    """
    from ptdpo_cli.models.inputs import has_mrope

    model, kind = policy.model, policy.model.config.model_type
    text = model.config.get_text_config()
    if getattr(model.config, "image_token_id", None) is None:
        raise _unsupported(kind, "a token that stands for a picture (image_token_id)", "none in its config")
    if not hasattr(model, "model") or getattr(model, "lm_head", None) is None:
        raise _unsupported(kind, "a body `model` and a head `lm_head`", "others")
    if has_mrope(model):
        unknown = _required(model.model.get_rope_index) - _ROPE_ARGUMENTS
        if unknown:
            raise _unsupported(kind, "get_rope_index of pictures and text", f"it also needs {', '.join(unknown)}")
    elif "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        raise _unsupported(kind, "get_rope_index beside its M-RoPE", "none: plain positions would be silently wrong")
    _require_whole_cache(kind, text)
    if kind not in TESTED:
        _probe(policy)


def vision_name(model) -> str:
    """What the model calls its vision tower.

    Errors: UsageError when it has none under a name that we know.
    """
    for name in ("visual", "vision_tower", "vision_model"):
        if hasattr(model.model, name):
            return name
    raise UsageError(
        f"models of type {model.config.model_type} have no vision tower that can be told apart",
        expected="visual, vision_tower or vision_model in the model's body",
        hint="leave it in training: `--set train.freeze_vision=false --set lora.vision=false`",
    )


def _required(function) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _require_whole_cache(kind: str, text_config) -> None:
    """Every layer must keep all keys: a window that slides over right-padded prompts would count the pads."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    other = {type(layer).__name__ for layer in DynamicCache(config=text_config).layers} - {DynamicLayer.__name__}
    if other:
        raise _unsupported(kind, "full attention in every layer", f"layers with {', '.join(sorted(other))}")


def _probe(policy: Policy) -> None:
    """Compare the shared-prompt forward with one plain call of the model, with a picture and without."""
    import numpy as np
    import torch
    from PIL import Image

    from ptdpo_cli.models.inputs import Context, build_batch, build_prompts
    from ptdpo_cli.models.logprobs import response_hidden, response_logits

    model, kind = policy.model, policy.model.config.model_type
    png = io.BytesIO()
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(png, "PNG")
    contexts = [Context("with a picture", "What is this?", (png.getvalue(),)), Context("without one", "Hello")]
    prompts = build_prompts(policy, contexts, instruction="", max_tokens=10**6, max_pixels=10**6)
    response = np.array(policy.tokenizer("one two three", add_special_tokens=False).input_ids, np.int32)
    with torch.no_grad():
        batch = build_batch(model, prompts, [response] * 2, pad_id=policy.tokenizer.pad_token_id)
        ours_NV = response_logits(model, response_hidden(model, batch), media_ids=[], temperature=1.0)
        plain_NV = torch.cat([plain_logits(policy, prompt, response) for prompt in prompts])
    # Two roads through bfloat16 differ by its rounding; a wrong position, pad or scale by much more.
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    apart = float((ours_NV - plain_NV).abs().max() / plain_NV.abs().max())
    if not apart < tolerance:
        raise _unsupported(
            kind, "the same logits from shared prompts as from a plain call of the model", f"{apart:.1g} of the largest"
        )


def plain_logits(policy: Policy, prompt, response):
    """The response's logits from one ordinary call: no padding, no cache, positions left to the model."""
    import torch

    model = policy.model
    features = policy.processor(text=[prompt.text], images=list(prompt.images) or None, return_tensors="pt")
    unknown = set(features) - _INPUTS
    if unknown:
        raise _unsupported(
            model.config.model_type, f"a processor that gives {', '.join(sorted(_INPUTS))}", ", ".join(sorted(unknown))
        )
    rest = torch.from_numpy(response).long()[None]
    features["input_ids"] = torch.cat([features["input_ids"], rest], 1)
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    if "mm_token_type_ids" in features:
        types = features["mm_token_type_ids"]
        features["mm_token_type_ids"] = torch.cat([types, types.new_zeros(rest.shape)], 1)
    logits_LV = model(**features.to(model.device), use_cache=False).logits[0, -rest.shape[1] - 1 : -1]
    return logits_LV.to(torch.promote_types(logits_LV.dtype, torch.float32))


def _unsupported(kind: str, expected: str, found: str) -> UsageError:
    return UsageError(f"models of type {kind} are not supported", expected=expected, found=found, hint=_SUPPORTED)


def require_attention(attention: str) -> None:
    """Refuse an attention implementation that is not installed, naming what to install."""
    from transformers.utils import is_flash_attn_2_available

    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise UsageError(
            "model.attention=flash_attention_2 needs the package flash-attn and an NVIDIA GPU",
            found="flash-attn is not installed, or there is no GPU",
            hint="pip install flash-attn --no-build-isolation, or take torch's own: `--set model.attention=sdpa`",
        )
