"""A study as data: methods x models x tasks x seeds, with their settings, as a TOML file says it.

```toml
title = "Four methods on two tasks"
models = ["embedded"]
tasks = ["vader/movie", "vader/nyt"]
methods = ["head", "lora", "cla", "peft:dora"]
seeds = [0, 1, 2]

[settings]                                   # of every run; the fields of `lopsided train`
steps = 60
lr = { value = 3e-4, source = "paper" }      # a value may say where it comes from

[by_method.full]                             # for one method
lr = 1e-4

[variants.cla-kept]                          # a method of the study's own, from a registered one
of = "c3la"
chain = { every = 20, merge = false, redraw = false }

[tuning]                                     # of every method's learning rate; left out: none
trials = 5

[costs]                                      # measured apart from the trainings; left out: none
rounds = 20

[diagnose]                                   # of every run: sections of `lopsided diagnose`; left out: none
only = ["layers", "intruders"]

[[block]]                                    # another product; what it leaves out is the file's
tasks = ["trec"]
source = "code"                              # of its settings, where they do not say
settings = { epochs = 20, link_epochs = 3 }
sweep = { rank = [4, 16] }                   # one run per value, and per combination of several
```
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from lopsided.diagnose import DiagnoseConfig, LandscapeConfig
from lopsided.errors import LopsidedError, unknown
from lopsided.method import Method
from lopsided.method.profiles import AS_WRITTEN, PROFILES
from lopsided.method.variants import varied
from lopsided.study.setting_sources import Source, Sourced, as_source, read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LISTS = ("models", "tasks", "methods")
_OF_BLOCK = (*_LISTS, "seeds", "source", "settings", "by_method", "sweep", "name", "published")
_OF_FILE = (*_OF_BLOCK, "title", "profile", "margin", "variants", "tuning", "costs", "diagnose", "machine", "block")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A product of models, tasks, methods and seeds that share settings.

    Args:
        settings: of every run. by_method: of one method's, over those. sweep: values that are all tried, by setting.
        published: the table of published figures that its cells stand in; "" for none.
    """

    name: str
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Sourced] = field(default_factory=dict)
    by_method: Mapping[str, Mapping[str, Sourced]] = field(default_factory=dict)
    sweep: Mapping[str, tuple[Sourced, ...]] = field(default_factory=dict)
    published: str = ""

    def settings_of(self, method: str) -> list[tuple[dict[str, Sourced], str]]:
        """Return the settings of one method's runs and what tells them apart, once per combination that is swept."""
        shared = {**self.settings, **self.by_method.get(method, {})}
        combinations = itertools.product(*self.sweep.values())
        return [
            ({**shared, **dict(zip(self.sweep, values))}, _words(dict(zip(self.sweep, values))))
            for values in combinations
        ]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How each method's learning rate is chosen: the same trials for every method, by validation alone.

    Args:
        trials: how many rates. Each is one run, with the study's first seed.
        spread: rates lie between the method's own rate / spread and times spread, evenly in the logarithm.
        steps: of a trial; None takes the length of the study's runs.
    """

    trials: int
    spread: float = 10.0
    steps: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("trials", 2), ("spread", 1.0)):
            if getattr(self, name) < least:
                raise LopsidedError(f"{name} must be at least {least}, got {getattr(self, name)}; raise it")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """How the costs of a step are measured, apart from the trainings: see `lopsided.study.costs`.

    Args:
        rounds: in which every method takes its turn.
    """

    rounds: int = 20

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise LopsidedError(f"rounds must be at least 2, got {self.rounds}; raise it")


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """The diagnosis of every finished run, which is recorded in its line of results.

    Args:
        only: sections of `lopsided diagnose`.
        points, rows, hessian_rows: of landscapes and sharpness, as for that verb.
    """

    only: Sequence[str]
    points: int = 25
    rows: int = 256
    hessian_rows: int = 64

    @property
    def config(self) -> DiagnoseConfig:
        """The same as a diagnosis takes it.

        Raises:
            LopsidedError: for an unknown section, or numbers that make no sense.
        """
        around = LandscapeConfig(points=self.points, rows=self.rows, hessian_rows=self.hessian_rows)
        return DiagnoseConfig(only=tuple(self.only), landscape=around)

    def __post_init__(self) -> None:
        _ = self.config


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that a plan's times are worked out for, where nothing can be timed here.

    Args:
        name: in words.
        tflops: what it sustains in training, in 10^12 floating-point operations per second.
    """

    name: str
    tflops: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study, as its file says it.

    Args:
        profile: "as_written" takes methods as the papers' mathematics has them; see `lopsided.method.profiles`.
        margin: in points of the score: a choice that is at most that much worse than the best is decided.
        variants: methods of the study's own, by name.
        costs: how costs are measured; None measures none. diagnose: what is diagnosed; None for nothing.
        machine: of the plan's times, where nothing can be timed here.
    """

    title: str
    blocks: tuple[Block, ...]
    profile: str = AS_WRITTEN
    margin: float = 1.0
    variants: Mapping[str, Method] = field(default_factory=dict)
    tuning: Tuning | None = None
    costs: Costs | None = None
    diagnose: Diagnose | None = None
    machine: Machine | None = None


def read_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        LopsidedError: if it is not there, is no TOML, or says something that makes no sense; with file and key.
    """
    if not path.is_file():
        raise LopsidedError(f"expected a study file, got {path}, which is not there; see docs/studies.md")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LopsidedError(f"{path}: not TOML ({error}); correct it") from error
    return study_from(data, str(path))


def study_from(data: Mapping[str, Any], where: str) -> Study:
    """Return the study that plain data describes.

    Args:
        where: the file, for errors.

    Raises:
        LopsidedError: naming file and key.
    """
    _check_keys(data, _OF_FILE, where)
    profile = str(data.get("profile", AS_WRITTEN))
    if profile not in PROFILES:
        raise LopsidedError(f"{where}: {unknown('profile', profile, PROFILES)}")
    blocks = [(table, f"{where}: block {number}") for number, table in enumerate(data.get("block", ()), 1)]
    study = Study(
        title=str(data.get("title") or Path(where).stem),
        blocks=tuple(_block(data, table, place) for table, place in blocks or [({}, where)]),
        profile=profile,
        variants={
            name: _variant(name, table, f"{where}: variants.{name}")
            for name, table in _table(data, "variants", where).items()
        },
        margin=float(data.get("margin", 1.0)),
        tuning=_typed(Tuning, data["tuning"], f"{where}: tuning") if "tuning" in data else None,
        costs=_typed(Costs, data["costs"], f"{where}: costs") if "costs" in data else None,
        diagnose=_typed(Diagnose, data["diagnose"], f"{where}: diagnose") if "diagnose" in data else None,
        machine=_typed(Machine, data["machine"], f"{where}: machine") if "machine" in data else None,
    )
    if study.tuning is not None and any("lr" in block.sweep for block in study.blocks):
        raise LopsidedError(
            f"{where}: [tuning] chooses a learning rate for each method, and sweep.lr tries given ones; leave one out"
        )
    return study


def _block(data: Mapping[str, Any], table: Mapping[str, Any], where: str) -> Block:
    """Return a block: what its own table says, over what the file says for all."""
    _check_keys(table, _OF_BLOCK, where)
    both = {**data, **table}
    lists = {name: tuple(_names(both, name, where)) for name in _LISTS}
    seeds = both.get("seeds", [0])
    if not seeds or not all(type(seed) is int for seed in seeds) or len(set(seeds)) != len(seeds):
        raise LopsidedError(f"{where}: seeds must be distinct whole numbers, one or more, got {seeds}; correct them")
    outer, inner = _source(data, where), _source(table, where, _source(data, where))
    named: dict[str, dict[str, Sourced]] = {}
    for source, part in ((outer, data), (inner, table)):
        for method, settings in _table(part, "by_method", where).items():
            if method not in lists["methods"]:
                raise LopsidedError(f"{where}: by_method: {unknown('method', method, lists['methods'])}")
            read = read_settings(settings, f"{where}: by_method.{method}", source)
            named[method] = {**named.get(method, {}), **read}
    return Block(
        name=str(both.get("name", "")),
        **lists,
        seeds=tuple(seeds),
        settings={
            **read_settings(_table(data, "settings", where), f"{where}: settings", outer),
            **read_settings(_table(table, "settings", where), f"{where}: settings", inner),
        },
        by_method=named,
        sweep=_sweep(_table(both, "sweep", where), f"{where}: sweep", inner),
        published=str(both.get("published", "")),
    )


def _sweep(table: Mapping[str, Any], where: str, source: Source) -> dict[str, tuple[Sourced, ...]]:
    """Return the values of each setting that is swept."""
    for name, values in table.items():
        if not isinstance(values, list) or not values:
            raise LopsidedError(f"{where}: expected a list of values as {name}, received {values!r:.40}; write one")
    return {
        name: tuple(read_settings({name: value}, where, source)[name] for value in values)
        for name, values in table.items()
    }


def _words(swept: Mapping[str, Sourced]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {each.value}" for name, each in swept.items())


def _source(table: Mapping[str, Any], where: str, otherwise: Source = "default") -> Source:
    return as_source(table["source"], f"{where}: source") if "source" in table else otherwise


def _names(data: Mapping[str, Any], key: str, where: str) -> Sequence[str]:
    names = data.get(key)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise LopsidedError(f"{where}: expected {key} as a list of names, received {names!r:.60}; add it")
    if len(set(names)) != len(names):
        raise LopsidedError(f"{where}: {key} must be distinct, got {', '.join(names)}; take one out")
    return names


def _table(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = data.get(key, {})
    if not isinstance(table, Mapping):
        raise LopsidedError(f"{where}: expected a table as {key}, received {str(table)[:40]!r}; write [{key}]")
    return table


def _variant(name: str, table: Mapping[str, Any], where: str) -> Method:
    if not isinstance(table, Mapping) or "of" not in table:
        raise LopsidedError(f"{where}: expected a table with of = METHOD and the parts that change; add `of`")
    parts = {key: value for key, value in table.items() if key != "of"}
    try:
        return varied(str(table["of"]), name=name, **parts)
    except LopsidedError as error:
        raise LopsidedError(f"{where}: {error}") from error


Part = TypeVar("Part", Tuning, Costs, Diagnose, Machine)


def _typed(kind: type[Part], table: Any, where: str) -> Part:
    """Return a part of a study from its table, which has the fields of its class."""
    if not isinstance(table, Mapping):
        raise LopsidedError(f"{where}: expected a table, received {str(table)[:40]!r}; correct it")
    _check_keys(table, [each.name for each in fields(kind)], where)
    missing = [each.name for each in fields(kind) if each.default is MISSING and each.name not in table]
    if missing:
        raise LopsidedError(f"{where}: expected {', '.join(missing)}, received none; add it")
    try:
        return kind(**table)
    except (LopsidedError, TypeError) as error:
        raise LopsidedError(f"{where}: {error}") from error


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise LopsidedError(f"{where}: {unknown('key', key, known)}")
