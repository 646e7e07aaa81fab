"""The log of a federated run: what was averaged, round by round, and enough to replay it on a fresh base model.

A folder with

    log.json                   what the run is: `LogHeader`
    rounds.jsonl               one line per finished round: `RoundRecord`
    round-00001.safetensors    the averaged tensors of a round, float32

A round is in the log once its line is. The tensors are written first and the lines after them, all of them again, both
atomically, so that a cut leaves the last whole round. Each line holds the hash of the one before, and the first line
that of log.json, so that lines of another run or in another order are seen. The hashes reveal damage and mix-ups; they
are no signature.

Nothing else is needed to stand where the server stands: sketches follow from the seed, and each round's tensors are
merged as they were there (`replay`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, float32, nn

from lopsided.errors import LopsidedError
from lopsided.federated.factors import advance_to, check_names, difference_of_names, link_of, load_trained
from lopsided.federated.log_header import FIX, LogHeader
from lopsided.files.atomic import atomic_file, file_hash, write_json, write_text
from lopsided.files.strict_json import dumps
from lopsided.files.untrusted import MAX_JSON_BYTES, check_fields, open_tensors, parse_json, read_json
from lopsided.finite import all_finite
from lopsided.tuner.model_queries import layers_of

HEADER, LINES = "log.json", "rounds.jsonl"
# Of a safetensors file, on top of its numbers and names: for each tensor its dtype, shape and place, and some padding.
ROOM_PER_TENSOR, ROOM = 400, 2**12


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round.

    Args:
        number: from 1.
        link: that the averaged factors belong to, from 0.
        seed: that the link's sketches are drawn from, with the layers' names and the link.
        method: the method's name.
        examples: of each client that was averaged.
        refused: why an answer was not averaged, by client.
        bytes: that were sent, by what they were, as the transport counts them.
        size, sha256: of the round's file.
        previous: the hash of the line before.
    """

    number: int
    link: int
    seed: int
    method: str
    examples: dict[str, int]
    refused: dict[str, str]
    bytes: dict[str, int]
    size: int
    sha256: str
    previous: str

    @property
    def file(self) -> str:
        """The name of the round's file."""
        return f"round-{self.number:05d}.safetensors"

    @property
    def line(self) -> str:
        """The record as a line of JSON."""
        return dumps(dataclasses.asdict(self), indent=None)


class RoundLog:
    """A log in a folder: `begin` makes a new one, and `open` reads one that somebody else may have written.

    Example:
        >>> import tempfile, torch, lopsided
        >>> from lopsided.federated.factors import trained_tensors
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> server = lopsided.adapt(net, "c3la", r=2, links=4, target_modules="all-linear")
        >>> log = RoundLog.begin(Path(tempfile.mkdtemp()), server, run="a", method="c3la", seed=0)
        >>> log.append(trained_tensors(server), link=0, examples={"client": 5}).number
        1
        >>> len(RoundLog.open(log.folder).rounds)
        1
    """

    def __init__(self, folder: Path, header: LogHeader, rounds: Sequence[RoundRecord]) -> None:
        self.folder, self.header, self.rounds = folder, header, tuple(rounds)

    @classmethod
    def begin(
        cls,
        folder: Path,
        model: nn.Module,
        *,
        run: str,
        method: str,
        seed: int,
        adapter: str = "default",
        privacy: Mapping[str, Any] | None = None,
    ) -> RoundLog:
        """Write the log of a run without rounds; the folder is made if needed.

        Args:
            model: the server's, before the first round.
            run: a name that no other run has.
            method: the method's name. seed: the adapter's.
            privacy: for the header.

        Raises:
            LopsidedError: if there is a log in the folder, or as `LogHeader.of` does.
        """
        if (folder / HEADER).exists():
            raise LopsidedError(f"{folder} holds the log of a run; expected a new folder; open that log, or choose one")
        header = LogHeader.of(model, run=run, method=method, seed=seed, adapter=adapter, privacy=privacy)
        folder.mkdir(parents=True, exist_ok=True)
        # The header last: a folder is a log once it is there.
        write_text(folder / LINES, "")
        write_json(folder / HEADER, dataclasses.asdict(header))
        return cls(folder, header, ())

    @classmethod
    def open(cls, folder: Path, *, run: str | None = None) -> RoundLog:
        """Read a log and check everything but the content of the rounds' files; see `verify`.

        Args:
            run: the name that the run must have; None takes any.

        Raises:
            LopsidedError: for whatever is missing, damaged, of another run or out of order.
        """
        if not (folder / HEADER).is_file():
            raise LopsidedError(f"{folder} holds no {HEADER}; expected the log of a federated run; check the path")
        header = LogHeader.from_json(read_json(folder / HEADER), str(folder / HEADER))
        if run is not None and header.run != run:
            raise LopsidedError(f"{folder} is the log of run {header.run!r:.80}, expected {run!r}; choose its folder")
        return cls(folder, header, _read_lines(folder, header))

    def append(
        self,
        tensors: Mapping[str, Tensor],
        *,
        link: int,
        examples: Mapping[str, int],
        refused: Mapping[str, str] | None = None,
        bytes: Mapping[str, int] | None = None,
    ) -> RoundRecord:
        """Write one finished round.

        Args:
            tensors: the averages, whole, as the server's model has them.
            link: that they belong to.
            examples: of each client that was averaged.
            refused: why an answer was not averaged, by client.
            bytes: that were sent, by what they were.

        Raises:
            LopsidedError: for tensors of other names or shapes than the run's, NaN and Inf, a link that is past, or a
                round without clients. The log is as it was then.
            OSError: if the disk is full, read-only or not permitted. The log is as it was then, too.
        """
        number, last = len(self.rounds) + 1, self.rounds[-1].link if self.rounds else 0
        what = f"round {number}"
        if not examples or link < last:
            raise LopsidedError(
                f"{what}: expected clients and a link from {last} on, got {len(examples)} clients at link {link}; "
                "end the run, or average more"
            )
        check_names(tensors, self.header.shapes, what)
        for name, tensor in tensors.items():
            _check_tensor(what, name, tensor, self.header.shapes[name])
        path = self.folder / f"round-{number:05d}.safetensors"
        with atomic_file(path) as temporary:
            save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, metadata={"format": "pt"})
        record = RoundRecord(
            number=number,
            link=link,
            seed=self.header.seed,
            method=self.header.method,
            examples=dict(sorted(examples.items())),
            refused=dict(sorted((refused or {}).items())),
            bytes=dict(bytes or {}),
            size=path.stat().st_size,
            sha256=file_hash(path),
            previous=_hash(self.rounds[-1].line) if self.rounds else file_hash(self.folder / HEADER),
        )
        rounds = (*self.rounds, record)
        write_text(self.folder / LINES, "".join(f"{each.line}\n" for each in rounds))
        self.rounds = rounds
        return record

    def tensors(self, number: int) -> dict[str, Tensor]:
        """Return the averaged tensors of a round, after every check of its file.

        Args:
            number: the round's, from 1.

        Raises:
            LopsidedError: for a round that the log does not have, and a file that is missing, damaged, or holds other
                tensors than the run's.
        """
        if not 1 <= number <= len(self.rounds):
            raise LopsidedError(f"{self.folder} has rounds 1 to {len(self.rounds)}, got {number}; choose one of these")
        record = self.rounds[number - 1]
        path, shapes = self.folder / record.file, self.header.shapes
        if not path.is_file():
            raise LopsidedError(f"{self.folder} lacks {record.file}, which its {LINES} lists; {FIX}")
        # By size first: a file of any length would have to be read to be hashed.
        if (size := path.stat().st_size) != record.size:
            raise LopsidedError(f"{path} has {size} bytes, its line says {record.size}; {FIX}")
        if file_hash(path) != record.sha256:
            raise LopsidedError(f"{path} differs from its hash in {LINES}; it is damaged, or of another run; {FIX}")
        with open_tensors(path) as file:
            check_names(file.keys(), shapes, str(path))
            tensors = {name: file.get_tensor(name) for name in shapes}
        for name, tensor in tensors.items():
            _check_tensor(str(path), name, tensor, shapes[name])
        return tensors

    def verify(self) -> None:
        """Read every round's file; raises what `tensors` raises."""
        for record in self.rounds:
            self.tensors(record.number)


def replay(log: RoundLog, model: nn.Module, adapter: str = "default", *, rounds: int | None = None) -> int:
    """Take a fresh model to where the server stood after a round, from seeds and averaged tensors alone.

    The result equals the server's model bit for bit, on the same build of torch.

    Args:
        log: of the run.
        model: the base model with the run's adapter, at link 0. What it trains is overwritten.
        rounds: how many; None takes all.

    Returns:
        The link that the model stands at. The next round's is for the server to say.

    Raises:
        LopsidedError: for a model of another base or adapter, one that has advanced, or a damaged log. Nothing has
            changed then.
    """
    count = len(log.rounds) if rounds is None else rounds
    if not 0 <= count <= len(log.rounds):
        raise LopsidedError(f"{log.folder} has {len(log.rounds)} rounds, got rounds={count}; replay at most that many")
    log.header.check_model(model, adapter)
    if (link := link_of(model, adapter)) != 0:
        raise LopsidedError(f"the adapter stands at link {link}; expected a fresh one at link 0; adapt the base again")
    records = log.rounds[:count]
    # Of the rounds of one link only the last one's tensors are seen afterwards.
    lasting = [a for a, b in zip(records, [*records[1:], None]) if b is None or b.link != a.link]
    _check_links(model, lasting, adapter)
    for record in lasting:
        log.tensors(record.number)
    for record in lasting:
        tensors = log.tensors(record.number)
        advance_to(model, record.link, adapter)
        load_trained(model, tensors, adapter)
    return link_of(model, adapter)


def _check_links(model: nn.Module, records: Sequence[RoundRecord], adapter: str) -> None:
    """Raise if the model's chain cannot reach the last record's link."""
    last = records[-1].link if records else 0
    layers = layers_of(model, adapter)
    own = next(iter(layers.values())).adapters[adapter] if layers else None
    chained = own is not None and own.method.chain is not None
    if last > 0 and not chained:
        raise LopsidedError(f"the log stands at link {last}, and the model's method has no chain; take a chained one")
    if own is not None and own.links is not None and last >= own.links:
        raise LopsidedError(
            f"the log stands at link {last}, and the chain here has {own.links} links; adapt with links={last + 1}"
        )


def _read_lines(folder: Path, header: LogHeader) -> list[RoundRecord]:
    path = folder / LINES
    if not path.is_file():
        raise LopsidedError(f"{folder} lacks {LINES}, which a log has from its beginning; {FIX}")
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise LopsidedError(f"{path} has {size} bytes, expected at most {MAX_JSON_BYTES}; {FIX}")
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        raise LopsidedError(f"{path} ends within a line; it was cut off by something other than the server; {FIX}")
    records: list[RoundRecord] = []
    previous = file_hash(folder / HEADER)
    for number, line in enumerate(lines, start=1):
        record = _record(parse_json(line, f"{path}, line {number}"), f"{path}, line {number}", header)
        if record.number != number or record.previous != previous:
            raise LopsidedError(
                f"{path}, line {number}: round {record.number} does not follow what stands before it; lines of another "
                f"run, or in another order; {FIX}"
            )
        if records and record.link < records[-1].link:
            raise LopsidedError(f"{path}, line {number}: link {record.link} after {records[-1].link}; {FIX}")
        records.append(record)
        previous = hashlib.sha256(line).hexdigest()
    return records


def _record(fields: Mapping[str, Any], what: str, header: LogHeader) -> RoundRecord:
    if problem := difference_of_names(fields, [field.name for field in dataclasses.fields(RoundRecord)], "fields"):
        raise LopsidedError(f"{what}: {problem}; {FIX}")
    check_fields(RoundRecord, fields, what)
    record = RoundRecord(**fields)
    if (record.seed, record.method) != (header.seed, header.method):
        raise LopsidedError(
            f"{what} is of method {record.method!r:.80} and seed {record.seed}, the run of {header.method!r:.80} and "
            f"{header.seed}; {FIX}"
        )
    numbers = [record.link, *record.bytes.values(), *(count - 1 for count in record.examples.values())]
    if not record.examples or min(numbers) < 0:
        raise LopsidedError(f"{what}: expected clients with examples, and no negative number; {FIX}")
    most = ROOM + sum(4 * math.prod(s) + len(n.encode()) + ROOM_PER_TENSOR for n, s in header.shapes.items())
    if not 0 < record.size <= most or re.fullmatch("[0-9a-f]{64}", record.sha256) is None:
        raise LopsidedError(
            f"{what}: expected a hash and at most {most} bytes, got {record.sha256!r:.80} and {record.size}; {FIX}"
        )
    return record


def _check_tensor(what: str, name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Raise unless a round's tensor is of its shape, float32 and finite."""
    if list(tensor.shape) != list(shape) or tensor.dtype != float32:
        raise LopsidedError(
            f"{what}: {name} is {tensor.dtype} of {list(tensor.shape)}, expected float32 of {list(shape)}; {FIX}"
        )
    if not all_finite(tensor):
        raise LopsidedError(f"{what}: {name} holds NaN or Inf; expected finite numbers; {FIX}")


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
