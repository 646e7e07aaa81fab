"""The cache of singular vectors: used when it is right, and made anew when it is not."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lopsided import LopsidedError, LopsidedWarning
from lopsided.diagnose import base_svd as module
from lopsided.diagnose.base_svd import base_svd

W0 = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))


def check(found, weight=W0):
    torch.testing.assert_close(found.left * found.values @ found.right.T, weight, atol=1e-5, rtol=0)
    assert found.left.shape == (weight.shape[0], min(weight.shape))
    assert (found.values.diff() <= 0).all()


@pytest.fixture
def decomposed(monkeypatch):
    """Counts the decompositions."""
    calls, real = [], module.decompose
    monkeypatch.setattr(module, "decompose", lambda weight: calls.append(1) or real(weight))
    return calls


def test_the_second_look_reads_what_the_first_one_wrote(tmp_path, decomposed):
    first, second = base_svd(W0, tmp_path), base_svd(W0.clone(), tmp_path)
    assert len(decomposed) == 1
    for name in ("left", "values", "right"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    check(second)
    [file] = tmp_path.iterdir()
    assert file.suffix == ".safetensors"


def test_another_weight_has_another_file(tmp_path, decomposed):
    other = W0.clone()
    other[3, 4] += 1e-6
    for weight in (W0, other, W0.T):
        check(base_svd(weight, tmp_path), weight)
    assert len(decomposed) == len(list(tmp_path.iterdir())) == 3


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch, decomposed):
    monkeypatch.setenv("LOPSIDED_CACHE", str(tmp_path))
    base_svd(W0)
    assert len(list((tmp_path / "svd").glob("*.safetensors"))) == 1
    base_svd(W0, tmp_path / "svd")
    assert len(decomposed) == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def no_header(path):
    path.write_bytes(b"\xff" * 100)


def changed(name, change):
    def damage(path):
        tensors = load_file(path)
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, path, metadata={"format": "pt"})

    return damage


def flipped(tensor):
    tensor[2, 5] *= -1
    return tensor


DAMAGES = {
    "cut off": cut,
    "no safetensors": no_header,
    "one entry": changed("left", flipped),
    "one entry on the right": changed("right", flipped),
    "NaN": changed("values", lambda t: t * float("nan")),
    "shape": changed("left", lambda t: t[:, :-1]),
    "dtype": changed("left", lambda t: t.double()),
    "other names": lambda path: save_file({"left": W0}, path, {"format": "pt"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_made_anew(name, tmp_path, decomposed):
    base_svd(W0, tmp_path)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    DAMAGES[name](file)
    assert file.read_bytes() != whole
    check(base_svd(W0, tmp_path))
    assert len(decomposed) == 2
    assert file.read_bytes() == whole
    base_svd(W0, tmp_path)
    assert len(decomposed) == 2


def test_a_place_that_can_not_be_written_is_said(tmp_path, decomposed):
    (tmp_path / "file").write_text("")
    with pytest.warns(LopsidedWarning, match="LOPSIDED_CACHE"):
        check(base_svd(W0, tmp_path / "file" / "svd"))


@pytest.mark.parametrize("bad", [torch.full((3, 3), torch.nan), torch.ones(3), torch.ones(0, 3)])
def test_only_finite_matrices(bad, tmp_path):
    with pytest.raises(LopsidedError, match="finite matrix"):
        base_svd(bad, tmp_path)
