"""What a figure says in words: one sentence for what it shows, and one for what that means for choosing a method.

The second is written from the data. Where the data choose nothing, it says so.
"""

from __future__ import annotations

from typing import Any

from scipy import stats

from lopsided.formatting import joined

ALONE = "Only {0} has these figures, so they choose nothing."


def without(sentence: str, labels: list[str], what: str) -> str:
    """A sentence about methods that ends with those which a figure leaves out; as it is if there are none.

    Example:
        >>> without("Each mark is a gap.", ["cla"], "a gap"), without("Each mark is a gap.", [], "a gap")
        ('Each mark is a gap; left out, without a gap: cla.', 'Each mark is a gap.')
    """
    return f"{sentence.removesuffix('.')}; left out, without {what}: {joined(labels)}." if labels else sentence


def bounds_shows() -> str:
    return (
        "The filled mark is the measured |test loss − train loss| with its 95 % interval, which runs to the edge if it "
        "holds zero; the hollow one is the information bound, with σ estimated from the test losses: no guarantee."
    )


def bounds_means(measured: dict[str, float], bound: dict[str, float]) -> str:
    ratios = [bound[label] / measured[label] for label in measured]
    far = f"The bounds lie {_times(min(ratios))} to {_times(max(ratios))} times above the gaps"
    if len(ratios) == 1:
        return f"The bound lies {_times(ratios[0])} times above the gap, and says nothing of other methods."
    if len(ratios) < 3:
        return f"{far}; two methods are too few to tell whether they order methods as the gaps do."
    agreement = stats.spearmanr([bound[label] for label in measured], list(measured.values())).statistic
    if agreement != agreement:
        return f"{far} and are equal for all methods, so they choose none."
    if agreement > 0.5:
        return f"{far}, and order the methods much as the gaps do (rank correlation {agreement:.2f}): read the order."
    return f"{far}, and don't order the methods as the gaps do (rank correlation {agreement:.2f}): don't choose by it."


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def gaps_shows() -> str:
    return "Each mark is the mean loss on a split less that on the training rows, with a bootstrap 95 % interval."


def gaps_means(values: dict[str, dict[str, float]]) -> str:
    worst = {split: max(found.values(), key=abs) for split, found in values.items() if found}
    split = max(worst, key=lambda name: abs(worst[name]), default=None)
    if split is None:
        return "No run has a gap that is finite, so this chooses nothing."
    found = values[split]
    least, most = min(found, key=lambda k: found[k]), max(found, key=lambda k: found[k])
    if least == most:
        return f"The gap of {least} is widest on {split} ({found[least]:+.3f})."
    return (
        f"The gap is widest on {split}, where {least} has the least ({found[least]:+.3f}) and {most} the most "
        f"({found[most]:+.3f}); where intervals overlap, the runs don't tell the methods apart."
    )


def forgetting_shows(section: dict[str, Any]) -> str:
    better = "higher" if section["better"] == "high" else "lower"
    return (
        f"Each mark is what fine-tuning changed on {section['reference']} ({section['metric']}, {better} is better), "
        "against the model as it was before, with a 95 % interval."
    )


def forgetting_means(worse: dict[str, float], section: dict[str, Any]) -> str:
    if not worse:
        return "No run has a change that is finite, so this chooses nothing."
    least, most = min(worse, key=lambda k: worse[k]), max(worse, key=lambda k: worse[k])
    if least == most:
        return ALONE.format(least)
    return (
        f"{least} kept the most of what the model could do and {most} the least: among methods that score alike, "
        f"prefer {least} where {section['reference']} still matters."
    )


def losses_shows(chained: bool) -> str:
    links = "; small bars on a line mark where its chain began a new link" if chained else ""
    return f"The loss over the steps, the mean over seeds or every seed of one method{links}."


def losses_means(best: dict[str, tuple[float, int, bool]]) -> str:
    """From each method's lowest validation loss, its step, and whether that was the last step."""
    if not best:
        return "No run was evaluated while it trained, so the curves choose nothing."
    first = min(best, key=lambda label: best[label][0])
    low = f"{first} came to the lowest validation loss ({best[first][0]:.3f} at step {best[first][1]})"
    falling = [label for label, (_, _, last) in best.items() if last]
    if len(falling) == len(best):
        return f"{low}; every method was still improving at its last step, so more steps may change the order."
    if not falling:
        return f"{low}; every method was past its best before the end, so more steps won't help."
    if len(falling) > 4:
        return f"{low}; {len(falling)} of {len(best)} methods were still improving at their last step."
    return f"{low}; more steps may still help {joined(falling)}."


def intruders_shows(top: int) -> str:
    return (
        "Singular directions of the tuned weights whose cosine with every original one stays below ε, counted a layer: "
        f"over all directions, and over the {top} strongest."
    )


def intruders_means(counts: dict[str, float]) -> str:
    if len(counts) < 2:
        return ALONE.format(next(iter(counts), "no method"))
    least, most = min(counts, key=lambda k: counts[k]), max(counts, key=lambda k: counts[k])
    return (
        f"At ε = 0.5, {least} brought the fewest new directions ({counts[least]:.1f} a layer) and {most} the most "
        f"({counts[most]:.1f}): the study that named them (arXiv:2410.21228) saw few go with little "
        "forgetting, so between equal scores and learning rates prefer few."
    )


def spectra_shows() -> str:
    return (
        "The singular values of each update ΔW over its largest, the mean over layers and seeds: a line that falls "
        "late spreads the update over many directions."
    )


def spectra_means(ranks: dict[str, float]) -> str:
    if len(ranks) < 2:
        return ALONE.format(next(iter(ranks), "no method"))
    least, most = min(ranks, key=lambda k: ranks[k]), max(ranks, key=lambda k: ranks[k])
    return (
        f"{most} used the most directions (effective rank {ranks[most]:.1f}) and {least} the fewest "
        f"({ranks[least]:.1f}): a method far below its rank would have done with a lower one."
    )


def landscapes_shows(section: dict[str, Any], kinds: set[str], lost: int) -> str:
    path, random = "the two main directions of its training path", "two random directions"
    along = (
        f"{path}, or {random} where no path was kept" if len(kinds) > 1 else path if "trajectory" in kinds else random
    )
    gaps = f"; {lost} losses were not finite and are gaps" if lost else ""
    return (
        f"The {section['split']} loss around where a run ended, along {along}, as a surface to turn and as contours; "
        f"the line is the path, the reach of the axes is each run's own, and colours mean the same in every run{gaps}."
    )


def landscapes_means(sharp: dict[str, float], section: dict[str, Any]) -> str:
    if not sharp:
        return "No sharpness was measured, so compare the widths of the valleys by eye, and don't choose by them."
    radius = (section.get("sharpness") or {}).get("radius")
    flat, steep = min(sharp, key=lambda k: sharp[k]), max(sharp, key=lambda k: sharp[k])
    within = f"Within a radius of {radius:g} the loss rises" if radius else "The loss rises"
    if flat == steep:
        return f"{within} by up to {sharp[flat]:.3f} for {flat}."
    return (
        f"{within} least for {flat} ({sharp[flat]:.3f}) and most for {steep} ({sharp[steep]:.3f}): "
        "flatness is a reason to choose only between methods that score alike."
    )


def similarity_shows(fewest: tuple[int, int] | None = None) -> str:
    of = "" if fewest is None else f" that both have, {fewest[0]} of {fewest[1]} at the fewest"
    return (
        f"How much of the space of one run's factor lies in another's, the mean over layers{of}; 1 is the same space."
    )


def similarity_means(told: dict[str, tuple[float, float | None]]) -> str:
    """From each factor's mean similarity and what chance would give."""
    parts = []
    for factor, (value, chance) in told.items():
        against = "" if chance is None else f" where chance gives {chance:.2f}"
        parts.append(f"{factor}'s are {value:.2f}{against}")
    value, chance = next(iter(told.values()))
    near = chance is not None and value < 3 * chance
    end = "so runs end in unrelated spaces" if near else "so runs share a part of what they learn"
    return f"On average {joined(parts)}, {end}: similarity tells how runs relate, not which is better."


def timeline_shows(measured: bool) -> str:
    more = "; point at one for its losses, learning rate and norm" if measured else ""
    return f"Each bar is one link of a chain, from its first step to its last{more}."


def timeline_means(rows: dict[str, list[dict[str, Any]]]) -> str:
    falls = {}
    for label, links in rows.items():
        ends = [links[-1]["loss_first"], links[-1]["loss_last"], links[0]["loss_first"]]
        if None not in ends and ends[2] != ends[1]:
            falls[label] = (ends[0] - ends[1]) / (ends[2] - ends[1])
    if not falls:
        return "What each link gained is not known here: `lopsided diagnose RUN` measures it."
    most = max(falls, key=lambda label: falls[label])
    share = f"The last link of {most} brought {100 * falls[most]:.0f} % of its whole fall in loss"
    if falls[most] > 1 / (2 * len(rows[most])):
        return f"{share}: the chain had not run dry, and more links may pay."
    return f"{share}: fewer links would have done nearly as well."
