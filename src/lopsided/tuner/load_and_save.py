"""What stands in front of loading, saving and pushing a `PeftModel` with Lopsided adapters.

PEFT opens an adapter's file before the tuner sees anything of it: a pickle is unpickled, damage raises an error of
another library, an option that PEFT does not know is dropped, and an adapter that is refused stays on the model half
made. So the file is looked at first, and a refused adapter is taken off again.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from peft import PeftModel, PeftType

from lopsided.errors import LopsidedError
from lopsided.files.model_card import add_note
from lopsided.files.untrusted import ADAPTER_WEIGHTS, check_adapter_name, open_tensors, weights_in
from lopsided.tuner.config import PEFT_TYPE, LopsidedConfig
from lopsided.tuner.model_queries import layers_of
from lopsided.tuner.saved import Loading, loading, meet_base
from lopsided.tuner.state_modules import ADAPTER_ONLY


def checked_load(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return `PeftModel.load_adapter` with the checks of a file in front of it."""

    @functools.wraps(load)
    def load_adapter(
        self: PeftModel, model_id: str | os.PathLike[str], adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        if not _is_ours(self):
            return load(self, model_id, adapter_name, *args, **kwargs)
        check_adapter_name(adapter_name)
        allow_base_mismatch = kwargs.pop("allow_base_mismatch", False)
        arguments = inspect.signature(load).bind(self, model_id, adapter_name, *args, **kwargs).arguments
        options = Loading(
            allow_base_mismatch=allow_base_mismatch,
            ignore_mismatched_sizes=kwargs.get("ignore_mismatched_sizes", False),
            low_cpu_mem_usage=arguments.get("low_cpu_mem_usage", False),
        )
        names = _check_file(model_id, kwargs)
        config = self.peft_config.get(adapter_name)
        with loading(options), _all_or_nothing(self, adapter_name):
            if config is not None and not config.waiting:
                saved = LopsidedConfig.from_pretrained(model_id, **PeftModel._split_kwargs(kwargs)[0])
                meet_base(saved, layers_of(self, adapter_name))
            with _missing_heads_named(names):
                return load(self, model_id, adapter_name, *args, **kwargs)

    return load_adapter


def checked_save(save: Callable[..., None]) -> Callable[..., None]:
    """Return `PeftModel.save_pretrained`, which refuses to write a pickle and leaves the base weights alone."""

    @functools.wraps(save)
    def save_pretrained(
        self: PeftModel, save_directory: str, safe_serialization: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        if _is_ours(self) and not safe_serialization:
            raise LopsidedError(
                "safe_serialization=False would write a pickle, which lopsided does not load; expected True; leave it "
                "out"
            )
        # PEFT takes the adapter out of the whole model's state, for which base weights need not be undone.
        token = ADAPTER_ONLY.set(_is_ours(self))
        try:
            save(self, save_directory, safe_serialization, *args, **kwargs)
        finally:
            ADAPTER_ONLY.reset(token)

    return save_pretrained


def carded_upload(upload: Callable[..., Any]) -> Callable[..., Any]:
    """Return `PeftModel._upload_modified_files`, the last step of `push_to_hub`, which first restores the model card.

    transformers' `push_to_hub` replaces the card that `save_pretrained` wrote by one of a whole transformers model,
    which names neither PEFT nor the line `import lopsided`.
    """

    @functools.wraps(upload)
    def _upload_modified_files(self: PeftModel, working_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        if _is_ours(self):
            self.create_or_update_model_card(str(working_dir))
            add_note(Path(working_dir))
        return upload(self, working_dir, *args, **kwargs)

    return _upload_modified_files


def _is_ours(model: PeftModel) -> bool:
    return bool(model.peft_type == PeftType(PEFT_TYPE))


def _check_file(model_id: str | os.PathLike[str], kwargs: dict[str, Any]) -> set[str]:
    """Return the names in the file of the adapter's tensors, which is safetensors and whole."""
    hub = PeftModel._split_kwargs(kwargs)[0]
    folder = Path(model_id) / (hub.get("subfolder") or "")
    if folder.is_dir():
        path = weights_in(folder)
    else:
        try:
            # PEFT finds it in the cache afterwards.
            path = Path(hf_hub_download(str(model_id), ADAPTER_WEIGHTS, **hub))
        except (EntryNotFoundError, LocalEntryNotFoundError) as error:
            raise LopsidedError(
                f"{model_id}: no {ADAPTER_WEIGHTS} there, or no network; expected safetensors, since a pickle can run "
                "code when it is opened; check the name, or ask the author to save it again"
            ) from error
    with open_tensors(path) as file:
        return set(file.keys())


@contextmanager
def _all_or_nothing(model: PeftModel, adapter_name: str) -> Iterator[None]:
    """Take an adapter off the model again if it was not there before, and its tensors were refused."""
    with ExitStack() as clean_up:
        clean_up.callback(_remove_waiting, model, adapter_name)
        yield
        clean_up.pop_all()


def _remove_waiting(model: PeftModel, adapter_name: str) -> None:
    config = model.peft_config.get(adapter_name)
    if config is None or not config.waiting:
        return
    if len(model.peft_config) == 1:
        model.base_model.unload()
    else:
        model.delete_adapter(adapter_name)


@contextmanager
def _missing_heads_named(names: set[str]) -> Iterator[None]:
    """Name a tensor of a trained head that the file lacks: PEFT looks such tensors up by name."""
    try:
        yield
    except KeyError as error:
        if error.args[0] in names:
            raise
        raise LopsidedError(
            f"the saved adapter lacks {error.args[0]}, a tensor of a trained head; expected all of them; load "
            "it on the model that it was trained on, or get the file again"
        ) from error
