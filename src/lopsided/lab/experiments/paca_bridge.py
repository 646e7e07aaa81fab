"""PaCA, which trains columns of W in place, and cLA, which adds to the same columns, walk one path.

Notation: a layer's W0 is d_out x d_in, c are r of its columns, s a scale. PaCA has W[:, c] = s·P with P = W0[:, c]/s at
the start; cLA has W[:, c] = W0[:, c] + s·B with B = 0 at the start. With B = P - W0[:, c]/s the two weights are equal,
and the gradients of P and B are both s·∂f/∂W[:, c], so that Adam takes the same steps. Weight decay pulls P, and with
it the pretrained columns, to zero, while it pulls W back to W0 through B: there the paths part.

The network is x -> W_2·tanh(W_1·x), fitted to random targets; all seeds are trained at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lopsided.lab.intervals import over_seeds
from lopsided.lab.mean_lines import quantile_line
from lopsided.lab.protocol import Expected, Experiment, Outcome, Request
from lopsided.plotting.svg import Drawing

WIDTHS = (24, 16, 8)
ROWS, RANK, SCALE = 64, 4, 2.0
STEPS, RATE = 200, 3e-3
DECAYS = (0.0, 0.01, 0.1)
# Where curves end below: the starts are equal to the last bit or two of a float.
TINY = 1e-17

Kind = Literal["paca", "cla"]


def problem(seeds: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Draw pretrained weights, columns, inputs and targets: the same numbers in every precision.

    Shapes:
        -> weights (seeds, d_out, d_in) and columns (seeds, r) per layer, (seeds, rows, 24), (seeds, rows, 8)
    """
    draw = np.random.RandomState(0)
    weights, columns = [], []
    for d_in, d_out in itertools.pairwise(WIDTHS):
        weights.append(torch.tensor(draw.standard_normal((seeds, d_out, d_in)) / d_in**0.5, dtype=dtype))
        columns.append(torch.tensor(np.array([draw.permutation(d_in)[:RANK] for _ in range(seeds)])))
    x = torch.tensor(draw.standard_normal((seeds, ROWS, WIDTHS[0])), dtype=dtype)
    y = torch.tensor(draw.standard_normal((seeds, ROWS, WIDTHS[-1])), dtype=dtype)
    return weights, columns, x, y


def start(kind: Kind, W0: Tensor, columns: Tensor) -> Tensor:
    """Return P or B before the first step: (seeds, d_out, r)"""
    selected = W0.gather(2, _for_every_output(columns, W0))
    return selected / SCALE if kind == "paca" else torch.zeros_like(selected)


def weight(kind: Kind, W0: Tensor, columns: Tensor, trained: Tensor) -> Tensor:
    """Return W as the method has it: (seeds, d_out, d_in)"""
    put = W0.scatter if kind == "paca" else W0.scatter_add
    return put(2, _for_every_output(columns, W0), SCALE * trained)


def _for_every_output(columns: Tensor, W0: Tensor) -> Tensor:
    """Repeat the columns for every output: (seeds, r) -> (seeds, d_out, r)"""
    return columns[:, None, :].expand(-1, W0.shape[1], -1)


def path(kind: Kind, *, decay: float, dtype: torch.dtype, seeds: int) -> np.ndarray:
    """Return the weights of both layers at the start and after each AdamW step: (STEPS + 1, seeds, numbers)"""
    weights, columns, x, y = problem(seeds, dtype)
    trained = [start(kind, W0, c).requires_grad_() for W0, c in zip(weights, columns)]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=decay)
    places = []
    for step in range(STEPS + 1):
        first, second = (weight(kind, W0, c, t) for W0, c, t in zip(weights, columns, trained, strict=True))
        places.append(torch.cat([first.flatten(1), second.flatten(1)], dim=1).detach().double().numpy())
        if step < STEPS:
            out = torch.tanh(x @ first.mT) @ second.mT
            optimizer.zero_grad()
            # The sum over seeds gives each of them the gradient of its own loss.
            (out - y).square().mean(dim=(1, 2)).sum().backward()
            optimizer.step()
    return np.array(places)


def apart(paca: np.ndarray, cla: np.ndarray) -> np.ndarray:
    """Return the largest difference of two weights, as a share of cLA's way.

    Shapes:
        paca, cla: (steps, seeds, numbers) -> (steps, seeds)
    """
    return np.abs(paca - cla).max(axis=2) / np.abs(cla[-1] - cla[0]).max(axis=1)


def run(request: Request) -> Outcome:
    """Train both methods from equal starts, with and without weight decay, in two precisions."""
    seeds = request.number_of_seeds(quick=20, full=100)
    cases = {f"float64, weight decay {decay:g}": (decay, torch.float64) for decay in DECAYS}
    cases["float32, weight decay 0"] = (0.0, torch.float32)
    differences = {}
    for name, (decay, dtype) in cases.items():
        paca, cla = (path(kind, decay=decay, dtype=dtype, seeds=seeds) for kind in get_args(Kind))
        differences[name] = apart(paca, cla)
    worst = {name: values.max(axis=0) for name, values in differences.items()}
    return Outcome(
        measured=[
            over_seeds(worst["float64, weight decay 0"]),
            over_seeds(worst["float32, weight decay 0"]),
            over_seeds(worst["float64, weight decay 0.01"]),
        ],
        settings={
            "seeds": seeds,
            "network": f"{'-'.join(map(str, WIDTHS))}, tanh",
            "rank": RANK,
            "s": SCALE,
            "steps": STEPS,
            "learning rate": RATE,
            "optimizer": "AdamW",
        },
        details={"largest difference, mean over seeds": {name: values.mean() for name, values in worst.items()}},
        plots=[_apart_drawing(differences)],
    )


def _apart_drawing(differences: Mapping[str, np.ndarray]) -> Drawing:
    return Drawing(
        name="apart",
        title="Largest difference of PaCA's and cLA's weights, median and 10 to 90 % of runs",
        x="AdamW steps",
        y="difference, share of cLA's way",
        lines=[quantile_line(name, values, least=TINY) for name, values in differences.items()],
        log="y",
    )


EXPERIMENT = Experiment(
    name="paca-bridge",
    claim="PaCA is cLA with another selector: from equal starts and without weight decay, their weights stay equal.",
    meaning=(
        "What is known of cLA holds for PaCA, and a PaCA run can be saved as a small adapter, not as changed weights. "
        "With weight decay they differ: PaCA's pulls pretrained columns to zero, cLA's pulls the model back to W0."
    ),
    source="Woo et al. 2025, arXiv:2503.01905, and Cadenhead et al. 2026, arXiv:2606.13767",
    expected=(
        Expected(what="largest difference over 200 steps without weight decay, float64, share of the way", high=1e-10),
        Expected(what="the same in float32", high=1e-5),
        Expected(what="the same with weight decay 0.01, float64: it parts them", low=1e-3),
    ),
    run=run,
    place=130,
)
