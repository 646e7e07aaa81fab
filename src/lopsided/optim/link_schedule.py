"""The steps at which a training advances its adapter's chain, wherever the adapter stands when it begins."""

from __future__ import annotations

from dataclasses import dataclass

from lopsided.errors import LopsidedError
from lopsided.method import Chain


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training does with a chain.

    Args:
        boundaries: the steps after which a new link starts.
        due: whether an advance is due before the first step: the run was to end there when its checkpoint was written.
        note: what the user has to know, or "".
    """

    boundaries: tuple[int, ...]
    due: bool = False
    note: str = ""


def plan(chain: Chain, *, link: int, step: int, steps: int, restarted: bool = False, go_on: bool = False) -> Plan:
    """Return where the links of a training begin.

    The adapter stands where an undisturbed run would: its links are those of `Chain.boundaries`. It stands elsewhere
    because the run was begun with other links or steps, or because the Trainer started again: the links that are left
    are spread over the steps that are left.

    Args:
        link: which the adapter stands at.
        step, steps: steps done, and steps of the whole run.
        restarted: whether a Trainer with `auto_find_batch_size` has started again.
        go_on: whether a training that starts at step 0 may take up an adapter in the middle of its chain.

    Raises:
        LopsidedError: if links and steps do not fit, or if the adapter stands where no run of this length would be, and
            nothing says that it is to go on from there.

    Example:
        >>> plan(Chain(links=4), link=0, step=0, steps=12).boundaries
        (3, 6, 9)
        >>> plan(Chain(links=8), link=3, step=12, steps=24)
        Plan(boundaries=(3, 6, 9, 12, 15, 18, 21), due=True, note='')
        >>> plan(Chain(links=4), link=2, step=0, steps=12, restarted=True).boundaries
        (6,)
    """
    boundaries = chain.boundaries(steps)
    expected = sum(boundary <= step for boundary in boundaries)
    if link == expected:
        return Plan(boundaries=boundaries)
    if link == expected - 1 and step in boundaries:
        return Plan(boundaries=boundaries, due=True)
    if step == 0 and not restarted and not go_on:
        raise LopsidedError(
            f"the adapter stands at link {link}, and a training that begins at step 0 of {steps} begins at link 0; to "
            "go on with an interrupted run pass resume_from_checkpoint=...; to spread the links that are left over "
            "this training pass ChainCallback(go_on=True); for more links merge the adapter into its base "
            "(model.merge_and_unload()) and adapt again"
        )
    return _plan_of_rest(chain, link=link, step=step, steps=steps, expected=expected, restarted=restarted)


def _plan_of_rest(chain: Chain, *, link: int, step: int, steps: int, expected: int, restarted: bool) -> Plan:
    rest = steps - step
    if chain.every is not None:
        boundaries = tuple(range(step + chain.every, steps, chain.every))
    else:
        assert chain.links is not None, "Chain.boundaries refuses a chain with neither number"
        left = chain.links - link
        if left < 1:
            raise LopsidedError(
                f"the adapter stands at link {link}, a chain of {chain.links} links ends with link {chain.links - 1}; "
                f"adapt with links={link + 1} or more"
            )
        if left > rest:
            raise LopsidedError(
                f"links must not exceed the steps: {left} links and {rest} steps are left; lower links or raise the "
                "steps"
            )
        boundaries = tuple(step + k * rest // left for k in range(1, left))
    cause = (
        "the Trainer has started again with a smaller batch (auto_find_batch_size)"
        if restarted
        else "the run was begun with other links or steps"
        if step
        else "it has been trained before"
    )
    listed = ", ".join(map(str, boundaries)) or "none"
    return Plan(
        boundaries=boundaries,
        note=(
            f"at step {step} of {steps} the adapter stands at link {link}, where a run from the start would stand at "
            f"link {expected}: {cause}; new links start after these steps: {listed}"
        ),
    )
