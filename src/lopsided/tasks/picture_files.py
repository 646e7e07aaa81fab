"""Images from files: Parquet with an image column, folders of classes, IDX files, and scikit-learn's digits.

Images stay as they are stored, bytes or the path of a file, and are decoded where they are used.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, Image, Value

from lopsided.errors import LopsidedError
from lopsided.tasks.task import SPLITS

STORED = Image(decode=False)
FEATURES = Features({"image": STORED, "label": Value("string")})
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# The first four bytes of an IDX file: two zeros, unsigned bytes, the number of dimensions.
IDX_BYTES = b"\x00\x00\x08"
# Twenty times what MNIST's training images take unpacked; a file that says less may hold more.
MOST_BYTES = 2**30
# By our split, the files of MNIST and of the data sets that took its form.
IDX_FILES = {"train": "train", "test": "t10k"}


def read_pictures(folder: Path) -> dict[str, Dataset]:
    """Return the splits of a folder of images, with columns `image` and `label` (a name).

    A folder holds `train.parquet` and its like, or a folder per split with a folder per class in each, or a folder per
    class; the last becomes train alone.

    Raises:
        LopsidedError: if it holds none of these, a row has no label, or an image cannot be read.
    """
    files = {split: folder / f"{split}.parquet" for split in SPLITS if (folder / f"{split}.parquet").is_file()}
    if files:
        return {split: _parquet(path) for split, path in files.items()}
    parts = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    return {split: _classes(part) for split, part in (parts or {"train": folder}).items()}


def has_pictures(folder: Path) -> bool:
    """Return whether a folder is one that `read_pictures` reads, by its names alone."""
    if any((folder / f"{split}.parquet").is_file() for split in SPLITS):
        return True
    first = next((folder / split for split in SPLITS if (folder / split).is_dir()), folder)
    return any(path.suffix.lower() in SUFFIXES for path in first.glob("*/*"))


def _parquet(path: Path) -> Dataset:
    names = pyarrow.parquet.read_schema(path).names
    if not {"image", "label"} <= set(names):
        raise LopsidedError(
            f"{path}: expected columns image and label; received {', '.join(names)}; rename them, or add the labels"
        )
    rows = Dataset.from_parquet(str(path)).select_columns(["image", "label"])
    labels = rows["label"]
    missing = next((i for i, label in enumerate(labels) if label is None), None)
    if missing is not None:
        raise LopsidedError(f"{path} row {missing}: expected a label; received none; add it, or take the row out")
    feature = rows.features["label"]
    named = [feature.names[label] if isinstance(feature, ClassLabel) else str(label) for label in labels]
    stored = rows.cast_column("image", STORED)
    checked = stored.remove_columns("label").add_column("label", named)
    _check(checked, str(path))
    return checked.cast(FEATURES)


def _classes(folder: Path) -> Dataset:
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise LopsidedError(
            f"expected in {folder} a folder per class with images, or train.parquet, validation.parquet and "
            "test.parquet; received none; check the path"
        )
    rows = Dataset.from_dict(
        {
            "image": [{"bytes": None, "path": str(path)} for path in paths],
            "label": [path.parent.name for path in paths],
        },
        features=FEATURES,
    )
    _check(rows, str(folder))
    return rows


def pillow() -> Any:
    """Return Pillow's module of images, which `datasets` decodes with.

    Raises:
        LopsidedError: if it is not installed.
    """
    try:
        from PIL import Image as Picture
    except ImportError as error:
        raise LopsidedError("images need Pillow, which is not installed; pip install 'lopsided[images]'") from error
    return Picture


def _check(rows: Dataset, source: str) -> None:
    """Raise for an image that cannot be read; of each, only the beginning is."""
    for i, image in enumerate(rows["image"]):
        path, data = image["path"], image["bytes"]
        where = f"{source} row {i}" if data is not None else path
        try:
            with pillow().open(io.BytesIO(data) if data is not None else path) as picture:
                picture.verify()
        # Pillow raises these for what is no image, and for one that is broken off.
        except (OSError, SyntaxError) as error:
            raise LopsidedError(f"{where}: expected an image; received: {error}; replace it, or take it out") from error


def _from_pixels(pixels: np.ndarray, labels: Sequence[Any]) -> Dataset:
    """Return a data set of grey images.

    Args:
        pixels: whole numbers from 0 to 255.
        labels: one per image.

    Shapes:
        pixels: (images, height, width).
    """
    height, width = pixels.shape[1:]
    # Grey maps without compression: the same bytes everywhere, so that the task's fingerprint is the same, too.
    header = f"P5 {width} {height} 255\n".encode()
    images = [{"bytes": header + image.astype(np.uint8).tobytes(), "path": None} for image in pixels]
    return Dataset.from_dict({"image": images, "label": [str(label) for label in labels]}, features=FEATURES)


def read_digits() -> Dataset:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels, with 17 shades of grey."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _from_pixels(np.round(digits.images * (255 / 16)), digits.target)


def read_idx_pictures(folder: Path) -> dict[str, Dataset]:
    """Return train and test of a folder of IDX files, as Fashion-MNIST has them, with or without `.gz`.

    Raises:
        LopsidedError: if a file is missing or no IDX file, or has another number of bytes than it says.
    """
    parts = {}
    for split, stem in IDX_FILES.items():
        pixels = _read_idx(_idx_file(folder, f"{stem}-images-idx3-ubyte"), dimensions=3)
        labels = _read_idx(_idx_file(folder, f"{stem}-labels-idx1-ubyte"), dimensions=1)
        if len(pixels) != len(labels):
            raise LopsidedError(
                f"{folder}: expected as many labels as images of {split}; received {len(labels)} labels and "
                f"{len(pixels)} images; download the files again"
            )
        parts[split] = _from_pixels(pixels, labels.tolist())
    return parts


def _idx_file(folder: Path, stem: str) -> Path:
    paths = [folder / stem, folder / f"{stem}.gz"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise LopsidedError(f"expected {stem} or {stem}.gz in {folder}; received neither; put the four IDX files there")
    return path


def _read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            with gzip.open(io.BytesIO(data)) as unpacked:
                # One byte more than there may be: a longer file is refused below.
                data = unpacked.read(MOST_BYTES + 1)
        # A file that is no gzip, and one that is broken off.
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise LopsidedError(f"{path}: expected a gzip file; received: {error}; download it again") from error
    start = 4 + 4 * dimensions
    if data[:4] != IDX_BYTES + bytes([dimensions]) or len(data) < start:
        raise LopsidedError(
            f"{path}: expected an IDX file of bytes in {dimensions} dimensions; received one that begins with "
            f"{data[:4].hex(' ')}; download it again"
        )
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if len(data) != start + math.prod(shape):
        raise LopsidedError(
            f"{path}: expected {start + math.prod(shape):,} bytes for {' x '.join(map(str, shape))}; received "
            f"{len(data):,}; download it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class PictureFiles:
    """A form in which images lie in a folder.

    Args:
        read: returns the splits that the folder has.
        layout: what the folder holds, in a line.
    """

    read: Callable[[Path], dict[str, Dataset]]
    layout: str


FOLDERS = PictureFiles(
    read=read_pictures,
    layout="train.parquet, validation.parquet, test.parquet (columns image, label), or CLASS/ with images",
)
IDX = PictureFiles(read=read_idx_pictures, layout="its four IDX files, packed or not")
