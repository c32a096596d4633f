"""Models small enough for a laptop: 1.2 million parameters, built from nothing, with a tokenizer of their own.

They are the real architectures, so whatever runs on them runs on the published sizes by changing a path: Qwen3-VL
(vision tower with deepstack, interleaved M-RoPE), Qwen2.5-VL (window attention in the vision tower, M-RoPE in sections)
and LLaVA (one fixed picture size, plain positions), the last for what the two Qwen families have in common by chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

Family = Literal["qwen3_vl", "qwen2_5_vl", "llava"]

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_TOKENS = ("<think>", "</think>")    # whole tokens that stay in the decoded text
PATCH, MERGE = 8, 2                       # a picture of 48×48 pixels becomes 3×3 image tokens
FIXED = 24                                # llava: every picture is scaled to this side, 3×3 image tokens again

# Qwen's rule, with words joined by hyphens kept whole: words and single digits with their space, runs of other signs.
PRETOKEN = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+(?:-\p{L}+)*| ?\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def build_tiny(
    seed: int,
    texts: Iterable[str],
    *,
    family: Family = "qwen3_vl",
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    intermediate_size: int = 384,
    vision_size: int = 64,
    vision_layers: int = 2,
    vocabulary: int = 480,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A model with random weights and its processor; the tokenizer's merges are learned from `texts`.

    `vocabulary` bounds the number of tokens (256 bytes, the special ones, and merges), so any text can be encoded.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    tokenizer = train_tokenizer(texts, vocabulary)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": hidden_size, "intermediate_size": intermediate_size,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
        "max_position_embeddings": 2048, "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "bos_token_id": None,
    }
    vision = {"hidden_size": vision_size, "intermediate_size": 4 * vision_size, "patch_size": PATCH}
    make_config = {"qwen3_vl": _qwen3_vl, "qwen2_5_vl": _qwen2_5_vl, "llava": _llava}[family]
    config = make_config(text, vision, ids, head_dim=hidden_size // heads, vision_layers=vision_layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    if family == "qwen3_vl":
        for merger in model.model.visual.deepstack_merger_list:    # start without the second path; it grows if it helps
            torch.nn.init.zeros_(merger.linear_fc2.weight)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model.eval(), _processor(family, tokenizer)


def _qwen3_vl(text: dict, vision: dict, ids: dict, *, head_dim: int, vision_layers: int) -> PreTrainedConfig:
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config=text | {"head_dim": head_dim, "rope_parameters": _mrope(head_dim) | {"mrope_interleaved": True}},
        vision_config=_qwen_vision(text, vision, vision_layers) | {
            "num_position_embeddings": 36, "deepstack_visual_indexes": [0],
        },
        **_qwen_tokens(ids), tie_word_embeddings=True,
    )


def _qwen2_5_vl(text: dict, vision: dict, ids: dict, *, head_dim: int, vision_layers: int) -> PreTrainedConfig:
    """Windows of 2×2 image tokens in every vision layer but the last, so that a picture of 3×3 has ragged ones."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": _mrope(head_dim)},
        vision_config=_qwen_vision(text, vision, vision_layers) | {
            "window_size": 2 * MERGE * PATCH, "fullatt_block_indexes": [vision_layers - 1],
        },
        **_qwen_tokens(ids), tie_word_embeddings=True,
    )


def _llava(text: dict, vision: dict, ids: dict, *, head_dim: int, vision_layers: int) -> PreTrainedConfig:
    from transformers import CLIPVisionConfig, LlavaConfig, Qwen2Config

    return LlavaConfig(
        text_config=Qwen2Config(**text, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
        vision_config=CLIPVisionConfig(
            **vision, num_hidden_layers=vision_layers, num_attention_heads=4, image_size=FIXED, projection_dim=32,
        ),
        vision_feature_layer=-1, image_token_id=ids["<|image_pad|>"], image_seq_length=(FIXED // PATCH) ** 2,
        tie_word_embeddings=True,
    )


def _mrope(head_dim: int) -> dict:
    height = width = head_dim // 6
    return {
        "rope_type": "default", "rope_theta": 500000.0,
        "mrope_section": [head_dim // 2 - height - width, height, width],
    }


def _qwen_vision(text: dict, vision: dict, layers: int) -> dict:
    return vision | {
        "depth": layers, "num_heads": 4, "spatial_merge_size": MERGE, "temporal_patch_size": 2,
        "out_hidden_size": text["hidden_size"],
    }


def _qwen_tokens(ids: dict) -> dict:
    return {
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocabulary` tokens; digits stay single, `<think>` whole, not special."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKEN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS) - len(PLAIN_TOKENS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))
    bpe.add_special_tokens(list(SPECIAL_TOKENS))
    bpe.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="left",
        model_max_length=2048, clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>",
        },
    )


def _processor(family: Family, tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    if family == "llava":
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.models.llava.processing_llava import LlavaProcessor

        side = {"height": FIXED, "width": FIXED}
        images = CLIPImageProcessorPil(
            size={"shortest_edge": FIXED}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        )
        return LlavaProcessor(
            images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
            num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,    # CLIP's class token, made and then dropped
        )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from ptdpo_cli.models.processor import image_only

    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        size={"shortest_edge": (2 * PATCH * MERGE) ** 2, "longest_edge": 192 * 192},    # pixels per picture
    )
    name = "Qwen3VLProcessor" if family == "qwen3_vl" else "Qwen2_5_VLProcessor"
    return image_only(name)(images, tokenizer, chat_template=CHAT_TEMPLATE)
