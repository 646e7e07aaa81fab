"""The benchmarks' scripts, each once on a tiny model."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from benchmarks import files, first_minutes, gpu, llama, measuring, memory, render, scaling, step_time, variants
from lopsided import METHODS
from lopsided.study.turns import wall_ms

TINY = measuring.Setting(**measuring.QUICK)


@pytest.fixture(autouse=True)
def _threads():
    """A benchmark sets torch's threads; the other tests shall have theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(TINY.threads)
    yield
    torch.set_num_threads(before)


def quick(script, folder, *options) -> dict:
    assert script.BENCHMARK.main(["--quick", "--out", str(folder), *options]) == 0
    result = json.loads((folder / f"{script.BENCHMARK.name}.json").read_text())
    assert {"date", "machine", "versions", "setting", "load_average", "groups", "figures"} <= result.keys()
    assert result["benchmark"] == script.BENCHMARK.name
    return result


# -- variants ------------------------------------------------------------------------------------------------


def test_groups_go_by_parts():
    found = variants.groups([*variants.REFERENCES, *variants.adapters()])
    assert found.keys() == {name for name, method in METHODS.items() if method.is_adapter}
    by_group = {g: {name for name, where in found.items() if where == g} for g in variants.GROUPS}
    assert by_group["windows"] == {"cla", "c3la", "rc3la"}
    assert by_group["random columns"] == {"rcla", "paca", "cpaca", "act_cla"}
    assert by_group["A-training"] == {"asym_a", "rac_a"}
    assert by_group["other B-training"] == {"lora_fa", "asym_b", "rac_b", "ipa_b"}


@pytest.mark.parametrize("variant", ["nonsense", "full", "cla@2", "limit@1", "c3la@x"])
def test_wrong_variants_are_refused_before_any_work(variant, capsys, tmp_path):
    assert step_time.BENCHMARK.main(["--quick", "--out", str(tmp_path), "--only", variant]) == 2
    said = capsys.readouterr().err
    assert said.startswith("step_time: ")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def trained(made) -> set[str]:
    return {name for name, p in made.model.named_parameters() if p.requires_grad}


def test_all_variants_do_the_limits_work():
    """The limit trains its head alone; its gradients reach the first layer's input; nobody adapts the head."""
    made = {v: variants.trainee(v, TINY) for v in ("limit", "peft_lora", "peft_lora_frozen_A", "cla")}
    assert {name.split(".")[0] for name in trained(made["limit"])} == {"classifier"}
    for variant, each in made.items():
        outputs, reached = [], []
        embeddings = each.model.get_input_embeddings()
        embeddings.register_forward_hook(lambda module, args, out, seen=outputs: seen.append(out))
        loss = each.model(**each.batch).loss
        outputs[0].register_hook(reached.append)
        loss.backward()
        assert torch.isfinite(loss)
        assert reached[0].abs().sum() > 0, variant
        assert len([n for n in trained(each) if "classifier" in n]) == 4, variant
        assert not [n for n in trained(each) if "classifier" in n and ("lora" in n or "lopsided" in n)]
    layers = {"query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"}
    for variant, letter in (("peft_lora", "lora_A"), ("peft_lora", "lora_B"), ("cla", "lopsided_B")):
        adapted = {n.split(".layer.0.")[1].split(f".{letter}")[0] for n in trained(made[variant]) if letter in n}
        assert {name.removeprefix("attention.self.") for name in adapted} == layers
    assert not [n for n in trained(made["peft_lora_frozen_A"]) if "lora_A" in n]
    assert made["peft_lora"].model.peft_config["default"].lora_alpha == made["cla"].model.peft_config["default"].alpha


def test_a_variant_in_mid_chain_stands_there_with_links_that_learned():
    made = variants.trainee("c3la@2", TINY)
    assert made.model.peft_config["default"].link == 2
    plain = variants.trainee("limit", TINY)
    assert not torch.equal(made.model(**made.batch).logits, plain.model(**plain.batch).logits)


# -- the scripts ---------------------------------------------------------------------------------------------


def test_step_time(tmp_path, capsys):
    result = quick(step_time, tmp_path, "--only", "cla,c3la,c3la@2")
    assert list(result["figures"]) == ["limit", "twin", "peft_lora", "cla", "c3la", "c3la@2"]
    [milliseconds] = result["processes"]
    assert {len(taken) for taken in milliseconds.values()} == {2}
    assert all(ms > 0 for taken in milliseconds.values() for ms in taken)
    assert result["figures"] == step_time.figures(milliseconds)
    assert result["noise"] == result["figures"]["twin"]["to_limit"]
    assert result["setting"]["hidden"] == 32
    said = capsys.readouterr()
    assert "`c3la@2`" in said.out
    assert "rounds: 3 of 3" in said.err


@pytest.mark.more
def test_each_group_has_a_process_with_the_references(tmp_path, monkeypatch):
    monkeypatch.setattr(step_time, "in_fresh_process", step_time.step_times)
    result = quick(step_time, tmp_path, "--only", "cla,asym_b,c3la,peft_lora_frozen_A")
    references = ["limit", "twin", "peft_lora", "peft_lora_frozen_A"]
    windows, dense = result["processes"]
    assert (list(windows), list(dense)) == ([*references, "cla", "c3la"], [*references, "asym_b"])
    assert list(result["figures"]) == ["limit", "twin", "peft_lora", "cla", "asym_b", "c3la", "peft_lora_frozen_A"]
    assert result["figures"]["asym_b"] == step_time.figures(dense)["asym_b"]
    assert result["figures"]["peft_lora"] == step_time.figures(windows)["peft_lora"]
    twins = [step_time.figures(process)["twin"]["to_limit"] for process in (windows, dense)]
    assert result["noise"] == max(twins, key=lambda twin: abs(twin["median"] - 1))


def test_step_time_covers_all_methods():
    assert set(METHODS) - {"full", "head"} <= set(step_time.everything())
    assert "c3la@2" in step_time.everything()


def test_memory_of_variants():
    measured = {v: memory.one(v, TINY) for v in ("limit", "peft_lora", "cla", "c3la")}
    assert measured["limit"]["kept"] < measured["cla"]["kept"] < measured["peft_lora"]["kept"]
    for each in measured.values():
        assert each["kept_with_dropout"] > each["kept"] > 0
        assert each["peak"] >= each["after_imports"] > 2**20
        assert each["largest_weight"] == 32 * 128 * 4
    found = memory.figures(measured)
    assert found["cla"]["kept_to_peft_lora"]["median"] == measured["cla"]["kept"] / measured["peft_lora"]["kept"]
    assert measured["cla"]["advances"] == []
    first, second = measured["c3la"]["advances"]
    assert first["peak"] > 0
    assert second["peak"] >= second["stays"]
    worse = max(first["peak"], second["peak"]) / (32 * 128 * 4)
    assert found["c3la"]["advance_in_weights"]["median"] == worse


@pytest.mark.more
def test_memory_in_processes_of_their_own():
    asked = []
    made_up = memory.one("peft_lora", TINY)

    def run(variant, setting):
        asked.append(variant)
        return memory.in_fresh_process(variant, setting) if variant == "cla" else made_up

    result = memory.measure(TINY, ["cla"], run)
    assert asked == ["limit", "twin", "peft_lora", "cla"]
    # A process that has run nothing else holds less than this one, which holds all of pytest's.
    assert result["bytes"]["cla"]["after_imports"] < memory.peak_resident()
    assert result["figures"]["peft_lora"]["kept_to_peft_lora"]["median"] == 1.0
    written = memory.table(dataclasses.replace(memory.BENCHMARK, measure=lambda setting, only: result).result(TINY))
    assert "| `cla` | windows |" in written


@pytest.mark.more
def test_files(tmp_path):
    result = quick(files, tmp_path, "--only", "cla,rac_b")
    sizes = result["bytes"]
    assert (sizes["rac_b"]["links"], sizes["cla"]["links"]) == (4, 1)
    assert sizes["rac_b"]["as_lora"] > 2 * sizes["cla"]["as_lora"]
    expected = sizes["rac_b"]["file"] / 4 / sizes["peft_lora"]["file"]
    assert result["figures"]["rac_b"]["file_to_peft_lora"]["median"] == expected
    assert {"load_ms", "load_to_peft_lora", "file_to_peft_lora"} == result["figures"]["rac_b"].keys()
    assert {"load_ms", "merge_ms"} == result["figures"]["rac_b@3"].keys()


@pytest.mark.more
def test_a_load_leaves_the_base_as_it_was(tmp_path):
    base = variants.encoder(TINY)
    before = {name: p.clone() for name, p in base.named_parameters()}
    base = files.saved("c3la@3", base, TINY, tmp_path).unload()
    assert files.loading(base, tmp_path)() > 0
    after = dict(base.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(p, after[name]) for name, p in before.items())


@pytest.mark.more
def test_scaling(tmp_path):
    result = quick(scaling, tmp_path)
    parts = result["parts"]
    assert list(parts) == list(scaling.PARTS)
    assert parts["rank"]["points"] == ["4", "8", "16", "32"]
    assert parts["links"]["points"] == ["1", "2", "4"]
    assert {"cla 32", "peft_lora 4", "asym_a 16"} <= parts["rank"]["to_limit"].keys()
    raw = parts["width"]["milliseconds"]
    assert parts["width"]["to_limit"]["cla 64"] == measuring.ratio(raw, "cla 64", "limit 64")
    raw = parts["links"]["milliseconds"]
    assert result["figures"]["c3la"]["longest_to_first"] == measuring.ratio(raw, "c3la 4", "c3la 1")
    assert result["noise"] == measuring.ratio(raw, "twin", "limit")
    raw = parts["advance"]["milliseconds"]
    assert result["figures"]["rac_b"]["advance_in_steps"] == measuring.ratio(raw, "rac_b advance", "rac_b step")
    assert {name for name, m in METHODS.items() if m.chain} <= result["figures"].keys()
    assert scaling.BENCHMARK.main(["--quick", "--only", "nonsense"]) == 2


@pytest.mark.parametrize(("part", "dtype"), [("links", torch.float32), ("stacked", torch.bfloat16)])
def test_links_are_merged_in_float32_and_stacked_in_bfloat16(part, dtype, monkeypatch):
    end, made = "layer.0.attention.self.query.{}weight", {}

    def keep(variant, *args, **kwargs):
        made[variant] = variants.trainee(variant, *args, **kwargs)
        return made[variant]

    monkeypatch.setattr(scaling, "trainee", keep)
    scaling.PARTS[part](dataclasses.replace(TINY, rounds=1, warmup=0))
    # The live weights: a state holds the original.
    weights = {v: dict(m.model.named_parameters()) for v, m in made.items() if v in ("limit", "rac_b@2")}
    [original] = [t for name, t in weights["limit"].items() if name.endswith(end.format(""))]
    [base] = [t for name, t in weights["rac_b@2"].items() if name.endswith(end.format("base_layer."))]
    assert original.dtype == base.dtype == dtype
    assert torch.equal(base, original) == (part == "stacked")


def test_idle_adapters_are_of_the_same_kind():
    for variant in ("peft_lora", "rcla"):
        made = variants.trainee(variant, TINY)
        scaling.add_adapters(made.model, variant, 2)
        assert isinstance(made.model, PeftModel)
        configs = list(made.model.peft_config.values())
        assert len(configs) == 3
        assert {type(config) for config in configs} == {type(configs[0])}
        assert made.model.active_adapters == ["default"]
        assert torch.isfinite(made.step())


# -- the first minutes ---------------------------------------------------------------------------------------


def test_the_parts_of_a_demo_are_read_from_what_it_leaves(tmp_path):
    record = {"timings": {"median_ms": 0.5}, "steps": 4, "wall_seconds": 1.0, "metrics": {"test": {"score": 0.75}}}
    program = tmp_path / "lopsided"
    program.write_text(
        "#!/usr/bin/env bash\nset -e\n[[ $* == 'compare --out demo' ]]\nmkdir -p demo/runs/lora-seed0\n"
        f"echo '{json.dumps(record)}' > demo/runs/lora-seed0/run.json\n"
        "head -c 1048576 /dev/zero > demo/weights\necho 'lora: done' >&2\n"
    )
    program.chmod(0o755)
    parts = first_minutes.demo(program, tmp_path)
    assert 0 < parts["first_row_seconds"] <= parts["seconds"]
    assert parts["share_of_steps"] == pytest.approx(0.002 / parts["seconds"])
    assert parts["folder_mebibytes"] == pytest.approx(1.0, abs=0.01)
    assert parts["runs"] == {"lora-seed0": {"seconds": 1.0, "test": 0.75}}


def test_a_demo_that_fails_has_no_figures(tmp_path):
    program = tmp_path / "lopsided"
    program.write_text("#!/usr/bin/env bash\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(SystemExit, match="3"):
        first_minutes.demo(program, tmp_path)


# -- a CUDA machine ------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_gpu_figures_without_one(tmp_path, capsys):
    assert gpu.BENCHMARK.main(["--quick", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "expected a CUDA device, found none" in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.more
def test_the_gpu_comparison_on_another_device():
    """Its logic, with this machine's clock and made-up bytes."""
    peaks = {"limit": 50, "twin": 50, "peft_lora": 100, "peft_16bit": 90, "cla": 70}
    left = iter(peaks.values())

    def peak(work):
        work()
        return next(left)

    found = gpu.compare(list(peaks), TINY, torch.float32, "cpu", wall_ms, peak)
    assert found["figures"].keys() == peaks.keys()
    assert found["milliseconds"].keys() == {"references", "cla"}
    cla = found["figures"]["cla"]
    assert cla["peak_to_peft_lora"]["median"] == 0.7
    assert cla["to_limit"] == measuring.ratio(found["milliseconds"]["cla"], "cla", "limit")
    assert cla["tokens_per_second"]["median"] == pytest.approx(1000 * 2 * 8 / cla["ms"]["median"])
    measured = {"by_dtype": {"float32": found}, "groups": variants.groups(list(peaks)), "figures": {}}
    result = dataclasses.replace(gpu.BENCHMARK, measure=lambda setting, only: measured).result(TINY)
    assert "| `cla` | windows |" in gpu.table(result)


def test_the_llama_is_adapted_in_every_layer_and_in_bfloat16():
    made = variants.llama("rcla", TINY, torch.bfloat16)
    assert {n.partition(".lopsided_")[0].rpartition(".")[2] for n in trained(made)} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    before = made.step()
    for _ in range(5):
        after = made.step()
    assert after < before
    limit = variants.llama("limit", TINY, torch.bfloat16)
    assert trained(limit) == set()
    assert limit.step() == before


@pytest.mark.more
def test_the_llama_in_every_kind_of_work_but_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(llama, "in_fresh_process", llama.times)
    parts = [name for name, part in llama.PARTS.items() if not part.compiled]
    result = quick(llama, tmp_path, "--only", ",".join(parts))
    assert list(result["parts"]) == parts
    for name, part in result["parts"].items():
        variants_of = {"limit", "twin", "peft_lora", *llama.PARTS[name].variants}
        assert part["figures"].keys() == part["milliseconds"].keys() == variants_of
        assert all(len(taken) == TINY.rounds for taken in part["milliseconds"].values())
    text = llama.table(result)
    assert "**chains**" in text
    assert "peft_16bit" in text


def test_the_added_operations_are_counted():
    # Of the shape: 2.6, 4.3 and 5.2 % in training, and 16 links of 16 columns in evaluation.
    setting = dataclasses.replace(llama.BENCHMARK.default, layers=1)
    train, look = llama.PARTS["bfloat16"], llama.PARTS["chains"]
    shares = {name: llama.added_operations(name, setting, train) for name in ("cla", "rcla", "asym_b", "lora")}
    assert shares == pytest.approx({"cla": 0.0264, "rcla": 0.0264, "asym_b": 0.0433, "lora": 0.0518}, abs=1e-4)
    assert llama.added_operations("c3la@15", setting, look) == pytest.approx(16 * 0.0176, abs=1e-3)


def test_16_bit_factors_are_pefts_own_in_the_weights_dtype():
    made = variants.llama("peft_16bit", TINY, torch.bfloat16)
    factors = [p for name, p in made.model.named_parameters() if "lora_" in name]
    assert {p.dtype for p in factors} == {torch.bfloat16}
    assert {
        p.dtype for n, p in variants.llama("cla", TINY, torch.bfloat16).model.named_parameters() if "lopsided_" in n
    } == {torch.float32}


# -- the document --------------------------------------------------------------------------------------------


@pytest.mark.more
def test_what_is_quick_renders(tmp_path):
    quick(step_time, tmp_path, "--only", "cla")
    quick(files, tmp_path, "--only", "cla")
    document = tmp_path / "performance.md"
    document.write_text(measuring.RESULTS.with_suffix(".md").read_text(encoding="utf-8"), encoding="utf-8")
    assert render.main(["--results", str(tmp_path), "--document", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert step_time.table(json.loads((tmp_path / "step_time.json").read_text())) in text
    assert files.table(json.loads((tmp_path / "files.json").read_text())) in text


@pytest.mark.more
def test_this_checkout_against_itself(tmp_path):
    checkout = Path(step_time.__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "benchmarks.against",
        str(checkout),
        "--quick",
        "--only",
        "cla",
        "--out",
        str(tmp_path),
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert printed.count("`cla`") == 2
    found = json.loads((tmp_path / "against.json").read_text())["figures"]
    assert set(found) == {"training step", "evaluation"}
    assert all(figures["cla"][side]["median"] > 0 for figures in found.values() for side in ("before", "after"))
