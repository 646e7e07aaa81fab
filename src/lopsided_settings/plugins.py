"""What can be set of a verb that may run a user's own code."""

from dataclasses import dataclass
from pathlib import Path

from lopsided_settings.field import setting


@dataclass(frozen=True, kw_only=True, init=False, eq=False, repr=False)
class PluginSettings:
    """The file whose entries a verb knows in addition to the library's own. No record names the file: it is code."""

    plugin: Path | None = setting(
        None, help="A Python file of your own, which is run: its methods, models and tasks are known."
    )
