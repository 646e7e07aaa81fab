"""The seams of PEFT that the library stands on, each by its name: the canary for another version of PEFT.

`make canary` runs this file against the newest PEFT that pip finds, pre-releases included. What fails there names what
has moved; docs/decisions/0013 says what happens then.
"""

from __future__ import annotations

import importlib
import inspect

import peft
import pytest

# What is overridden, wrapped or called, and the parameters that we pass or are passed.
SEAMS = {
    "peft.PeftModel.load_adapter": ("model_id", "adapter_name", "is_trainable", "low_cpu_mem_usage", "kwargs"),
    "peft.PeftModel.save_pretrained": ("save_directory", "safe_serialization", "selected_adapters"),
    "peft.PeftModel.add_adapter": ("adapter_name", "peft_config", "low_cpu_mem_usage", "autocast_adapter_dtype"),
    "peft.PeftModel.delete_adapter": ("adapter_name",),
    "peft.PeftModel._split_kwargs": ("kwargs",),
    "peft.get_peft_model": ("model", "peft_config", "adapter_name"),
    "peft.inject_adapter_in_model": ("peft_config", "model", "adapter_name"),
    "peft.utils.register_peft_method": ("name", "config_cls", "model_cls", "prefix"),
    "peft.utils.get_peft_model_state_dict": ("model", "state_dict", "adapter_name"),
    "peft.utils.set_peft_model_state_dict": ("model", "peft_model_state_dict", "adapter_name"),
    "peft.get_base_model_state_dict": ("model",),
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
    "peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING",
    "peft.tuners.lora.LoraModel.prefix",
    "peft.tuners.lora.LoraModel.tuner_layer_cls",
    "peft.tuners.lora.LoraModel.target_module_mapping",
    "peft.tuners.tuners_utils.BaseTunerLayer.adapter_layer_names",
    "peft.tuners.tuners_utils.BaseTunerLayer.other_param_names",
    "peft.tuners.tuners_utils.BaseTunerLayer.merged_adapters",
    "peft.tuners.tuners_utils.BaseTunerLayer.active_adapters",
    "peft.tuners.tuners_utils.BaseTunerLayer.weight",
)


def resolved(name: str) -> object:
    """What stands behind a dotted name, whose first parts are modules."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"no module of {name}")


@pytest.mark.parametrize("name", SEAMS)
def test_a_seam_takes_what_we_pass(name):
    found = resolved(name)
    # Ours may stand in front of it.
    parameters = inspect.signature(inspect.unwrap(found)).parameters
    missing = [p for p in SEAMS[name] if p not in parameters]
    assert not missing, f"{name}{inspect.signature(found)} of peft {peft.__version__} lacks {missing}"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_name_is_there(name):
    resolved(name)


def test_the_enum_of_methods_can_be_extended():
    from lopsided.tuner.register import add_enum_member

    assert add_enum_member() is peft.PeftType("LOPSIDED")
    assert peft.PeftType.LOPSIDED.value == "LOPSIDED"
