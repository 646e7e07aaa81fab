"""A model's image processor: what it does to an image before the model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor

from lopsided.errors import LopsidedError
from lopsided.models.registry import ModelSource

# transformers' name of the file that holds its settings.
PROCESSOR_FILE = "preprocessor_config.json"


def load_image_processor(name: str, source: ModelSource) -> Any:
    """Load the model's image processor, which resizes and normalizes images, in its Pillow version.

    Pillow is used even where torchvision is installed: the two resize differently, and a run's images must be the same
    on every machine.

    Args:
        name: the model as the user named it, for errors.
        source: where it is.

    Raises:
        LopsidedError: if there is none.
    """
    folder = Path(source.path)
    if folder.is_dir() and not (folder / PROCESSOR_FILE).is_file():
        raise LopsidedError(
            f"model '{name}' has no image processor; expected {PROCESSOR_FILE} next to the weights; save it there with "
            "AutoImageProcessor.from_pretrained(NAME).save_pretrained(FOLDER), from the model that this one was made "
            "from"
        )
    return AutoImageProcessor.from_pretrained(source.path, backend="pil", **source.arguments)
