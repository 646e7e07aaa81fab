"""The note in a saved adapter's model card for readers who have PEFT and do not know Lopsided."""

from __future__ import annotations

from pathlib import Path

from lopsided.files.atomic import write_text

CARD = "README.md"
# PEFT's template, which a user may have filled in.
HEADING = "## How to Get Started with the Model"
EMPTY = "Use the code below to get started with the model.\n\n[More Information Needed]"
NOTE = """\
This adapter's type is `LOPSIDED`. PEFT learns of it from `import lopsided`; without that line, loading the adapter
ends with `KeyError: 'LOPSIDED'`.

```shell
pip install lopsided
```

```python
import lopsided  # before the adapter is loaded
from peft import PeftModel

base = ...  # the model that the adapter was trained on, as transformers loads it
model = PeftModel.from_pretrained(base, "this folder")
```

Tools that read LoRA alone take what `lopsided export FOLDER` or `lopsided.to_lora(model, path)` writes."""


def add_note(folder: Path) -> None:
    """Add to the model card of a saved adapter how it is loaded; a card that says so already is not changed.

    PEFT writes the card of a named adapter into the folder above it. Without a card nothing is written.
    """
    # A card is the only place for it: neither PEFT 0.21 nor transformers 5.23 has an entry point or a list of plugins
    # that would import lopsided for an unknown type; PEFT looks the type up in a table and raises KeyError.
    path = folder / CARD
    if not path.is_file():
        path = folder.parent / CARD
        if not path.is_file() or "library_name: peft" not in path.read_text(encoding="utf-8"):
            return
    text = path.read_text(encoding="utf-8")
    if "import lopsided" in text:
        return
    if f"{HEADING}\n\n{EMPTY}" in text:
        text = text.replace(EMPTY, NOTE, 1)
    else:
        text = f"{text.rstrip()}\n\n{HEADING}\n\n{NOTE}\n"
    write_text(path, text)
