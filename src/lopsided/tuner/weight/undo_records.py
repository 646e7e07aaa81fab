"""What leads from a guess at some numbers back to their very bits, as a short string of bytes.

Notation: W0 is a tile of the original weight, W1 what it was overwritten with, and the guess is round(W1 - Δ), which is
W0 for most entries and off by a few units in the last place for the others. The bits of a float are an integer, too,
and neighbouring floats of one sign are neighbouring integers, so such a small error is a small difference of integers.

A record is

    4 x int64         the digest of W0, the digest of W1, how many differences, how many values
    differences       where the guess is off by at most 8 bits: positions, then W0 - guess as int8
    values            where it is off by more, or not finite (no arithmetic promises the bits of a NaN): positions, then
                      W0's own bits

or, where that is shorter, the same head with COPIED for both counts, and a copy of W0. Positions are packed as the
steps between them, or as a bitmap, whichever is shorter.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
# The bytes of a record's head.
HEAD = 32
COPIED = -1
# The bytes that a Python `bytes` object and its place in a list take in addition to the content.
OBJECT = 41
# How many rows of 4096 words are widened at once for a digest: all of a tile's would take more than the tile.
ROWS = 16
# Fixed odd numbers for `digest`, from a generator whose stream is frozen.
_STREAM = np.random.RandomState(0)
_ACROSS, _DOWN = (torch.from_numpy(_STREAM.randint(-(2**63), 2**63, 2**12, dtype=np.int64) | 1) for _ in range(2))


def record(W0: Tensor, W1: Tensor, guess: Tensor | None) -> bytes:
    """Return what leads from the guess, or from nothing, to W0.

    Shapes:
        W0, W1, guess: equal, contiguous, of one dtype.
    """
    bits = W0.view(INTEGERS[W0.dtype]).flatten()
    counts, content = (COPIED, COPIED), b""
    if guess is not None:
        counts, content = _corrections(bits, guess.flatten())
    if guess is None or len(content) >= W0.nbytes:
        counts, content = (COPIED, COPIED), bits.cpu().numpy().tobytes()
    return np.array([digest(W0), digest(W1), *counts], dtype=np.int64).tobytes() + content


def corrected(guess: Tensor, record: bytes) -> Tensor:
    """Return W0, from the guess that the record was made with, which is overwritten, or from any if it is a copy."""
    kind, n = INTEGERS[guess.dtype], guess.numel()
    numbers = np.dtype(f"i{guess.itemsize}")
    short, long = _counts(record)
    if short == COPIED:
        copy = torch.from_numpy(np.frombuffer(record, numbers, n, HEAD).copy())
        return copy.to(guess.device).view(guess.dtype).view(guess.shape)
    # A view where the guess is contiguous, as tiles are: the corrections go into the guess itself.
    bits, at = guess.view(kind).flatten(), HEAD
    positions, at = _unpacked(record, at, short, n)
    differences = torch.from_numpy(np.frombuffer(record, np.int8, short, at).astype(numbers))
    bits.index_add_(0, positions.to(bits.device), differences.to(bits.device))
    positions, at = _unpacked(record, at + short, long, n)
    values = torch.from_numpy(np.frombuffer(record, numbers, long, at).copy())
    bits.index_copy_(0, positions.to(bits.device), values.to(bits.device))
    return bits.view(guess.dtype).view(guess.shape)


def digests(record: bytes) -> tuple[int, int]:
    """Return the digests of W0 and of W1."""
    before, after = np.frombuffer(record, np.int64, 2).tolist()
    return before, after


def is_copy(record: bytes) -> bool:
    """Return whether a record holds W0 itself, and needs no guess."""
    return _counts(record)[0] == COPIED


def digest(tile: Tensor) -> int:
    """Return a 64-bit number that differs whenever a single entry does: Σ_pq d_p·a_q·x_pq mod 2⁶⁴.

    x are the tile's bits as integers of at most 32 bits, 4096 per row, and d and a are odd. An odd factor has an
    inverse mod 2⁶⁴, so no single change is lost; sums that wrap around are the same in any order, on every device. (Not
    64 bits: the topmost of them would look the same under every odd factor, and the signs of two float64 entries could
    change unseen.)
    """
    words = tile.view(torch.int32 if tile.itemsize > 2 else torch.int16).flatten()
    across, down, width = _ACROSS.to(tile.device), _DOWN.to(tile.device), len(_ACROSS)
    whole = len(words) // width
    rows, rest = words[: whole * width].view(whole, width), words[whole * width :].to(torch.int64)
    total = (rest * across[: len(rest)]).sum() * down[whole]
    for start in range(0, whole, ROWS):
        block = rows[start : start + ROWS].to(torch.int64)
        # The product of integers is several times faster where it exists, which is on CPUs.
        sums = torch.mv(block, across) if tile.device.type == "cpu" else (block * across).sum(1)
        total += (sums * down[start : start + len(block)]).sum()
        del block
    return int(total)


def _corrections(bits: Tensor, guess: Tensor) -> tuple[tuple[int, int], bytes]:
    """Return how many differences and values there are, and both with their positions."""
    guesses, n = guess.view(bits.dtype), len(bits)
    wrong = bits != guesses
    finite = all(map(torch.isfinite, torch.aminmax(guess)))
    if not finite:
        # Even where it is right now: a NaN's bits may come out otherwise on the way back.
        wrong |= ~guess.isfinite()
    positions = np.flatnonzero(wrong.cpu().numpy())
    index = torch.from_numpy(positions).to(bits.device)
    values = bits[index].cpu().numpy()
    # Of integers of their own width, which may wrap around: the sum on the way back wraps around, too.
    differences = values - guesses[index].cpu().numpy()
    short = (differences >= -128) & (differences <= 127)
    if not finite:
        short &= guess[index].isfinite().cpu().numpy()
    content = _packed(positions[short], n) + differences[short].astype(np.int8).tobytes()
    content += _packed(positions[~short], n) + values[~short].tobytes()
    return (int(short.sum()), int((~short).sum())), content


def _counts(record: bytes) -> tuple[int, int]:
    short, long = np.frombuffer(record, np.int64, 2, 16).tolist()
    return short, long


def _packed(positions: np.ndarray, n: int) -> bytes:
    """Pack ascending positions below n: the bytes that each takes, and the steps between them; or 0 and a bitmap."""
    steps = np.diff(positions, prepend=-1) - 1
    width = 1 if not len(steps) else np.min_scalar_type(steps.max()).itemsize
    if (n + 7) // 8 < width * len(positions):
        bits = np.zeros(n, dtype=bool)
        bits[positions] = True
        return b"\0" + np.packbits(bits).tobytes()
    return bytes([width]) + steps.astype(f"u{width}").tobytes()


def _unpacked(record: bytes, at: int, count: int, n: int) -> tuple[Tensor, int]:
    """Return the positions that are packed there, and where they end."""
    width, at = record[at], at + 1
    if width == 0:
        length = (n + 7) // 8
        bits = np.unpackbits(np.frombuffer(record, np.uint8, length, at), count=n)
        return torch.from_numpy(np.flatnonzero(bits)), at + length
    steps = np.frombuffer(record, f"u{width}", count, at).astype(np.int64)
    return torch.from_numpy(np.cumsum(steps + 1) - 1), at + steps.size * width
