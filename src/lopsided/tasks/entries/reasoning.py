"""Questions with options, kinship and entailment, as prompts of which a causal model gives the class."""

from __future__ import annotations

from lopsided.tasks.prompt_form import chosen, prompted
from lopsided.tasks.reading import Row
from lopsided.tasks.splits import Cut
from lopsided.tasks.task_entry import CONVERTED, Hub, KnownTask, PartSources
from lopsided.tasks.text_entry import TextEntry

LETTERS = ("A", "B", "C", "D")
KIN = (
    *("aunt", "son-in-law", "grandfather", "brother", "sister", "father", "mother", "grandmother", "uncle"),
    *("daughter-in-law", "grandson", "granddaughter", "father-in-law", "mother-in-law", "nephew", "son", "daughter"),
    *("niece", "husband", "wife", "sister-in-law"),
)


def _openbookqa(row: Row) -> Row:
    key = row["choices"]["label"].index(row["answerKey"])
    return {"question": row["question_stem"], "options": row["choices"]["text"], "label": key}


def _logiqa(row: Row) -> Row:
    return {"context": row["text"], **{name: row[name] for name in ("question", "options")}, "label": row["answer"]}


def _folio(row: Row) -> Row:
    # One premise per line there, a list in local form.
    return {**row, "premises": [line.strip() for line in row["premises"].splitlines() if line.strip()]}


_OPENBOOKQA = Hub(name="allenai/openbookqa", configuration="main", read=_openbookqa)
_LOGIQA = Hub(
    name="datatune/LogiQA2.0",
    files={"train": "MRC/train.txt", "validation": "MRC/dev.txt", "test": "MRC/test.txt"},
    read=_logiqa,
)
_CLUTRR = Hub(
    name="CLUTRR/v1",
    revision=CONVERTED,
    files={split: f"gen_train234_test2to10/{split}/0000.parquet" for split in ("train", "validation", "test")},
    builder="parquet",
)
_FOLIO = Hub(
    name="tasksource/folio",
    files={"train": "folio_v2_train.jsonl", "validation": "folio_v2_validation.jsonl"},
    splits={"train": "train", "validation": "validation"},
    read=_folio,
)
# The released code asks for a class; the likelihood of options is ours.
LIKELIHOOD = PartSources(splits="code", form="default", metric="code")

REASONING: dict[str, KnownTask] = {
    "openbookqa": TextEntry(
        about="which of four options answers a question of science",
        hub=_OPENBOOKQA,
        form=prompted("Question: {question}\nOptions:\n{options:choices}\nAnswer:"),
        classes=LETTERS,
        metric="accuracy",
        folder="openbookqa",
        rows=(4957, 500, 500),
        sources=PartSources(),
    ),
    "logiqa": TextEntry(
        about="which of four options follows from a text (LogiQA 2.0)",
        hub=_LOGIQA,
        form=prompted("Context: {context}\nQuestion: {question}\nOptions:\n{options:choices}\nAnswer:"),
        classes=LETTERS,
        metric="accuracy",
        folder="logiqa2",
        rows=(12_567, 1569, 1572),
        sources=PartSources(),
    ),
    "clutrr": TextEntry(
        about="how two people of a story are related, in 21 classes",
        hub=_CLUTRR,
        form=prompted("Story: {story}\nQuery: {query}\nAnswer:", label="target"),
        classes=KIN,
        metric="accuracy",
        folder="clutrr",
        rows=(9074, 2020, 1146),
        sources=PartSources(),
        note="the stories of test are longer than those of train",
    ),
    "folio": TextEntry(
        about="whether a statement follows from premises",
        hub=_FOLIO,
        cuts=(Cut(source="validation", target="test", share=0.5),),
        form=prompted("Premises:\n{premises:lines}\n\nStatement:\n{conclusion}\n\nLabel (True/False/Uncertain):"),
        classes=("False", "True", "Uncertain"),
        metric="accuracy",
        folder="folio",
        rows=(1001, 102, 101),
        sources=PartSources(),
        hub_note="test is half of the official validation split, cut once by a fixed seed",
    ),
    "openbookqa:likelihood": TextEntry(
        about="which of four answers to a question of science is the most likely",
        hub=_OPENBOOKQA,
        form=chosen("Question: {question}\nAnswer:"),
        metric="accuracy",
        folder="openbookqa",
        rows=(4957, 500, 500),
        sources=LIKELIHOOD,
        note="by the likelihood of each option, where the papers have a class over a prompt",
    ),
    "logiqa:likelihood": TextEntry(
        about="which of four answers to a question about a text is the most likely (LogiQA 2.0)",
        hub=_LOGIQA,
        form=chosen("Context: {context}\nQuestion: {question}\nAnswer:"),
        metric="accuracy",
        folder="logiqa2",
        rows=(12_567, 1569, 1572),
        sources=LIKELIHOOD,
        note="by the likelihood of each option, where the papers have a class over a prompt",
    ),
}
