"""An example for each method that runs as it stands: a test does so."""

from __future__ import annotations

from lopsided import Method

ADAPTER = """
import torch
import lopsided

net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
x = torch.randn(64, 16)
labels = (x[:, 0] > 0).long()

targets = {{"target_modules": ["0"], "modules_to_save": ["2"]}}
model = lopsided.adapt(net, "{name}", r=4, **targets{links})
{calibrate}optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr={lr:g}))
for step in range(40):
    loss = torch.nn.functional.cross_entropy(model(x), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
{advance}
print(f"loss {{loss.item():.3f}}")
model.print_trainable_parameters()
"""
CALIBRATE = "lopsided.calibrate(model, [x])  # its sketch is drawn from the layers' inputs\n"
# The model of this example trains for 40 steps, so that a link has 20.
ADVANCE = """    if step == 19:
        # With transformers' Trainer, lopsided.ChainCallback() does it.
        lopsided.advance_chain(model, optimizer)
"""
RUN = """
from pathlib import Path

from lopsided.runs import TrainConfig, train

# So few steps and rows show that it works, and nothing else.
short = dict(steps=4, evaluations=1, eval_rows=64, test_rows=64, train_rows=64, trajectory=False)
run = train(TrainConfig(method="{name}", out=Path("{name}-run"), **short))
print(run.metrics["test"].score)
"""


def example(method: Method) -> str:
    """Return Python that trains with a method: a small network with an adapter, or a run where there is none."""
    if not method.is_adapter:
        return RUN.format(name=method.name).strip()
    return ADAPTER.format(
        name=method.name,
        lr=method.lr,
        links="" if method.chain is None else ", links=2",
        calibrate=CALIBRATE if method.reads_inputs else "",
        advance="" if method.chain is None else ADVANCE,
    ).strip()
