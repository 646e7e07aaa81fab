"""Images and labels in IDX files, the format in which MNIST and Fashion-MNIST come.

Notation: a file begins with two zero bytes, a byte for the type of number (8: unsigned bytes) and a byte for the count
of dimensions; the dimensions follow, each as four bytes, the highest first, and then the numbers.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from lopsided.errors import LopsidedError

UNSIGNED_BYTE = 8
# Sixteen times the size of MNIST's training images.
MOST_NUMBERS = 2**30
NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the numbers of one file, which may be compressed (.gz).

    Args:
        dimensions: how many the file must have: 3 for images, 1 for labels.

    Raises:
        LopsidedError: if the file is not IDX, is cut short, or has more numbers than it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] != UNSIGNED_BYTE or head[3] != dimensions:
                raise LopsidedError(
                    f"{path} begins with {head.hex()}, expected an IDX file of unsigned bytes with {dimensions} "
                    f"dimensions (0000080{dimensions}); give MNIST's files"
                )
            sizes = stream.read(4 * dimensions)
            if len(sizes) < 4 * dimensions:
                raise LopsidedError(f"{path} ends within its header, expected an IDX file; fetch it again")
            shape = struct.unpack(f">{dimensions}I", sizes)
            count = math.prod(shape)
            if not 0 < count <= MOST_NUMBERS:
                raise LopsidedError(f"{path} says it has the shape {shape}, expected 1 to 2^30 numbers; fetch it again")
            # Read one more than there should be: a longer file is refused, too.
            numbers = stream.read(count + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise LopsidedError(f"{path} can't be decompressed ({error}), expected gzip; fetch it again") from error
    if len(numbers) != count:
        more = "more than that" if len(numbers) > count else str(len(numbers))
        raise LopsidedError(f"{path} should hold {count} numbers for its shape {shape}, got {more}; fetch it again")
    return np.frombuffer(numbers, dtype=np.uint8).reshape(shape)


def read_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of one part, "train" or "test".

    Shapes:
        images: (n, height, width) of 0 to 255; labels: (n,)

    Raises:
        LopsidedError: if a file is missing or damaged, or the numbers of labels and images differ.
    """
    images, labels = (read_idx(_find(folder, name), 3 - 2 * i) for i, name in enumerate(NAMES[part]))
    if len(images) != len(labels):
        raise LopsidedError(
            f"{folder} has {len(labels)} labels for {len(images)} {part} images, expected as many; fetch both again"
        )
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise LopsidedError(f"expected {name} or {name}.gz in {folder}, got neither; give a folder of MNIST's IDX files")
