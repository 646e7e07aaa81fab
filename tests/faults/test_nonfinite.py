"""NaN and infinity are never merged, stepped with or saved; the error says which module."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import lopsided
from lopsided import LopsidedError
from lopsided.models.load import load_model
from lopsided.runs import read_run, train
from lopsided.runs.directory import newest_checkpoint
from lopsided.runs.nonfinite import NonFinite, check_gradients
from lopsided.runs.reload import reload
from lopsided.tasks import load_task
from lopsided.tuner import layers_of
from tests import tiny
from tests.tiny_runs import tiny_config

KEY = "encoder.layer.1.attention.self.key"


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class Plant(TrainerCallback):
    """From the given forward pass in training on, something goes wrong in one module; keeps the weights before it."""

    def __init__(self, where: str, at: int, spoil) -> None:
        self.where, self.at, self.spoil, self.seen, self.model = where, at, spoil, 0, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.model = kwargs["model"]
        [module] = [m for name, m in self.model.named_modules() if name.endswith(self.where)]
        module.register_forward_hook(self._pass)

    def on_step_begin(self, args, state, control, **kwargs):
        self.before = weights(self.model)

    def _pass(self, module, inputs, output):
        self.seen += self.model.training
        if self.model.training and self.seen >= self.at:
            return self.spoil(output)


def infinite(output):
    return output * torch.inf


def infinite_backwards(output):
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.index_fill(-1, torch.tensor([3]), torch.inf))
    return output


# -- a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "c3la", "full"])
def test_a_validation_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path, bert, words, method):
    # The first step of a warm-up has rate 0; the second one ruins the model.
    options = {"steps": 8, "evaluations": 8, "warmup": 0.5, "lr": 1e30}
    config = tiny_config(tmp_path / "run", model=bert, task=words, method=method, **options)
    with pytest.raises(NonFinite, match=r"the validation loss is (nan|inf) at step 2; .*last good checkpoint is kept"):
        train(config)
    record = read_run(config.out).to_json()
    assert record["status"] == "failed"
    assert record["error"].startswith("the validation loss is")
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["checkpoint-1"]
    good = newest_checkpoint(config.out)
    model, tokenizer = load_model(bert, load_task(words), seed=0)
    model = type(model).from_pretrained(good) if method == "full" else PeftModel.from_pretrained(model, str(good))
    assert torch.isfinite(model(**tokenizer("river good", return_tensors="pt")).logits).all()
    with pytest.raises(LopsidedError, match="holds a run that failed; expected a finished run"):
        reload(config.out)


def test_a_training_loss_that_is_not_finite_names_its_step(tmp_path, bert, words):
    options = {"steps": 8, "evaluations": 1, "warmup": 0.0, "lr": 1e30}
    with pytest.raises(
        NonFinite, match=r"the loss is (nan|inf) at step 2, which first shows in the output of .*; .*lower the learning"
    ):
        train(tiny_config(tmp_path / "run", model=bert, task=words, method="lora", **options))
    assert "at step 2" in read_run(tmp_path / "run").error


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (infinite, rf"the loss is nan at step 3, which first shows in the output of \S*{KEY};"),
        (infinite_backwards, rf"the gradient of \S*{KEY}\.lopsided_B\.default\.weight is not finite at step 3;"),
    ],
)
def test_a_run_stops_at_its_last_good_step_and_names_the_module(run_once, tmp_path, bert, words, spoil, message):
    options = {"model": bert, "task": words, "method": "c3la", "steps": 6, "evaluations": 3, "links": 2}
    options |= {"batch_size": 8, "accumulate": 3}
    undisturbed, _ = run_once(**options)
    config = tiny_config(tmp_path / "run", **options)
    # Three passes a step: the trouble starts in the second pass of the third step.
    plant = Plant(KEY, at=3 * 2 + 2, spoil=spoil)
    with pytest.raises(NonFinite, match=message) as caught:
        train(config, callbacks=[plant])
    assert "\n" not in str(caught.value)
    for name, value in weights(plant.model).items():
        assert torch.equal(value, plant.before[name]), name
    assert newest_checkpoint(config.out).name == "checkpoint-2"
    # Without the trouble it goes on to where it would have ended.
    resumed = train(config, resume=True).to_json()
    assert resumed["metrics"] == read_run(undisturbed).to_json()["metrics"]


def test_a_loss_that_is_spoilt_outside_every_module_says_so(tmp_path, bert, words, monkeypatch):
    from lopsided.runs.careful_trainer import CarefulTrainer

    compute = CarefulTrainer.compute_loss
    monkeypatch.setattr(CarefulTrainer, "compute_loss", lambda self, *a, **k: compute(self, *a, **k) * torch.nan)
    with pytest.raises(NonFinite, match="the loss is nan at step 1, while all outputs are finite; expected"):
        train(tiny_config(tmp_path / "run", model=bert, task=words, method="cla", steps=2))


def test_a_gradient_is_blamed_where_it_was_computed_first():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    check_gradients(model, 5)
    model[0].weight.grad[0, 0] = model[1].weight.grad[1, 0] = torch.nan
    with pytest.raises(NonFinite, match=r"the gradient of 1\.weight is not finite at step 5"):
        check_gradients(model, 5)
    model[1].weight.grad = None
    with pytest.raises(NonFinite, match=r"the gradient of 0\.weight"):
        check_gradients(model, 5)


# -- a plain Trainer -----------------------------------------------------------------------------------------


class Poison(TrainerCallback):
    """One entry of one parameter becomes NaN after a step."""

    def __init__(self, name: str, step: int) -> None:
        self.name, self.step = name, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            [parameter] = [p for n, p in kwargs["model"].named_parameters() if n.endswith(self.name)]
            parameter.data.view(-1)[0] = torch.nan


@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        (f"{KEY}.lopsided_B.default.weight", 6, rf"{KEY}.lopsided_B.default.weight holds"),
        ("classifier.modules_to_save.default.bias", 6, "classifier.modules_to_save.default.bias holds"),
        # A step later it has spread.
        (
            f"{KEY}.lopsided_B.default.weight",
            5,
            r"B.default.weight and \d+ more of the trained parameters hold",
        ),
    ],
)
@pytest.mark.parametrize(
    ("options", "good"),
    [
        ({"save_strategy": "steps", "save_steps": 2}, 4),
        ({"save_strategy": "epoch"}, 3),
        ({"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "runtime"}, 4),
    ],
)
def test_a_plain_trainer_never_saves_a_broken_adapter(tmp_path, name, step, message, options, good):
    model = lopsided.adapt(tiny.bert(), "c3la", r=2, target_modules="all-linear", links=2)
    ids = torch.randint(0, 40, (12, 6), generator=torch.Generator().manual_seed(0))
    data = Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] % 3).tolist()})
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        greater_is_better=True,
        **options,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data,
        callbacks=[Poison(name, step), lopsided.ChainCallback()],
    )
    if "eval_strategy" in options:
        trainer.evaluate = improving(trainer)
    with pytest.raises(LopsidedError, match=rf"{message} NaN or Inf after step 6; expected finite .*resume from"):
        trainer.train()
    assert lopsided.last_checkpoint(tmp_path).endswith(f"checkpoint-{good}")
    saved = PeftModel.from_pretrained(tiny.bert(), lopsided.last_checkpoint(tmp_path))
    assert torch.isfinite(tiny.logits(saved.eval())).all()


def improving(trainer):
    """An evaluation that calls each checkpoint the best so far."""

    def evaluate(*args, **kwargs):
        metrics = {"eval_runtime": float(trainer.state.global_step)}
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        return metrics

    return evaluate


# -- an advance ----------------------------------------------------------------------------------------------


def chained(dtype: torch.dtype, method: str = "c3la", **options):
    model = lopsided.adapt(tiny.bert().to(dtype), method, r=2, target_modules=["query", "value"], links=4, **options)
    optimizer = tiny.train_a_little(model, lr=1e-3)
    return model, optimizer, list(layers_of(model).values())[-1]


def assert_refused(model, optimizer, message: str) -> None:
    before, states = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(LopsidedError, match=message) as caught:
        lopsided.advance_chain(model, optimizer)
    assert "\n" not in str(caught.value)
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(nan=7.0), before[name].nan_to_num(nan=7.0)), name
    assert str(optimizer.state_dict()) == str(states)
    assert all(layer.adapters["default"].link == 0 for layer in layers_of(model).values())


LAST = r"bert\.encoder\.layer\.1\.attention\.self\.value"


@pytest.mark.parametrize("method", ["c3la", "rac_b", "rac_a", "cola", "bernoulli"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_factor_is_not_merged(method, value):
    model, optimizer, last = chained(torch.float32, method)
    factor = next(reversed(last.trained("default").values()))
    factor.data[-1, 0] = value
    assert_refused(model, optimizer, rf"{LAST}: factor [ABC] holds NaN or Inf, so its link is not merged; go back to")


@pytest.mark.filterwarnings("ignore::lopsided.LopsidedWarning")
@pytest.mark.parametrize("method", ["c3la", "rac_b", "rac_a", "cola"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_finite_factor_whose_sum_overflows_the_weight_is_not_merged(method, dtype):
    model, optimizer, last = chained(dtype, method, merge_links=True, alpha=64)
    before = {letter: factor.detach().clone() for letter, factor in last.trained("default").items()}
    for factor in last.trained("default").values():
        # One entry: it is the sum that has to be looked at, not the factors.
        factor.data[0, 0] = torch.finfo(dtype).max
    assert all(factor.isfinite().all() for factor in last.trained("default").values())
    assert_refused(model, optimizer, rf"{LAST}: \d+ entries of W0 \+ ΔW overflow {dtype}, so nothing is merged;")
    for letter, factor in last.trained("default").items():
        factor.data.copy_(before[letter])
    assert lopsided.advance_chain(model, optimizer) == 1


def test_a_product_that_overflows_beside_a_16_bit_weight_is_not_stacked():
    model, optimizer, last = chained(torch.bfloat16, "cola")
    for factor in last.trained("default").values():
        factor.data[0, 0] = 1e20
    assert_refused(model, optimizer, rf"{LAST}: \d+ entries of ΔW overflow torch.float32")
    # What a bfloat16 weight could not hold to its last bit stands in float32 beside it.
    for factor in last.trained("default").values():
        factor.data[0, 0] = 1e10
    assert lopsided.advance_chain(model, optimizer) == 1


@pytest.mark.filterwarnings("ignore::lopsided.LopsidedWarning")
@pytest.mark.parametrize(("change", "refused"), [(5504.0, False), (5519.0, False), (5520.0, True)])
def test_the_last_sum_that_fits_is_merged(change, refused):
    # 65504 is the largest float16, and 65520 the first number that rounds to infinity.
    model, optimizer, last = chained(torch.float16, "c3la", merge_links=True)
    column = int(last.adapters["default"].sketches[-1].factor.indices[0])
    last.base_layer.weight.data[3, column] = 60000.0
    last.trained("default")["B"].data[3, 0] = change / last.scaling["default"]
    if refused:
        assert_refused(model, optimizer, rf"{LAST}: 1 entries of W0 \+ ΔW overflow")
    else:
        lopsided.advance_chain(model, optimizer)
        assert last.base_layer.weight[3, column] == 65504.0


@pytest.mark.filterwarnings("ignore::lopsided.LopsidedWarning")
def test_an_infinite_entry_of_the_weights_own_is_not_the_adapters_fault():
    model, optimizer, last = chained(torch.float16, "c3la", merge_links=True)
    last.base_layer.weight.data[1, 1], last.base_layer.weight.data[2, 2] = torch.inf, torch.nan
    last.trained("default")["B"].data[3, 0] = 100.0
    assert lopsided.advance_chain(model, optimizer) == 1
