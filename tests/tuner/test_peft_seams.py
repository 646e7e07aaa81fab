"""The seams of PEFT that the library stands on, each by its name: the canary for another version of PEFT.

`make canary` runs this file against the newest PEFT that pip finds, pre-releases included. What fails there names what
has moved; docs/decisions/0013 says what happens then.

And the other way round: whatever lopsided puts into another library stands in `lopsided.tuner.peft_seams`.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
import torch

from lopsided.tuner import peft_seams
from lopsided.tuner.merging.exact_layers import EXACT, ExactMerges
from lopsided.tuner.merging.stock_layers import STOCK_KINDS
from lopsided.tuner.peft_seams import Seam, add_enum_member

SOURCE = Path(peft_seams.__file__).parents[2]

# What is overridden, wrapped or called, and the parameters that we pass or are passed.
SEAMS = {
    "peft.PeftModel.load_adapter": ("model_id", "adapter_name", "is_trainable", "low_cpu_mem_usage", "kwargs"),
    "peft.PeftModel.save_pretrained": ("save_directory", "safe_serialization", "selected_adapters"),
    "peft.PeftModel._upload_modified_files": ("working_dir", "repo_id", "files_timestamps"),
    "peft.PeftModel.create_or_update_model_card": ("output_dir",),
    "peft.PeftModel.add_adapter": ("adapter_name", "peft_config", "low_cpu_mem_usage", "autocast_adapter_dtype"),
    "peft.PeftModel.delete_adapter": ("adapter_name",),
    "peft.PeftModel._split_kwargs": ("kwargs",),
    "peft.get_peft_model": ("model", "peft_config", "adapter_name"),
    "peft.inject_adapter_in_model": ("peft_config", "model", "adapter_name"),
    "peft.utils.register_peft_method": ("name", "config_cls", "model_cls", "prefix"),
    "peft.utils.get_peft_model_state_dict": ("model", "state_dict", "adapter_name"),
    "peft.utils.set_peft_model_state_dict": ("model", "peft_model_state_dict", "adapter_name"),
    "peft.get_base_model_state_dict": ("model",),
    "peft.utils.save_and_load._peft_key_to_original_key": ("model", "peft_key"),
    "peft.set_base_model_state_dict": ("model", "state_dict"),
    "peft.PeftConfig.from_pretrained": ("pretrained_model_name_or_path", "subfolder", "kwargs"),
    "peft.PeftConfig.save_pretrained": ("save_directory", "kwargs"),
    "peft.PeftConfig.to_dict": (),
    "peft.tuners.tuners_utils.BaseTuner.__init__": ("model", "peft_config", "adapter_name"),
    "peft.tuners.tuners_utils.BaseTuner._prepare_adapter_config": ("peft_config", "model_config"),
    "peft.tuners.tuners_utils.BaseTuner._create_and_replace": (
        *("peft_config", "adapter_name", "target", "target_name", "parent", "current_key"),
    ),
    "peft.tuners.tuners_utils.BaseTuner._replace_module": ("parent", "child_name", "new_module", "child"),
    "peft.tuners.tuners_utils.BaseTuner.inject_adapter": ("model", "adapter_name", "state_dict"),
    "peft.tuners.tuners_utils.BaseTuner.delete_adapter": ("adapter_name",),
    "peft.tuners.tuners_utils.BaseTuner.set_adapter": ("adapter_name",),
    "peft.tuners.tuners_utils.BaseTuner.merge_adapter": ("adapter_names", "safe_merge"),
    "peft.tuners.tuners_utils.BaseTuner.unmerge_adapter": (),
    "peft.tuners.tuners_utils.BaseTuner._check_merge_allowed": (),
    "peft.tuners.tuners_utils.BaseTuner._unload_and_optionally_merge": (
        *("merge", "progressbar", "safe_merge", "adapter_names"),
    ),
    "peft.tuners.tuners_utils.BaseTuner._get_adapter_state_dict": (
        *("model", "config", "adapter_name", "state_dict", "unwanted_adapter_names"),
    ),
    "peft.tuners.tuners_utils.BaseTuner._remap_adapter_state_dict_for_load": (
        *("model", "config", "adapter_name", "state_dict"),
    ),
    "peft.tuners.tuners_utils.BaseTuner._cast_adapter_dtype": ("adapter_name", "autocast_adapter_dtype"),
    "peft.tuners.lora.LoraModel._enable_peft_forward_hooks": ("args", "kwargs"),
    "peft.tuners.tuners_utils.BaseTunerLayer.set_adapter": ("adapter_names", "inference_mode"),
    "peft.tuners.tuners_utils.BaseTunerLayer.enable_adapters": ("enabled",),
    "peft.tuners.tuners_utils.BaseTunerLayer.delete_adapter": ("adapter_name",),
    "peft.tuners.tuners_utils.BaseTunerLayer.merge": ("safe_merge", "adapter_names"),
    "peft.tuners.tuners_utils.BaseTunerLayer.unmerge": (),
    "peft.tuners.tuners_utils.BaseTunerLayer.supports_lora_conversion": ("adapter_name",),
    "peft.tuners.tuners_utils.BaseTunerLayer._move_adapter_to_device_of_base_layer": ("adapter_name", "device"),
    "peft.tuners.tuners_utils.onload_layer": ("layer",),
    "peft.tuners.tuners_utils.check_adapters_to_merge": ("module", "adapter_names"),
    "peft.tuners.tuners_utils.check_target_module_exists": ("config", "key"),
    "peft.tuners.tuners_utils._maybe_include_all_linear_layers": ("peft_config", "model"),
    "peft.tuners.tuners_utils._remove_adapter_name_from_state_dict_key": ("key", "adapter_name"),
    "peft.utils.other.get_pattern_key": ("pattern_keys", "key_to_match"),
    "peft.utils.other.AuxiliaryTrainingWrapper.delete_adapter": ("adapter_name", "new_active_adapters"),
    "peft.utils.other.AuxiliaryTrainingWrapper.adapter_state_dict_load_map": ("adapter_name",),
    "peft.helpers.rescale_adapter_scale": ("model", "multiplier"),
    "peft.helpers.disable_input_dtype_casting": ("model", "active"),
    "peft.optimizers.loraplus.get_parameter_names": (),
    "peft.optimizers.lorafa.LoraFAOptimizer.__init__": ("params",),
}
# Names that are read or set, and have no parameters.
ATTRIBUTES = (
    "peft.NoMatchingPeftModuleError",
    "peft.TaskType.SEQ_CLS",
    "peft.utils.peft_types.PeftType.LORA",
    "peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING",
    "peft.utils.constants.INCLUDE_LINEAR_LAYERS_SHORTHAND",
    "peft.utils.transformers_weight_conversion._MODEL_TO_CONVERSION_PATTERN",
    "peft.utils.transformers_weight_conversion._MOE_TARGET_MODULE_MAPPING",
    "peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING",
    "peft.tuners.lora.LoraModel.prefix",
    "peft.tuners.lora.LoraModel.tuner_layer_cls",
    "peft.tuners.lora.LoraModel.target_module_mapping",
    "peft.tuners.tuners_utils.BaseTunerLayer.adapter_layer_names",
    "peft.tuners.tuners_utils.BaseTunerLayer.other_param_names",
    "peft.tuners.tuners_utils.BaseTunerLayer.merged_adapters",
    "peft.tuners.tuners_utils.BaseTunerLayer.active_adapters",
    "peft.tuners.tuners_utils.BaseTunerLayer.weight",
    "peft.tuners.tuners_utils.BaseTunerLayer.quantization_backend",
    "peft.tuners.lora.variants.BlockDiagonalLinear",
)
# What an exact merge takes a stock layer's place in: the methods that it overrides, and those that it reads.
STOCK_LAYERS = ("Linear", "Embedding", "Conv1d", "Conv2d", "Conv3d", "ParamWrapper")


def resolved(name: str) -> object:
    """Return what stands behind a dotted name, whose first parts are modules."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            owner: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            owner = getattr(owner, part)
        return owner
    raise AssertionError(f"no module of {name}")


@pytest.mark.parametrize("name", SEAMS)
def test_a_seam_takes_what_we_pass(name):
    function = resolved(name)
    # Ours may stand in front of it.
    parameters = inspect.signature(inspect.unwrap(function)).parameters
    missing = [p for p in SEAMS[name] if p not in parameters]
    assert not missing, f"{name}{inspect.signature(function)} of peft {peft.__version__} lacks {missing}"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_name_is_there(name):
    resolved(name)


@pytest.mark.parametrize("name", STOCK_LAYERS)
def test_a_stock_layer_merges_as_the_exact_one_that_takes_its_place(name):
    layer = resolved(f"peft.tuners.lora.layer.{name}")
    exact = EXACT[layer]
    assert exact.__bases__ == (ExactMerges, layer)
    for method in ("merge", "unmerge", "_apply"):
        assert vars(ExactMerges)[method], method
        ours, theirs = (list(inspect.signature(getattr(owner, method)).parameters) for owner in (exact, layer))
        assert ours == theirs, method
    assert set(STOCK_LAYERS) == {cls.__name__ for cls in STOCK_KINDS}


def test_a_module_gets_another_class_and_keeps_what_it_has():
    module = torch.nn.Linear(2, 3)
    peft_seams.give_class(module, type("Mine", (torch.nn.Linear,), {}))
    assert type(module).__name__ == "Mine"
    assert module.weight.shape == (3, 2)


def test_the_enum_of_methods_can_be_extended():
    assert add_enum_member() is peft.PeftType("LOPSIDED")
    assert peft.PeftType.LOPSIDED.value == "LOPSIDED"


# -- what lopsided puts into other libraries ---------------------------------------------------------------------------


def seam_name(seam: Seam) -> str:
    return f"{seam.module}.{seam.name}"


def in_place(seam: Seam) -> object:
    """Return what stands at a seam; skips the test if its library is not installed."""
    if seam.optional and importlib.util.find_spec(seam.module.partition(".")[0]) is None:
        pytest.skip(f"{seam.module} is not installed")
    if seam.optional:
        importlib.import_module(seam.module)
        peft_seams.install_late_seams()
    return resolved(seam_name(seam))


@pytest.mark.parametrize("seam", peft_seams.SEAMS, ids=seam_name)
def test_a_wrapper_is_in_place_once_with_its_reason(seam):
    wrapper = in_place(seam)
    if seam.module in sys.modules:
        seam.install()
        assert resolved(seam_name(seam)) is wrapper
    assert vars(wrapper)["lopsided_seam"]
    assert "lopsided_seam" not in vars(inspect.unwrap(wrapper))
    assert len(seam.reason.split()) > 5


def test_what_is_wrapped_of_peft_is_in_the_canary_s_table():
    table = [resolved(name) for name in SEAMS]
    wrapped = [seam for seam in peft_seams.SEAMS if seam.module.startswith("peft.")]
    assert wrapped
    assert all(resolved(seam_name(seam)) in table for seam in wrapped)


def test_a_seam_that_has_gone_is_an_error_and_an_optional_one_is_not():
    seam = Seam(module="peft.helpers", name="no_such_function", wrap=lambda f: f, reason="for a test")
    with pytest.raises(RuntimeError, match=r"peft\.helpers has no no_such_function; expected peft>=0"):
        seam.install()
    Seam(module="no_such_library", name="A.b", wrap=lambda f: f, reason="for a test", optional=True).install()


def test_a_wrapper_that_somebody_wraps_again_is_not_doubled():
    module = types.ModuleType("some_library")
    module.function = lambda: ["theirs"]
    seam = Seam(module=module.__name__, name="function", wrap=lambda f: added(f, "ours"), reason="for a test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        seam.install()
        module.function = added(module.function, "third")
        seam.install()
    assert module.function() == ["theirs", "ours", "third"]


def added(function, word):
    @functools.wraps(function)
    def longer():
        return [*function(), word]

    return longer


# Functions that register a hook for a whole process.
HOOKS = ("register_optimizer_step_pre_hook", "register_optimizer_step_post_hook", "addaudithook", "settrace")
# Functions that look at who calls.
FRAMES = ("_getframe", "currentframe")
HOOKS_OF_MODULES = "register_module_"
# What a definition says of itself, which decorators of our own write.
DESCRIPTIONS = ("__doc__", "__signature__", "__annotations__")


def foreign_changes(source: str) -> Iterator[str]:
    """Yield what in a file changes another library, hooks into the whole process, or walks the stack."""
    tree = ast.parse(source)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("lopsided"):
            imported |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            own = bool(node.args) and ast.unparse(node.args[0]) in ("self", "cls")
            own |= ast.unparse(node.func).startswith("super().")
            sets = name in ("setattr", "delattr", "__setattr__", "__delattr__") and not own
            if sets or name in (*HOOKS, *FRAMES) or name.startswith(HOOKS_OF_MODULES):
                yield ast.unparse(node)
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            text = ast.unparse(node)
            root = text.partition(".")[0]
            dunder = isinstance(node, ast.Attribute) and node.attr.startswith("__") and node.attr not in DESCRIPTIONS
            namespace = isinstance(node, ast.Subscript) and ("vars(" in text or "__dict__" in text)
            if root in imported or ((dunder or namespace) and root not in ("self", "vars(self)")):
                yield text


@pytest.mark.parametrize(
    "statement",
    [
        *("PeftModel.load_adapter = f", "torch.nn.Linear.forward = f", "del torch.nn.Linear.forward"),
        *("setattr(kind, 'step', f)", "kind.__init__ = f", "vars(kind)['step'] = f", "kind.__dict__['step'] = f"),
        *(
            "type.__setattr__(kind, 'a', 1)",
            "register_optimizer_step_pre_hook(f)",
            "sys.addaudithook(f)",
            "sys._getframe()",
        ),
        *("torch.nn.modules.module.register_module_forward_hook(f)", "module.__class__ = kind"),
    ],
)
def test_the_gate_sees(statement):
    assert list(foreign_changes(f"import sys, torch\nfrom peft import PeftModel\n{statement}"))


@pytest.mark.parametrize(
    "statement", ["self.a = 1", "setattr(self, 'a', 1)", "own.load_adapter = f", "layer.register_forward_hook(f)"]
)
def test_the_gate_lets_through(statement):
    assert not list(foreign_changes(f"import torch\nfrom lopsided.tuner import own\n{statement}"))


def test_other_libraries_are_changed_in_one_file():
    changes = {
        str(path.relative_to(SOURCE)): statements
        for path in sorted(SOURCE.rglob("*.py"))
        if path != Path(peft_seams.__file__) and (statements := list(foreign_changes(path.read_text())))
    }
    assert changes == {}
    assert list(foreign_changes(Path(peft_seams.__file__).read_text()))
