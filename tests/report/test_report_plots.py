import copy
import math

import pytest
from report_example import METHODS, example, failed, row

from lopsided.report.plots import COLOURS, FLOOR_COLOUR, SYMBOLS, plots, styles


def traces(plot):
    return {trace["name"]: trace for trace in plot.figure["data"]}


def test_points_and_bars_are_the_dictionary_s():
    results = example()
    by_size, by_time = plots(results)
    for one in results["rows"]:
        if one["status"] != "ok":
            continue
        score, time = one["cells"]["score"], one["cells"]["step_ms"]
        for plot in (by_size, by_time):
            trace = traces(plot)[one["method"]]
            assert trace["y"] == [pytest.approx(100 * score["mean"])]
            assert trace["error_y"]["array"] == [pytest.approx(200 * score["se"])]
        trace = traces(by_time)[one["method"]]
        assert trace["x"] == [time["mean"]]
        assert trace["error_x"]["array"] == [pytest.approx(2 * time["se"])]
        hover = traces(by_size)[one["method"]]["hovertext"][0]
        assert f"{one['cells']['trained_parameters']['mean']:,}" in hover
    assert by_size.figure["layout"]["xaxis"]["type"] == "log"


def test_equal_costs_stand_side_by_side_and_near_their_place():
    plot = plots(example(more=True))[0]
    cost = {values[0]: values[2] for values in METHODS}
    places = [trace["x"][0] for trace in plot.figure["data"]]
    assert len(set(places)) == len(places)
    for name, trace in traces(plot).items():
        if name in cost:
            assert abs(math.log10(trace["x"][0] / cost[name])) < 0.15
    order = sorted(cost, key=lambda name: traces(plot)[name]["x"][0])
    assert [cost[name] for name in order] == sorted(cost.values())
    assert "equal cost stand side by side" in plot.sentences[0]
    assert "side by side" not in plots(example())[1].sentences[0]


def test_a_method_looks_the_same_in_both_plots_and_like_no_other():
    results = example(more=True)
    by_size, by_time = plots(results)
    looks = styles(results)
    for name, trace in traces(by_size).items():
        for other in (trace, traces(by_time)[name]):
            assert (other["marker"]["color"], other["marker"]["symbol"]) == looks[name]
    assert len(set(looks.values())) == len(looks)
    many = styles({"rows": [row(f"own{i}", *METHODS[1][1:]) for i in range(42)]})
    assert len(set(many.values())) == 42


@pytest.mark.parametrize("colour", [*COLOURS, FLOOR_COLOUR])
def test_colours_can_be_seen_on_white_and_on_near_black(colour):
    def luminance(text):
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))

    own = luminance(colour) + 0.05
    assert 1.05 / own >= 3
    assert own / (luminance("#14171c") + 0.05) >= 3
    assert len(COLOURS) * len(SYMBOLS) == 42


def test_what_cannot_be_plotted_is_left_out_and_said():
    results = example()
    rows = {one["method"]: one for one in results["rows"]}
    rows["lora"]["cells"]["score"]["mean"] = math.nan
    del rows["cola"]["cells"]["score"]
    rows["cla"]["cells"]["trained_parameters"]["mean"] = 0
    by_size, by_time = plots(results)
    assert not {"lora", "cola", "cla", "too_wide"} & set(traces(by_size))
    assert "cla" in traces(by_time)
    for said in ("lora (no figure for test accuracy)", "cla (trained is zero", "too_wide (failed)"):
        assert said in by_size.left_out
    assert plots({**example(), "rows": example()["rows"][:3]})[0].left_out == ""


def test_nothing_to_plot_is_said_and_breaks_nothing():
    results = example()
    only_failed = {**results, "rows": [failed("bad", "no")]}
    assert [plot.figure for plot in plots(only_failed)] == [None, None]
    assert "nothing to plot" in plots(only_failed)[0].sentences[0]
    no_time = {**results, "columns": results["columns"][:4]}
    by_size, by_time = plots(no_time)
    assert by_size.figure is not None
    assert by_time.figure is None
    assert "no column step_ms" in by_time.sentences[0]


def test_a_lone_point_and_equal_scores_still_have_axes():
    for rows in ([row(*METHODS[0])], [row("a", *METHODS[1][1:]), row("b", *METHODS[1][1:])]):
        for one in rows:
            one["cells"]["score"]["se"] = one["cells"]["step_ms"]["se"] = None
        for plot in plots({**example(), "rows": rows}):
            for axis in ("xaxis", "yaxis"):
                low, high = plot.figure["layout"][axis]["range"]
                assert low < high
            assert len(plot.figure["layout"]["xaxis"].get("tickvals", [1, 2])) >= 2


def marked(**marks):
    results = copy.deepcopy(example())
    results["rows"] = [one for one in results["rows"] if one["method"] in ("full", "lora", "cla", "head")]
    for one in results["rows"]:
        one["cells"]["score"]["mark"] = marks.get(one["method"])
    return [plot.sentences[1] for plot in plots(results)]


def test_the_second_sentence_says_what_to_choose():
    by_size, by_time = marked(full="best", lora="tied", cla="tied")
    assert "Of the 3 methods that are best or tied, cla needs the fewest parameters (663,552;" in by_size
    assert "cla needs the least time a step (104.1 ± 1.3 ms; full needs 191.2 ± 1.3 ms)" in by_time
    assert "full is best on test accuracy and nothing ties with it" in marked(full="best")[0]
    assert "The floor, head, is among the best" in marked(full="best", head="tied")[0]
    assert "No method here is marked best" in marked()[0]


def test_a_cost_within_its_noise_is_no_advantage():
    by_size, by_time = (plot.sentences[1] for plot in plots(example(more=True)))
    assert "c3la, cpaca and rc3la need the least time a step (104.6 ± 1.3 ms;" in by_time
    assert "asym_b, rac_b, c3la, rc3la and cpaca need the fewest parameters" in by_size
    results = example()
    results["rows"] = [one for one in results["rows"] if one["method"] in ("lora", "lora_plus")]
    assert "The 2 methods that are best or tied take the same time" in plots(results)[1].sentences[1]


def test_every_plot_has_two_sentences():
    for plot in plots(example(more=True)):
        assert len(plot.sentences) == 2
        assert all(sentence.count(". ") == 0 and sentence.endswith(".") for sentence in plot.sentences)
