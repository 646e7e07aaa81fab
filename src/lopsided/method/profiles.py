"""What other people's code does under a method's name, as parts: two profiles of the released code of Beyond LoRA.

The library's own table has the methods as the papers write them. The code released with Beyond LoRA (Cadenhead et al.
2026, arXiv:2606.13767) departs from that in two ways, one per project, called One and Two here. Which of it made the
published tables is not known.

**One.** Chains never chain: at the end of a link nothing is merged and nothing redrawn; Adam's state is lost and the
schedule dropped, so that the rate stays about constant. LoRA and CoLA start A at N(0, 0.02²). LoRA+ trains A at a
sixteenth of the rate and B at sixteen times it: run the variant at a sixteenth of the others' rate. Random-cLA is one
window at a random offset, the same in all layers of one width and in all runs. What One calls `asym_a` and `rac_a`
freezes A, and is `asym_b` and `rac_b` here.

**Two.** RAC-LoRA trains both factors. C3LA neither merges nor starts again: the learned B moves on to the next window
with Adam's state, and the function jumps. Random-cLA is a dense matrix of Gaussian rows of norm 1, the same for equal
shapes; its coding model has sorted random columns, which are `rcla` as it is. Random-c3LA draws windows' offsets with
replacement, and differs by model: the Llamas merge and keep Adam's state (`rc3la`), the coding model resets it
(`rc3la_deepseek`), DeBERTa does not merge (`rc3la_deberta`).

**Left out**, because no part says it: that One's PaCA leaves a new head frozen; that a hidden layer before DeBERTa's
head trains in some methods alone; that One loses Adam's state of the head, too (a chain resets that of its factors);
that Two trains the head at LoRA+'s rate of B; masked updates, which have no rank r; and what the released code of
Asymmetry does: it parses "A random, B from zero" so that A trains, and its "V" takes columns of Vᵀ, not vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lopsided.errors import LopsidedError, unknown
from lopsided.method.method import NAMESPACES, Method
from lopsided.method.variants import varied

AS_WRITTEN = "as_written"
# What One does at the end of a link.
RESET_ALONE = {"merge": False, "redraw": False, "prune": 1.0, "freeze_rate": True}
SMALL_NORMAL = {"kind": "Gaussian", "std": 0.02}

# By profile and method: the parts that differ, as `varied` takes them. "of" names the method where that is not the key.
VARIANTS: dict[str, dict[str, Mapping[str, Any]]] = {
    "released_one": {
        "lora": {"sketch": SMALL_NORMAL},
        "lora_plus": {"lr_ratio": 256.0},
        "cola": {"sketch": SMALL_NORMAL, "chain": RESET_ALONE},
        "rac_b": {"chain": RESET_ALONE},
        "rac_a": {"chain": RESET_ALONE},
        "c3la": {"chain": RESET_ALONE},
        "rc3la": {"chain": RESET_ALONE},
        "rcla": {"sketch": {"kind": "RandomWindow", "shared_seed": 0}},
    },
    "released_two": {
        "rac_b": {"train": "AB", "sketch": {"kind": "KaimingUniform"}},
        "c3la": {"chain": {"merge": False, "prune": 0.0}},
        "rcla": {"sketch": {"kind": "UnitRows", "shared_seed": 0}},
        "rc3la": {"sketch": {"kind": "RandomWindow"}, "chain": {"prune": 0.0}},
        "rc3la_deepseek": {"of": "rc3la", "sketch": {"kind": "RandomWindow"}},
        "rc3la_deberta": {"of": "rc3la", "sketch": {"kind": "RandomWindow"}, "chain": {"merge": False, "prune": 0.0}},
    },
}
PROFILES = (AS_WRITTEN, *VARIANTS)


def in_profile(name: str, profile: str) -> str:
    """Return the name of a method in a profile: the name itself where the profile has no variant of it.

    Args:
        name: of a method, in whatever space.
        profile: one of `PROFILES`.

    Raises:
        LopsidedError: for an unknown profile.

    Example:
        >>> in_profile("c3la", "released_one"), in_profile("cla", "released_one"), in_profile("c3la", "as_written")
        ('released_one:c3la', 'cla', 'c3la')
    """
    if profile not in PROFILES:
        raise LopsidedError(unknown("profile", profile, PROFILES))
    return f"{profile}:{name}" if name in VARIANTS.get(profile, {}) else name


def _variant(profile: str, name: str) -> Method:
    variants = VARIANTS[profile]
    if name not in variants:
        raise LopsidedError(
            f"{profile} has no variant of its own: {unknown('method', name, variants)}; where it has none, the method "
            "is the one without the prefix"
        )
    changes = dict(variants[name])
    full_name = f"{profile}:{name}"
    source = f"released code of arXiv:2606.13767, project {profile.removeprefix('released_')}"
    return varied(changes.pop("of", name), name=full_name, source=source, **changes)


NAMESPACES.update({profile: partial(_variant, profile) for profile in VARIANTS})
