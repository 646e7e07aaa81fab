"""The probe: which server has the adapter, which ignores it, and which has another base."""

from __future__ import annotations

import dataclasses
import json
from http.server import BaseHTTPRequestHandler

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lopsided import LopsidedError
from lopsided.serving import export_adapter, probe_folder, probe_server
from lopsided.serving.completions import is_loopback
from lopsided.serving.local_answers import TEXTS
from lopsided.serving.probe_file import ListedToken, Probe, Prompt, read_probe
from lopsided.serving.verdict import TokenScore, judge
from tests.serving.adapters import base_of, stock_lora, trained
from tests.serving.servers import FORMS, listening, serving

WORDS = ["[UNK]", *(word for text in TEXTS[:4] for word in text.split()), *(f"w{n}" for n in range(40))]
WIDE = LlamaConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=48,
    vocab_size=len(set(WORDS)), initializer_range=0.3,
)  # fmt: skip


def tokenizer():
    """Words, one token each: more of them than a probe lists."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(dict.fromkeys(WORDS))}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="w39")


def llama(folder, seed=0, config=WIDE):
    """A base whose next tokens differ as those of a trained model do, with a tokenizer."""
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A base, another one, and an export of an adapter on the first."""
    folder = tmp_path_factory.mktemp("probe")
    llama(folder / "llama")
    llama(folder / "other", seed=1)
    stock, _ = stock_lora("llama", folder, target_modules=["q_proj", "up_proj", "down_proj"])
    out = export_adapter(stock, folder / "vllm", server="vllm")
    assert out.probe
    return folder, out.path


def scores_of(model, *, rounded=False):
    """The function of a prompt's ids that a server of this model answers with."""
    model = model.to(torch.bfloat16) if rounded else model

    @torch.no_grad()
    def scores(ids):
        return model(input_ids=torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)

    return scores


def base_and_adapter(folder, exported, name="llama", **options):
    base = LlamaForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval()
    adapted = LlamaForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval()
    return scores_of(base, **options), scores_of(PeftModel.from_pretrained(adapted, str(exported)).eval(), **options)


def text_of():
    words = tokenizer()
    return lambda token: words.decode([token])


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_right_server_one_that_ignores_the_adapter_and_one_with_another_base(exported, form, rounded):
    folder, out = exported
    base, adapter = base_and_adapter(folder, out, rounded=rounded)
    other_base, other_adapter = base_and_adapter(folder, out, "other", rounded=rounded)
    served = {"right": adapter, "ignoring": base, "other-base": other_base, "other-adapter": other_adapter}
    with serving(served, form=form, text=text_of()) as (url, asked):
        words = {name: probe_server(url, out, model=name).word for name in served}
    assert words == {"right": "adapter", "ignoring": "base", "other-base": "neither", "other-adapter": "neither"}
    prompts = len(read_probe(out / "probe.json").prompts)
    # Each prompt twice.
    assert len(asked) == len(served) * prompts * 2
    assert {question["max_tokens"] for question in asked} == {1}


def test_a_server_as_noisy_as_the_adapter_is_weak_decides_nothing(exported):
    folder, out = exported
    base, adapter = base_and_adapter(folder, out)
    difference = read_probe(out / "probe.json").difference
    generator = torch.Generator().manual_seed(0)

    def noisy(ids):
        scores = adapter(ids)
        return scores + torch.randn(scores.shape, generator=generator) * difference

    with serving({"noisy": noisy, "base": base}) as (url, _):
        verdict = probe_server(url, out, model="noisy")
    assert verdict.word == "undecided"
    assert "differ by no more than noise does" in verdict.why


def test_an_adapter_of_nothing_is_undecided(tmp_path):
    saved, _ = trained("cla", "llama", tmp_path, target_modules=["q_proj"])
    export_adapter(saved, tmp_path / "out", server="vllm")
    probe = read_probe(tmp_path / "out" / "probe.json")
    same = [
        dataclasses.replace(p, tokens=tuple(dataclasses.replace(t, adapter=t.base) for t in p.tokens), adapter=p.base)
        for p in probe.prompts
    ]
    dataclasses.replace(probe, prompts=tuple(same)).write(tmp_path / "out" / "probe.json")
    base, _ = base_and_adapter(tmp_path, tmp_path / "out")
    with serving({"base": base}) as (url, _):
        assert probe_server(url, tmp_path / "out").word == "undecided"


def test_stock_peft_in_this_process(exported, tmp_path):
    folder, out = exported
    assert probe_folder(out).word == "adapter"
    assert probe_folder(out, base=str(folder / "other")).word == "neither"
    with pytest.raises(LopsidedError, match=r"does not fit the base|knows"):
        probe_folder(
            out, base=str(llama(tmp_path / "narrow", config=LlamaConfig(**{**WIDE.to_dict(), "hidden_size": 16})))
        )


def test_a_classifier_is_probed_by_its_logits_in_this_process_alone(tmp_path):
    saved, _ = trained("rac_b", "bert", tmp_path)
    exported = export_adapter(saved, tmp_path / "out")
    assert exported.probe
    probe = read_probe(tmp_path / "out" / "probe.json")
    assert (probe.kind, len(probe.prompts[0].adapter)) == ("logits", 3)
    assert probe_folder(tmp_path / "out").word == "adapter"
    with pytest.raises(LopsidedError, match="a classifier's logits, which /v1/completions does not give"):
        probe_server("http://127.0.0.1:1", tmp_path / "out")


@pytest.mark.parametrize("kind", ["vit"])
def test_what_a_probe_does_not_know_has_none(kind, tmp_path):
    saved, _ = trained("cla", kind, tmp_path)
    exported = export_adapter(saved, tmp_path / "out")
    assert not exported.probe
    assert "a probe needs a causal model or a classifier of texts" in exported.notes[0]
    with pytest.raises(LopsidedError, match=r"holds no probe.json"):
        probe_folder(tmp_path / "out")
    # Whoever names a base wants one.
    with pytest.raises(LopsidedError, match="a probe needs a causal model"):
        export_adapter(saved, tmp_path / "named", base=str(base_of(kind, tmp_path)))


def test_a_probe_is_not_made_on_another_base(tmp_path):
    saved, _ = trained("cla", "llama", tmp_path, target_modules=["q_proj"])
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tmp_path / "llama")).save_pretrained(tmp_path / "other")
    with pytest.raises(LopsidedError, match="the base model is another one: 2 of 2 layers differ"):
        export_adapter(saved, tmp_path / "out", base=str(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


# -- servers that misbehave --------------------------------------------------------------------------------------------


def test_models_are_named_or_there_is_one(exported):
    folder, out = exported
    _, adapter = base_and_adapter(folder, out)
    with serving({"only": adapter}) as (url, asked):
        assert probe_server(f"{url}/v1/", out).word == "adapter"
        assert {question["model"] for question in asked} == {"only"}
        with pytest.raises(LopsidedError, match=r"answered 404: .*does not exist.*check the URL and --model"):
            probe_server(url, out, model="absent")
    with (
        serving({"one": adapter, "two": adapter}) as (url, _),
        pytest.raises(LopsidedError, match="'one', 'two'; name"),
    ):
        probe_server(url, out)


@pytest.mark.parametrize(
    ("url", "inside"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://[::1]:8000/v1", True),
        ("http://127.0.0.1.example.org", False),
        ("http://example.org", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://localhost@example.org", False),
        ("http://localhost.example.org", False),
    ],
)
def test_prompts_leave_this_machine_by_a_flag_alone(exported, url, inside, monkeypatch):
    assert is_loopback(url) == inside
    asked = []
    monkeypatch.setattr("lopsided.serving.probing.connect", lambda *args: asked.append(args))
    if not inside:
        with pytest.raises(LopsidedError, match=r"is on another machine.*allow it with --remote"):
            probe_server(url, exported[1])
        assert not asked


def answering(status=200, body=b"{}", headers=()):
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Say nothing."""

    return Handler


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (answering(body=b"<html>"), "is not JSON"),
        (answering(body=b"[]"), "is a JSON list"),
        (answering(body=b"[" * 100_000), "is not JSON"),
        (answering(body=b'{"choices": [{"text": "x", "logprobs": null}]}'), "without log-probabilities"),
        (answering(body=b'{"choices": [{"logprobs": {"top_logprobs": [{"a": "b"}]}}]}'), "without log-probabilities"),
        (answering(body=b'{"choices": [{"logprobs": {"content": [{"top_logprobs": 3}]}}]}'), "without log-prob"),
        (answering(body=b'{"choices": [{"logprobs": {"top_logprobs": [{"a": NaN}]}}]}'), "without log-probabilities"),
        (answering(body=b" " * (2**22 + 2)), "more than 4194304 bytes"),
        (answering(status=500, body=b"out of memory"), "answered 500: out of memory"),
        (answering(status=302, headers=[("Location", "http://example.org/")]), "answered 302"),
    ],
)
def test_what_no_such_server_says_is_one_line(exported, handler, words):
    with listening(handler) as url, pytest.raises(LopsidedError, match=words) as caught:
        probe_server(url, exported[1], model="any")
    assert "\n" not in str(caught.value)


def test_nobody_listens(exported):
    with listening(answering()) as url:
        pass
    with pytest.raises(LopsidedError, match=r"does not answer: .*start it, or check the URL"):
        probe_server(url, exported[1], model="any")
    for odd in ("http://", "http://[::1", "ftp://127.0.0.1", "http://user:secret@127.0.0.1", "http://127.0.0.1/?a=b"):
        with pytest.raises(LopsidedError, match=r"expected a URL as|is on another machine"):
            probe_server(odd, exported[1], model="any")


# -- the file and the verdict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"kind": "spells"},
        {"rounding": "0"},
        {"rounding": -1.0},
        {"base": None},
        {"prompts": []},
        {"prompts": [{}]},
        {"prompts": "x" * 100},
        {"prompts": [{}] * 65},
        {"more": 1},
    ],
)
def test_a_probe_that_is_none_is_refused(exported, tmp_path, change):
    record = json.loads((exported[1] / "probe.json").read_text())
    (tmp_path / "probe.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(LopsidedError, match="probe"):
        read_probe(tmp_path / "probe.json")


@pytest.mark.parametrize(
    "change",
    [
        {"ids": []},
        {"ids": [-1]},
        {"ids": ["1"]},
        {"ids": [2**70]},
        {"ids": [1] * 5000},
        {"base": []},
        {"base": ["0"]},
        {"adapter": [0.0, 1.0]},
        {"tokens": []},
        {"tokens": [{"id": 1}]},
        {"text": 3},
        {"more": 1},
    ],
)
def test_a_prompt_that_is_none_is_refused(exported, tmp_path, change):
    record = json.loads((exported[1] / "probe.json").read_text())
    record["prompts"][0] |= change
    (tmp_path / "probe.json").write_text(json.dumps(record))
    with pytest.raises(LopsidedError, match="probe"):
        read_probe(tmp_path / "probe.json")


def test_a_probe_comes_back_as_it_was_written(exported, tmp_path):
    probe = read_probe(exported[1] / "probe.json")
    probe.write(tmp_path / "probe.json")
    assert read_probe(tmp_path / "probe.json") == probe
    assert {prompt.text for prompt in probe.prompts} < set(TEXTS)
    # In float32 of bfloat16: some thousandths to hundredths of a nat.
    assert 0 < probe.rounding < probe.difference


def one_prompt(base, adapter):
    tokens = tuple(ListedToken(id=n, text=f"t{n}", base=b, adapter=a) for n, (b, a) in enumerate(zip(base, adapter)))
    prompt = Prompt(ids=[1], text=None, base=[min(base)], adapter=[min(adapter)], tokens=tokens)
    return Probe(kind="causal", base="a", rounding=0.0, prompts=(prompt,))


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ([-1.0, -2.0], "adapter"),
        ([-1.1, -2.1], "adapter"),
        ([-2.0, -1.0], "base"),
        ([-1.5, -1.5], "undecided"),
        ([-4.0, -4.0], "neither"),
    ],
)
def test_verdicts_by_hand(answer, word):
    probe = one_prompt([-2.0, -1.0], [-1.0, -2.0])
    assert probe.difference == 1.0
    said = [TokenScore(id=n, text=None, value=value) for n, value in enumerate(answer)]
    assert judge(probe, [[said, said]], slack=0.5, rounding=0.0).word == word


def test_a_difference_that_the_answers_do_not_show_decides_nothing():
    # Base and adapter differ by a nat in the last token alone, which no server gives among its likeliest.
    probe = one_prompt([-1.0, -2.0, -9.0], [-1.001, -2.001, -8.0])
    assert probe.difference > 0.5
    said = [TokenScore(id=n, text=None, value=value) for n, value in enumerate([-1.02, -1.97])]
    verdict = judge(probe, [[said, said]], slack=0.5, rounding=0.02)
    assert verdict.word == "undecided"
    assert verdict.difference == pytest.approx(0.001)


def test_a_likely_token_that_no_model_lists_is_another_models():
    probe = one_prompt([-9.0, -8.0], [-8.0, -9.0])
    said = [TokenScore(id=99, text=None, value=-0.1), TokenScore(id=None, text="x", value=-3.0)]
    verdict = judge(probe, [[said]], slack=0.5, rounding=0.0)
    assert verdict.word == "neither"
    # At least as far as from the floor.
    assert verdict.distances["base"] == pytest.approx(((8.9**2 + 6.0**2) / 2) ** 0.5)
