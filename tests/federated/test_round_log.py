"""A log replays to the server's bits, survives a cut, and is read like any file of a stranger."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import lopsided
from lopsided import LopsidedError
from lopsided.federated import round_log
from lopsided.federated.factors import advance_to, link_of, load_trained, trained_tensors
from lopsided.federated.round_log import RoundLog, replay
from lopsided.files.atomic import file_hash
from lopsided.tuner import layers_of
from tests import tiny
from tests.federated.rounds import SINGLE_FACTOR_CHAINS, R, adapted, play_round, random_like, updates_for


def begin(folder, model, method="rac_b", run="mine"):
    return RoundLog.begin(folder, model, run=run, method=method, seed=0)


def serve(folder, rounds=3, method="rac_b", run="mine"):
    """A server's model after some rounds, and their log."""
    model = adapted(method)
    log = begin(folder, model, method, run)
    chained = method not in ("asym_b", "lora")
    for number in range(rounds):
        updates = updates_for(model, seed=number)
        averaged = play_round(model, number if chained else 0, updates)
        log.append(
            averaged,
            link=link_of(model),
            examples={u.client: u.examples for u in updates},
            refused={"bad": "NaN"},
            bytes={"up": 10, "down": 20},
        )
    return model, log


def bits(model):
    """Everything that decides the function: state, what the base weights hold, and the sketches."""
    layers = layers_of(model).values()
    held = {f"weight of {i}": layer.base_weight.tensor.detach().clone() for i, layer in enumerate(layers)}
    state = {k: v for k, v in model.state_dict().items() if ".original_module." not in k}
    return {**state, **held}


def assert_equal(a, b):
    mine, theirs = bits(a), bits(b)
    assert mine.keys() == theirs.keys()
    assert not [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert torch.equal(tiny.logits(a), tiny.logits(b))


@pytest.mark.parametrize("method", [*SINGLE_FACTOR_CHAINS, "asym_b", "lora"])
def test_a_replay_stands_where_the_server_stands_to_the_bit(method, tmp_path):
    server, _ = serve(tmp_path / "log", method=method)
    late = adapted(method)
    assert not torch.equal(tiny.logits(late), tiny.logits(server))
    assert replay(RoundLog.open(tmp_path / "log", run="mine"), late) == link_of(server)
    assert_equal(late, server)
    if link_of(server):
        # And goes on as the server does: with the next link's sketch.
        for model in (late, server):
            play_round(model, 3, updates_for(model, seed=9))
        assert_equal(late, server)


def test_a_replay_next_to_16_bit_weights_where_links_are_stacked(tmp_path):
    def sixteen():
        return lopsided.adapt(tiny.bert().to(torch.bfloat16), "rac_b", r=R, target_modules="all-linear", links=9)

    server = sixteen()
    log = begin(tmp_path / "log", server)
    for number in range(3):
        updates = updates_for(server, seed=number)
        log.append(play_round(server, number, updates), link=number, examples={u.client: 1 for u in updates})
    late = sixteen()
    # Both round the head to bfloat16 when they load it.
    assert replay(log, late) == 2
    assert_equal(late, server)
    with pytest.raises(LopsidedError, match="the base model is another one"):
        replay(log, adapted())


def test_a_replay_of_fewer_rounds_is_the_server_at_that_time(tmp_path):
    _, log = serve(tmp_path / "long", rounds=3)
    server, _ = serve(tmp_path / "short", rounds=2)
    late = adapted()
    assert replay(log, late, rounds=2) == 1
    assert_equal(late, server)
    with pytest.raises(LopsidedError, match="has 3 rounds, got rounds=4"):
        replay(log, adapted(), rounds=4)


def test_a_late_joiners_head_may_start_anywhere(tmp_path):
    server, log = serve(tmp_path / "log")
    late = adapted()
    load_trained(late, random_like(trained_tensors(late), seed=5))
    replay(log, late)
    assert_equal(late, server)


def test_several_rounds_at_one_link(tmp_path):
    model = adapted()
    log = begin(tmp_path / "log", model)
    for number, link in enumerate((0, 0, 2, 2)):
        updates = updates_for(model, seed=number)
        log.append(play_round(model, link, updates), link=link, examples={u.client: 1 for u in updates})
    late = adapted()
    assert replay(log, late) == 2
    assert_equal(late, model)


def test_a_killed_server_goes_on_from_its_log(tmp_path):
    undisturbed, _ = serve(tmp_path / "whole", rounds=4)
    serve(tmp_path / "cut", rounds=2)
    log = RoundLog.open(tmp_path / "cut", run="mine")
    model = adapted()
    replay(log, model)
    for number in (2, 3):
        updates = updates_for(model, seed=number)
        log.append(
            play_round(model, number, updates),
            link=number,
            examples={u.client: u.examples for u in updates},
            refused={"bad": "NaN"},
            bytes={"up": 10, "down": 20},
        )
    assert_equal(model, undisturbed)
    assert (tmp_path / "cut" / "rounds.jsonl").read_bytes() == (tmp_path / "whole" / "rounds.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["round-00003.safetensors", "rounds.jsonl"])
def test_a_round_that_is_cut_off_leaves_the_last_whole_one(name, tmp_path, monkeypatch):
    model, log = serve(tmp_path / "log", rounds=2)
    before, averaged = copy.deepcopy(log.rounds), trained_tensors(model)

    def cut(source, target):
        if os.path.basename(target) == name:
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            log.append(averaged, link=1, examples={"a": 1})
    assert log.rounds == before
    again = RoundLog.open(tmp_path / "log")
    assert again.rounds == before
    again.verify()
    again.append(averaged, link=1, examples={"a": 1})
    again.verify()
    assert len(RoundLog.open(tmp_path / "log").rounds) == 3


def test_what_is_no_round_is_not_written(tmp_path):
    model, log = serve(tmp_path / "log", rounds=2)
    good = trained_tensors(model)
    name = next(iter(good))
    for tensors, link, examples, message in [
        (good, 1, {}, "expected clients"),
        (good, 0, {"a": 1}, "a link from 1 on"),
        ({name: good[name]}, 1, {"a": 1}, "tensors missing"),
        ({**good, name: good[name] * torch.inf}, 1, {"a": 1}, "NaN or Inf"),
        ({**good, name: good[name].half()}, 1, {"a": 1}, r"float16.*expected float32"),
    ]:
        with pytest.raises(LopsidedError, match=message):
            log.append(tensors, link=link, examples=examples)
    assert len(RoundLog.open(tmp_path / "log").rounds) == 2
    with pytest.raises(LopsidedError, match="holds the log of a run"):
        begin(tmp_path / "log", model)


# -- faults of files ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    serve(folder / "mine")
    serve(folder / "other", run="other")
    return folder


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written / "mine", tmp_path / "log")
    return tmp_path / "log"


def edit_line(folder, number=1, **changes):
    """Change fields of a line, and the hashes after it, as somebody would who wants it to be read."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[number].update(changes)
    previous = file_hash(folder / "log.json")
    text = ""
    for line in lines:
        if "previous" in line and "previous" not in changes:
            line["previous"] = previous
        text += json.dumps(line) + "\n"
        previous = round_log._hash(json.dumps(line))
    (folder / "rounds.jsonl").write_text(text)


def edit_header(folder, **changes):
    header = json.loads((folder / "log.json").read_text())
    (folder / "log.json").write_text(json.dumps({**header, **changes}))
    edit_line(folder)


def edit_tensors(folder, change):
    """Write other tensors in round 2, with the size and hash in its line."""
    path = folder / "round-00002.safetensors"
    tensors = load_file(path)
    save_file(change(tensors), path, metadata={"format": "pt"})
    edit_line(folder, size=path.stat().st_size, sha256=file_hash(path))


def put_pickle(folder):
    path = folder / "round-00002.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}))
    edit_line(folder, size=path.stat().st_size, sha256=file_hash(path))


def flip_bit(folder):
    path = folder / "round-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rewrite(name, change):
    def edit(folder):
        path = folder / name
        path.write_text(change(path.read_text()))

    return edit


def shorten(folder):
    path = folder / "round-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


FILE_FAULTS = {
    "no header": (lambda f: (f / "log.json").unlink(), "holds no log.json"),
    "no lines": (lambda f: (f / "rounds.jsonl").unlink(), "lacks rounds.jsonl"),
    "no round": (lambda f: (f / "round-00002.safetensors").unlink(), "lacks round-00002.safetensors"),
    "header is no JSON": (rewrite("log.json", lambda t: t[:-9]), "is not JSON"),
    "header is a list": (rewrite("log.json", lambda t: "[]"), "is a JSON list"),
    "another schema": (lambda f: edit_header(f, schema=9), "has schema 9"),
    "a foreign field": (lambda f: edit_header(f, extra=1), r"log.json: 1 foreign \('extra'\)"),
    "shapes of another type": (lambda f: edit_header(f, shapes={"a": "b"}), "shapes must be"),
    "no shapes": (lambda f: edit_header(f, shapes={}), "expected shapes of what trains"),
    "a fingerprint that is none": (lambda f: edit_header(f, base={"a": "b c d"}), "fingerprint"),
    "lines are cut": (rewrite("rounds.jsonl", lambda t: t[:-9]), "ends within a line"),
    "a line is no JSON": (rewrite("rounds.jsonl", lambda t: "{\n" + t), "line 1 is not JSON"),
    "a line is missing": (rewrite("rounds.jsonl", lambda t: t.partition("\n")[2]), "round 2 does not follow"),
    "a line is changed": (rewrite("rounds.jsonl", lambda t: t.replace('"up": 10', '"up": 11', 1)), "does not follow"),
    "a header is changed": (rewrite("log.json", lambda t: t.replace("mine", "mime")), "round 1 does not follow"),
    "a field is missing": (
        rewrite("rounds.jsonl", lambda t: t.replace('"link": 0, ', "", 1)),
        "1 of 10 fields missing",
    ),
    "a foreign field of a line": (lambda f: edit_line(f, extra=1), r"1 foreign \('extra'\)"),
    "a number of another type": (lambda f: edit_line(f, link="1"), "link must be int"),
    "a link that is past": (lambda f: edit_line(f, 2, link=0), "link 0 after 1"),
    "a negative link": (lambda f: edit_line(f, 0, link=-1), "no negative number"),
    "no clients": (lambda f: edit_line(f, examples={}), "expected clients"),
    "no examples": (lambda f: edit_line(f, examples={"a": 0}), "expected clients with examples"),
    "another method": (lambda f: edit_line(f, method="lora"), "is of method 'lora'"),
    "another seed": (lambda f: edit_line(f, seed=1), "seed 1"),
    "a hash that is none": (lambda f: edit_line(f, sha256="../x"), "expected a hash"),
    "a size beyond the shapes": (lambda f: edit_line(f, size=2**40), "expected a hash and at most"),
    "a shorter file": (shorten, "bytes, its line says"),
    "a bit": (flip_bit, "differs from its hash"),
    "a pickle": (put_pickle, "the file is damaged or cut off"),
    "NaN": (lambda f: edit_tensors(f, lambda t: {k: v * torch.nan for k, v in t.items()}), "NaN or Inf"),
    "half precision": (lambda f: edit_tensors(f, lambda t: {k: v.half() for k, v in t.items()}), "torch.float16 of"),
    "another shape": (
        lambda f: edit_tensors(f, lambda t: {k: v[:1].clone() for k, v in t.items()}),
        r"expected float32",
    ),
    "a missing tensor": (lambda f: edit_tensors(f, lambda t: dict(list(t.items())[1:])), "tensors missing"),
}


@pytest.mark.parametrize(("damage", "message"), FILE_FAULTS.values(), ids=FILE_FAULTS)
def test_a_damaged_log_is_refused_in_one_line_and_changes_nothing(damage, message, folder):
    damage(folder)
    model = adapted()
    before = bits(model)
    with pytest.raises(LopsidedError, match=message) as caught:
        replay(RoundLog.open(folder), model)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bits(model).items())


def test_the_edits_of_these_tests_would_be_read(folder):
    edit_line(folder)
    edit_tensors(folder, lambda tensors: tensors)
    replay(RoundLog.open(folder), adapted())


def test_rounds_of_another_run_are_refused(written, folder):
    with pytest.raises(LopsidedError, match="is the log of run 'mine', expected 'other'"):
        RoundLog.open(folder, run="other")
    shutil.copy(written / "other" / "rounds.jsonl", folder)
    with pytest.raises(LopsidedError, match=r"round 1 does not follow.*another run"):
        RoundLog.open(folder)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: adapted(base=1), r"the base model is another one.*\d+ of \d+ weights differ"),
        (lambda: adapted(seed=1), "the adapter has seed 1, the run 0"),
        (lambda: adapted("rac_a"), "trained tensors are not those of run 'mine'"),
        (lambda: adapted("asym_b"), "its parts are.*chained"),
        (lambda: adapted("c3la"), "its parts are.*Window"),
        (lambda: adapted(links=2), "chain here has 2 links; adapt with links=3"),
        (lambda: tiny.bert(), "trained tensors are not those"),
    ],
)
def test_another_model_is_refused_by_its_fingerprint(build, message, written):
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(LopsidedError, match=message):
        replay(RoundLog.open(written / "mine"), model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_one_changed_weight_outside_of_the_adapted_layers_is_another_base(written):
    model = adapted()
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "LayerNorm" in name).add_(0.5)
    with pytest.raises(LopsidedError, match=r"1 of .* weights differ, .*LayerNorm"):
        replay(RoundLog.open(written / "mine"), model)


def test_a_model_that_has_advanced_is_no_fresh_one(written):
    model = adapted()
    advance_to(model, 1)
    with pytest.raises(LopsidedError, match="stands at link 1; expected a fresh one"):
        replay(RoundLog.open(written / "mine"), model)


def test_a_run_whose_seed_does_not_give_the_sketches_is_refused(tmp_path):
    with pytest.raises(LopsidedError, match="the adapter has seed 0, the run 3"):
        RoundLog.begin(tmp_path / "a", adapted("asym_b"), run="mine", method="asym_b", seed=3)
    with pytest.raises(LopsidedError, match="'ipa_b' draws its sketch from a layer's inputs"):
        RoundLog.begin(tmp_path / "a", adapted("ipa_b"), run="mine", method="ipa_b", seed=0)
    assert not (tmp_path / "a").exists()


def test_full_fine_tuning_has_a_log_too(tmp_path):
    model = tiny.bert()
    log = RoundLog.begin(tmp_path / "log", model, run="mine", method="full", seed=0)
    averaged = random_like(trained_tensors(model), seed=3)
    load_trained(model, averaged)
    log.append(averaged, link=0, examples={"a": 1})
    late = tiny.bert(seed=4)
    assert replay(RoundLog.open(tmp_path / "log"), late) == 0
    assert torch.equal(tiny.logits(late), tiny.logits(model))
