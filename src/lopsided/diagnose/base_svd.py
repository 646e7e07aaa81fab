"""The singular vectors of a base model's layers, computed once and kept on disk.

Notation: W0 = U·diag(σ)·Vᵀ with m = min(d_out, d_in), U of (d_out, m), σ of (m,) from the largest, V of (d_in, m).

A file is named by the hash of the weight's bytes, so every run, adapter and model that has this weight shares it. Its
size is one to two times that of the weight in float32, and two times for a square weight.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.files.atomic import atomic_file
from lopsided.files.cache import cache_folder
from lopsided.files.untrusted import open_tensors
from lopsided.finite import all_finite

# How far a kept decomposition may be from the weight's own products, relative to σ_1.
TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class BaseSVD:
    """W0 = left·diag(values)·rightᵀ, float32.

    Shapes:
        left: (d_out, m); values: (m,); right: (d_in, m).
    """

    left: Tensor
    values: Tensor
    right: Tensor


def base_svd(weight: Tensor, cache: Path | None = None) -> BaseSVD:
    """Return the singular vectors of W0, from the cache if they are there, and into it if they are not.

    A file that can't be read, or does not give the weight's products, is computed and written again.

    Args:
        weight: W0 of (d_out, d_in), float32.
        cache: the folder; None takes `svd` in the folder that `LOPSIDED_CACHE` names, or in `~/.cache/lopsided`.

    Raises:
        LopsidedError: if the weight is not a finite matrix. A LopsidedWarning says where the result can't be kept.
    """
    if weight.dim() != 2 or weight.numel() == 0 or not all_finite(weight):
        raise LopsidedError(
            f"expected a finite matrix to decompose, got a weight of shape {tuple(weight.shape)}"
            f"{'' if all_finite(weight) else ' with NaN or Inf'}; go back to a good checkpoint"
        )
    weight = weight.detach().to("cpu", torch.float32).contiguous()
    path = (cache or cache_folder() / "svd") / f"{_key(weight)}.safetensors"
    svd = _read(path, weight)
    if svd is None:
        svd = decompose(weight)
        _write(path, svd)
    return svd


def decompose(weight: Tensor) -> BaseSVD:
    """Compute the singular vectors of W0 in float64, rounded once.

    Example:
        >>> decompose(torch.diag(torch.tensor([1.0, 3.0]))).values
        tensor([3., 1.])
    """
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    return BaseSVD(left.float().contiguous(), values.float(), right.T.float().contiguous())


def _key(weight: Tensor) -> str:
    head = f"{weight.shape[0]}x{weight.shape[1]} F32 ".encode()
    digest = hashlib.sha256(head)
    digest.update(weight.numpy().data)
    return digest.hexdigest()


def _read(path: Path, weight: Tensor) -> BaseSVD | None:
    if not path.is_file():
        return None
    names = ("left", "values", "right")
    try:
        with open_tensors(path) as file:
            if set(file.keys()) != set(names):
                return None
            kept = BaseSVD(*(file.get_tensor(name) for name in names))
    except (LopsidedError, OSError):
        return None
    return kept if _fits(kept, weight) else None


def _fits(kept: BaseSVD, weight: Tensor) -> bool:
    """Whether the vectors give W0's products with one random vector from each side."""
    (d_out, d_in), m = weight.shape, min(weight.shape)
    shapes = (kept.left.shape, kept.values.shape, kept.right.shape)
    if shapes != ((d_out, m), (m,), (d_in, m)) or any(t.dtype != torch.float32 for t in vars(kept).values()):
        return False
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(d_in, generator=generator), torch.randn(m, generator=generator)
    # W0·x by the vectors, and that they are orthonormal on either side: a full check would cost a decomposition.
    images = kept.right.T @ x * kept.values
    checks = [
        (kept.left @ images, weight @ x, float(kept.values[0]) * float(x.norm())),
        (kept.left.T @ (kept.left @ z), z, float(z.norm())),
        (kept.right.T @ (kept.right @ z), z, float(z.norm())),
    ]
    # A NaN is not below any limit.
    return all(float((mine - theirs).norm()) <= TOLERANCE * size for mine, theirs, size in checks)


def _write(path: Path, found: BaseSVD) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            save_file(dict(vars(found)), temporary, metadata={"format": "pt"})
    except OSError as error:
        warnings.warn(
            f"singular vectors can't be kept in {path.parent} ({error.strerror}), and are computed each time; set "
            "LOPSIDED_CACHE to a folder with room",
            LopsidedWarning,
            stacklevel=3,
        )
