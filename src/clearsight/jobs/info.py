"""`clearsight info`: what is installed, what a model is, how a prompt reads, what a run holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from clearsight.jobs.facts import Facts, shown
from clearsight.jobs.ui import Ui


@dataclass(frozen=True)
class SystemConfig:
    """Show versions, devices and the names that other commands accept."""


@dataclass(frozen=True)
class ModelConfig:
    """Show what a model is: family, size, inputs, and what it allows."""

    model: Annotated[str, "a model folder, a hub id, or `tiny` / `tiny-contrastive`"] = field(
        metadata={"positional": True}
    )
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class PromptConfig:
    """Show a prompt as rendered for every role and modality."""

    prompt: Annotated[str, "a prompt's name, or the path of a TOML file"] = field(
        metadata={"positional": True}
    )
    model: Annotated[str, "render with this model's chat template"] = "tiny"


@dataclass(frozen=True)
class RunConfig:
    """Show what a run folder holds."""

    run: Annotated[Path, "a run folder"] = field(metadata={"positional": True})


def info_system(config: SystemConfig, ui: Ui | None = None) -> Facts:
    """Versions, devices, and the registered names."""
    import torch

    from clearsight.data import task_sources
    from clearsight.jobs.recipes import RECIPES
    from clearsight.models.prompts import prompt_names
    from clearsight.models.tiny import SHIPPED
    from clearsight.pooling import poolings
    from clearsight.run import environment

    values: dict[str, Any] = dict(environment())
    values["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    values["shipped models"] = ", ".join(SHIPPED)
    values["prompts"] = ", ".join(prompt_names())
    values["poolings"] = ", ".join(poolings.names())
    values["repairs"] = ", ".join(RECIPES.names())
    values["task sources"] = ", ".join(task_sources())
    return shown(Facts(values), ui)


def info_model(config: ModelConfig, ui: Ui | None = None) -> Facts:
    """Family, kind, sizes and inputs of a model."""
    from clearsight.models.load import load_model

    loaded = load_model(config.model, trust_remote_code=config.trust_remote_code)
    config_of_model = loaded.model.config  # sentence-transformers has models without one
    text_config = None if config_of_model is None else config_of_model.get_text_config()
    parameters = sum(p.numel() for p in loaded.model.parameters())
    values = {
        "model": loaded.name,
        "class": type(loaded.model).__name__,
        "family": loaded.family.name,
        "kind": loaded.kind,
        "parameters": parameters,
        "width": getattr(text_config, "hidden_size", None),
        "layers": getattr(text_config, "num_hidden_layers", None),
        "context tokens": getattr(text_config, "max_position_embeddings", None),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": str(loaded.device),
        "prefix reuse": loaded.family.prefix_reuse,
        "revision": loaded.revision,
    }
    return shown(Facts(values), ui)


def info_prompt(config: PromptConfig, ui: Ui | None = None) -> Facts:
    """The rendered text of a prompt for each role and modality."""
    from clearsight.models.load import load_model
    from clearsight.models.prompts import explain, get_template

    text = explain(get_template(config.prompt), load_model(config.model))
    return shown(Facts({"prompt": config.prompt, "model": config.model, "rendered": text}, text), ui)


def info_run(config: RunConfig, ui: Ui | None = None) -> Facts:
    """The manifest of a run, flattened."""
    from clearsight.run import Run

    run = Run.open(config.run)
    return shown(Facts(dict(run.manifest)), ui)
