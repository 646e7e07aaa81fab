"""Images: CIFAR-10, Fashion-MNIST, scikit-learn's digits, and the domains of DomainBed."""

from __future__ import annotations

from collections.abc import Mapping

from lopsided.tasks.options import TaskOptions
from lopsided.tasks.picture_entry import THREE_SPLITS, PictureEntry, picture_task, with_cuts
from lopsided.tasks.picture_files import IDX, read_digits
from lopsided.tasks.splits import Cut
from lopsided.tasks.task import Task
from lopsided.tasks.task_entry import Hub, KnownTask, PackagedEntry, PartSources, check_options

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")
OURS = PartSources(hub="default", splits="default", form="default", metric="default")
# Images per domain, as DomainBed has them.
PACS = {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}
OFFICE = {"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357}
VLCS = {"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376}
TERRA = {"location_38": 9736, "location_43": 3970, "location_46": 5883, "location_100": 4741}
TRAIN_AND_TEST = {"train": "train", "test": "test"}
CAPPED = "the papers' code scores 20 batches of 64"


def _digits(name: str, options: TaskOptions) -> Task:
    check_options(name, options)
    splits = with_cuts({"train": read_digits()}, THREE_SPLITS, name)
    return picture_task(name, splits, labels=DIGITS, metric=options.metric or "accuracy", notes=[_CUT])


_CUT = "split by a fixed seed: not comparable with published test figures"


def _domains(folder: str, hub: str, domains: Mapping[str, int], about: str) -> dict[str, KnownTask]:
    """Return an entry per domain, which that one holds out.

    Args:
        domains: how many images each has.
    """
    images = sum(domains.values())
    return {
        f"{folder}/{domain}": PictureEntry(
            about=f"{about}, tested out of domain on {domain}",
            hub=Hub(name=hub, splits={"train": "train"}) if hub else None,
            domains=tuple(domains),
            held_out=domain,
            cuts=THREE_SPLITS,
            metric="accuracy",
            folder=folder,
            rows=_three_splits(images - domains[domain]),
            sources=PartSources(hub="default", splits="unknown", form="unknown", metric="paper"),
            note="trained on the other domains",
            hub_note="validation and test of the other domains are cut by a fixed seed",
        )
        for domain in domains
    }


def _three_splits(images: int) -> tuple[int, int, int]:
    """Return about how many of some images `THREE_SPLITS` leaves in train, validation and test."""
    held = round(0.15 * images)
    return images - 2 * held, held, held


PICTURES: dict[str, KnownTask] = {
    "cifar10": PictureEntry(
        about="what a small photograph shows, in 10 classes",
        hub=Hub(name="uoft-cs/cifar10", splits=TRAIN_AND_TEST),
        image="img",
        classes=CIFAR,
        cuts=(Cut(share=0.05),),
        metric="accuracy",
        folder="cifar10",
        rows=(47_500, 2500, 10_000),
        sources=PartSources(),
        note=CAPPED,
    ),
    "officehome": PictureEntry(
        about="which of 65 things an image shows, four domains pooled",
        hub=Hub(name="flwrlabs/office-home", splits={"train": "train"}),
        domains=tuple(OFFICE),
        cuts=THREE_SPLITS,
        metric="accuracy",
        folder="officehome",
        rows=(10_912, 2338, 2338),
        sources=PartSources(hub="default"),
        note=CAPPED,
    ),
    "fashion-mnist": PictureEntry(
        about="which of 10 pieces of clothing an image shows",
        hub=Hub(name="zalando-datasets/fashion_mnist", splits=TRAIN_AND_TEST),
        cuts=(Cut(share=0.1),),
        files=IDX,
        metric="accuracy",
        folder="fashion_mnist",
        rows=(54_000, 6000, 10_000),
        sources=OURS,
        hub_note="validation is a tenth of train",
    ),
    "digits": PackagedEntry(
        about="which digit an image of 8 x 8 pixels shows",
        package="scikit-learn",
        form="image, label",
        make=_digits,
        metric="accuracy",
        sources=OURS,
        note=_CUT,
    ),
    **_domains("officehome", "flwrlabs/office-home", OFFICE, "which of 65 things an image shows"),
    **_domains("pacs", "flwrlabs/pacs", PACS, "which of 7 things an image shows"),
    **_domains("vlcs", "", VLCS, "which of 5 things a photograph shows"),
    **_domains("terra_incognita", "", TERRA, "which of 10 animals a camera trap shows"),
}
