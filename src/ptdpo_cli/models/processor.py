"""Load a processor (tokenizer, image processor, chat template), with torchvision or without.

The processors of the Qwen vision-language models insist on a video processor, which needs torchvision. Pictures do not,
so where torchvision is absent the same processor is opened without its video half.
"""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path

from ptdpo_cli.errors import ArtifactError

IMAGE_ONLY = {
    "Qwen2VLProcessor": "transformers.models.qwen2_vl.processing_qwen2_vl",
    "Qwen2_5_VLProcessor": "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "Qwen3VLProcessor": "transformers.models.qwen3_vl.processing_qwen3_vl",
}

# The video half that each class has on the hub.
_VIDEO_PROCESSORS = {
    "Qwen2VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen2_5_VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen3VLProcessor": "Qwen3VLVideoProcessor",
}


def load_processor(path: str | Path, **kwargs):
    """The processor saved under `path` (a folder or a hub id), ready for text and images.

    `kwargs` (`revision`, `min_pixels`, …) go to `from_pretrained`.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        return AutoProcessor.from_pretrained(path, **kwargs)
    name = _processor_class(path)
    if name in IMAGE_ONLY:
        return image_only(name).from_pretrained(path, **kwargs)
    return AutoProcessor.from_pretrained(path, **kwargs)


@functools.cache
def image_only(name: str):
    """The processor class `name` without its video processor; it saves under the stock name."""
    stock = getattr(importlib.import_module(IMAGE_ONLY[name]), name)

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        stock.__init__(self, image_processor, tokenizer, None, chat_template=chat_template, **kwargs)

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name != "video_processor":
            return stock.check_argument_for_proper_class(self, argument_name, argument)

    def save_pretrained(self, save_directory, **kwargs):
        saved = stock.save_pretrained(self, save_directory, **kwargs)
        _add_video_section(Path(save_directory) / "processor_config.json", _VIDEO_PROCESSORS[name])
        return saved

    methods = (__init__, check_argument_for_proper_class, save_pretrained)
    return type(name, (stock,), {method.__name__: method for method in methods})


def _processor_class(path: str | Path) -> str | None:
    """The class that `processor_config.json` or its older forms name."""
    from transformers.utils import cached_file

    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        found = cached_file(path, file, _raise_exceptions_for_missing_entries=False)
        name = json.loads(Path(found).read_text()).get("processor_class") if found else None
        if name:
            return name
    return None


def _add_video_section(file: Path, video_processor: str) -> None:
    """Describe the video half after the image half, so that stock `AutoProcessor` and vLLM open the same folder."""
    try:
        config = json.loads(file.read_text())
        image = config["image_processor"]
    except (FileNotFoundError, KeyError) as error:
        raise ArtifactError("the processor was saved without an image section", found=file) from error
    shared = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "size")
    config["video_processor"] = {
        "video_processor_type": video_processor, **{key: image[key] for key in shared if key in image}
    }
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
