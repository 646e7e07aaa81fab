"""How a diagnosis shows where it is: a bar per section at a terminal, a line per section elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lopsided.diagnose.section_progress import Note, SectionLines, SectionProgress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@contextmanager
def progress_of_sections(console: Console) -> Iterator[tuple[SectionProgress, Note]]:
    """Yield what follows the sections inside the context, and what writes a line between them."""

    def write(text: str) -> None:
        console.print(f"diagnose: {text}", markup=False, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield SectionLines(write), write
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        yield SectionBars(bars, write), write


class SectionBars(SectionProgress):
    """Moves a bar over each section, with the time left of it; a line stays when it has ended.

    Args:
        bars: shows them.
        note: writes a line above the bar.
    """

    def __init__(self, bars: Progress, note: Note) -> None:
        super().__init__()
        self._bars, self._note = bars, note
        self._bar = bars.add_task("", total=None, visible=False, left="")

    def show_run(self, text: str) -> None:
        """Write the run's text above the bar."""
        self._note(text)

    def show_section(self) -> None:
        """Show a bar, which waits for the first step."""
        self._bars.reset(self._bar, description=self.section, total=None, visible=True, left="")

    def show_step(self, done: int, total: int, left: str) -> None:
        """Move the bar."""
        self._bars.update(self._bar, completed=done, total=total, left=left)

    def show_end(self, seconds: float) -> None:
        """Take the bar away, and write how long the section took."""
        from lopsided.formatting import duration

        self._bars.update(self._bar, visible=False)
        self._note(f"{self.section}: {duration(seconds)}")
