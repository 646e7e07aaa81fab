"""An entry of `TASKS`: where a known data set lies, how its splits come about, and how a row becomes an example."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import datasets
from huggingface_hub.errors import HTTPError

from lopsided.errors import LopsidedError, first_line
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.reading import Row
from lopsided.tasks.task import LOCAL_NOTE, SPLITS, Task

# Where the hub keeps its own copy, as Parquet, of data sets whose repository is a script.
CONVERTED = "refs/convert/parquet"

# Where a setting of a study comes from: the papers' released code, its notes, the paper, our own choice, nowhere.
Word = Literal["code", "readme", "paper", "default", "unknown"]


@dataclass(frozen=True, kw_only=True)
class PartSources:
    """Where each part of an entry comes from.

    Args:
        hub: the data set and its configuration.
        splits: which rows are learned, chosen on and tested.
        form: prompt or pairing.
        metric: the figure that counts.
    """

    hub: Word = "code"
    splits: Word = "code"
    form: Word = "code"
    metric: Word = "code"


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A data set on the Hugging Face hub.

    Args:
        name: such as "nyu-mll/glue".
        configuration: the data set's part, if it has several.
        revision: a branch or commit; None takes the newest.
        splits: by our split, the data set's own.
        files: by the data set's split, a file in the repository, where the hub's own loading finds other ones or none.
        builder: what reads the files, "json" or "parquet".
        read: makes a row with the fields of the local form; None where they are the same.
    """

    name: str
    configuration: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: dict(zip(SPLITS, SPLITS)))
    files: Mapping[str, str] | None = None
    builder: str = "json"
    read: Callable[[Row], Row] | None = None

    def __str__(self) -> str:
        return self.name + (f" ({self.configuration})" if self.configuration else "")


@dataclass(frozen=True, kw_only=True)
class KnownTask(abc.ABC):
    """The fields that all entries of `TASKS` have.

    Args:
        about: what is to be learned, in a few words.
        metric: the figure that counts, a name in `score_functions.SCORES`.
        also: the scores that are recorded next to it.
        sources: where the parts come from.
        folder: the data set's folder in local form; "" if it has none.
        rows: about how many rows train, validation and test have on the hub, for plans made without it; cuts keep
            rows of the same text together, so the exact numbers come with the rows. None where they are not known.
        note: how figures differ from published ones, or "".
        hub_note: how the splits of the hub's rows differ, or ""; rows in local form have their own.
    """

    about: str
    metric: str
    sources: PartSources
    also: tuple[str, ...] = ()
    folder: str = ""
    rows: tuple[int, int, int] | None = None
    note: str = ""
    hub_note: str = ""

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """The kind of task."""

    @property
    @abc.abstractmethod
    def origin(self) -> str:
        """Where the rows come from, in a few words."""

    @property
    @abc.abstractmethod
    def shape(self) -> str:
        """How a row becomes an example, in a line."""

    @property
    @abc.abstractmethod
    def layout(self) -> str:
        """What the folder of the local form holds, in a line."""

    def notes(self, options: TaskOptions) -> list[str]:
        """Return what to print next to every figure, in parts; some may be empty."""
        return [self.note, LOCAL_NOTE if options.data else self.hub_note]

    @abc.abstractmethod
    def load(self, name: str, options: TaskOptions) -> Task:
        """Return the task.

        Args:
            name: the entry's.
            options: the metric, and the folder of data sets in local form; None asks the hub.

        Raises:
            LopsidedError: if the rows cannot be found or read.
        """

    def to_json(self) -> dict[str, Any]:
        """Return what `lopsided tasks --json` prints."""
        return {
            "about": self.about,
            "kind": self.kind,
            "metric": self.metric,
            "also": list(self.also),
            "origin": self.origin,
            "local_form": f"{self.folder}/ with {self.layout}" if self.folder else "",
            "form": self.shape,
            "sources": dataclasses.asdict(self.sources),
            "rows": dict(zip(SPLITS, self.rows)) if self.rows else None,
            "note": "; ".join(filter(None, [self.note, self.hub_note])),
        }


@dataclass(frozen=True, kw_only=True)
class PackagedEntry(KnownTask):
    """A data set that comes with a package, and is read without the hub or a folder.

    Args:
        package: what carries it.
        form: how a row becomes an example, in words.
        make: makes the task of the entry's name.
    """

    package: str
    form: str
    make: Callable[[str, TaskOptions], Task]

    @property
    def kind(self) -> str:
        """The kind of task."""
        return "classification"

    @property
    def origin(self) -> str:
        """The package."""
        return self.package

    @property
    def shape(self) -> str:
        """How a row becomes an example, in a line."""
        return self.form

    @property
    def layout(self) -> str:
        """Nothing: the package has the rows."""
        return ""

    def load(self, name: str, options: TaskOptions) -> Task:
        """Return the task; the folder of data sets is not needed."""
        return self.make(name, dataclasses.replace(options, data=None, metric=options.metric or self.metric))


def check_options(name: str, options: TaskOptions) -> None:
    """Raise for options that an entry decides itself."""
    if options != TaskOptions(metric=options.metric, data=options.data):
        raise LopsidedError(
            f"task {name} has its own labels and splits: received label, make_split, rename_labels or "
            "ignore_columns; leave them out"
        )


def download(entry: KnownTask, hub: Hub | None, name: str) -> Any:
    """Return the data set from the hub or its local cache, by the hub's splits.

    Args:
        entry: the task.
        hub: where its rows lie; None for data sets that the hub does not have.
        name: the task's, for errors.

    Raises:
        LopsidedError: if it cannot be loaded; the message says what to download, and where to put it.
    """
    local = f"put {entry.layout} into {entry.folder}/ of a folder of your own and pass that with --data"
    if hub is None:
        raise LopsidedError(f"task {name} is not on the hub: expected --data; received none; {local}")
    try:
        if hub.files is not None:
            at = f"hf://datasets/{hub.name}" + (f"@{hub.revision}" if hub.revision else "")
            files = {split: f"{at}/{file}" for split, file in hub.files.items()}
            return datasets.load_dataset(hub.builder, data_files=files)
        return datasets.load_dataset(hub.name, hub.configuration, revision=hub.revision)
    # `datasets` raises these for: no network; no such data set or configuration; a data set that is a script.
    # Single files without a network raise an error of the hub's HTTP client.
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise LopsidedError(
            f"task {name}: expected the data set {hub} from the hub; received: {first_line(error)}; check the "
            f"network, or {local}"
        ) from error


def local_folder(entry: KnownTask, name: str, data: str) -> Path:
    """Return the folder of a data set in local form.

    Raises:
        LopsidedError: if there is none.
    """
    folder = Path(data).expanduser() / entry.folder
    if not folder.is_dir():
        raise LopsidedError(
            f"task {name}: expected the folder {folder}; received none; put {entry.origin} there, as "
            f"{entry.layout}, or leave --data out to load it from the hub"
        )
    return folder
