"""Why Lopsided fails a test of PEFT on purpose: at most eight reasons, each with the assertions it departs from."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One deliberate difference from PEFT's tuners.

    Args:
        name: in the committed counts.
        departs_from: PEFT's lines that do not hold, each by "file::function".
        why: what Lopsided does in their place, and for whose sake.
        tests: a regular expression that a failing test's whole name matches, without its class and parameters.
        failure: a regular expression that is found in the text of the failure.
    """

    name: str
    departs_from: dict[str, str]
    why: str
    tests: str
    failure: str

    def explains(self, test: str, failure: str) -> bool:
        return re.fullmatch(self.tests, test) is not None and re.search(self.failure, failure) is not None


REASONS = (
    Reason(
        name="safetensors only",
        departs_from={
            "testing_common.py::_test_save_pretrained": "model.save_pretrained(tmp_dirname, safe_serialization=False)",
            "testing_common.py::_test_save_pretrained_selected_adapters": (
                "model.save_pretrained(tmp_dirname, safe_serialization=False)"
            ),
        },
        why="A pickle runs code when it is loaded. Lopsided loads none, so it refuses to write one.",
        tests=r"test_save_pretrained(_selected_adapters)?_pickle",
        failure=r"LopsidedError: safe_serialization=False would write a pickle",
    ),
    Reason(
        name="float32 masters",
        departs_from={
            "test_custom_models.py::test_adapter_dtype_autocast": (
                "assert all(p.dtype == expected_dtype for p in peft_params)"
            ),
            "testing_common.py::_test_add_adapter_no_autocast_adapter_dtype": (
                'assert get_adapter_dtype(model, "default") <= expected_dtype'
            ),
        },
        why=(
            "Trained factors stay float32 beside a 16-bit base, with autocast_adapter_dtype=False too: 16-bit factors "
            "lose small updates, and the links of a chain are sums of them."
        ),
        tests=r"test_adapter_dtype_autocast|test_add_adapter_no_autocast_adapter_dtype",
        failure=r"assert (all\(p\.dtype == expected_dtype for|get_adapter_dtype\(model, \"\w+\"\) <=)",
    ),
    Reason(
        name="exact combinations only",
        departs_from={
            "testing_common.py::_test_weighted_combination_of_adapters_lora": 'combination_type="ties_svd",',
        },
        why=(
            "add_weighted_adapter is exact, by concatenation. The other combinations change the function by an amount "
            "that nobody states, and prune or sign entries of factors that a sketch has no counterpart of."
        ),
        tests=r"test_weighted_combination_of_adapters",
        failure=r"LopsidedError: .*combination_type",
    ),
    Reason(
        name="another base model",
        departs_from={
            f"test_custom_models.py::{test}": "PeftModel.from_pretrained(model, tmp_path, is_trainable=is_trainable)"
            for test in (
                "test_loading_model_requires_grad_set_correctly",
                "test_loading_model_with_modules_to_save_requires_grad_set_correctly",
            )
        },
        why=(
            "They load an adapter onto a model that is drawn again, with other weights. An adapter knows its base by "
            "a fingerprint, and another base is refused unless the caller passes allow_base_mismatch=True."
        ),
        tests=r"test_loading_model_(with_modules_to_save_)?requires_grad_set_correctly",
        failure=r"LopsidedError: the base model is another one",
    ),
    Reason(
        name="configurations of their own",
        departs_from={
            "testing_common.py::_test_from_pretrained_config_construction": (
                'assert model_from_pretrained.peft_config["default"] is config'
            ),
            "testing_common.py::_test_lora_conversion": '("fc1" in config.target_modules)',
        },
        why=(
            "An adapter's configuration follows its chain. A model keeps a copy, so that the caller's object is never "
            "written to and can be used again."
        ),
        tests=r"test_from_pretrained_config_construction|test_lora_conversion",
        failure=r"assert model_from_pretrained\.peft_config\[.default.\] is config|\"fc1\" in config\.target_modules",
    ),
    Reason(
        name="a base written under merged links",
        departs_from={
            "testing_common.py::_test_get_base_model_state_dict": "param.add_(torch.randn_like(param) * 0.1)",
            "test_custom_models.py::test_save_pretrained_targeting_lora_to_embedding_layer": (
                "model.base_model.model.embed_tokens.base_layer.weight,"
            ),
        },
        why=(
            "One changes the base in place while it holds W0 plus the past links of a chain: Lopsided sees that and "
            "gives out no W0, since the change cannot be told from the links. The other expects in the file what the "
            "weight holds: the file has W0, next to which the links are."
        ),
        tests=r"test_get_base_model_state_dict|test_save_pretrained_targeting_lora_to_embedding_layer",
        failure=(
            r"LopsidedError: \S+: the base weight was changed while adapters were merged into it|"
            r"assert False\n.*where False = <built-in method allclose"
        ),
    ),
    Reason(
        name="B starts at zero everywhere",
        departs_from={
            "test_custom_models.py::test_only_params_are_updated": (
                "assert not torch.allclose(param_before, param_after, atol=tol, rtol=tol)"
            ),
        },
        why=(
            "PEFT starts an embedding with A at zero and B at random. Here it starts as every layer, so that three "
            "steps of one row of the suite move B by 1e-3 and A by 3e-6, which its tolerance takes for nothing."
        ),
        tests=r"test_only_params_are_updated",
        failure=r"assert not True",
    ),
    Reason(
        name="own words",
        departs_from={
            f"{file}.py::{function}": words
            for file, function, words in (
                ("test_custom_models", "test_default_target_modules_not_set_raises", "Please specify"),
                ("test_custom_models", "test_default_target_modules_not_set_model_type_set_raises", "Please specify"),
                (
                    "test_custom_models",
                    "test_mixed_adapter_batches_length_mismatch_raises",
                    "Length of `adapter_names`",
                ),
                ("test_custom_models", "test_mixed_adapter_batches_training_mode_raises", "is in training mode."),
                ("test_custom_models", "test_mixed_adapter_batches_merged_raises", "there are merged adapters"),
                ("test_custom_models", "test_mixed_adapter_batches_lora_wrong_adapter_name_raises", "non-existing"),
                ("testing_common", "_test_merge_layers_nan", "NaNs detected in the merged weights."),
            )
        },
        why="A ValueError at the same place, in a sentence of our own: expected, received, fix.",
        tests=(
            r"test_default_target_modules_not_set_(model_type_set_)?raises|test_merge_layers_nan|"
            r"test_mixed_adapter_batches_(length_mismatch|training_mode|merged|lora_wrong_adapter_name)_raises"
        ),
        failure=(
            r"Actual message: .(no default target_modules for|adapter_names must name one adapter|"
            r"adapter_names is for inference|adapters \[.*\] are merged; unmerge|no adapter is named|"
            r"\S+: NaNs detected, so nothing is merged)"
        ),
    ),
)


def reason_for(test: str, failure: str) -> Reason | None:
    """Return the first reason that explains a failure, or None.

    Args:
        test: the test's name without its class and parameters, as "test_save_pretrained_pickle".
        failure: the text of the failure, the exception's lines included.
    """
    return next((reason for reason in REASONS if reason.explains(test, failure)), None)
