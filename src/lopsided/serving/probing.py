"""Whether an exported adapter takes effect: stock PEFT on its base, or a server, asked a probe's prompts."""

from __future__ import annotations

from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.models.adapter_base import peft_config, put_adapter
from lopsided.serving.adapter_source import AdapterSource
from lopsided.serving.completions import connect, is_loopback
from lopsided.serving.local_answers import ASKED, answer_kind, answers_of
from lopsided.serving.probe_file import PROBE, Probe, read_probe
from lopsided.serving.verdict import LOCAL_SLACK, SERVER_SLACK, ProbeVerdict, judge

# How often each prompt is asked: what differs from one answer to the next is the server's noise.
REPEATS = 2


def probe_folder(folder: Path, base: str | None = None) -> ProbeVerdict:
    """Run an exported adapter's probe on stock PEFT, with the base in float32.

    Args:
        folder: an export's, with a probe.
        base: the base's name; None takes the one that the probe was made on.

    Raises:
        LopsidedError: if there is no probe, or the adapter or its base cannot be loaded.
    """
    probe = read_probe(folder / PROBE)
    # A name that stands in a file is looked for on this machine alone.
    source = AdapterSource(folder, base or probe.base, base is not None)
    if not source.is_stock:
        raise LopsidedError(f"{folder} holds an adapter of type {source.kind}, expected an export; export it first")
    source.check_fields()
    model = source.load()
    _check_model(probe, answer_kind(model), model.get_input_embeddings().num_embeddings)
    adapted = put_adapter(model, folder, peft_config(folder), str(source.base)).eval()
    return judge(probe, answers_of(adapted, probe), slack=LOCAL_SLACK, rounding=0.0)


def _check_model(probe: Probe, kind: str | None, vocabulary: int) -> None:
    if kind != probe.kind:
        raise LopsidedError(
            f"the probe is for a model of kind {probe.kind!r}, got a base of kind {kind!r}; name its base with --base"
        )
    highest = max(max(prompt.ids) for prompt in probe.prompts)
    if highest >= vocabulary:
        raise LopsidedError(
            f"the probe has token id {highest}, the base has a vocabulary of {vocabulary}; name the base that the "
            "probe was made on with --base"
        )


def probe_server(url: str, folder: Path, *, model: str | None = None, remote: bool = False) -> ProbeVerdict:
    """Run an exported adapter's probe against an OpenAI-compatible server, each prompt twice.

    Args:
        url: the server's root, as http://127.0.0.1:8000.
        folder: the export's, with a probe.
        model: the name that it serves the adapter under; None where it serves one model.
        remote: whether the server may be on another machine, which the prompts are then sent to.

    Raises:
        LopsidedError: if there is no probe of a causal model, if the server is on another machine and that is not
            allowed, or if it does not answer with log-probabilities.
    """
    probe = read_probe(folder / PROBE)
    if probe.kind != "causal":
        raise LopsidedError(
            f"{folder / PROBE} holds a classifier's logits, which /v1/completions does not give; expected a probe of a "
            "causal model; ask stock PEFT: lopsided probe FOLDER"
        )
    if not remote and not is_loopback(url):
        raise LopsidedError(
            f"{url:.120} is on another machine, to which the probe's prompts would go; expected localhost or "
            "127.0.0.1; allow it with --remote"
        )
    server = connect(url, model)
    answers = [[server.likeliest(prompt.ids, ASKED) for _ in range(REPEATS)] for prompt in probe.prompts]
    return judge(probe, answers, slack=SERVER_SLACK, rounding=probe.rounding)
