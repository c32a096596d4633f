"""Load a vision-language model with its processor, and say by hashes exactly which one it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ptdpo_cli.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    import torch

TINY_BASE = Path(__file__).resolve().parents[1] / "checkpoints" / "tiny-base"
_MEDIA_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
ADAPTER_CONFIG = "adapter_config.json"  # peft's
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Policy:
    """A model ready to sample, score or train, with the hashes that artifacts record of it."""

    model: torch.nn.Module
    processor: object
    path: str
    hashes: dict[str, str]  # weights, tokenizer, chat_template, processor
    adapter: object | None = None  # peft's view of the model, where LoRA layers are in it (`models/lora.py`)
    base_weights: str = ""  # sha256 of the weights that were loaded; with an adapter, of those below it

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @cached_property
    def media_ids(self) -> list[int]:
        """Token ids that stand for pictures: never sampled, and no part of any distribution we compare."""
        return media_token_ids(self.processor)

    @cached_property
    def eos_ids(self) -> list[int]:
        ids = self.model.generation_config.eos_token_id
        ids = [ids] if isinstance(ids, int) else list(ids or [])
        return ids or [self.tokenizer.eos_token_id]


def load_policy(
    path: str | Path, *, dtype="float32", attention="sdpa", device="auto", trust_remote_code=False
) -> Policy:
    """Model, processor and hashes from a folder in Hugging Face layout, a hub id, or `tiny-base`; no adapter.

    Errors: UsageError when there is no such model, or none that this package can work with (`models/support.py`);
    ArtifactError when its files cannot be read.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    from ptdpo_cli.models.processor import load_processor
    from ptdpo_cli.models.support import no_processor, require_attention, require_processor, require_supported

    folder = resolve(path)
    require_attention(attention)
    if Path(folder).is_dir() and not any((Path(folder) / file).is_file() for file in _PROCESSOR_FILES):
        raise no_processor(str(path), f"none of {', '.join(_PROCESSOR_FILES)}")
    try:
        processor = load_processor(folder)
        require_processor(processor, str(path))
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(path, folder, error) from error
    except SafetensorError as error:
        raise ArtifactError(
            f"the weights of {path} are damaged: {error}", hint=f"check with `ptdpo verify {path}`"
        ) from error
    model = model.to(pick_device(device)).eval()
    hashes = {"weights": weights_hash(model), **processor_hashes(processor)}
    policy = Policy(model, processor, str(path), hashes, base_weights=hashes["weights"])
    require_supported(policy)
    return policy


def resolve(path: str | Path) -> str:
    """The folder or hub id behind a name."""
    if str(path) == "tiny-base":
        return str(TINY_BASE)
    folder = Path(path)
    if is_adapter(folder):
        raise UsageError(
            f"{path} is an adapter, and a full model is needed here",
            hint=f"give its base, or merge it first: `ptdpo merge-adapter {path}`",
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UsageError(
            f"{path} is not a model",
            expected="a folder with config.json and model.safetensors (Hugging Face layout)",
            found=f"{len(list(folder.iterdir()))} other entries",
            hint="a trained policy is RUN/policy/v1-…; list them with `ptdpo status RUN`",
        )
    return str(path)


def is_adapter(path: str | Path) -> bool:
    return (Path(path) / ADAPTER_CONFIG).is_file()


def pick_device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def media_token_ids(processor) -> list[int]:
    vocabulary = processor.tokenizer.get_vocab()
    named = {vocabulary[token] for token in _MEDIA_TOKENS if token in vocabulary}
    own = {getattr(processor, f"{kind}_token_id", None) for kind in ("image", "video")} - {None}
    return sorted(named | own)


def weights_hash(model) -> str:
    """sha256 over name, dtype, shape and bytes of every parameter and buffer that is saved, in name order.

    Tied weights count once, so that a model in memory and the same model read back have one hash.
    """
    seen, once = set(), {}
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        once[name] = tensor
    return digest("", once)


def digest(words: str, tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over some words, then over name, dtype, shape and bytes of tensors in name order."""
    import torch

    found = hashlib.sha256(words.encode())
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().contiguous().cpu()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def processor_hashes(processor) -> dict[str, str]:
    """Hashes of what turns text and pictures into model inputs: tokenizer, chat template, image processor."""
    image_settings = {
        key: value
        for key, value in processor.image_processor.to_dict().items()
        # The class name differs with and without torchvision for one and the same saved processor.
        if key not in ("image_processor_type", "processor_class")
    }
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    for of_the_last_call in ("padding", "truncation"):
        tokenizer.pop(of_the_last_call, None)
    return {
        "tokenizer": _sha256(json.dumps(tokenizer, sort_keys=True)),
        "chat_template": _sha256(processor.chat_template or processor.tokenizer.chat_template or ""),
        "processor": _sha256(json.dumps(image_settings, sort_keys=True, default=str)),
    }


def require_same_interface(policy: Policy, hashes: dict[str, str], *, what: str) -> None:
    """Refuse to combine a policy with data made with another tokenizer, chat template or image processor."""
    for part in ("tokenizer", "chat_template", "processor"):
        if part in hashes and hashes[part] != policy.hashes[part]:
            raise ArtifactError(
                f"{what} was made with another {part.replace('_', ' ')} than the policy's",
                expected=f"{part} sha256 {policy.hashes[part][:8]}",
                found=f"{part} sha256 {hashes[part][:8]}",
                hint="make it again with this policy: run the stage with `--policy` of this policy and `--force`",
            )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cannot_load(path, folder: str, error: Exception):
    local = Path(folder).is_dir()
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = ArtifactError if local else UsageError
    return kind(
        f"cannot load a vision-language model from {path}: {first_line}",
        hint="give a folder in Hugging Face layout, a hub id that is in the local cache or reachable, or `tiny-base`",
    )
