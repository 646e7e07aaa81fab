"""What is written over a base weight is computed the same everywhere, and comes out again to the last bit."""

from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lopsided import LopsidedError
from lopsided.tuner.forward.compute import Selected, Term
from lopsided.tuner.weight import delta, exact_product, undo
from lopsided.tuner.weight import undo_records as corrections
from lopsided.tuner.weight.delta import Delta, Part, Region, delta_weight
from lopsided.tuner.weight.undo import Undo
from lopsided.tuner.weight.undo_records import INTEGERS, digest

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# -0.0, denormals, the largest number, infinities, and NaN with a payload and a sign: their bits in each dtype.
SPECIAL = {
    torch.int16: (-0x8000, 1, -0x7FF0, 0x7BFF, 0x7F7F, 0x7C00, -0x0400, 0x7F80, 0x7F81, -0x0001, 0x7E55),
    torch.int32: (-0x80000000, 1, -0x7FFFF000, 0x7F7FFFFF, 0x7F800000, -0x00800000, 0x7F812345, -0x00000001),
    torch.int64: (-(2**63), 1, 0x7FEFFFFFFFFFFFFF, 0x7FF0000000000000, 0x7FF0000000012345, -1),
}


def bits(weight: torch.Tensor) -> torch.Tensor:
    return weight.contiguous().view(INTEGERS[weight.dtype])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(bits(a), bits(b))


def term(kind: str, r: int, d_out: int, d_in: int, generator: torch.Generator) -> Term:
    A, B = torch.randn(r, d_in, generator=generator), torch.randn(d_out, r, generator=generator)
    if kind == "reads":
        return Term(Selected(torch.randperm(d_in, generator=generator)[:r], d_in), B[:, : min(r, d_in)])
    if kind == "writes":
        return Term(A[: min(r, d_out)], Selected(torch.randperm(d_out, generator=generator)[:r], d_out))
    return Term(A, B)


def laid_out(weight: torch.Tensor, layout: str) -> torch.Tensor:
    """The same numbers, as they lie in a Linear, a Conv1D, or a part of a larger tensor."""
    if layout == "transposed":
        return weight.T.contiguous().T
    if layout == "sliced":
        whole = torch.zeros(weight.shape[0] + 1, 2 * weight.shape[1] + 1, dtype=weight.dtype)
        whole[1:, 1::2] = weight
        return whole[1:, 1::2]
    return weight.clone()


@contextlib.contextmanager
def tiles_of(entries: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(undo, "tile_entries", lambda device: entries)
        patch.setattr(delta, "tile_entries", lambda device: entries)
        yield


@st.composite
def writes(draw):
    """A weight with some special entries in one of the layouts, parts, and a size of tiles."""
    dtype, layout = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(("plain", "transposed", "sliced")))
    d_out, d_in = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    numbers = torch.randn(d_out, d_in, generator=generator, dtype=torch.float64).to(dtype)
    patterns = SPECIAL[INTEGERS[dtype]]
    for _ in range(draw(st.integers(0, 4))):
        row, column = draw(st.integers(0, d_out - 1)), draw(st.integers(0, d_in - 1))
        numbers.view(INTEGERS[dtype])[row, column] = draw(st.sampled_from(patterns))
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        kinds = draw(st.lists(st.sampled_from(("dense", "reads", "writes")), min_size=1, max_size=3))
        if draw(st.booleans()):
            kinds = [kinds[0]] * len(kinds)
        terms = tuple(term(kind, draw(st.integers(1, 3)), d_out, d_in, generator) for kind in kinds)
        size = draw(st.sampled_from((1e-30, 1e-12, 1e-6, 1e-3, 0.01, 0.3, 1.0, 30.0, 1e5, 1e38)))
        parts.append(Part(terms, size, draw(st.sampled_from((0, 0, 10**6)))))
    return laid_out(numbers, layout), parts, draw(st.sampled_from((1, 7, 64)))


def sum_of(parts: list[Part], weight: torch.Tensor) -> torch.Tensor:
    """Δ in float64, by matrix products alone."""
    total = torch.zeros(weight.shape, dtype=torch.float64)
    for part in parts:
        for one in part.terms:
            A, B = one.dense()
            total += part.scaling * (B.double() @ A.double())
    return total


@given(writes())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_write_comes_out_bit_for_bit(case):
    comes_out(*case)


@pytest.mark.soak
@given(writes())
@settings(max_examples=10000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_very_many_writes_come_out_bit_for_bit(case):
    comes_out(*case)


def comes_out(weight: torch.Tensor, parts: list[Part], entries: int) -> None:
    original = weight.clone()
    way_back = Undo()
    with tiles_of(entries):
        way_back.write(weight, parts, "layer")
        written = weight.clone()
        assert way_back.written
        assert same(way_back.original(weight), original)
        # What is kept never exceeds a copy by more than the records' heads and the indices of a region.
        tiles = len(way_back._records)
        assert way_back.nbytes <= original.nbytes + 73 * tiles + 8 * sum(weight.shape)
        way_back.write(weight, parts, "layer")
        assert same(weight, written)
        twin = pickle.loads(pickle.dumps(way_back)) if entries == 7 else copy.deepcopy(way_back)
        twin.restore(weight)
    assert same(weight, original)
    assert not twin.written
    assert twin.nbytes == 0
    # What was written is W0 + Δ, rounded once.
    region, wide = Region.of(parts), torch.promote_types(weight.dtype, torch.float32)
    everything = slice(0, region.height), slice(0, region.width)
    once = original.clone()
    change = Delta(parts, CPU).tile(*everything).to(wide)
    region.write(once, *everything, (region.read(original, *everything).to(wide) + change).to(weight.dtype))
    torch.testing.assert_close(written, once, rtol=0, atol=0, equal_nan=True)
    # And Δ is the sum of products: each entry to within the rounding of either.
    expected = original.double() + sum_of(parts, original)
    finite = written.isfinite() & expected.isfinite() & (expected.abs() < torch.finfo(weight.dtype).max)
    slack = 4 * torch.finfo(weight.dtype).eps * (expected.abs() + original.double().abs())
    reach = sum(
        part.scaling * one.dense()[1].abs().double() @ one.dense()[0].abs().double()
        for part in parts
        for one in part.terms
    )
    tiny = 2 * torch.finfo(weight.dtype).smallest_normal
    assert ((written.double() - expected).abs() <= slack + 2**-18 * reach.max() + tiny)[finite].all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scaling", [1e-3, 0.05, 1.0])
def test_tiles_of_the_real_size_come_out_too(dtype, scaling):
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(300, 700, generator=generator, dtype=torch.float64) * 0.05).to(dtype)
    weight.view(-1)[:: 1 + weight.numel() // 50] = float("nan")
    original, way_back = weight.clone(), Undo()
    terms = tuple(term("dense", 16, 300, 700, generator) for _ in range(3))
    way_back.write(weight, [Part(terms, scaling)], "layer")
    assert not same(weight, original)
    assert len(way_back._records) == 3
    way_back.restore(weight)
    assert same(weight, original)


# -- ΔW ------------------------------------------------------------------------------------------------------


def test_the_inner_order_of_a_sum_changes_no_bit():
    generator, plain = torch.Generator().manual_seed(0), []
    for r in (32, 128) * 10:
        A = torch.randn(r, 40, generator=generator) * torch.logspace(-3, 2, r)[:, None]
        B = torch.randn(30, r, generator=generator) * torch.logspace(1, -2, 30)[:, None]
        order = torch.randperm(r, generator=generator)
        tile = (slice(0, 30), slice(0, 40))
        first, second = (Delta([Part((Term(*p),), 0.7)], CPU).tile(*tile) for p in ((A, B), (A[order], B[:, order])))
        assert torch.equal(first, second)
        plain.append(torch.equal(B.double() @ A.double(), B[:, order].double() @ A[order].double()))
    assert not all(plain), "no order changed a plain product either, so this shows nothing"


@pytest.mark.parametrize("kind", ["dense", "reads", "writes"])
def test_the_callers_settings_change_no_bit(kind):
    generator = torch.Generator().manual_seed(1)
    terms = [term(kind, 24, 260, 390, generator) for _ in range(3)]
    # A model that was cast has factors of another dtype.
    half = terms[-1]
    terms[-1] = Term(*(f if isinstance(f, Selected) else f.half() for f in (half.A, half.B)))
    expected, tile = delta_weight(terms, 0.3, CPU), (slice(3, 200), slice(0, 20))
    direct = Delta([Part(tuple(terms), 0.3)], CPU).tile(*tile)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(delta_weight(terms, 0.3, CPU), expected)
            assert torch.equal(Delta([Part(tuple(terms), 0.3)], CPU).tile(*tile), direct)
            assert torch.get_num_threads() == count
        torch.set_float32_matmul_precision("medium")
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                assert torch.equal(delta_weight(terms, 0.3, CPU), expected)
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode():
            assert torch.equal(delta_weight(terms, 0.3, CPU), expected)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(torch.float32)
    for entries in (50, 4096, 2**20):
        with tiles_of(entries):
            assert torch.equal(delta_weight(terms, 0.3, CPU), expected)


@given(st.integers(0, 2**20), st.sampled_from((1, 5, 16, 32, 33, 70, 300)), st.integers(-100, 90), st.integers(-30, 20))
@settings(max_examples=60, deadline=None)
def test_delta_is_close_to_a_float64_product(seed, r, size_A, size_B):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(r, 9, generator=generator) * 2.0**size_A
    B = torch.randn(11, r, generator=generator) * 2.0**size_B
    exact = 0.7 * B.double() @ A.double()
    largest = 0.7 * B.abs().amax(1, keepdim=True).double() * A.abs().amax(0, keepdim=True).double()
    errors = (delta_weight([Term(A, B)], 0.7, CPU).double() - exact).abs()
    # Half a unit each for two factors in each of r products, half of them where one factor's own bits fit.
    assert (errors <= largest * r * 2.0**-22 + 2.0**-149).all()


def test_links_of_unlike_sizes_keep_their_bits():
    """A coin's links: one has a large A and a small B, the other a small A and a large B."""
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(16, 50, generator=generator), torch.randn(60, 16, generator=generator)
    terms = [Term(A * 1e3, B * 1e-6), Term(A * 1e-6, B * 1e3)]
    exact = sum(t.dense()[1].double() @ t.dense()[0].double() for t in terms)
    error = (delta_weight(terms, 1.0, CPU) - exact).norm() / exact.norm()
    assert error < 3e-7


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["dense", "reads", "writes"])
def test_factors_that_are_not_finite_give_a_delta_that_is_not(kind, bad):
    generator = torch.Generator().manual_seed(0)
    one = term(kind, 3, 6, 5, generator)
    trained = one.A if kind == "writes" else one.B
    trained[1, 1] = bad
    reached = torch.zeros(6, 5, dtype=torch.bool)
    if kind == "dense":
        reached[1] = True
    elif kind == "reads":
        reached[1, one.A.indices[1]] = True
    else:
        reached[one.B.indices[1], 1] = True
    assert torch.equal(~delta_weight([one], 0.5, CPU).isfinite(), reached)
    weight = torch.randn(6, 5, generator=generator)
    original, way_back = weight.clone(), Undo()
    way_back.write(weight, [Part((one,), 0.5)], "layer")
    assert not weight.isfinite().all()
    way_back.restore(weight)
    assert same(weight, original)


def test_a_chain_is_rounded_once():
    """Many links of less than half a unit each add up."""
    weight = torch.ones(4, 4)
    terms = tuple(Term(torch.full((1, 4), 1e-4), torch.full((4, 1), 2.0**-12)) for _ in range(64))
    Undo().write(weight, [Part(terms, 1.0)], "layer")
    expected = (1.0 + 64 * torch.tensor(1e-4).double() * 2.0**-12).float()
    assert expected > 1
    assert (weight == expected).all()


def test_a_float64_weight_gets_a_float64_sum():
    weight = torch.ones(3, 3, dtype=torch.float64)
    Undo().write(weight, [Part((Term(torch.full((1, 3), 2.0**-30), torch.ones(3, 1)),), 1.0)], "layer")
    assert (weight == 1.0 + 2.0**-30).all()


# -- the digest ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 8)])
def test_the_digest_sees_every_single_bit(dtype, shape):
    tile = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    width = 8 * tile.itemsize
    seen = {digest(tile)}
    for entry in range(tile.numel()):
        for bit in range(width):
            flipped = tile.clone()
            mask = torch.tensor(-(2 ** (width - 1)) if bit == width - 1 else 2**bit, dtype=INTEGERS[dtype])
            flipped.view(INTEGERS[dtype]).view(-1)[entry] ^= mask
            seen.add(digest(flipped))
    assert len(seen) == 1 + tile.numel() * width


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_digest_sees_signs_swaps_and_shifts(dtype):
    tile = torch.randn(64, 1100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    changed = [tile, -tile, tile.flip(0), tile.flip(1), tile.roll(1, 0), tile.roll(1, 1), torch.zeros_like(tile)]
    # The last two lie at one place of two rows.
    row = len(corrections._ACROSS) * min(4, tile.itemsize) // tile.itemsize
    assert tile.numel() > 3 + row
    for a, b in ((0, 1), (5, 40000), (70000, 70399), (3, 3 + row)):
        for how in ("sign", "swap", "ulp"):
            other = tile.clone()
            flat, integers = other.view(-1), other.view(INTEGERS[dtype]).view(-1)
            if how == "sign":
                flat[[a, b]] *= -1
            elif how == "swap":
                flat[[a, b]] = flat[[b, a]]
            else:
                integers[a] += 1
                integers[b] -= 1
            changed.append(other)
    assert len({digest(one) for one in changed}) == len(changed)
    # Only odd factors lose nothing.
    assert (corrections._ACROSS % 2 != 0).all()
    assert (corrections._DOWN % 2 != 0).all()


def test_the_digest_is_one_whatever_computes_it():
    tile = torch.randn(37, 1100, generator=torch.Generator().manual_seed(0))
    words = tile.view(torch.int32).flatten().tolist()
    across, down = corrections._ACROSS.tolist(), corrections._DOWN.tolist()
    exact = sum(down[i // 4096] * across[i % 4096] * word for i, word in enumerate(words))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert (digest(tile) - exact) % 2**64 == 0
    finally:
        torch.set_num_threads(threads)


# -- when something is in the way ----------------------------------------------------------------------------


def written_weight(dtype=torch.float32, scaling=0.01, kind="dense"):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, generator=generator).to(dtype)
    parts = [Part((term(kind, 4, 40, 30, generator),), scaling)]
    original, way_back = weight.clone(), Undo()
    with tiles_of(256):
        way_back.write(weight, parts, "encoder.query")
    return weight, original, way_back, parts


@pytest.mark.parametrize("scaling", [0.01, 1e6])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_a_weight_that_somebody_changed_is_refused_and_left(dtype, scaling):
    weight, original, way_back, _ = written_weight(dtype, scaling)
    before = weight.clone()
    weight.view(INTEGERS[dtype])[39, 29] ^= 1
    changed = weight.clone()
    for call in (way_back.restore, way_back.original):
        with pytest.raises(LopsidedError, match=r"encoder\.query: the base weight was changed"):
            call(weight)
        assert same(weight, changed)
    weight.copy_(before)
    way_back.restore(weight)
    assert same(weight, original)


def test_factors_that_somebody_changed_are_noticed():
    weight, _, way_back, [part] = written_weight()
    part.terms[0].B[:, 0] += 0.1
    with pytest.raises(LopsidedError, match="what came back is not the original"):
        way_back.restore(weight)


def test_weights_of_whole_numbers_are_refused():
    with pytest.raises(LopsidedError, match=r"dtype torch\.int8"):
        Undo().write(
            torch.zeros(3, 3, dtype=torch.int8), [Part((term("dense", 1, 3, 3, torch.Generator()),), 1.0)], "m"
        )


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("call", ["write", "restore", "again"])
def test_an_interrupted_call_can_be_undone(call, at, after, monkeypatch):
    weight, original, way_back, parts = written_weight()
    calls, put = iter(range(1000)), Region.write

    def write(self, *args):
        stop = next(calls) == at
        if after or not stop:
            put(self, *args)
        if stop:
            raise KeyboardInterrupt

    with tiles_of(256):
        if call == "write":
            way_back.restore(weight)
        monkeypatch.setattr(Region, "write", write)
        with pytest.raises(KeyboardInterrupt):
            way_back.restore(weight) if call == "restore" else way_back.write(weight, parts, "layer")
        monkeypatch.setattr(Region, "write", put)
        assert same(way_back.original(weight), original)
        way_back.restore(weight)
    assert same(weight, original)


def test_flushing_denormals_changes_nothing():
    """The setting reaches the calling thread alone, so without care the number of threads would count."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(400, 300, generator=generator) * 1e-39
    parts = [Part((term("dense", 4, 400, 300, generator),), 1e-39)]
    original, way_back, threads = weight.clone(), Undo(), torch.get_num_threads()
    try:
        for on_write, on_restore in ((True, False), (False, True), (True, True)):
            torch.set_num_threads(1)
            torch.set_flush_denormal(on_write)
            with tiles_of(2**17):
                way_back.write(weight, parts, "layer")
            assert not same(weight, original)
            torch.set_num_threads(2)
            torch.set_flush_denormal(on_restore)
            way_back.restore(weight)
            assert same(weight, original)
            assert bool(torch.full((), 1e-40).mul(1.0) == 0) == on_restore
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


# -- what it costs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reads", "writes"])
def test_selectors_touch_only_their_region(kind):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 48, generator=generator)
    one = term(kind, 3, 64, 48, generator)
    indices = (one.A if kind == "reads" else one.B).indices
    original, way_back = weight.clone(), Undo()
    way_back.write(weight, [Part((one, one), 0.5)], "layer")
    moved = (weight != original).any(0 if kind == "reads" else 1).nonzero()[:, 0]
    assert torch.equal(moved, indices.sort().values)
    assert way_back.nbytes < 4 * 3 * 64 / 2
    # The rest of the weight is nobody's business.
    others = [i for i in range(48 if kind == "reads" else 64) if i not in moved]
    view = weight[:, others] if kind == "reads" else weight[others]
    view += 1.0
    (weight.T if kind == "reads" else weight)[others] = view.T if kind == "reads" else view
    way_back.restore(weight)
    kept = (weight.T if kind == "reads" else weight)[indices]
    assert same(kept, (original.T if kind == "reads" else original)[indices])
    assert not torch.equal(weight, original)


@pytest.mark.parametrize(("scaling", "most"), [(1e-4, 0.03), (1e-2, 0.25), (1.0, 0.7)])
def test_small_updates_cost_little_and_large_ones_a_copy(scaling, most):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 300, generator=generator)
    one = Term(torch.randn(16, 300, generator=generator), torch.randn(200, 16, generator=generator) / 4)
    way_back = Undo()
    way_back.write(weight, [Part((one,), scaling)], "layer")
    assert way_back.nbytes <= most * weight.numel()
    assert way_back._parts
    way_back.write(weight, [Part((one,), 1e7)], "layer")
    assert weight.nbytes <= way_back.nbytes <= weight.nbytes + 200
    assert not way_back._parts
    # Factors that cost as much as the weight are not worth keeping, however small the update is.
    way_back.write(weight, [Part((one,), scaling, copied=weight.nbytes)], "layer")
    assert not way_back._parts
    way_back.write(weight, [Part((one,), 1.0, copied=weight.nbytes - 100)], "layer")
    assert not way_back._parts
    assert way_back.nbytes <= weight.nbytes + 200


class Largest(TorchDispatchMode):
    """The size of the largest tensor that an operation makes anew."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.own, self.nbytes = weight.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() != self.own:
                self.nbytes = max(self.nbytes, made.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("layout", ["plain", "transposed"])
def test_no_call_needs_more_than_a_tile_at_once(layout):
    generator = torch.Generator().manual_seed(0)
    weight = laid_out(torch.randn(700, 900, generator=generator), layout)
    terms = tuple(term("dense", 16, 700, 900, generator) for _ in range(6))
    way_back = Undo()
    with Largest(weight) as largest:
        way_back.write(weight, [Part(terms, 0.01)], "layer")
        way_back.loss(weight, [Part(terms, 0.01)])
        way_back.restore(weight)
    assert 8 * 2**16 <= largest.nbytes <= 8 * 2**17


def test_the_share_that_rounding_took():
    weight, original, way_back, parts = written_weight(torch.bfloat16, 1e-3)
    delta_now = delta_weight(parts[0].terms, parts[0].scaling, CPU)
    lost = (weight.float() - original.float() - delta_now).norm() / delta_now.norm()
    assert way_back.loss(weight, parts) == pytest.approx(float(lost), rel=1e-5)
    assert float(lost) > 0.1


def test_a_tile_is_copied_where_that_is_shorter():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 512, generator=generator)
    one = Term(torch.randn(4, 512, generator=generator), torch.randn(128, 4, generator=generator) / 2e4)
    one.A[:, 256:] *= 1e11
    way_back = Undo()
    with tiles_of(2**15):
        way_back.write(weight, [Part((one,), 1.0)], "layer")
    copied = [corrections.is_copy(kept) for kept in way_back._records]
    assert 0 < sum(copied) < len(copied)
    assert all(len(kept) <= corrections.HEAD + 4 * 2**15 for kept in way_back._records)


def test_numbers_that_are_not_finite_are_kept_whole():
    """Another device's NaN has other bits."""
    W0 = torch.tensor([[1.0, float("nan"), float("inf"), -2.0]])
    W0.view(torch.int32)[0, 1] = 0x7F812345
    kept = corrections.record(W0, W0, W0.clone())
    guess = torch.tensor([[1.0, float("nan"), float("nan"), -2.0]])
    assert not same(guess, W0)
    assert same(corrections.corrected(guess, kept), W0)
    # Not as a difference of one bit either.
    near = W0.clone()
    near.view(torch.int32)[0, 1] += 1
    kept = corrections.record(W0, W0, near)
    assert same(corrections.corrected(guess.clone(), kept)[:, 1], W0[:, 1])
    tops = torch.tensor([[float("nan"), 5.0], [-float("inf"), 0.0], [1.0, -0.5]])
    assert exact_product._exponent(tops, 1).tolist() == [1, 1, 1]


def test_a_product_that_float64_would_round_is_refused():
    with pytest.raises(AssertionError, match=r"Precision\(depth=64, bits=24\) does not fit"):
        exact_product.Precision(depth=64, bits=24)


@pytest.mark.parametrize("precision", [exact_product.FEW, exact_product.MANY])
def test_an_exact_product_is_the_same_in_every_order(precision):
    generator = torch.Generator().manual_seed(0)
    K = precision.depth
    # Columns and rows of very different sizes, which a sum in an order of its own would feel.
    sizes = 2.0 ** torch.randint(-20, 20, (K,), generator=generator)
    B = torch.randn(5, K, generator=generator) * sizes
    A = torch.randn(K, 7, generator=generator) / sizes[torch.randperm(K, generator=generator), None]
    order = torch.randperm(K, generator=generator)
    first, second = (
        exact_product.ExactProduct([(b, a)], precision.bits, kept).tile(slice(None), slice(None))
        for b, a, kept in ((B, A, True), (B[:, order], A[order], False))
    )
    assert torch.equal(first, second)
    torch.testing.assert_close(first, B.double() @ A.double(), rtol=0, atol=1e-5 * float(first.abs().max()))


def test_positions_are_packed_the_shorter_way():
    for n in (5, 64, 2**16, 2**17 + 3):
        for count in (0, 1, 2, n // 1000, n // 20, n // 10, n):
            positions = torch.randperm(n, generator=torch.Generator().manual_seed(count))[:count].sort().values
            packed = corrections._packed(positions.numpy(), n)
            found, end = corrections._unpacked(b"head" + packed, 4, count, n)
            assert end == 4 + len(packed)
            assert torch.equal(found, positions)
            assert len(packed) <= 1 + min((n + 7) // 8, count * (2 if n <= 2**16 else 4))
    # Where they lie close, a byte each will do.
    assert len(corrections._packed(torch.arange(0, 2**16, 200).numpy(), 2**16)) == 1 + 328
