"""The reader of IDX files: what it reads, and what it refuses in one line."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from lopsided import LopsidedError
from lopsided.lab.idx import NAMES, read_idx, read_pair


def idx(numbers: np.ndarray) -> bytes:
    return bytes([0, 0, 8, numbers.ndim]) + struct.pack(f">{numbers.ndim}I", *numbers.shape) + numbers.tobytes()


def write_part(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    for name, numbers in zip(NAMES[part], (images, labels)):
        (folder / name).write_bytes(idx(numbers))


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([7, 0, 9], dtype=np.uint8)


def test_it_reads_what_was_written(tmp_path):
    write_part(tmp_path, "train", IMAGES, LABELS)
    images, labels = read_pair(tmp_path, "train")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_it_reads_compressed_files(tmp_path):
    for name, numbers in zip(NAMES["test"], (IMAGES, LABELS)):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(numbers)))
    np.testing.assert_array_equal(read_pair(tmp_path, "test")[0], IMAGES)


def test_the_first_dimension_is_the_highest_byte_first(tmp_path):
    (tmp_path / "labels").write_bytes(b"\0\0\x08\x01" + b"\0\0\x01\x02" + bytes(258))
    assert read_idx(tmp_path / "labels", 1).shape == (258,)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"PK\3\4" + data[4:], "begins with 504b0304"),
        (lambda data: b"\0\0\x0d\x03" + data[4:], "unsigned bytes"),
        (lambda data: data[:3], "begins with"),
        (lambda data: data[:9], "within its header"),
        (lambda data: data[:-1], "60 numbers.*got 59"),
        (lambda data: data + b"\0", "more than that"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "2\\^30"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage, message):
    path = tmp_path / "images"
    path.write_bytes(damage(idx(IMAGES)))
    with pytest.raises(LopsidedError, match=message):
        read_idx(path, 3)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no gzip", lambda data: b""])
def test_a_damaged_compression_is_refused(tmp_path, damage):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(idx(IMAGES))))
    with pytest.raises(LopsidedError, match=r"images\.gz"):
        read_idx(path, 3)


def test_labels_are_not_images(tmp_path):
    (tmp_path / "labels").write_bytes(idx(LABELS))
    with pytest.raises(LopsidedError, match="3 dimensions"):
        read_idx(tmp_path / "labels", 3)


def test_there_must_be_one_label_for_each_image(tmp_path):
    write_part(tmp_path, "train", IMAGES, LABELS[:2])
    with pytest.raises(LopsidedError, match="2 labels for 3 train images"):
        read_pair(tmp_path, "train")


def test_a_folder_without_the_files_is_refused_in_one_line(tmp_path):
    with pytest.raises(LopsidedError, match="got neither; give a folder") as caught:
        read_pair(tmp_path, "train")
    assert "\n" not in str(caught.value)
