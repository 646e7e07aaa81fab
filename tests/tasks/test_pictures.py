from __future__ import annotations

import gzip
import io
import re
import struct
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Picture

from lopsided.errors import LopsidedError
from lopsided.tasks import SPLITS, TASKS, Task, fingerprint, load_task
from lopsided.tasks.entries.pictures import CIFAR, OFFICE, PACS
from lopsided.tasks.picture_entry import PictureEntry
from lopsided.tasks.picture_files import pillow
from tests.tasks.test_local import rows_of_readme

PICTURES = [name for name, entry in TASKS.items() if isinstance(entry, PictureEntry)]


def picture(shade: int) -> Picture.Image:
    return Picture.new("RGB", (6, 6), (shade, 255 - shade, 7))


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    picture(shade).save(stream, "PNG")
    return stream.getvalue()


def folder_of_classes(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), rows: int = 20) -> Path:
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(rows):
            picture(10 * shade + i).save(folder / name / f"{i:02}.png")
    return folder


def parquet(folder: Path, rows: dict[str, list], features: Features | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def shades(part: Dataset) -> set[int]:
    return {image.getpixel((0, 0))[0] for image in part["image"]}


def idx(*, images: int = 20, labels: int = 20, cut: int = 0) -> dict[str, bytes]:
    pixels = np.arange(images * 16, dtype=np.uint8).tobytes()
    files = {}
    for stem in ("train", "t10k"):
        whole = b"\x00\x00\x08\x03" + struct.pack(">III", images, 4, 4) + pixels
        files[f"{stem}-images-idx3-ubyte"] = whole[: len(whole) - cut]
        classes = bytes(i % 10 for i in range(labels))
        files[f"{stem}-labels-idx1-ubyte"] = b"\x00\x00\x08\x01" + struct.pack(">I", labels) + classes
    return files


def write_idx(folder: Path, files: dict[str, bytes], *, packed: bool = False) -> Path:
    (folder / "fashion_mnist").mkdir()
    for name, data in files.items():
        path = folder / "fashion_mnist" / (name + ".gz" * packed)
        path.write_bytes(gzip.compress(data) if packed else data)
    return folder


def test_parquet_with_an_image_column(tmp_path):
    stored = [{"bytes": png(i), "path": None} for i in range(4)]
    plain = parquet(tmp_path / "plain", {"image": stored, "label": ["b", "a", "b", "a"]})
    task = load_task(str(plain))
    assert (task.kind, task.labels, task.metric.name) == ("classification", ("a", "b"), "accuracy")
    row = task.splits["train"][2]
    assert (row["image"].size, row["image"].getpixel((0, 0))[0], row["label"]) == ((6, 6), 2, 1)
    # Classes as numbers with names, as `datasets` writes them.
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    numbered = parquet(tmp_path / "numbered", {"image": stored, "label": [1, 0, 1, 0]}, features)
    assert fingerprint(load_task(str(numbered))) == fingerprint(task)


def test_folders_of_classes(tmp_path):
    folder = folder_of_classes(tmp_path / "pets")
    with pytest.raises(LopsidedError, match="missing validation, test; add them, or pass --make-split"):
        load_task(str(folder))
    task = load_task(str(folder), make_split=True)
    assert [len(task.splits[split]) for split in SPLITS] == [28, 6, 6]
    assert task.labels == ("cat", "dog")
    for split in SPLITS:
        folder_of_classes(tmp_path / "split" / split, rows=3)
    task = load_task(str(tmp_path / "split"))
    assert [len(task.splits[split]) for split in SPLITS] == [6, 6, 6]


def without_label(folder: Path) -> None:
    parquet(folder, {"image": [{"bytes": png(1), "path": None}], "label": [None]})


def without_labels(folder: Path) -> None:
    parquet(folder, {"image": [{"bytes": png(1), "path": None}], "class": ["a"]})


def no_image(folder: Path) -> None:
    folder_of_classes(folder)
    (folder / "dog" / "03.png").write_bytes(b"no picture")


def broken_row(folder: Path) -> None:
    stored = [{"bytes": data, "path": None} for data in (png(1), png(2)[:30])]
    parquet(folder, {"image": stored, "label": ["a", "b"]})


def strange_class(folder: Path) -> None:
    for split in SPLITS:
        folder_of_classes(folder / split, ("cat", "dog", *(["cow"] if split == "test" else [])), rows=2)


BROKEN = {
    "no label": (without_label, "train.parquet row 0: expected a label; received none"),
    "no labels": (without_labels, "train.parquet: expected columns image and label; received image, class"),
    "no image": (no_image, "dog/03.png: expected an image; received: cannot identify image file"),
    "broken off": (broken_row, "train.parquet row 1: expected an image; received:"),
    "a class that train lacks": (strange_class, "test row 2: expected a class from 0 to 1, or its name (cat, dog)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_named(tmp_path, case):
    make, message = BROKEN[case]
    make(tmp_path / "pets")
    with pytest.raises(LopsidedError, match=re.escape(message)) as caught:
        load_task(str(tmp_path / "pets"), make_split=True)
    assert "\n" not in str(caught.value)


def test_digits_are_the_same_everywhere():
    task = load_task("digits")
    assert [len(task.splits[split]) for split in SPLITS] == [1258, 269, 270]
    assert (task.labels, task.splits["train"][0]["image"].size) == (tuple("0123456789"), (8, 8))
    # Of pixels and not of a compressor's bytes, so that a study's cells have the same names on every machine.
    assert fingerprint(task) == "f08b9632785f6f7f011e44620bc6b7b97c99eb4852cb2e5fb5c24f2b7790092a"


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_from_idx_files(tmp_path, packed):
    task = load_task("fashion-mnist", data=str(write_idx(tmp_path, idx(), packed=packed)))
    assert [len(task.splits[split]) for split in SPLITS] == [18, 2, 20]
    assert task.labels == tuple("0123456789")
    assert np.asarray(task.splits["test"][1]["image"]).tolist()[0] == [16, 17, 18, 19]
    assert task.splits["test"]["label"][1] == 1


BROKEN_IDX = {
    "bytes": (idx(cut=3), "train-images-idx3-ubyte: expected 336 bytes for 20 x 4 x 4; received 333; download it"),
    "count": (idx(labels=19), "expected as many labels as images of train; received 19 labels and 20 images"),
    "kind": (
        idx() | {"train-images-idx3-ubyte": b"<html>"},
        "expected an IDX file of bytes in 3 dimensions; received one that begins with 3c 68 74 6d",
    ),
    "missing": ({}, "expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz in"),
}


@pytest.mark.parametrize("case", BROKEN_IDX)
def test_idx_files_are_checked(tmp_path, case):
    files, message = BROKEN_IDX[case]
    write_idx(tmp_path, files)
    with pytest.raises(LopsidedError, match=re.escape(message)):
        load_task("fashion-mnist", data=str(tmp_path))


def test_a_packed_file_that_is_none(tmp_path):
    write_idx(tmp_path, {"train-images-idx3-ubyte.gz": b"<html>"})
    with pytest.raises(LopsidedError, match="expected a gzip file; received: Not a gzipped file"):
        load_task("fashion-mnist", data=str(tmp_path))


def hub_rows(name: str, *, domains: tuple[str, ...]) -> Dataset:
    """Rows of one split, in the schema of the hub."""
    entry = TASKS[name]
    classes = list(entry.classes or ("Alarm Clock", "Bed"))
    rows = 40
    features = {entry.image: Image(), "label": ClassLabel(names=classes)}
    columns = {
        entry.image: [{"bytes": png(i % 250), "path": None} for i in range(rows)],
        "label": [i // 4 % len(classes) for i in range(rows)],
    }
    if domains:
        features["domain"] = Value("string")
        columns["domain"] = [domains[i % len(domains)] for i in range(rows)]
    return Dataset.from_dict(columns, features=Features(features))


@pytest.mark.parametrize("name", [name for name in PICTURES if TASKS[name].hub])
def test_rows_of_the_hub(monkeypatch, name):
    entry = TASKS[name]
    part = hub_rows(name, domains=entry.domains)
    asked = []

    def load_dataset(*arguments, **options):
        asked.append(arguments)
        return DatasetDict(train=part, test=part)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = load_task(name)
    assert asked == [(entry.hub.name, None)]
    assert entry.hub_note in task.note
    check_domains(task, entry, rows=10)
    if name == "cifar10":
        assert task.labels == CIFAR
        assert [len(task.splits[split]) for split in SPLITS] == [38, 2, 40]
        assert task.splits["test"][4]["label"] == 1


def check_domains(task: Task, entry: PictureEntry, rows: int) -> None:
    """A domain that is held out is tested alone, with all of its rows, and no other split has one of them."""
    if entry.held_out:
        [(name, held_out)] = task.out_of_domain.items()
        assert name == f"{entry.folder}/{entry.held_out}"
        assert len(held_out) == rows
        learned = set().union(*(shades(task.splits[split]) for split in SPLITS))
        assert not shades(held_out) & learned
        assert len(learned) == rows * (len(entry.domains) - 1)
    else:
        assert task.out_of_domain == {}


@pytest.mark.parametrize("name", ["officehome", "officehome/Art", "vlcs/SUN09", "terra_incognita/location_46"])
def test_domains_in_local_form(tmp_path, name):
    entry = TASKS[name]
    for at, domain in enumerate(entry.domains):
        place = tmp_path / entry.folder / domain
        for label in ("one", "two"):
            (place / label).mkdir(parents=True)
        for i in range(10):
            picture(50 * at + i).save(place / ("one", "two")[i % 2] / f"{i}.png")
    task = load_task(name, data=str(tmp_path))
    assert task.labels == ("one", "two")
    check_domains(task, entry, rows=10)
    assert sum(len(task.splits[split]) for split in SPLITS) == (30 if entry.held_out else 40)


def test_a_domain_that_is_missing_is_named(tmp_path):
    (tmp_path / "officehome" / "Art").mkdir(parents=True)
    with pytest.raises(LopsidedError, match=r"a folder per domain .*missing Clipart, Product, Real World; add it"):
        load_task("officehome", data=str(tmp_path))
    with pytest.raises(
        LopsidedError, match=r"task vlcs/SUN09 is not on the hub: .*put DOMAIN/ .*CLASS/ with images into vlcs/ of a"
    ):
        load_task("vlcs/SUN09")


def test_a_misspelt_domain_has_its_nearest(monkeypatch):
    def offline(*arguments):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(LopsidedError, match="did you mean 'pacs/sketch'"):
        load_task("pacs/sketsch")


def test_what_reads_images_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(LopsidedError, match=r"images need Pillow.*pip install 'lopsided\[images\]'"):
        pillow()


@pytest.mark.more
def test_real_images_in_local_form(data):
    if not (data / "cifar10").is_dir():
        pytest.skip(f"no cifar10 in {data}")
    task = load_task("cifar10", data=str(data))
    assert tuple(len(task.splits[split]) for split in SPLITS) == rows_of_readme(data)["cifar10"]
    assert task.labels == CIFAR
    assert fingerprint(load_task(str(data / "cifar10"))) == fingerprint(task)


@pytest.fixture(scope="module")
def sizes(data):
    """How many rows each split of each domain has, read alone."""
    if not (data / "pacs").is_dir():
        pytest.skip(f"no pacs in {data}")
    return {each: [len(rows) for rows in load_task(str(data / "pacs" / each)).splits.values()] for each in PACS}


@pytest.mark.parametrize("domain", PACS)
def test_real_domains_in_local_form(data, sizes, domain):
    task = load_task(f"pacs/{domain}", data=str(data))
    others = [sizes[each] for each in PACS if each != domain]
    assert [len(task.splits[split]) for split in SPLITS] == [sum(each) for each in zip(*others)]
    assert {name: len(rows) for name, rows in task.out_of_domain.items()} == {f"pacs/{domain}": sum(sizes[domain])}
    assert len(task.labels) == 7


def test_domains_are_those_of_the_data_sets():
    named = {name for name in TASKS if name.split("/")[0] in ("officehome", "pacs", "vlcs", "terra_incognita")}
    assert len(named) == 4 * 4 + 1
    assert {f"officehome/{domain}" for domain in OFFICE} < named
