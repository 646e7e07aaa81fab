"""Sentences and pairs of sentences: GLUE, PAWS, TREC."""

from __future__ import annotations

from lopsided.tasks.prompt_form import Form, pair, sentence
from lopsided.tasks.splits import Cut
from lopsided.tasks.task_entry import CONVERTED, Hub, KnownTask, PartSources
from lopsided.tasks.text_entry import TextEntry

ENTAILMENT = ("entailment", "not_entailment")
COARSE = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
_KINDS = {
    "ABBR": "abb exp",
    "DESC": "def desc manner reason",
    "ENTY": "animal body color cremat currency dismed event food instru lang letter other plant product religion "
    "sport substance symbol techmeth termeq veh word",
    "HUM": "desc gr ind title",
    "LOC": "city country mount other state",
    "NUM": "code count date dist money ord other perc period speed temp volsize weight",
}
FINE = tuple(f"{coarse}:{kind}" for coarse, kinds in _KINDS.items() for kind in kinds.split())

# The published figures are those of the official validation split: the test split has no labels, and the papers' code
# chooses and scores on the same rows. Here they are the test, and nothing is chosen on them.
ON_VALIDATION = (
    "test is the official validation split, validation is a tenth of train: fewer rows than the papers train on"
)
BY_SEED = "cut once by a fixed seed, where the papers' code cuts by the seed of each run"
SCORED = Form(kind="regression", columns={"text": "{sentence1}", "text_pair": "{sentence2}", "label": "label"})
VALIDATION_CUT = (Cut(share=0.1),)


def _glue(configuration: str, *, test: str = "validation", **more: str) -> Hub:
    return Hub(name="nyu-mll/glue", configuration=configuration, splits={"train": "train", "test": test, **more})


SENTENCES: dict[str, KnownTask] = {
    "mrpc": TextEntry(
        about="whether two sentences say the same",
        hub=_glue("mrpc", test="test", validation="validation"),
        form=pair("sentence1", "sentence2"),
        classes=("not_equivalent", "equivalent"),
        metric="accuracy",
        also=("f1",),
        folder="mrpc",
        rows=(3668, 408, 1725),
        sources=PartSources(),
        note="checkpoints by the loss, where the papers' code takes F1",
    ),
    "mrpc:asymmetry": TextEntry(
        about="whether two sentences say the same, scored on the official validation split",
        hub=_glue("mrpc"),
        cuts=VALIDATION_CUT,
        form=pair("sentence1", "sentence2"),
        classes=("not_equivalent", "equivalent"),
        metric="accuracy",
        also=("f1",),
        folder="mrpc",
        rows=(3301, 367, 408),
        sources=PartSources(splits="default"),
        hub_note=ON_VALIDATION,
    ),
    "cola": TextEntry(
        about="whether a sentence is acceptable English",
        hub=Hub(name="nyu-mll/glue", configuration="cola", splits={"train": "train", "validation": "validation"}),
        cuts=(Cut(source="validation", target="test", share=0.5, by_class=True),),
        form=sentence("sentence"),
        classes=("unacceptable", "acceptable"),
        metric="matthews_correlation",
        folder="cola",
        rows=(8551, 522, 521),
        sources=PartSources(),
        hub_note=f"test is half of the official validation split, {BY_SEED}",
    ),
    "cola:asymmetry": TextEntry(
        about="whether a sentence is acceptable English, scored on the official validation split",
        hub=_glue("cola"),
        cuts=VALIDATION_CUT,
        form=sentence("sentence"),
        classes=("unacceptable", "acceptable"),
        metric="matthews_correlation",
        folder="cola",
        rows=(7696, 855, 1043),
        sources=PartSources(splits="default"),
        hub_note=ON_VALIDATION,
    ),
    "stsb": TextEntry(
        about="how alike two sentences are, from 0 to 5",
        hub=_glue("stsb"),
        cuts=VALIDATION_CUT,
        form=SCORED,
        metric="pearson",
        also=("spearman",),
        folder="stsb",
        rows=(5174, 575, 1500),
        sources=PartSources(splits="default"),
        hub_note=ON_VALIDATION,
    ),
    "rte": TextEntry(
        about="whether a sentence follows from another one",
        hub=_glue("rte"),
        cuts=VALIDATION_CUT,
        form=pair("sentence1", "sentence2"),
        classes=ENTAILMENT,
        metric="accuracy",
        folder="rte",
        rows=(2241, 249, 277),
        sources=PartSources(splits="default"),
        hub_note=ON_VALIDATION,
    ),
    "mnli": TextEntry(
        about="whether a sentence follows from another one, contradicts it, or neither",
        hub=_glue("mnli", test="validation_matched", mismatched="validation_mismatched"),
        cuts=VALIDATION_CUT,
        elsewhere=("mismatched",),
        form=pair("premise", "hypothesis"),
        classes=("entailment", "neutral", "contradiction"),
        metric="accuracy",
        folder="mnli",
        rows=(353_432, 39_270, 9815),
        sources=PartSources(splits="default"),
        hub_note=ON_VALIDATION,
    ),
    "sst2": TextEntry(
        about="whether a snippet of a film review is positive",
        hub=_glue("sst2"),
        cuts=VALIDATION_CUT,
        form=sentence("sentence"),
        classes=("negative", "positive"),
        metric="accuracy",
        folder="sst2",
        rows=(60_614, 6735, 872),
        sources=PartSources(splits="default"),
        hub_note=ON_VALIDATION,
    ),
    "qnli": TextEntry(
        about="whether a sentence answers a question",
        hub=_glue("qnli"),
        cuts=VALIDATION_CUT,
        form=pair("question", "sentence"),
        classes=ENTAILMENT,
        metric="accuracy",
        folder="qnli",
        rows=(94_269, 10_474, 5463),
        sources=PartSources(splits="default"),
        hub_note=ON_VALIDATION,
    ),
    "paws": TextEntry(
        about="whether two sentences of the same words say the same",
        hub=Hub(name="google-research-datasets/paws", configuration="labeled_final"),
        form=pair("sentence1", "sentence2"),
        classes=("0", "1"),
        metric="accuracy",
        folder="paws",
        rows=(49_401, 8000, 8000),
        sources=PartSources(),
    ),
    "trec-fine": TextEntry(
        about="what a question asks for, in 50 classes",
        hub=Hub(name="CogComp/trec", revision=CONVERTED, splits={"train": "train", "test": "test"}),
        cuts=VALIDATION_CUT,
        form=sentence("text", label="fine_label"),
        classes=FINE,
        metric="accuracy",
        folder="trec",
        rows=(4907, 545, 500),
        sources=PartSources(),
        hub_note=f"validation is a tenth of train, {BY_SEED}",
    ),
    "trec-coarse": TextEntry(
        about="what a question asks for, in 6 classes",
        hub=Hub(name="CogComp/trec", revision=CONVERTED, splits={"train": "train", "test": "test"}),
        cuts=VALIDATION_CUT,
        form=sentence("text", label="coarse_label"),
        classes=COARSE,
        metric="accuracy",
        folder="trec",
        rows=(4907, 545, 500),
        sources=PartSources(hub="default", splits="default", form="default", metric="default"),
        note="the papers have the fine labels",
    ),
}
