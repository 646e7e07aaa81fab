"""The table of known tasks: the papers' data sets in the papers' form.

One more task is one more entry: `TASKS["name"] = TextEntry(...)`.
"""

from __future__ import annotations

from lopsided.tasks.entries.completions import COMPLETIONS
from lopsided.tasks.entries.pictures import PICTURES
from lopsided.tasks.entries.ratings import RATINGS
from lopsided.tasks.entries.reasoning import REASONING
from lopsided.tasks.entries.sentences import SENTENCES
from lopsided.tasks.task_entry import KnownTask

TASKS: dict[str, KnownTask] = {**RATINGS, **SENTENCES, **REASONING, **COMPLETIONS, **PICTURES}
