"""Progress: every pass over rows moves, time is left until none is, and a log has few lines."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress

from lopsided.runs import train
from lopsided.runs.progress import ProgressBar, ProgressLine, RunProgress, Work
from tests.runs.test_resume import cut_off
from tests.tiny_runs import tiny_config


class Heard(RunProgress):
    """Keeps what it is told, with the time that is left then."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple] = []

    def show_step(self):
        self.said.append(("step", self.step))

    def show_batch(self, what, done, total):
        self.said.append(("batch", what, done, total))

    def show_pass(self, what, metrics):
        self.said.append(("pass", what, "eval_loss" in metrics, self.seconds_left))

    def show_loss(self, loss):
        self.said.append(("loss",))

    def show_trained(self, state):
        self.said.append(("trained", self.seconds_left))

    def of(self, kind):
        return [each[1:] for each in self.said if each[0] == kind]


def test_steps_evaluations_and_the_passes_at_the_end_are_told(tmp_path, bert, words):
    heard = Heard()
    # Batches of 16 to train on, of 32 to evaluate: 32 validation rows are one, 64 of train and 40 of test are two.
    train(tiny_config(tmp_path / "run", model=bert, task=words, method="cla"), callbacks=[heard])
    assert heard.work == Work(
        steps=30, evaluations=4, validation=1, final=(("train", 2), ("validation", 1), ("test", 2))
    )
    assert heard.of("step") == [(step,) for step in range(1, 31)]
    once = ("validation", 1, 1)
    assert heard.of("batch") == [*4 * [once], ("train", 1, 2), ("train", 2, 2), once, ("test", 1, 2), ("test", 2, 2)]
    passes = heard.of("pass")
    assert [(what, on_the_way) for what, on_the_way, _ in passes] == [
        *4 * [("validation", True)],
        *((split, False) for split in ("train", "validation", "test")),
    ]
    left = [seconds for *_, seconds in passes]
    assert all(seconds > 0 for seconds in left[:-1])
    assert left[-1] == 0


def test_a_run_that_is_resumed_counts_on(tmp_path, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla")
    cut_off(config)
    heard = Heard()
    train(config, resume=True, callbacks=[heard])
    assert heard.of("step")[0] == (17,)
    assert [what for what, *_ in heard.of("pass")] == ["validation", "validation", "train", "validation", "test"]
    assert heard.seconds_left == 0


def test_written_answers_are_a_pass_of_their_own(tmp_path, llama, phrases):
    heard = Heard()
    options = {"method": "lora", "metric": "exact_match", "max_new_tokens": 2, "steps": 2, "evaluations": 1}
    train(tiny_config(tmp_path / "run", model=llama, task=phrases, **options), callbacks=[heard])
    assert [what for what, *_ in heard.of("pass")] == [
        *("validation", "train", "validation", "answers to validation", "test", "answers to test")
    ]


@pytest.mark.parametrize(("every", "lines"), [(0.0, 8), (30.0, 1)])
def test_a_log_has_a_line_per_evaluation_at_most(tmp_path, bert, words, every, lines):
    file = io.StringIO()
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla")
    train(config, callbacks=[ProgressLine(file, "cla", every=every)])
    written = file.getvalue().splitlines()
    assert len(written) == lines
    assert all(line.startswith("cla: ") for line in written)
    assert re.fullmatch(
        r"cla: 30 steps, lowest validation loss \d\.\d{3} at step \d+", written[-1 if lines == 1 else 4]
    )
    if lines > 1:
        seconds = r"\d+\.\d s left"
        figures = rf"loss \d\.\d+, validation loss \d\.\d+, score \d\.\d+, {seconds}"
        assert re.fullmatch(rf"cla: step 8 of 30, {figures}", written[0])
        assert re.fullmatch(rf"cla: step 30 of 30, test evaluated, {seconds}", written[-1])


def test_a_terminal_has_a_bar_for_the_steps_and_one_for_each_pass(tmp_path, bert, words):
    with Progress(console=Console(file=io.StringIO(), force_terminal=True), auto_refresh=False) as progress:
        bar = ProgressBar(progress, "cla")
        seen = []

        class Look(Heard):
            def show_batch(self, what, done, total):
                seen.append([(task.description, task.completed, task.total) for task in progress.tasks])

        config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla")
        train(config, callbacks=[bar, Look()])
        [task] = progress.tasks
    assert seen[0] == [("cla", 8, 30), ("validation", 1, 1)]
    assert seen[-2:] == [[("cla", 30, 30), ("test", 1, 2)], [("cla", 30, 30), ("test", 2, 2)]]
    assert (task.completed, task.fields["left"]) == (30, "0.0 s left")
    assert task.fields["note"].startswith("validation loss ")
