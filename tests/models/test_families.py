"""Every family of models goes with every kind of task that it can learn through all that a model goes through."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from peft import PeftModel
from PIL import Image as Pillow

import lopsided
from lopsided.models.families import FAMILIES, PIXELS
from lopsided.models.load import load_model
from lopsided.models.registry import MODELS
from lopsided.models.skeleton import parameters_of
from lopsided.models.task_classes import CLASSES
from lopsided.runs import Inputs, Prepared, TrainConfig, train
from lopsided.runs.evaluated_rows import sample_rows
from lopsided.runs.inputs import encoded
from lopsided.runs.reload import reload
from lopsided.tasks import Task, get_metric
from lopsided.tasks.kinds import KINDS
from tests.tiny import Interrupt

# One case per kind is in every run of the tests, and all of them in `make test-all`.
OFTEN = [("vit", "classification"), ("llama", "choice")]
CASES = [
    pytest.param(family, kind, marks=() if (family, kind) in OFTEN else pytest.mark.more)
    for family, entry in FAMILIES.items()
    for kind in entry.kinds
]
LABELS = ("dark", "light")


def images(labels: np.ndarray, generator: np.random.RandomState) -> Dataset:
    """Grey images of another size than the model's, dark or light."""
    pixels = [(60 * generator.rand(PIXELS + 4, PIXELS - 4) + 180 * label).astype("uint8") for label in labels]
    rows = {"image": [Pillow.fromarray(each) for each in pixels], "label": labels.tolist()}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("int64")}))


def texts(kind: str, labels: np.ndarray) -> Dataset:
    words = [f"{'b' if label else 'a'}{i % 3}" for i, label in enumerate(labels)]
    columns = {
        "classification": {"text": words, "label": labels.tolist()},
        "regression": {"text": words, "label": (labels - 0.5).tolist()},
        "generation": {"prompt": words, "completion": [LABELS[label] for label in labels]},
        "choice": {
            "prompt": words,
            # Two options or three, of several lengths.
            "options": [[*LABELS, "neither of both"][: 2 + i % 2] for i in range(len(labels))],
            "label": labels.tolist(),
        },
    }
    return Dataset.from_dict(columns[kind])


def task_of(kind: str, modality: str) -> Task:
    generator = np.random.RandomState(0)
    splits = {}
    for split, size in {"train": 32, "validation": 12, "test": 12}.items():
        labels = generator.randint(0, 2, size)
        splits[split] = images(labels, generator) if modality == "image" else texts(kind, labels)
    return Task(
        name="made",
        kind=kind,
        splits=splits,
        labels=LABELS if KINDS[kind].has_classes else (),
        metric=get_metric(KINDS[kind].metric),
    )


def prepared(task: Task) -> Prepared:
    def load(config: TrainConfig) -> Inputs:
        model, processor = load_model(config.model, task, seed=config.seed)
        data = encoded(config, task, processor, seq2seq=bool(model.config.is_encoder_decoder))
        return Inputs(data=data, model=model)

    return Prepared(load=load)


def answers(model: torch.nn.Module, inputs: Inputs) -> dict[str, np.ndarray]:
    """What a model answers to the rows of test, in the order in which a run keeps them."""
    data, kind = inputs.data, KINDS[inputs.data.task.kind]
    rows = sample_rows(data.encoded.splits["test"], None)
    batch = data.answer_collator()([rows[i] for i in range(len(rows))])
    asides = {name: batch.pop(name) for name in kind.asides}
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    return kind.rows(kind.read(logits, {**batch, **asides}, data.is_causal).numpy())


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_family_trains_saves_resumes_exports_and_scores(family, kind, tmp_path, one_thread):
    FAMILIES[family].write_twin(tmp_path / "twin")
    task = task_of(kind, FAMILIES[family].modality)
    preparation = prepared(task)
    options = {"rank": 2, "links": 2, "steps": 6, "batch_size": 8, "evaluations": 2, "lr": 1e-2, "max_length": 48}
    config = TrainConfig(model=str(tmp_path / "twin"), task="made", method="c3la", out=tmp_path / "run", **options)
    run = train(config, prepared=preparation)
    assert (run.task.kind, run.task.modality) == (kind, FAMILIES[family].modality)
    inputs = preparation.load(config)
    assert run.predictions["test"]["loss"].mean() < answers(inputs.model, inputs)["loss"].mean()
    # Cut off between its two evaluations, and gone on with.
    cut = TrainConfig(**{**vars(config), "out": tmp_path / "cut"})
    with pytest.raises(KeyboardInterrupt):
        train(cut, prepared=preparation, callbacks=[Interrupt(5)])
    resumed = train(cut, prepared=preparation, resume=True)
    for name, values in run.predictions["test"].items():
        np.testing.assert_array_equal(values, resumed.predictions["test"][name])
    # Loaded again, and as a LoRA adapter of stock PEFT on the base.
    model = reload(run.folder)
    lopsided.to_lora(model, tmp_path / "lora")
    stock = PeftModel.from_pretrained(inputs.model, tmp_path / "lora")
    for loaded in (model, stock):
        for name, values in answers(loaded, inputs).items():
            np.testing.assert_allclose(values, run.predictions["test"][name], rtol=1e-3, atol=1e-4)


def test_a_twin_has_the_same_bits_whenever_it_is_made(tmp_path):
    for name in ("first", "second"):
        torch.manual_seed(len(name))
        FAMILIES["deberta-v2"].write_twin(tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}


def test_the_two_tables_of_kinds_are_of_the_same_kinds():
    assert set(KINDS) == set(CLASSES)
    assert {kind for family in FAMILIES.values() for kind in family.kinds} == set(KINDS)


# As the models' own files on the hub count them.
PUBLISHED = {
    "gpt2": 124_439_808,
    "tinyllama": 1_100_048_384,
    "llama-3-8b": 8_030_261_248,
    "llama-2-7b": 6_738_415_616,
    "smollm2": 134_515_008,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_counted_from_published_sizes(name):
    assert parameters_of(MODELS[name]) == PUBLISHED[name]


# Their weights have other names in files than in memory.
@pytest.mark.parametrize("family", ["vit", pytest.param("deit", marks=pytest.mark.more)])
@pytest.mark.parametrize("method", ["full", pytest.param("head", marks=pytest.mark.more)])
def test_what_is_no_adapter_ends_with_its_best_checkpoint_and_goes_on_from_its_last(
    family, method, tmp_path, one_thread
):
    FAMILIES[family].write_twin(tmp_path / "twin")
    task = task_of("classification", FAMILIES[family].modality)
    # Validation has the labels the other way round: what is learned makes it worse, and the first checkpoint is best.
    rows = task.splits["validation"]
    wrong = rows.remove_columns("label").add_column("label", [1 - label for label in rows["label"]])
    preparation = prepared(dataclasses.replace(task, splits={**task.splits, "validation": wrong}))
    options = {"steps": 4, "batch_size": 8, "evaluations": 2, "lr": 3e-2, "schedule": "constant", "warmup": 0.0}
    config = TrainConfig(model=str(tmp_path / "twin"), task="made", method=method, out=tmp_path / "run", **options)
    run = train(config, prepared=preparation)
    cut = TrainConfig(**{**vars(config), "out": tmp_path / "cut"})
    with pytest.raises(KeyboardInterrupt):
        train(cut, prepared=preparation, callbacks=[Interrupt(3)])
    resumed = train(cut, prepared=preparation, resume=True)
    losses = {entry["step"]: entry["eval_loss"] for entry in run.history if "eval_loss" in entry}
    assert losses == {entry["step"]: entry["eval_loss"] for entry in resumed.history if "eval_loss" in entry}
    assert run.best_step == 2
    for each in (run, resumed):
        assert each.predictions["validation"]["loss"].mean() == pytest.approx(losses[2], rel=1e-3)
