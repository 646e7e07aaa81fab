"""The model card of an exported adapter: what it is, what was lost, and how its server is started with it."""

from __future__ import annotations

from collections.abc import Mapping

from lopsided.serving.lora_folder import RankChange
from lopsided.serving.servers import SERVERS

# By server: what to run, with the adapter's folder as FOLDER and its base as BASE.
SNIPPETS: Mapping[str, str] = {
    "peft": """\
```python
from peft import PeftModel

base = ...  # {base}, loaded as for training, with as many labels
model = PeftModel.from_pretrained(base, "FOLDER")
```""",
    "vllm": """\
```shell
vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules adapter=FOLDER
```

Requests name `adapter` as their model; those that name the base are answered without it.""",
    "sglang": """\
```shell
python -m sglang.launch_server --model-path {base} --enable-lora --max-lora-rank {rank} \\
    --lora-paths adapter=FOLDER
```

Requests to `/v1/completions` name `{base}:adapter` as their model; those that name the base are answered without
it.""",
    "gguf": """\
```shell
python convert_lora_to_gguf.py FOLDER --base BASE_FOLDER --outfile adapter.gguf   # of llama.cpp
llama-server -m base.gguf --lora adapter.gguf
```

`BASE_FOLDER` holds the configuration and the tokenizer of {base}, as transformers saves them; `base.gguf` is the same
model, converted.""",
}
PROBED = """\
## Does it take effect?

`probe.json` holds {prompts} prompts with the outputs of the base and of this adapter. Where lopsided is installed:

```shell
lopsided probe FOLDER                                     # stock PEFT on the base
lopsided probe http://127.0.0.1:8000 --of FOLDER          # a server
```"""


def card(
    server: str, *, what: str, base: str | None, change: RankChange, task_type: str | None, prompts: int | None
) -> str:
    """Return the card's text.

    Args:
        server: a key of `SERVERS`.
        what: the adapter that was exported, in a few words.
        base: the base's name; None where nobody says.
        change: the ranks, and what truncation has lost.
        task_type: as in PEFT.
        prompts: of the probe; None without one.
    """
    name = base or "the base model"
    lost = "exactly what the adapter adds" if change.total == 0 else f"what the adapter adds, with {_errors(change)}"
    head = ["---", *([f"base_model: {base}"] if base and _is_hub_name(base) else []), "library_name: peft"]
    tags = ["tags:", "- lora", "- lopsided", "---"]
    parts = [
        "\n".join([*head, *tags]),
        f"# A LoRA adapter for {SERVERS[server].title}",
        f"Of rank {change.rank}, on {name}{f' ({task_type})' if task_type else ''}: {lost}. It was {what}, of rank "
        f"{change.was}, exported by `lopsided export --for {server}`; `export.json` has the error of each layer.",
        "## How to Get Started with the Model",
        "`FOLDER` is the folder of this card.",
        SNIPPETS[server].format(base=name if base else "BASE", rank=change.rank),
    ]
    if prompts is not None:
        parts.append(PROBED.format(prompts=prompts))
    return "\n\n".join(parts) + "\n"


def _errors(change: RankChange) -> str:
    worst = max(change.layers, key=lambda name: change.layers[name])
    return (
        f"a relative error of {change.total:.3g} in Frobenius' norm (at most {change.layers[worst]:.3g} in a layer, "
        f"{worst})"
    )


def _is_hub_name(base: str) -> bool:
    """Return whether a base's name may be a hub's, which alone the card's metadata takes."""
    owner, slash, name = base.partition("/")
    return bool(slash and owner and name) and "/" not in name and not owner.startswith((".", "~"))
