"""Convolutions: the kernel of (d_out, c/G, k₁, …) is the matrix W of (d_out, d_in) with d_in = c/G·k₁·…

Notation: c input channels in G groups, kernels of K = k₁·k₂·… places. A patch p of the input is a column of d_in
numbers per group, and the layer computes W_g·p_g for each group g with its d_out/G rows of W. So s·B·A with A of
(r, d_in) is a convolution with r kernels in each group, and one of 1 x 1 that multiplies with the group's rows of B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lopsided.tuner.forward.compute import Selected, Term
from lopsided.tuner.kinds.contract import LayerKind, own_forward

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class ConvolutionKind(LayerKind):
    """x of (n, c, …) or (c, …) -> (n, d_out, …) or (d_out, …).

    A selector A reads r places of the patches: its kernels are one-hot and act on one channel each.
    """

    word: ClassVar[str] = "convolution"
    bases: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    names: ClassVar[tuple[str, ...]] = ("torch.nn.Conv1d", "Conv2d", "Conv3d")
    forwards: ClassVar[tuple[Callable[..., Any], ...]] = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)

    def widths(self, base: Any) -> tuple[int, int]:
        """Return (d_out, c/G·K)."""
        return len(base.weight), base.weight[0].numel()

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the kernels as rows: a copy where the memory lies channel after channel."""
        return weight.flatten(1)

    def stored(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Return the rows as kernels."""
        return matrix.reshape(shape)

    def shares_memory(self, weight: Tensor) -> bool:
        """Return whether kernels lie in one piece, as they do unless the model is in `channels_last`."""
        return weight.is_contiguous()

    def add(self, base: Any, out: Tensor, x: Tensor, term: Term, scaling: float, *, cast: bool) -> Tensor:
        """Return out + s·B∗(A∗x), with the layer's stride, padding, dilation and groups."""
        hidden = _read(base, x, term.A, cast=cast)
        channels = hidden.dim() - 1 - len(base.kernel_size)
        if isinstance(term.B, Selected):
            return _written(out, hidden * scaling, term.B, channels, base.groups)
        B = (term.B * scaling)[(...,) + (None,) * len(base.kernel_size)]
        return out + _convolve(base, hidden, B if cast else B.to(x.dtype), groups=base.groups).to(out.dtype)

    def inputs(self, base: Any, x: Tensor) -> Tensor:
        """Return the patches of all places and groups, a place after the other: (n, c, …) -> (n·places·G, d_in)."""
        axes = len(base.kernel_size)
        x = x if x.dim() == axes + 2 else x[None]
        mode = "constant" if base.padding_mode == "zeros" else base.padding_mode
        x = F.pad(x, base._reversed_padding_repeated_twice, mode=mode)
        x = x.unflatten(1, (base.groups, -1))
        for axis, (size, step, gap) in enumerate(zip(base.kernel_size, base.stride, base.dilation, strict=True)):
            x = x.unfold(3 + axis, gap * (size - 1) + 1, step)[..., ::gap]
        # From (n, G, c/G, places…, k…) to (n, places…, G, c/G, k…).
        x = x.movedim((1, 2), (1 + axes, 2 + axes))
        return x.reshape(-1, base.weight[0].numel())

    def reading(self, base: Any) -> tuple[Any, ...]:
        """Return the shape of a kernel, and where it acts."""
        where = (base.stride, base.padding, base.dilation, base.groups, base.padding_mode)
        return (self.word, base.weight.shape[1:], *where)

    def as_lora(self, base: Any, A: Tensor, B: Tensor) -> dict[str, Tensor]:
        """Return a convolution with r kernels, and one of 1 x 1 that multiplies with B.

        With G groups there are G·r kernels over all channels, those of a group zero outside of it, and each row of B is
        of its own group alone.
        """
        kernel, r, groups = base.weight.shape[1:], len(A), base.groups
        spread = A.new_zeros(groups, r, groups, *kernel)
        for group in range(groups):
            spread[group, :, group] = A.view(r, *kernel)
        ones = (1,) * len(base.kernel_size)
        filters = spread.view(groups * r, groups * kernel[0], *kernel[1:])
        return {"lora_A.weight": filters, "lora_B.weight": B.reshape(*B.shape, *ones)}

    def why_no_lora(self, base: Any) -> str | None:
        """Return what stock PEFT leaves out of the convolution with r kernels."""
        if any(step != 1 for step in base.dilation):
            return f"stock PEFT leaves out its dilation of {base.dilation}"
        if base.padding_mode != "zeros":
            return f"stock PEFT leaves out its padding_mode={base.padding_mode!r}"
        return None

    def why_not(self, base: Any) -> str | None:
        """Return what about the layer forbids an adapter."""
        return own_forward(self, base)


def _read(base: Any, x: Tensor, A: Tensor | Selected, *, cast: bool) -> Tensor:
    """Return A∗x for every group: (n, c, …) -> (n, G·r, …)."""
    groups, kernel, x = base.groups, base.weight.shape[1:], _padded(base, x)
    where: dict[str, Any] = {"stride": base.stride, "dilation": base.dilation}
    where["padding"] = base.padding if base.padding_mode == "zeros" else 0
    if not isinstance(A, Selected):
        filters = (A if cast else A.to(x.dtype)).view(-1, *kernel)
        return _convolve(base, x, filters.repeat(groups, *(1 for _ in kernel)), groups=groups, **where)
    # Of each group, the channel that an index lies in, and a kernel that is one at the index' place.
    place = kernel[1:].numel()
    channels = A.indices // place + kernel[0] * torch.arange(groups, device=x.device)[:, None]
    read = x.index_select(x.dim() - 1 - len(base.kernel_size), channels.flatten())
    one = F.one_hot(A.indices % place, place).to(x.dtype).view(-1, 1, *kernel[1:])
    return _convolve(base, read, one.repeat(groups, *(1 for _ in kernel)), groups=channels.numel(), **where)


def _written(out: Tensor, hidden: Tensor, B: Selected, channels: int, groups: int) -> Tensor:
    """Return `out` with each group's r channels added to those of its output channels that B selects."""
    r = len(B.indices)
    # A selected row lies in one group, and takes what that group read.
    source = B.indices // (B.width // groups) * r + torch.arange(r, device=out.device)
    return out.index_add(channels, B.indices, hidden.index_select(channels, source).to(out.dtype))


def _padded(base: Any, x: Tensor) -> Tensor:
    """Return x with the borders of a layer that does not pad with zeros."""
    if base.padding_mode == "zeros":
        return x
    return F.pad(x, base._reversed_padding_repeated_twice, mode=base.padding_mode)


def _convolve(base: Any, x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)
    return CONVOLVE[len(base.kernel_size)](x, weight, **options)
