"""A page per method, the page that lists them, and the methods of stock PEFT."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from docs_site import method_evidence, method_facts
from docs_site.method_costs import cost_table
from docs_site.method_example import example
from docs_site.page_parts import code, facts, page, section
from docs_site.source_pages import put_source
from docs_site.staged_tree import StagedTree
from lopsided import METHODS, Method
from lopsided.baselines import BASELINES
from lopsided.method import PROFILES, in_profile, method_named
from lopsided.study.markdown import markdown_table

FOLDER = "methods"
HOW_RATES = (
    "Chosen on the embedded model and `vader/movie`, by the lowest validation loss of one run per rate "
    "([decision 0004](../decisions/0004-learning-rates.md)): a place to start. Longer runs and larger models want "
    "lower rates; `lopsided compare --tune 5` tunes them, `lopsided advise --rates` guesses one from a few batches."
)


def put_methods(tree: StagedTree) -> None:
    """Put the pages of all methods into a tree, with the sources that they link to."""
    for linked_source in ("src/lopsided/methods.py", "src/lopsided/method/profiles.py"):
        put_source(tree, PurePosixPath(linked_source))
    for method in METHODS.values():
        tree.put(f"{FOLDER}/{method.name}.md", method_page(method))
    tree.put(f"{FOLDER}/stock-peft.md", baselines_page())
    tree.put(f"{FOLDER}/released-code.md", variants_page())
    tree.put(f"{FOLDER}/index.md", index_page())


def method_page(method: Method) -> str:
    """Return the page about one method."""
    name = method.name
    shown = f"r = {method_facts.RANK}, n = {method_facts.SAMPLES}, 32 bits, σ = {method_facts.SIGMA}"
    formula = method_facts.formula(method)
    return page(
        f"`{name}`",
        [
            f"Source: {linked(method.source)}.",
            f"$$\n{formula}\n$$" if formula else "",
            method_facts.notation(method),
            section("Parts", facts(method_facts.parts(method)), same_parts(method)),
            section("An example that runs", code(example(method))),
            section(
                "Learning rate",
                f"`lopsided train` takes **{method.lr:g}** by default. {HOW_RATES}",
                method_evidence.rate_table(name),
            ),
            section("λ_min and convergence", method_facts.eigenvalue(method)),
            section(
                "Bounds",
                f"{method_facts.SHAPE}, {shown} ([theory](../theory.md)). In the loss's own units; above 2σ a bound "
                "says nothing, and only the order of methods does.",
                facts(method_facts.bounds(method)),
            ),
            section(
                "Cost",
                cost_table(name) or "The benchmarks compare adapters, and have no figures of this method.",
                "Ratios at r = 16; how they are measured: [Speed and memory](../performance.md). `lopsided costs` "
                "measures your model on your machine.",
            ),
            section(
                "Layers and guarantees",
                (
                    "How many of the [ten guarantees](../layers.md#guarantees) hold in each kind of layer:\n\n"
                    + method_evidence.guarantees(name)
                    if method.is_adapter
                    else ""
                ),
            ),
            section(
                "What was measured",
                method_evidence.lab_table(method),
                method_evidence.study_table(name),
                method_evidence.unmeasured(method),
            ),
            section("The same as your own entry", code(method_facts.entry(method))),
        ],
    )


def linked(source: str) -> str:
    """Return a source with its arXiv numbers as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def same_parts(method: Method) -> str:
    """Return which other methods have the same parts, and so make the same run."""
    own = (method.side, method.sketch, method.chain)
    others = [m.name for m in METHODS.values() if m is not method and (m.side, m.sketch, m.chain) == own]
    names = ", ".join(f"[`{name}`]({name}.md)" for name in others)
    return f"The same parts, and with the same seed and rate the same run: {names}." if others else ""


def index_page() -> str:
    """Return the page that lists the methods."""
    rows = [
        [
            f"[`{name}`]({name}.md)",
            method.side.title,
            "–" if method.sketch is None else f"`{method_facts.written(method.sketch)}`",
            "–" if method.chain is None else f"{method.chain.links} links",
            method.trained_formula,
            f"{method.lr:g}",
            linked(method.source),
        ]
        for name, method in METHODS.items()
    ]
    heads = [
        "method",
        "trains",
        "sketch",
        "chain",
        "numbers that train, per layer",
        "rate",
        "source",
    ]
    return page(
        "Methods",
        [
            "A method is data: which factor of ΔW = s·B·A trains, how the other one is drawn (its sketch), and when a "
            "new link starts. The table is [`methods.py`](../source/src/lopsided/methods.py.md); a method of your own "
            "is [one entry more](../contributing.md#a-method). Rates are the default learning rates.",
            markdown_table(heads, rows),
            "```{toctree}\n:hidden:\n\n" + "\n".join([*METHODS, "stock-peft", "released-code"]) + "\n```",
        ],
    )


def baselines_page() -> str:
    """Return the page about the methods of stock PEFT."""
    rows = [
        [f"`peft:{name}`", f"{entry.lr:g}", entry.why_lr, entry.trained, linked(entry.source)]
        for name, entry in BASELINES.items()
    ]
    return page(
        "Methods of stock PEFT",
        [
            "Any `PeftConfig` can compete with the methods of the table: `lopsided compare --methods cla,peft:dora`. "
            "[Adding one](../contributing.md#a-baseline) is one entry.",
            markdown_table(
                ["method", "default rate", "why this rate", "numbers that train, per layer", "source"], rows
            ),
        ],
    )


def variants_page() -> str:
    """Return the page about what released code does under the methods' names."""
    rows = []
    for profile in PROFILES:
        for name in METHODS:
            variant = in_profile(name, profile)
            if variant != name:
                rows.append([f"`{variant}`", *_changes(METHODS[name], method_named(variant))])
    return page(
        "What released code does",
        [
            "Code that was released with a paper may do something else than the paper says. `lopsided train --method "
            "released_two:c3la` runs that; the reasons are in "
            "[`profiles.py`](../source/src/lopsided/method/profiles.py.md), and [a study](../studies/variants.md) asks "
            "how much it matters.",
            markdown_table(["variant", "trains", "sketch", "chain"], rows),
        ],
    )


def _changes(method: Method, variant: Method) -> list[str]:
    """Return the parts of a variant; those that are the method's own are left empty."""
    pairs = [
        (method.side, variant.side, variant.side.title),
        (method.sketch, variant.sketch, f"`{method_facts.written(variant.sketch)}`"),
        (method.chain, variant.chain, method_facts.chain_words(variant.chain)),
    ]
    return ["" if own == other else words for own, other, words in pairs]
