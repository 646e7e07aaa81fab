"""One row of each known task, as the hub has it and as the local form has it, and the example that both make."""

from __future__ import annotations

from typing import Any

from datasets import ClassLabel, Value

from lopsided.tasks.entries.reasoning import LETTERS
from lopsided.tasks.entries.sentences import COARSE, ENTAILMENT

TEXT = Value("string")
TWO = {"sentence1": "Bad publicity.", "sentence2": "Good publicity."}
OPTIONS = ["solar", "cold", "hotness", "freezing"]
LETTERED = "A) solar\nB) cold\nC) hotness\nD) freezing"


def _classes(*names: str) -> ClassLabel:
    return ClassLabel(names=list(names))


def _labelled(label: Any, **row: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The features and the row of a data set of texts with a class."""
    return {**dict.fromkeys(row, TEXT), "label": label, "idx": Value("int32")}, row


def _glue(*names: str, value: Any, local: Any = None, **row: str) -> dict[str, Any]:
    features, texts = _labelled(_classes(*names) if names else Value("float32"), **row)
    local_row = {**texts, "label": value if local is None else local}
    columns = dict(zip(("text", "text_pair"), texts.values()))
    return {
        "features": features,
        "hub": {**texts, "label": value, "idx": 0},
        "local": local_row,
        "example": {**columns, "label": value},
    }


MRPC = _glue("not_equivalent", "equivalent", value=1, **TWO)
COLA = _glue("unacceptable", "acceptable", value=0, sentence="Him left.")
TREC = {
    # The hub has its classes in another order.
    "features": {
        "text": TEXT,
        "coarse_label": _classes(*reversed(COARSE)),
        "fine_label": _classes("HUM:ind", "ENTY:termeq"),
    },
    "hub": {"text": "What s a male witch called ?", "coarse_label": 3, "fine_label": 1},
    "local": {"text": "What s a male witch called ?", "coarse_label": "ENTY", "fine_label": "ENTY:termeq"},
}
MMLU = {
    "features": {"question": TEXT, "subject": TEXT, "choices": [TEXT], "answer": _classes(*LETTERS)},
    "hub": {"question": "Which is warm?", "subject": "physics", "choices": OPTIONS, "answer": 2},
    "local": {"question": "Which is warm?", "options": OPTIONS, "label": 2},
    "example": {"prompt": f"Which is warm?\n{LETTERED}\nAnswer:", "completion": "C"},
}
ALPACA = {
    "features": {"instruction": TEXT, "input": TEXT, "output": TEXT, "text": TEXT},
    "hub": {"instruction": "Name the colour.", "input": "Sky", "output": "Blue", "text": "Below is ..."},
    "local": {"instruction": "Name the colour.", "input": "Sky", "output": "Blue"},
    "example": {"prompt": "Name the colour.\nSky", "completion": "Blue"},
}


def _document(document: str, summary: str) -> dict[str, Any]:
    row = {document: "A long day in the city.", summary: "A day."}
    return {
        "features": {document: TEXT, summary: TEXT, "id": TEXT},
        "hub": {**row, "id": "7"},
        "local": row,
        "example": {"prompt": "A long day in the city.", "completion": "A day."},
    }


ROWS: dict[str, dict[str, Any]] = {
    "mrpc": MRPC,
    "mrpc:asymmetry": MRPC,
    "cola": COLA,
    "cola:asymmetry": COLA,
    "stsb": _glue(value=3.5, **TWO),
    "rte": _glue(*ENTAILMENT, value=1, local="not_entailment", **TWO),
    "mnli": _glue("entailment", "neutral", "contradiction", value=2, premise="It rains.", hypothesis="It is dry."),
    "sst2": _glue("negative", "positive", value=1, sentence="a gem"),
    "qnli": _glue(*ENTAILMENT, value=0, question="Who won?", sentence="Ada won."),
    "paws": _glue("0", "1", value=1, **TWO),
    "trec-fine": TREC | {"example": {"text": "What s a male witch called ?", "label": 25}},
    "trec-coarse": TREC | {"example": {"text": "What s a male witch called ?", "label": 2}},
    "openbookqa": {
        "features": {
            "id": TEXT,
            "question_stem": TEXT,
            "choices": {"text": [TEXT], "label": [TEXT]},
            "answerKey": TEXT,
        },
        "hub": {
            "id": "7-980",
            "question_stem": "What is added to food that is cooked?",
            "choices": {"text": OPTIONS, "label": list("ABCD")},
            "answerKey": "C",
        },
        "local": {"question": "What is added to food that is cooked?", "options": OPTIONS, "label": 2},
        "example": {
            "text": "Question: What is added to food that is cooked?\nOptions:\n"
            "A) solar\nB) cold\nC) hotness\nD) freezing\nAnswer:",
            "label": 2,
        },
    },
    "logiqa": {
        "features": {
            "id": Value("int64"),
            "answer": Value("int64"),
            "text": TEXT,
            "question": TEXT,
            "options": [TEXT],
        },
        "hub": {"id": 1, "answer": 0, "text": "All A are B.", "question": "So?", "options": OPTIONS},
        "local": {"context": "All A are B.", "question": "So?", "options": OPTIONS, "label": 0},
        "example": {
            "text": "Context: All A are B.\nQuestion: So?\nOptions:\n"
            "A) solar\nB) cold\nC) hotness\nD) freezing\nAnswer:",
            "label": 0,
        },
    },
    "clutrr": {
        "features": {"id": TEXT, "story": TEXT, "query": TEXT, "target": Value("int32"), "target_text": TEXT},
        "hub": {"id": "a", "story": "[Al] met [Bo].", "query": "('Al', 'Bo')", "target": 3, "target_text": "brother"},
        "local": {"story": "[Al] met [Bo].", "query": "('Al', 'Bo')", "target": 3, "task_name": "task_1.3"},
        "example": {"text": "Story: [Al] met [Bo].\nQuery: ('Al', 'Bo')\nAnswer:", "label": 3},
    },
    "folio": {
        "features": {"story_id": Value("int64"), "premises": TEXT, "conclusion": TEXT, "label": TEXT},
        "hub": {"story_id": 1, "premises": "No A is B.\nC is A.", "conclusion": "C is no B.", "label": "True"},
        "local": {"premises": ["No A is B.", "C is A."], "conclusion": "C is no B.", "label": "True"},
        "example": {
            "text": "Premises:\nNo A is B.\nC is A.\n\nStatement:\nC is no B.\n\nLabel (True/False/Uncertain):",
            "label": 1,
        },
    },
    "e2e": {
        "features": {"meaning_representation": TEXT, "human_reference": TEXT},
        "hub": {
            "meaning_representation": "name[Blue Spice], eatType[coffee shop], area[city centre]",
            "human_reference": "Blue Spice is a coffee shop in the centre.",
        },
        "local": {
            "meaning_representation": "name[Blue Spice], eatType[coffee shop], area[city centre]",
            "human_reference": "Blue Spice is a coffee shop in the centre.",
        },
        "example": {
            "prompt": "MR: area = city centre ; eattype = coffee shop ; name = Blue Spice\nTEXT:",
            "completion": "Blue Spice is a coffee shop in the centre.",
        },
    },
    "django": {
        "features": {"nl": TEXT, "code": TEXT},
        "hub": {"nl": "timeout is integer 300.", "code": "timeout = 300"},
        "local": {"annotation": "timeout is integer 300.", "code": "timeout = 300"},
        "example": {"prompt": '"""Task: timeout is integer 300."""\n# Solution', "completion": "timeout = 300"},
    },
    "xsum": _document("document", "summary"),
    "cnn-dailymail": _document("article", "highlights"),
    "alpaca-mmlu": MMLU,
}

# The same rows, of which the options are compared.
for _name, _prompt in {
    "openbookqa": "Question: What is added to food that is cooked?\nAnswer:",
    "logiqa": "Context: All A are B.\nQuestion: So?\nAnswer:",
}.items():
    _row = ROWS[_name]
    _example = {"prompt": _prompt, "options": OPTIONS, "label": _row["local"]["label"]}
    ROWS[f"{_name}:likelihood"] = _row | {"example": _example}
