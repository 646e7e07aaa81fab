"""Runs on images: mirrored in training, the same when they are gone on with, refused where they can't be."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image as Pillow

from lopsided.errors import LopsidedError
from lopsided.models.families import FAMILIES, PIXELS
from lopsided.runs import TrainConfig, train
from lopsided.runs.flips import Flips
from lopsided.tasks.collators import Images
from tests.models.test_families import prepared, task_of
from tests.tiny import Interrupt
from tests.tiny_runs import tiny_config


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit") / "vit"
    FAMILIES["vit"].write_twin(folder)
    return str(folder)


def config_of(tmp_path, vit, **options):
    defaults = {"model": vit, "task": "made", "method": "cla", "rank": 2, "steps": 4, "batch_size": 8, "evaluations": 2}
    return TrainConfig(**{**defaults, **options}, out=tmp_path / "run")


def test_half_of_the_images_are_mirrored_by_seed_and_step_alone():
    batch = {"pixel_values": torch.arange(400 * 3 * 2 * 2.0).reshape(400, 3, 2, 2), "labels": torch.zeros(400)}
    first, second = (Flips(3)(batch, step=7)["pixel_values"] for _ in range(2))
    assert torch.equal(first, second)
    is_mirrored = (first == batch["pixel_values"].flip(-1)).flatten(1).all(1)
    assert 150 < is_mirrored.sum() < 250
    assert torch.equal(first[~is_mirrored], batch["pixel_values"][~is_mirrored])
    flips = Flips(3)
    flips(batch, step=6)
    assert torch.equal(flips(batch, step=7)["pixel_values"], first)
    # The second batch of an accumulated step has draws of its own.
    assert not torch.equal(flips(batch, step=7)["pixel_values"], first)


def test_mirrored_images_are_the_same_in_a_run_that_is_gone_on_with(tmp_path, vit, one_thread):
    prepare = prepared(task_of("classification", "image"))
    config = config_of(tmp_path, vit, flip=True)
    whole = train(config, prepared=prepare)
    plain = train(dataclasses.replace(config, flip=False, out=tmp_path / "plain"), prepared=prepare)
    cut = dataclasses.replace(config, out=tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        train(cut, prepared=prepare, callbacks=[Interrupt(3)])
    resumed = train(cut, prepared=prepare, resume=True)
    losses = [run.predictions["test"]["loss"].tolist() for run in (whole, resumed, plain)]
    assert losses[0] == losses[1] != losses[2]


def test_mirroring_is_for_images(tmp_path, bert, words):
    with pytest.raises(LopsidedError, match=r"flip mirrors images; .* has rows of text; leave it out"):
        train(tiny_config(tmp_path / "run", model=bert, task=words, flip=True))


def test_images_of_any_colours_and_sizes_make_a_batch(vit):
    from lopsided.models.load import processor_of

    modes = {"L": (3, 9), "RGB": (40, 20), "RGBA": (16, 16), "P": (7, 7)}
    rows = [{"image": Pillow.new(mode, size), "labels": 1} for mode, size in modes.items()]
    batch = Images(processor_of(vit, "image"))(rows)
    assert batch["pixel_values"].shape == (4, 3, PIXELS, PIXELS)
    assert batch["labels"].tolist() == [1] * 4


def test_images_are_decoded_when_they_are_read(tmp_path, vit):
    data = prepared(task_of("classification", "image")).load(config_of(tmp_path, vit)).data
    # Stored as they came, and no array of decoded pixels next to them.
    stored = data.encoded.splits["train"].with_format("arrow")[:2]["image"][0].as_py()
    assert stored["bytes"].startswith(b"\x89PNG")


def test_a_model_that_reads_text_and_one_without_a_processor_are_refused(tmp_path, bert, vit):
    prepare = prepared(task_of("classification", "image"))
    with pytest.raises(LopsidedError, match="has no ImageClassification class; expected a model of image"):
        train(config_of(tmp_path, bert), prepared=prepare)
    FAMILIES["vit"].write_twin(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(LopsidedError, match=r"has no image processor; expected preprocessor_config.json"):
        train(config_of(tmp_path, str(tmp_path / "vit")), prepared=prepare)


def test_a_processor_of_another_model_is_found_before_training(tmp_path):
    from transformers import ViTImageProcessorPil

    FAMILIES["vit"].write_twin(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 2 * PIXELS, "width": 2 * PIXELS}).save_pretrained(tmp_path / "vit")
    with pytest.raises(LopsidedError, match="can't compute an image of train"):
        train(config_of(tmp_path, str(tmp_path / "vit")), prepared=prepared(task_of("classification", "image")))
    assert not (tmp_path / "run").exists()
