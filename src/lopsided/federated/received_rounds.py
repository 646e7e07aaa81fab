"""The averages that a client has received, in its folder: after a restart it stands where it stood, and asks for less.

A folder with

    received.json              the run's name, and for each round its number, link and hash
    round-00001.safetensors    the averaged tensors; of several rounds of one link only the last one's

The server's log (`round_log`) is the record of the run. This one is a cache of it: whatever is not as it should be is
asked for again.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.files.atomic import atomic_file, file_hash, write_json
from lopsided.files.untrusted import open_tensors, read_json

INDEX = "received.json"


@dataclass(frozen=True)
class ReceivedRound:
    """A round's average, as the client has it: the hash is that of its file."""

    number: int
    link: int
    sha256: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"round-{self.number:05d}.safetensors"


class ReceivedRounds:
    """The averages in a client's folder, of one run; those of another run are deleted.

    Args:
        folder: of the client.
        run: the name of the run.

    Example:
        >>> import tempfile, torch
        >>> rounds = ReceivedRounds(Path(tempfile.mkdtemp()), run="a")
        >>> rounds.add(1, 0, {"w": torch.ones(2)})
        >>> ReceivedRounds(rounds.folder, run="a").held, ReceivedRounds(rounds.folder, run="b").held
        (1, 0)
    """

    def __init__(self, folder: Path, *, run: str) -> None:
        self.folder, self.run = folder, run
        self.rounds = self._read()

    @property
    def held(self) -> int:
        """How many rounds are there, from the first one on without a gap."""
        return len(self.rounds)

    def add(self, number: int, link: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep the average of the next round.

        Raises:
            LopsidedError: if it is another one than the next.
        """
        if number != self.held + 1:
            raise LopsidedError(f"received the average of round {number}, expected that of round {self.held + 1}")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ReceivedRound(number, link, "").file
        with atomic_file(path) as temporary:
            save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata={"format": "pt"})
        earlier = self.rounds
        self.rounds = (*earlier, ReceivedRound(number, link, file_hash(path)))
        write_json(self.folder / INDEX, {"run": self.run, "rounds": [dataclasses.asdict(r) for r in self.rounds]})
        # A later average of the same link takes its place.
        for old in earlier:
            if old.link == link:
                (self.folder / old.file).unlink(missing_ok=True)

    @property
    def lasting(self) -> tuple[ReceivedRound, ...]:
        """The rounds whose tensors are seen afterwards: the last one of each link."""
        following = [*self.rounds[1:], None]
        return tuple(a for a, b in zip(self.rounds, following) if b is None or b.link != a.link)

    def tensors(self, number: int) -> dict[str, Tensor]:
        """Return the average of a round."""
        with open_tensors(self.folder / self.rounds[number - 1].file) as file:
            tensors: dict[str, Tensor] = file.get_tensors()
        return tensors

    def _read(self) -> tuple[ReceivedRound, ...]:
        if not (self.folder / INDEX).is_file():
            return ()
        try:
            index = read_json(self.folder / INDEX)
            run, rounds = index["run"], tuple(ReceivedRound(**entry) for entry in index["rounds"])
            files = [each.file for each in rounds]
        except (LopsidedError, KeyError, TypeError, ValueError):
            # Damaged: the server's log has all of it.
            return ()
        if run != self.run:
            shutil.rmtree(self.folder)
            return ()
        lasting = {number for number, r in enumerate(rounds) if r.link not in {s.link for s in rounds[number + 1 :]}}
        for number, each in enumerate(rounds):
            path = self.folder / files[number]
            if number in lasting and not (path.is_file() and file_hash(path) == each.sha256):
                # What came before is whole; of a link with one round, that is all that it needs.
                return rounds[:number] if number - 1 in lasting else ()
        return rounds
