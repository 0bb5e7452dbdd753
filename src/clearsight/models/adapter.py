"""LoRA adapters in peft's format: finding one, checking that it fits, merging it into the weights.

Any adapter folder will do (adapter_config.json beside adapter_model.safetensors); one that Clearsight trained
also holds clearsight.json, which says for which prompt, pooling and layer.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.errors import ModelError
from clearsight.models.folder import Folder, find_folder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CONFIG, WEIGHTS, FACTS = "adapter_config.json", "adapter_model.safetensors", "clearsight.json"
_ROOT = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_[AB]\.weight|lora_magnitude_vector(\.weight)?)")
_OPTIONS = ("prompt", "pooling", "layer")


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder.

    Attributes:
        name: as the user gave it.
        path: the folder.
        base: name of the model that it was made for, as its config has it.
        config: adapter_config.json.
        facts: clearsight.json; empty for an adapter that another program wrote.
    """

    name: str
    path: Path
    base: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """The encoder's options that it was trained for, where that is known."""
        known = self.facts.get("encoder", {})
        return {name: known[name] for name in _OPTIONS if name in known}

    def revision(self, base: str) -> str:
        """Changes with the base model's revision, the adapter's config and its weights."""
        together = blake2b(base.encode(), digest_size=20)
        for file in (CONFIG, WEIGHTS):
            together.update((self.path / file).read_bytes())
        return together.hexdigest()


def adapter_of(folder: Folder) -> Adapter | None:
    """The adapter that a folder holds, where it holds no model.

    Raises:
        ModelError: it is no LoRA adapter, or does not name its base model.
    """
    if not (folder.path / CONFIG).is_file() or (folder.path / "config.json").is_file():
        return None
    return _read(folder)


def find_adapter(name: str | Path) -> Adapter:
    """The adapter of a folder or a hub id.

    Raises:
        ModelError: there is none, or it is no LoRA adapter.
    """
    folder = find_folder(name)
    if not (folder.path / CONFIG).is_file():
        raise ModelError(f"There is no {CONFIG}.", where=str(name), do="Give the folder of a peft adapter.")
    return _read(folder)


def merged(model: PreTrainedModel, adapter: Adapter, revision: str) -> PreTrainedModel:
    """The model with the adapter in its weights.

    Modules are found by the names in the adapter's file, whether the model has its language head or not.

    Args:
        revision: the base model's.

    Raises:
        ModelError: peft is not installed, the adapter was trained on other weights, or does not fit.
    """
    trained_on = adapter.facts.get("base", {}).get("revision")
    if trained_on is not None and trained_on != revision:
        raise _unfit(adapter, f"It was trained on other weights of '{adapter.base}'")
    try:
        from peft import LoraConfig, PeftModel, set_peft_model_state_dict
    except ImportError as error:
        raise ModelError(
            "Adapters need the library peft.", where=adapter.name, do='pip install "clearsight[train]"'
        ) from error
    weights, targets = _renamed(adapter, model)
    settings = {**adapter.config, "target_modules": targets, "inference_mode": True}
    with renamed_quietly():
        wrapped: Any = PeftModel(model, LoraConfig(**_known(LoraConfig, settings)))
    try:
        found = set_peft_model_state_dict(wrapped, weights)
    except RuntimeError as error:
        raise _unfit(adapter, "Its matrices have other shapes") from error
    lacking = [key for key in found.missing_keys if "lora_" in key]
    if found.unexpected_keys or lacking:
        raise _unfit(adapter, f"No place for, or no value of, '{(*found.unexpected_keys, *lacking)[0]}'")
    try:
        plain: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(
            f"The adapter cannot be merged: {error}", where=adapter.name, do="Train it again."
        ) from error
    return plain


@contextmanager
def renamed_quietly() -> Iterator[None]:
    """Without transformers' notices of names that peft does not use yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*gradient_checkpointing", FutureWarning)
        yield


def _renamed(adapter: Adapter, model: PreTrainedModel) -> tuple[dict[str, Tensor], list[str]]:
    """The adapter's tensors under this model's names, and the modules they change."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(adapter.path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{WEIGHTS} cannot be read: {error}", where=adapter.name, do="Fetch or train the adapter again."
        ) from error
    modules = {name for name, _ in model.named_modules()}
    weights: dict[str, Tensor] = {}
    place_of: dict[str, str] = {}
    for key, tensor in tensors.items():
        match = _PART.fullmatch(key.removeprefix(_ROOT))
        if match is None:
            raise ModelError(
                f"The adapter holds more than LoRA's matrices: '{key}'.",
                where=adapter.name,
                do="Merge it with peft, and give the merged model.",
            )
        module = match["module"]
        if module not in place_of:
            place_of[module] = _place(module, modules, adapter)
        weights[f"{_ROOT}{place_of[module]}.{match['part']}"] = tensor
    return weights, list(place_of.values())


def _place(module: str, modules: set[str], adapter: Adapter) -> str:
    """The module's name in this model: as it is, with or without the head's prefix, or by its end alone."""
    for name in (module, module.removeprefix("model."), f"model.{module}"):
        if name in modules:
            return name
    end = module
    while "." in end:  # names above the layers differ between versions of transformers
        end = end.partition(".")[2]
        found = [name for name in modules if name.endswith(f".{end}")]
        if len(found) == 1 and re.search(r"\.\d+\.", f".{end}"):
            return found[0]
    raise _unfit(adapter, f"The model has no module '{module}'")


def _read(folder: Folder) -> Adapter:
    config, facts = (_table(folder, file) for file in (CONFIG, FACTS))
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"The adapter is of type {config.get('peft_type')}.",
            where=folder.name,
            do="Only LoRA (and DoRA) adapters are read; merge others with peft.",
        )
    base = config.get("base_model_name_or_path")
    if not base:
        raise ModelError(
            "The adapter does not name its base model.", where=folder.name, do=f"Add it to {CONFIG}."
        )
    return Adapter(folder.name, folder.path, str(base), config, facts)


def _table(folder: Folder, file: str) -> dict[str, Any]:
    path = folder.path / file
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}.", where=folder.name, do="Fetch it again.") from None
    return table if isinstance(table, dict) else {}


def _known(config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this version of peft knows; others were added after it and have defaults."""
    from dataclasses import fields

    names = {field.name for field in fields(config)} - {"peft_type", "runtime_config"}
    return {name: value for name, value in settings.items() if name in names}


def _unfit(adapter: Adapter, why: str) -> ModelError:
    return ModelError(
        f"The adapter was made for another model. {why}.",
        where=adapter.name,
        do=f"Its base model is '{adapter.base}'.",
    )
