"""The embedded text task: is this snippet positive? Human ratings in four domains.

The rows come from the source distribution of `vaderSentiment` on PyPI (MIT), fetched once with pip,
checked against its hash, and kept in the cache folder. A model that is trained on one domain is also tested on the
three others, out of domain.

Source: Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text", ICWSM.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from lopsided.errors import LopsidedError, suggestion
from lopsided.files.cache import cache_folder
from lopsided.files.pip_download import PinnedFile
from lopsided.tasks.metrics import get_metric
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.splits import split_of, stable_hash
from lopsided.tasks.task import SPLITS, Task

ARCHIVE = PinnedFile(
    requirement="vaderSentiment==3.3.2",
    name="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"

DOMAINS = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
# All of them as one task, whose rows say which domain they are from.
ALL = "all"
LABELS = ("negative", "positive")
OUT_OF_DOMAIN_ROWS = 300
NOTE = "split by a hash of the text: not comparable with published test figures"


def fetch() -> Path:
    """Return the path of the checked archive, after downloading it with pip if it is not in the cache.

    Raises:
        LopsidedError: if pip fails, or the file's hash is not the known one.
    """
    path = cache_folder() / ARCHIVE.name
    if path.is_file():
        ARCHIVE.check(path, f"delete {path} and run again")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder inside the cache, so that the rename stays on one file system and is atomic.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fix = f"copy the source distribution of {ARCHIVE.requirement} from PyPI to {path}"
        os.replace(ARCHIVE.download(Path(folder), fix), path)
    return path


def read_domain(archive: Path, domain: str) -> list[tuple[str, int]]:
    """Return (text, label) of every row that was not rated 0, in the order of the file."""
    with tarfile.open(archive) as outer:
        inner = outer.extractfile(INNER)
        assert inner is not None  # the archive's hash was checked, so it is there
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as ratings:
            member = ratings.extractfile(f"hutto_ICWSM_2014/{DOMAINS[domain]}_GroundTruth.txt")
            assert member is not None
            # The files are UTF-8: latin-1 never fails, but turns "clichés" into "clichÃ©s". Split at
            # the line ends alone, since str.splitlines would also split at rarer characters of a text.
            lines = member.read().decode("utf-8").split("\r\n")
    rows = [line.split("\t") for line in lines if line.strip()]
    return [(text.strip(), int(float(rating) > 0)) for _, rating, text in rows if float(rating) != 0]


def load_vader(name: str, options: TaskOptions) -> Task:
    """Load one domain as the task, with the tests of the three others out of domain; or all four as one task.

    Args:
        name: "vader/movie", "vader/amazon", "vader/nyt" or "vader/tweets"; "vader/all", whose rows have their domain
            in the column `domain`.
        options: the metric alone; None takes accuracy.

    Shapes:
        train / validation / test hold about 80 / 10 / 10 % of the rows, by a hash of the text, so a
        text that occurs twice falls into one split. Out of domain: at most 300 rows per domain, those
        with the smallest salted hashes, in hash order.

    Raises:
        LopsidedError: if the domain is unknown, the data cannot be fetched, or other options are given.
    """
    if options != TaskOptions(metric=options.metric):
        raise LopsidedError(
            f"task {name} has its own labels and splits: received label, make_split, rename_labels or "
            "ignore_columns; leave them out"
        )
    domain = name.removeprefix("vader").removeprefix("/")
    known_domains = (*DOMAINS, ALL)
    if domain not in known_domains:
        raise LopsidedError(
            f"unknown VADER domain: expected {', '.join(f'vader/{known}' for known in known_domains)}; "
            f"received '{name}'{suggestion(domain, known_domains, 'choose one of them')}"
        )
    archive = fetch()
    rows = {known: read_domain(archive, known) for known in DOMAINS}
    if domain == ALL:
        splits, others = _all_domains(rows), {}
    else:
        splits = {split: _dataset(part) for split, part in _parts(rows[domain]).items()}
        others = {f"vader/{other}": _sample(rows[other]) for other in DOMAINS if other != domain}
    return Task(
        name=name,
        kind="classification",
        splits=splits,
        labels=LABELS,
        metric=get_metric(options.metric or "accuracy"),
        out_of_domain=others,
        note=NOTE,
    )


def _parts(rows: list[tuple[str, int]]) -> dict[str, list[tuple[str, int]]]:
    """Return the rows of each split."""
    parts: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for row in rows:
        parts[split_of(row[0])].append(row)
    return parts


def _all_domains(rows: dict[str, list[tuple[str, int]]]) -> dict[str, Dataset]:
    """Return the splits of all domains one after the other, each row with its domain."""
    parts = {domain: _parts(domain_rows) for domain, domain_rows in rows.items()}
    return {
        split: concatenate_datasets(
            [_dataset(part[split]).add_column("domain", [domain] * len(part[split])) for domain, part in parts.items()]
        )
        for split in SPLITS
    }


def _sample(rows: list[tuple[str, int]]) -> Dataset:
    """Return the rows of another domain that this one is tested on."""
    test = [row for row in rows if split_of(row[0]) == "test"]
    # Salted, because the plain hash already decided the split, and its order depends on that.
    test.sort(key=lambda row: stable_hash(row[0], salt="out-of-domain"))
    return _dataset(test[:OUT_OF_DOMAIN_ROWS])


def _dataset(rows: list[tuple[str, int]]) -> Dataset:
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
