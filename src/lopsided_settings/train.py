"""What can be set of one run."""

from dataclasses import dataclass
from pathlib import Path

from lopsided_settings.checks import NOT_NEGATIVE, POSITIVE, SEED, SHARE, at_least, one_of
from lopsided_settings.field import setting
from lopsided_settings.texts import NAMES, PAIRS

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
# What a comparison sets by itself, or leaves at its default.
_COMPARE = ("compare",)
# What follows from a federation's rounds.
_FEDERATE = ("federate",)


@dataclass(frozen=True, kw_only=True, init=False, eq=False, repr=False)
class TrainSettings:
    """The fields of `lopsided.runs.TrainConfig`, in the order of `run.json`."""

    model: str = setting("embedded", help="A model of `lopsided models`, a folder, or a Hugging Face name.")
    task: str = setting(
        "vader/movie",
        help="A task of `lopsided tasks`, a folder of JSON lines or images, or a Hugging Face name.",
        defaults={"federate": "vader/all"},
    )
    data: str | None = setting(
        None, help="A folder with the data sets of `lopsided tasks` in local form; the hub by default."
    )
    method: str = setting(
        "c3la", help="A method of `lopsided methods`.", not_in=_COMPARE, defaults={"federate": "rac_b"}
    )
    rank: int = setting(16, help="Rank r.", check=at_least(1))
    alpha: float | None = setting(None, help="Numerator of the scale alpha/r; 2r by default.", check=POSITIVE)
    links: int | None = setting(None, help="Number of links of a chained method.", not_in=_FEDERATE)
    every: int | None = setting(None, help="Steps in a link, instead of --links.", not_in=(*_COMPARE, *_FEDERATE))
    target_modules: str | None = setting(
        "all-linear", help="Names separated by commas, a regular expression, or all-linear."
    )
    dropout: float = setting(0.0, help="Dropout on the adapters' inputs.", check=SHARE, not_in=_COMPARE)
    label: str | None = setting(
        None, help="The column to learn, if several could be it or its name is not one of the known ones."
    )
    metric: str | None = setting(None, help="The figure that counts; the task's own by default.")
    also: list[str] | None = setting(
        None, help="Scores to record next to the metric, separated by commas; the task's own by default.", text=NAMES
    )
    max_new_tokens: int | None = setting(
        None,
        help="Most tokens per generated answer, for scores of answers; by default the longest completion of train.",
        check=POSITIVE,
    )
    beams: int = setting(1, help="Beams that answers are written with; 1 is greedy.", check=at_least(1))
    make_split: bool = setting(False, help="Cut a missing validation or test split from train.")
    rename_labels: dict[str, str] | None = setting(
        None, help="Classes to read under another name: OLD=NEW, separated by commas.", text=PAIRS
    )
    ignore_columns: list[str] | None = setting(
        None, help="Columns that are not for learning, separated by commas; no other may go unused.", text=NAMES
    )
    pool_files: bool = setting(
        False,
        help="Read all files of the task's folder but validation and test as train, as a federation by file does.",
        option=False,
    )
    train_size: int | None = setting(
        None,
        help="Most training rows to learn from, drawn by a fixed seed: the same for every method and run.",
        check=at_least(1),
        defaults={"federate": 1000},
    )
    steps: int | None = setting(
        None, help="Optimizer steps.", check=POSITIVE, not_in=_FEDERATE, defaults={"compare": 48}
    )
    epochs: float | None = setting(
        None, help="Passes over the training rows, instead of --steps.", check=POSITIVE, not_in=_FEDERATE
    )
    batch_size: int = setting(32, help="Rows in one forward pass.", check=at_least(1))
    group_by_length: bool = setting(
        False,
        help="Fill a batch with rows of about equal length, which saves padding: the order of batches stays random.",
        flags="--group-by-length/--no-group-by-length",
        not_in=_FEDERATE,
        defaults={"compare": True},
    )
    accumulate: int = setting(1, help="Forward passes in one optimizer step.", check=at_least(1))
    lr: float | None = setting(None, help="Learning rate; the method's own by default.", check=POSITIVE)
    schedule: str = setting(
        "linear",
        help="linear, cosine, constant or constant_with_warmup.",
        check=one_of(SCHEDULES),
        not_in=_COMPARE,
    )
    warmup: float = setting(
        0.1, help="Share of the steps in which the learning rate climbs.", check=SHARE, not_in=_COMPARE
    )
    weight_decay: float = setting(
        0.0, help="Weight decay of the trained matrices.", check=NOT_NEGATIVE, not_in=_COMPARE
    )
    max_grad_norm: float | None = setting(
        None, help="Largest norm of a step's gradient, 0 for any; 1 by default.", check=NOT_NEGATIVE, not_in=_COMPARE
    )
    adam_beta2: float | None = setting(
        None, help="Decay of the optimizer's second moment; 0.999 by default.", check=SHARE, not_in=_COMPARE
    )
    flip: bool = setting(False, help="Mirror half of the images in training, left to right.")
    max_length: int = setting(128, help="Most tokens of a row.", check=at_least(1))
    evaluations: int = setting(
        4, help="How often the run is evaluated and saved.", check=at_least(1), not_in=(*_COMPARE, *_FEDERATE)
    )
    eval_rows: int | None = setting(
        None,
        help="Most validation rows that checkpoints are chosen on, or that a federation's clients are scored on.",
        check=POSITIVE,
        defaults={"compare": 128, "federate": 400},
    )
    test_rows: int | None = setting(
        None,
        help="Most rows of test, and of each other domain, that the finished run is evaluated on: the same for every "
        "method and seed.",
        check=at_least(1),
    )
    train_rows: int = setting(
        1000,
        help="Most training rows in the training loss that is reported.",
        check=at_least(1),
        option=False,
        defaults={"compare": 200},
    )
    trajectory: bool | None = setting(
        None,
        help="Keep a copy of the trained weights at each evaluation; by default for adapters only.",
        flags="--trajectory/--no-trajectory",
        not_in=_FEDERATE,
    )
    test: bool = setting(
        True,
        help="Evaluate the finished run on test and out of domain; a search for settings, which may look at "
        "validation alone, does not.",
        option=False,
    )
    bf16: bool = setting(False, help="Autocast to bfloat16.")
    report_to: str = setting("none", help="A tracker that transformers knows, or none.", not_in=(*_COMPARE, *_FEDERATE))
    seed: int = setting(
        0, help="Seed of the head, the rows' order, dropout and the sketches.", check=SEED, not_in=_COMPARE
    )
    sketch_seed: int | None = setting(
        None,
        help="Seed of the sketches alone, to vary them while all else stays equal; --seed by default.",
        check=SEED,
        not_in=_COMPARE,
    )
    out: Path = setting(help="Folder to write; a new one by default.")
