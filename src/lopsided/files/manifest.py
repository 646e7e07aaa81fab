"""The manifest of a saved adapter: one hash per tensor, and the method that the tensors belong to.

It is stored in the file of the tensors, as one more tensor of JSON bytes, because a save writes two files: if it is
cut off between them, the new tensors are next to the older configuration, and must still be checkable. The hashes
reveal damage. They are no signature: whoever can write the file can write them, too.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.files.untrusted import check_fields, parse_json
from lopsided.method import Method

KEY = "lopsided_manifest"
PEFT_PREFIX = "base_model.model."
SCHEMA = 1
HASH_LENGTH = 24
PACKAGES = ("lopsided", "torch", "peft", "transformers", "safetensors", "numpy")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the tensors of one adapter were when they were saved.

    Args:
        schema: the version of this format.
        method: the method's parts that decide what its tensors compute.
        scales: (r, s, number of layers) for each rank and scale s that occurs.
        names: one hash of all tensors' names.
        tensors: the hash of each tensor (of its dtype, shape and bytes), in the order of their names.
        versions: of the libraries that wrote it.
    """

    schema: int
    method: dict[str, Any]
    scales: list[list[float]]
    names: str
    tensors: list[str]
    versions: dict[str, str]

    def check_tensors(self, tensors: Mapping[str, Tensor], *, translated: bool = False) -> None:
        """Compare tensors, by the names of the file, with their hashes.

        Args:
            tensors: by the names of the file.
            translated: whether a loader may have renamed them. Then every hash must occur, under whatever name;
                whether a name has a place in the model is checked elsewhere.

        Raises:
            LopsidedError: naming the first tensor that differs.
        """
        plain = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
        # In the order of their names, as the manifest lists them.
        hashes = {name: hash_of(plain[name]) for name in sorted(plain)}
        if len(hashes) != len(self.tensors):
            raise _damaged(f"{len(hashes)} tensors, its manifest lists {len(self.tensors)}")
        if hash_of_names(hashes) == self.names:
            differing = [name for name, mine, theirs in zip(hashes, hashes.values(), self.tensors) if mine != theirs]
        elif not translated:
            raise _damaged("tensors with other names than its manifest lists")
        else:
            known = Counter(self.tensors)
            differing = [name for name, mine in hashes.items() if mine not in known]
            if not differing and known != Counter(hashes.values()):
                raise _damaged("a tensor twice that its manifest lists once")
        if differing:
            raise _damaged(f"{differing[0]!r}, which differs from its hash in the manifest")

    def check_owner(self, method: Method, scales: Iterable[tuple[int, float]], what: str) -> None:
        """Compare the method, the ranks and the scales with those of the adapter that is to hold the tensors.

        Args:
            method: the adapter's.
            scales: (r, s) of each layer.
            what: names that adapter in errors.
        """
        if (mine := computing_parts(method)) != self.method:
            odd = sorted(key for key in mine.keys() | self.method.keys() if mine.get(key) != self.method.get(key))
            theirs, own = ({key: parts.get(key) for key in odd} for parts in (self.method, mine))
            raise LopsidedError(
                f"the tensors belong to a method with {theirs}, {what} has {own}; load them with the configuration "
                "that they were saved with"
            )
        if (counted := _counted(scales)) != self.scales:
            raise LopsidedError(
                f"the tensors were trained with (r, scale, number of layers) {self.scales}, {what} has {counted}; load "
                "them with the r and alpha that they were saved with"
            )


def seal(tensors: Mapping[str, Tensor], method: Method, scales: Iterable[tuple[int, float]]) -> Tensor | None:
    """Return the manifest of tensors as a tensor of bytes: its own hash, then JSON.

    None if some are sharded or have no data: those cannot be written to a file as they are.

    Args:
        tensors: by the names of the file.
        method: the one that they belong to.
        scales: (r, s) of each layer.

    Shapes:
        -> (bytes,), uint8.
    """
    plain = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    if not all(type(t) in (Tensor, nn.Parameter) and t.device.type != "meta" for t in plain.values()):
        return None
    manifest = Manifest(
        schema=SCHEMA,
        method=computing_parts(method),
        scales=_counted(scales),
        names=hash_of_names(plain),
        tensors=[hash_of(plain[name]) for name in sorted(plain)],
        versions=_versions(),
    )
    text = json.dumps(dataclasses.asdict(manifest), separators=(",", ":"), allow_nan=False).encode()
    return torch.frombuffer(bytearray(hash_of_bytes(text).encode() + text), dtype=torch.uint8)


def unseal(tensors: Mapping[str, Tensor]) -> tuple[Manifest | None, dict[str, Tensor]]:
    """Return the manifest among the tensors of a file, or None, and the other tensors.

    Raises:
        LopsidedError: if the manifest is damaged, or of another schema.
    """
    others = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != KEY}
    sealed = [tensor for name, tensor in tensors.items() if name not in others]
    if not sealed:
        return None, others
    if len(sealed) != 1 or sealed[0].dtype != torch.uint8:
        raise _damaged(f"{len(sealed)} manifests, of dtype {sealed[0].dtype}; expected one of bytes")
    data = sealed[0].cpu().numpy().tobytes()
    text = data[HASH_LENGTH:]
    if hash_of_bytes(text).encode() != data[:HASH_LENGTH]:
        raise _damaged("a manifest that differs from its own hash")
    fields = parse_json(text, "the manifest of the saved adapter")
    if fields.get("schema") != SCHEMA:
        raise LopsidedError(
            f"the manifest of the saved adapter has schema {fields.get('schema')!r:.40}, this lopsided reads {SCHEMA}; "
            "upgrade lopsided"
        )
    known = {field.name for field in dataclasses.fields(Manifest)}
    if set(fields) != known:
        raise _damaged(f"a manifest with the fields {sorted(fields)!r:.200}, expected {sorted(known)}")
    check_fields(Manifest, fields, "the manifest of the saved adapter")
    return Manifest(**fields), others


def computing_parts(method: Method) -> dict[str, Any]:
    """Return the parts that decide what a method's tensors compute, as JSON would return them.

    Raises:
        LopsidedError: if a sketch has a field that JSON cannot hold.
    """
    parts = method.parts()
    try:
        text = json.dumps({"train": parts["train"], "sketch": parts["sketch"], "p": parts["p"]}, allow_nan=False)
    # ValueError: a number that is not finite, which JSON has no word for.
    except (TypeError, ValueError) as error:
        raise LopsidedError(
            f"method {method.name!r} can't be saved: {error}; expected a sketch whose fields are numbers, names and "
            "lists of them"
        ) from error
    return {**json.loads(text), "chained": method.chain is not None}


def hash_of(tensor: Tensor) -> str:
    """Return 96 bits of SHA-256 over a tensor's dtype, shape and bytes, as 24 hexadecimal digits."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hash_of_bytes(f"{tensor.dtype} {list(tensor.shape)} ".encode(), data.data)


def hash_of_names(names: Iterable[str]) -> str:
    """Return the hash of names, in whatever order they come."""
    return hash_of_bytes("\n".join(sorted(names)).encode())


def hash_of_bytes(*parts: bytes | memoryview) -> str:
    """Return the hash of bytes that follow each other."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()[:HASH_LENGTH]


def _counted(scales: Iterable[tuple[int, float]]) -> list[list[float]]:
    """Return (r, s, number of layers) for each rank and scale, as JSON would return it."""
    return [[r, s, count] for (r, s), count in sorted(Counter(scales).items())]


@functools.cache
def _versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


def _damaged(content: str) -> LopsidedError:
    return LopsidedError(
        f"the saved adapter holds {content}: it is damaged, or was edited; get it again, or, where the edit was meant, "
        f"drop {PEFT_PREFIX}{KEY} from its tensors"
    )
