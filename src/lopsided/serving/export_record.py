"""The record of an export, `export.json`: where it comes from, what was lost, and the hash of each of its files.

With it a later export knows which files are its own to replace, and `lopsided verify` whether they are as they were
written. It is no signature: whoever can write the folder can write it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.atomic import file_hash, write_json
from lopsided.files.model_card import CARD
from lopsided.files.untrusted import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_fields, read_json
from lopsided.serving.probe_file import PROBE

RECORD = "export.json"
SCHEMA = 1
# What an export may write next to its record.
FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, PROBE)


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """What an export was.

    Args:
        server: a key of `SERVERS`.
        source: the adapter in a few words.
        base: the base's name; None where nobody says.
        rank: the highest of a layer.
        source_rank: the same before the export.
        error: ‖ΔW − ΔW'‖ / ‖ΔW‖ over all layers, in Frobenius' norm.
        errors: the same of each layer.
        lopsided: the version that wrote it.
        files: the SHA-256 of each file, by name.
    """

    server: str
    source: str
    base: str | None
    rank: int
    source_rank: int
    error: float
    errors: dict[str, float]
    lopsided: str
    files: dict[str, str]


def write_record(folder: Path, **fields: Any) -> None:
    """Write the record of an export whose other files are written.

    Args:
        fields: of `ExportRecord`, but for `files` and `lopsided`.
    """
    files = {name: file_hash(folder / name) for name in FILES if (folder / name).is_file()}
    record = ExportRecord(**fields, lopsided=version("lopsided"), files=files)
    write_json(folder / RECORD, {"schema": SCHEMA, **dataclasses.asdict(record)})


def read_record(folder: Path) -> ExportRecord | None:
    """Read an export's record; None where the folder has none, as one that something else wrote.

    Raises:
        LopsidedError: if it is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    raw = read_json(path)
    names = {field.name for field in dataclasses.fields(ExportRecord)}
    if raw.get("schema") != SCHEMA or set(raw) != {"schema", *names}:
        raise LopsidedError(f"{path} is no record of an export of this version, or is damaged; export again")
    values = {name: raw[name] for name in names}
    check_fields(ExportRecord, values, str(path))
    record = ExportRecord(**values)
    numbers = [record.error, *record.errors.values()]
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or not set(record.files) <= set(FILES):
        raise LopsidedError(f"{path} is no record of an export of this version, or is damaged; export again")
    return record


def changed_files(folder: Path, record: ExportRecord) -> list[str]:
    """Return the files of an export that are gone, or have other bytes than it wrote."""
    return [
        name
        for name, digest in sorted(record.files.items())
        if not (folder / name).is_file() or file_hash(folder / name) != digest
    ]


def check_replaceable(folder: Path, source: Path) -> list[str]:
    """Raise if an export to a folder would lose something; return the names of an earlier export's files there.

    Args:
        folder: to be written, or a link to it.
        source: the adapter's folder.

    Raises:
        LopsidedError: if it is the source itself or holds it, an adapter that no export wrote, or an export that
            somebody has changed.
    """
    if not folder.is_dir():
        return []
    target, origin = folder.resolve(), source.resolve()
    if target == origin or target in origin.parents:
        raise LopsidedError(f"{folder} is where the adapter itself lies, which would be lost; choose another --out")
    record = read_record(folder)
    present = [name for name in (*FILES, RECORD) if (folder / name).exists()]
    if record is None:
        if present:
            raise LopsidedError(
                f"{folder} holds {present[0]}, which no export has written, and which would be lost; expected a new "
                "folder, or one written by the same command; choose another --out"
            )
        return []
    changed = [name for name in changed_files(folder, record) if (folder / name).exists()]
    changed += [name for name in FILES if name in present and name not in record.files]
    if changed:
        raise LopsidedError(
            f"{folder} holds {changed[0]}, changed since it was exported, which would be lost; move it away, or choose "
            "another --out"
        )
    return present
