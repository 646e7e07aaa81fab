"""How far a diagnosis is: by run, by section, and by step of a section."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lopsided.formatting import duration

# Tells a person something.
Note = Callable[[str], None]
# Receives the number of steps that are done, and of all.
Step = Callable[[int, int], None]
# No log needs more lines of one section than one per that many seconds.
SECONDS_BETWEEN_LINES = 30.0


def silent(text: str) -> None:
    """Tell nobody: the default `Note`."""


class SectionProgress(ABC):
    """Follows the runs and sections of one command, and shows them.

    The time left is of all runs, at the pace of those that are done; before the first one is done, of the section.
    """

    def __init__(self) -> None:
        self._since = self._section_since = time.monotonic()
        self.run, self.section = "", ""
        self._number, self._of, self._made = 1, 1, 0

    @abstractmethod
    def show_run(self, text: str) -> None:
        """Show which run comes next, or what became of it."""

    @abstractmethod
    def show_section(self) -> None:
        """Show that `section` has begun."""

    @abstractmethod
    def show_step(self, done: int, total: int, left: str) -> None:
        """Show how far `section` is."""

    @abstractmethod
    def show_end(self, seconds: float) -> None:
        """Show that `section` has ended."""

    def begin_run(self, name: str, number: int, of: int) -> None:
        """Take the name of the next run, and its place among all of them."""
        self.run, self._number, self._of = name, number, of
        self.show_run(f"run {number} of {of}: {name}{self._left_of_runs()}")

    def kept_run(self, name: str, number: int, of: int, why: str) -> None:
        """Say of a run whose diagnosis is kept why it is."""
        self.show_run(f"run {number} of {of}: {name} {why}")

    def end_run(self) -> None:
        """Count a run whose sections are computed."""
        self._made += 1

    @contextmanager
    def of_section(self, name: str) -> Iterator[None]:
        """Follow a section inside the context."""
        self.section, self._section_since = name, time.monotonic()
        self.show_section()
        try:
            yield
        finally:
            self.show_end(time.monotonic() - self._section_since)

    def step(self, done: int, total: int) -> None:
        """Take how far the section is."""
        spent = time.monotonic() - self._section_since
        left = f"{duration(spent / done * (total - done))} left" if 0 < done < total else ""
        self.show_step(done, total, left)

    def _left_of_runs(self) -> str:
        """How long the runs that are not done still take, in words; "" before the first one is done."""
        if not self._made:
            return ""
        pace = (time.monotonic() - self._since) / self._made
        return f", {duration(pace * (self._of - self._number + 1))} left"


class SectionLines(SectionProgress):
    """Writes one line per section when it has ended, and lines on the way of one that takes minutes.

    Args:
        note: writes a line.
        every: the fewest seconds before and between two lines of a section.
    """

    def __init__(self, note: Note = silent, *, every: float = SECONDS_BETWEEN_LINES) -> None:
        super().__init__()
        self._note, self._every = note, every
        self._last = time.monotonic()

    def show_run(self, text: str) -> None:
        """Write it."""
        self._note(text)

    def show_section(self) -> None:
        """Write nothing: a line follows when the section has ended."""
        self._last = time.monotonic()

    def show_step(self, done: int, total: int, left: str) -> None:
        """Write how far a long section is."""
        now = time.monotonic()
        if left and now - self._last >= self._every:
            self._last = now
            self._note(f"{self.section}: {done / total:.0%}, {left}")

    def show_end(self, seconds: float) -> None:
        """Write how long it took."""
        self._note(f"{self.section}: {duration(seconds)}")
