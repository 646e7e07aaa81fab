"""Texts that are written: descriptions of data, code, summaries, answers to instructions."""

from __future__ import annotations

from lopsided.tasks.prompt_form import completed
from lopsided.tasks.reading import Row
from lopsided.tasks.task_entry import CONVERTED, Hub, KnownTask, PartSources
from lopsided.tasks.text_entry import TextEntry

ROUGE = ("rouge1", "rouge2", "rougeL")
UNKNOWN = PartSources(hub="paper", splits="unknown", form="unknown", metric="paper")


def _django(row: Row) -> Row:
    return {"annotation": row["nl"], "code": row["code"]}


def _mmlu(row: Row) -> Row:
    return {"question": row["question"], "options": row["choices"], "label": "ABCD".index(row["answer"])}


_MMLU = Hub(
    name="cais/mmlu",
    configuration="all",
    splits={"validation": "validation", "test": "test"},
    read=_mmlu,
)

# Only trained on: what is scored is another data set.
_ALPACA = TextEntry(
    about="an answer to an instruction",
    hub=Hub(name="tatsu-lab/alpaca", splits={"train": "train"}),
    form=completed("{instruction}{input:below}", "{output}"),
    metric="perplexity",
    folder="alpaca",
    sources=UNKNOWN,
)

COMPLETIONS: dict[str, KnownTask] = {
    "e2e": TextEntry(
        about="a restaurant described from its data",
        hub=Hub(name="tuetschek/e2e_nlg", revision=CONVERTED),
        form=completed("MR: {meaning_representation:slots}\nTEXT:", "{human_reference}"),
        metric="perplexity",
        also=("token_accuracy", "bleu"),
        folder="e2e",
        rows=(42_061, 4672, 4693),
        sources=PartSources(),
        note="a row per reference; the text begins on a line of its own",
    ),
    "django": TextEntry(
        about="a line of Python from its description",
        hub=Hub(name="AhmedSSoliman/DJANGO", read=_django),
        form=completed('"""Task: {annotation}"""\n# Solution', "{code}"),
        metric="token_accuracy",
        also=("perplexity", "greedy_match"),
        folder="django",
        rows=(16_000, 1000, 1805),
        sources=PartSources(),
        note="the code ends with the end token, which the papers' code leaves out",
    ),
    "xsum": TextEntry(
        about="a news article in one sentence",
        hub=Hub(name="EdinburghNLP/xsum", revision=CONVERTED),
        form=completed("{document}", "{summary}"),
        metric="perplexity",
        also=ROUGE,
        folder="xsum",
        rows=(204_045, 11_332, 11_334),
        sources=UNKNOWN,
    ),
    "cnn-dailymail": TextEntry(
        about="the highlights of a news article",
        hub=Hub(name="abisee/cnn_dailymail", configuration="3.0.0"),
        form=completed("{article}", "{highlights}"),
        metric="perplexity",
        also=ROUGE,
        folder="cnn_dailymail",
        rows=(287_113, 13_368, 11_490),
        sources=UNKNOWN,
    ),
    "alpaca-mmlu": TextEntry(
        about="answers to instructions (Alpaca), scored by questions with four options (MMLU)",
        hub=_MMLU,
        trained_on=_ALPACA,
        form=completed("{question}\n{options:choices}\nAnswer:", "{label:letter}"),
        metric="top1_token",
        also=("option_accuracy",),
        folder="mmlu",
        rows=(52_002, 1531, 14_042),
        sources=PartSources(hub="paper", splits="unknown", form="unknown", metric="code"),
        note="train and test are different data sets, so the gap between them is not one of generalization",
    ),
}
