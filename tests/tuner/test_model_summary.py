"""What a notebook shows of a model with adapters."""

from __future__ import annotations

import copy

import lopsided
from tests import tiny


def cells(page: str) -> list[list[str]]:
    """The cells of every row of the page's tables."""
    rows = [row.split("</tr>")[0] for row in page.split("<tr>")[1:]]
    return [[cell.split("</td>")[0] for cell in row.split("<td>")[1:]] for row in rows if "<td>" in row]


def test_a_model_shows_its_adapters_and_kinds_of_layers():
    model = lopsided.adapt(tiny.bert(), "c3la", r=2, links=3, target_modules=["query", "value", "dense"])
    model.add_adapter("other", lopsided.LopsidedConfig(method="lora", r=4, target_modules=["query"]))
    lopsided.advance_chain(model)
    page = model._repr_html_()
    first, second, *layers = cells(page)
    assert first == ["default", "c3la", "B", "2 of 3", "2", "yes"]
    assert second == ["other", "lora", "AB", "-", "2", "no"]
    trained, whole = model.get_nb_trainable_parameters()
    assert f"{trained:,} of {whole:,} numbers are trained" in page
    # Queries of every layer are one line per adapter, and dense layers one per shape.
    blocks = model.config.num_hidden_layers
    assert [line for line in layers if line[1] == "query"] == [
        ["default", "query", "16 x 16", "2", str(blocks)],
        ["other", "query", "16 x 16", "4", str(blocks)],
    ]
    assert sum(int(line[4]) for line in layers if line[0] == "default") == sum(
        "default" in layer.adapters for layer in lopsided.tuner.layers_of(model).values()
    )


def test_other_attributes_and_copies_are_as_before():
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    assert copy.deepcopy(model)._repr_html_() == model._repr_html_()
    assert not hasattr(model, "_repr_png_")
    # In a terminal it stays torch's tree of modules.
    assert "(default): cla, r=2, trains B" in repr(model)


def test_many_kinds_of_layers_are_cut_and_counted(monkeypatch):
    monkeypatch.setattr("lopsided.tuner.model_summary.SHOWN", 1)
    page = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query", "key", "value"])._repr_html_()
    assert page.endswith("<p>2 more kinds of layers are not shown.</p>")
    assert len(cells(page)) == 2
