"""Entries of `TASKS` whose rows are images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Image, Value, concatenate_datasets

from lopsided.errors import LopsidedError
from lopsided.tasks.metrics import get_metric
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.picture_files import FOLDERS, STORED, PictureFiles, pillow, read_pictures
from lopsided.tasks.reading import Reading
from lopsided.tasks.splits import Cut, unseen_classes
from lopsided.tasks.task import LOCAL_NOTE, SPLITS, Task
from lopsided.tasks.task_entry import Hub, KnownTask, check_options, download, local_folder
from lopsided.tasks.text_entry import class_index

# Test first: what remains is train's and validation's.
THREE_SPLITS = (Cut(target="test", share=0.15), Cut(target="validation", share=0.15 / 0.85))


@dataclass(frozen=True, kw_only=True)
class PictureEntry(KnownTask):
    """A task of images with a class each, of one domain or of several.

    Args:
        hub: where the rows lie; None where the hub does not have them.
        image: the hub's column of images.
        classes: their names in index order; empty takes those of train, in alphabetical order.
        domains: folders of the local form, and values of the hub's column `domain`; none for data sets without.
        held_out: the domain that is tested out of domain, and neither learned nor chosen on; "" pools them all.
        cuts: splits that the data set lacks.
        files: what a folder, or a domain's, holds.
    """

    hub: Hub | None
    image: str = "image"
    classes: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    held_out: str = ""
    cuts: tuple[Cut, ...] = ()
    files: PictureFiles = FOLDERS

    @property
    def kind(self) -> str:
        """The kind of task."""
        return "classification"

    @property
    def origin(self) -> str:
        """The data set's name on the hub, or its folder."""
        return str(self.hub or self.folder)

    @property
    def shape(self) -> str:
        """What is learned, and of which domains."""
        others = [domain for domain in self.domains if domain != self.held_out]
        pooled = f" of {', '.join(others)}" if others else ""
        return f"image{pooled}, label" + (f"; out of domain: {self.held_out}" if self.held_out else "")

    @property
    def layout(self) -> str:
        """The files of the folder."""
        domain = f"DOMAIN/ ({', '.join(self.domains)}), each with " if self.domains else ""
        return domain + self.files.layout

    def load(self, name: str, options: TaskOptions) -> Task:
        """Return the task, from the hub or from the folder of data sets.

        Raises:
            LopsidedError: if the images cannot be found, or one of them or its label cannot be read.
        """
        check_options(name, options)
        parts = self._from_hub(name) if options.data is None else self._from_folder(name, options.data)
        learned = [domain for domain in parts if domain != self.held_out or not domain]
        splits = {split: concatenate_datasets([parts[domain][split] for domain in learned]) for split in SPLITS}
        labels = self.classes or tuple(sorted(set(splits["train"]["label"])))
        elsewhere = {}
        if self.held_out:
            # All of its rows: none of them was learned.
            elsewhere[f"{self.folder}/{self.held_out}"] = concatenate_datasets(list(parts[self.held_out].values()))
        return picture_task(
            name,
            splits,
            labels=labels,
            metric=options.metric or self.metric,
            out_of_domain=elsewhere,
            notes=self.notes(options),
        )

    def _from_folder(self, name: str, data: str) -> dict[str, dict[str, Dataset]]:
        """Return the splits by domain."""
        folder = local_folder(self, name, data)
        missing = [domain for domain in self.domains if not (folder / domain).is_dir()]
        if missing:
            raise LopsidedError(
                f"task {name}: expected a folder per domain in {folder}: {', '.join(self.domains)}; missing "
                f"{', '.join(missing)}; add it"
            )
        places = {domain: folder / domain for domain in self.domains} or {"": folder}
        return {domain: with_cuts(self.files.read(place), self.cuts, str(place)) for domain, place in places.items()}

    def _from_hub(self, name: str) -> dict[str, dict[str, Dataset]]:
        loaded = download(self, self.hub, name)
        assert self.hub is not None  # `download` has raised
        parts = {split: self._read_hub(loaded[theirs]) for split, theirs in self.hub.splits.items()}
        if not self.domains:
            return {"": with_cuts(parts, self.cuts, str(self.hub))}
        by_domain = {
            domain: {split: _of_domain(rows, domain) for split, rows in parts.items()} for domain in self.domains
        }
        return {domain: with_cuts(part, self.cuts, f"{self.hub} {domain}") for domain, part in by_domain.items()}

    def _read_hub(self, rows: Dataset) -> Dataset:
        kept = ["image", "label", *(["domain"] if self.domains else [])]
        if self.image != "image":
            rows = rows.rename_column(self.image, "image")
        rows = rows.select_columns(kept).cast_column("image", STORED)
        for column in kept[1:]:
            feature = rows.features[column]
            values = [feature.names[v] if isinstance(feature, ClassLabel) else str(v) for v in rows[column]]
            rows = rows.remove_columns(column).add_column(column, values)
        return rows


def _of_domain(rows: Dataset, domain: str) -> Dataset:
    return rows.select([i for i, own in enumerate(rows["domain"]) if own == domain]).remove_columns("domain")


def with_cuts(parts: Mapping[str, Dataset], cuts: Sequence[Cut], source: str) -> dict[str, Dataset]:
    """Return all three splits, those that are missing cut from others.

    Raises:
        LopsidedError: if a split is missing that no cut makes.
    """
    splits = dict(parts)
    for cut in cuts:
        if cut.target not in splits:
            rows = splits[cut.source]
            kept, lost = cut.rows(range(len(rows)), rows["label"])
            splits |= {cut.source: rows.select(kept), cut.target: rows.select(lost)}
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        raise LopsidedError(f"{source}: expected splits {', '.join(SPLITS)}; missing {', '.join(missing)}; add them")
    return splits


def picture_task(
    name: str,
    splits: Mapping[str, Dataset],
    *,
    labels: Sequence[str],
    metric: str,
    out_of_domain: Mapping[str, Dataset] | None = None,
    notes: Sequence[str] = (),
) -> Task:
    """Return a task of images whose labels are names.

    Raises:
        LopsidedError: if a split has a class that is none of the labels, or nothing reads images here.
    """
    pillow()

    def indexed(split: str, rows: Dataset) -> Dataset:
        numbers: list[Any] = [
            class_index(label, labels, f"{name} {split} row {i}") for i, label in enumerate(rows["label"])
        ]
        whole = rows.remove_columns("label").add_column("label", numbers)
        return whole.cast_column("image", Image()).cast_column("label", Value("int64"))

    parts = {split: indexed(split, rows) for split, rows in splits.items()}
    return Task(
        name=name,
        kind="classification",
        splits=parts,
        labels=tuple(labels),
        metric=get_metric(metric),
        out_of_domain={split: indexed(split, rows) for split, rows in (out_of_domain or {}).items()},
        note="; ".join(filter(None, [*notes, *unseen_classes(parts)])),
        reading=Reading(columns={"image": ("image",), "label": ("label",)}),
    )


def load_picture_folder(name: str, options: TaskOptions) -> Task:
    """Load a task from a folder of images, as `read_pictures` knows them; train's labels are the classes.

    Args:
        name: the folder.
        options: the metric, and whether missing splits are cut from train.

    Raises:
        LopsidedError: if a split is missing, an image or a label cannot be read, or another option is given.
    """
    check_options(name, replace(options, make_split=False))
    folder = Path(name).expanduser()
    parts = read_pictures(folder)
    missing = [split for split in SPLITS if split not in parts]
    if missing and not options.make_split:
        raise LopsidedError(
            f"expected train, validation and test in {folder}, as Parquet files or as folders; missing "
            f"{', '.join(missing)}; add them, or pass --make-split to cut them from train"
        )
    splits = with_cuts(parts, [cut for cut in THREE_SPLITS if cut.target in missing], str(folder))
    return picture_task(
        name,
        splits,
        labels=sorted(set(splits["train"]["label"])),
        metric=options.metric or "accuracy",
        notes=[LOCAL_NOTE],
    )
