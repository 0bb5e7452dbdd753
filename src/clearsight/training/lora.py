"""LoRA on the decoder's linear layers, by peft; and its folder, in peft's own format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from clearsight.errors import ModelError, UsageError
from clearsight.files import to_json
from clearsight.models.adapter import CONFIG, FACTS, WEIGHTS, renamed_quietly
from clearsight.models.load import LoadedModel
from clearsight.training.settings import TrainSettings

_ROOT = "base_model.model."


class Lora:
    """The adapter of a model in training.

    Its matrices lie inside `loaded.model` from here on; all other weights are frozen. It begins as no change
    at all: the second matrix of each pair is zero.

    Args:
        loaded: a model that `need_trainable` lets pass.

    Attributes:
        weights: name -> parameter, float32, in peft's order.

    Raises:
        UsageError: peft is not installed, or the decoder has no layer of the names in `targets`.
    """

    def __init__(self, loaded: LoadedModel, settings: TrainSettings) -> None:
        try:
            from peft import LoraConfig, PeftModel
        except ImportError as error:
            raise UsageError(
                "Training needs the library peft.", do='pip install "clearsight[train]"'
            ) from error
        self.loaded = loaded
        pattern = self._pattern(settings.targets)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            use_dora=settings.dora,
            target_modules=pattern,
        )
        # Every process, and a resumed training, begins with the same first matrices.
        with renamed_quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._wrapped: Any = PeftModel(loaded.model, config)
        self.weights: dict[str, nn.Parameter] = {
            name: weight for name, weight in self._wrapped.named_parameters() if weight.requires_grad
        }

    def state(self) -> dict[str, Tensor]:
        """The adapter's tensors under the names of its file."""
        from peft import get_peft_model_state_dict

        found = get_peft_model_state_dict(self._wrapped, save_embedding_layers=False)
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        from peft import set_peft_model_state_dict

        found = set_peft_model_state_dict(self._wrapped, dict(tensors))
        assert not found.unexpected_keys, found.unexpected_keys

    def files(self, facts: Mapping[str, Any]) -> dict[str, bytes]:
        """Name -> bytes of a plain peft adapter folder.

        Args:
            facts: for clearsight.json, which peft does not look at.
        """
        from safetensors.torch import save

        config = self._wrapped.peft_config["default"].to_dict()
        config |= {"base_model_name_or_path": self.loaded.name, "inference_mode": True}
        plain = {name: sorted(v) if isinstance(v, set) else v for name, v in config.items()}
        return {
            CONFIG: json.dumps(plain, indent=2, sort_keys=True, default=str).encode(),
            WEIGHTS: save(self.state(), metadata={"format": "pt"}),
            FACTS: to_json(facts),
        }

    def _pattern(self, targets: tuple[str, ...]) -> str:
        """A regular expression over module names that fits the decoder's layers alone, with and without the
        language head around it."""
        base = self.loaded.base
        decoder = cast(nn.Module, base.get_decoder())
        place = next(name for name, module in base.named_modules() if module is decoder)
        front = re.escape(f"{place}.") if place else ""
        ends = "|".join(map(re.escape, targets))
        pattern = rf"(?:.*\.)?{front}layers\.\d+\.(?:.*\.)?(?:{ends})"
        linear = [
            name.rpartition(".")[2]
            for name, module in decoder.named_modules()
            if isinstance(module, nn.Linear) and "layers." in name
        ]
        lacking = [name for name in targets if name not in linear]
        if lacking:
            raise UsageError(
                f"The decoder has no linear layer '{lacking[0]}'.",
                where="targets",
                do=f"It has: {', '.join(sorted(set(linear)))}.",
            )
        return pattern


def need_trainable(loaded: LoadedModel) -> None:
    """Refuse what is not trained here.

    Raises:
        UsageError: a contrastive or sentence-transformers model, or one without its language head.
        ModelError: an adapter.
    """
    if loaded.adapter is not None:
        raise ModelError(
            "This is an adapter; training begins from its base model.",
            where=loaded.name,
            do=f"Give '{loaded.adapter.base}', or export the merged model and train that.",
        )
    if loaded.stock is not None or loaded.kind == "contrastive":
        what = "A contrastive model" if loaded.stock is None else "A sentence-transformers model"
        raise UsageError(f"{what} is not trained here.", where=loaded.name, do="Give a generative model.")
    if loaded.model.get_output_embeddings() is None:
        raise UsageError(
            "Training needs the model with its language head.",
            where=loaded.name,
            do="Load it with head=True.",
        )
