"""Loading a model by folder, hub id, or the name of a shipped one; every refusal says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name
from transformers.utils import logging as hf_logging

from clearsight.errors import ModelError
from clearsight.models.adapter import Adapter, adapter_of, find_adapter, merged
from clearsight.models.family import Family, Kind, family_of
from clearsight.models.folder import Folder, find_folder
from clearsight.models.wording import SafeTokenizer

if TYPE_CHECKING:
    from clearsight.models.stock import StockModel


@dataclass(frozen=True, eq=False)
class ImageInput:
    """How an image enters a generative model; read from the folder's own processor when it is loaded.

    Attributes:
        processor: the model's processor, without its video part.
        token: what the chat template writes for an image.
        placeholder, token_id: the token that one image feature replaces.
        settings: the processor's keyword arguments for its image processor.
        token_types: name of a per-token input -> ids of the tokens it marks with 1 (no other is marked).
        names: the image processor's outputs that the model takes.
    """

    processor: Any
    token: str
    placeholder: str
    token_id: int
    settings: Mapping[str, Any]
    token_types: Mapping[str, tuple[int, ...]]
    names: frozenset[str]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with everything needed to feed it.

    Attributes:
        name: as the user gave it.
        model: what transformers loaded; with the language head when `head=True` was asked for.
        base: its `forward(**batch.inputs).last_hidden_state` needs no logits. Contrastive: the model itself.
        tokenizer: a fast tokenizer; its `chat_template` is set wherever the folder kept it.
        text: reads an item's words as words, never as control tokens; None where a sentence-transformers
            model has no fast tokenizer.
        image_processor: on PIL, also where torchvision is installed.
        images: how an image enters a generative model; None for contrastive ones.
        family: what the folder does not say.
        context: most tokens of one sequence.
        revision: changes with the weights, the config and the tokenizer (a hub commit, or a digest of the
            files).
        stock: a sentence-transformers model, which embeds by its own modules; `model` and `base` are its
            pipeline then.
        adapter: the LoRA adapter that the weights already hold; `revision` changes with it.
    """

    name: str
    model: PreTrainedModel
    base: PreTrainedModel
    tokenizer: Any
    text: SafeTokenizer | None
    image_processor: Any
    images: ImageInput | None
    family: Family
    device: torch.device
    dtype: torch.dtype
    context: int
    revision: str
    stock: StockModel | None = None
    adapter: Adapter | None = None

    @property
    def kind(self) -> Kind:
        return self.family.kind

    @property
    def processor(self) -> Any:
        """The model's processor, without its video part (generative); None for contrastive models."""
        return None if self.images is None else self.images.processor


def load_model(
    name: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    head: bool = False,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """A model in eval mode, from a folder, a hub id, or "tiny" / "tiny-contrastive" (the shipped ones).

    A folder that sentence-transformers wrote (modules.json) is loaded by that library. A folder that holds a
    peft adapter alone stands for its base model with the adapter.

    Args:
        adapter: a folder or hub id of a LoRA adapter, which is merged into the weights.
        device: None takes a GPU where there is one.
        dtype: None is float32 on a CPU and bfloat16 elsewhere (a sentence-transformers model's own).
        head: also load the language head, for generating; `base` stays without it.
        trust_remote_code: run code that the model's folder brings; never without being asked.

    Raises:
        ModelError: no such model, files missing, an architecture that is unknown or of the wrong kind,
            remote code that was not allowed, a hub that cannot be reached, an adapter of another model.
    """
    from clearsight.models.stock import is_stock, load_stock  # which builds a LoadedModel

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    with _quiet():
        folder, patch = _with_adapter(name, adapter)
        if is_stock(folder):
            if patch is not None:
                what = "A sentence-transformers model takes no adapter here."
                raise ModelError(
                    what, where=patch.name, do="Give the transformers model that it was made for."
                )
            return load_stock(folder, device=place, dtype=dtype, trust_remote_code=trust_remote_code)
        config = folder.config(trust_remote_code=trust_remote_code)
        family = family_of(config.model_type)
        _right_kind(folder, config, family)
        model = _model(folder, head and family.kind == "generative", kind, trust_remote_code)
        model = (model if patch is None else merged(model, patch, folder.revision())).to(place).eval()
        base = _inner(model, folder) if head and family.kind == "generative" else model
        tokenizer = _tokenizer(folder, trust_remote_code)
        image_processor = _from_folder(
            AutoImageProcessor, folder, "image processor", backend="pil", trust_remote_code=trust_remote_code
        )
        images = None
        if family.kind == "generative":
            images = _image_input(folder, family, config, base, tokenizer, image_processor)
    return LoadedModel(
        name=str(name),
        model=model,
        base=base,
        tokenizer=tokenizer,
        text=SafeTokenizer(tokenizer, () if images is None else (images.token, images.placeholder)),
        image_processor=image_processor,
        images=images,
        family=family,
        device=place,
        dtype=kind,
        context=int(getattr(config.get_text_config(), "max_position_embeddings", tokenizer.model_max_length)),
        revision=folder.revision() if patch is None else patch.revision(folder.revision()),
        adapter=patch,
    )


def _with_adapter(name: str | Path, adapter: str | Path | None) -> tuple[Folder, Adapter | None]:
    """The base model's folder, and the adapter that was asked for or that the folder is."""
    folder = find_folder(name)
    own = adapter_of(folder)
    if own is None:
        return folder, None if adapter is None else find_adapter(adapter)
    if adapter is not None:
        raise ModelError("This is an adapter, not a model.", where=str(name), do="Give its base model.")
    return find_folder(own.base), own


def _right_kind(folder: Folder, config: Any, family: Family) -> None:
    """Refuse what neither generates from images and texts nor is a contrastive family."""
    remote = "auto_map" in config.to_dict()
    generates = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or remote
    if family.kind == "contrastive" or (generates and not config.is_encoder_decoder):
        return
    if config.is_encoder_decoder:
        what = "an encoder-decoder"
    elif config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = "a language model without images"
    else:
        what = "neither a generative multimodal model nor a known contrastive one"
    raise ModelError(
        f"'{config.model_type}' is {what}.",
        where=folder.name,
        do="Give a decoder that reads images and texts (Qwen-VL, LLaVA, PaliGemma, ...), a CLIP or a SigLIP.",
    )


def _model(folder: Folder, head: bool, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    auto = AutoModelForImageTextToText if head else AutoModel
    folder.need_weights()
    model, info = _from_folder(
        auto, folder, "model", dtype=dtype, output_loading_info=True, trust_remote_code=trust_remote_code
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"The weights lack {len(missing)} tensors of the model, such as '{missing[0]}'.",
            where=folder.name,
            do="Download the model again, or correct its config.json.",
        )
    return cast(PreTrainedModel, model)


def _inner(model: PreTrainedModel, folder: Folder) -> PreTrainedModel:
    inner = getattr(model, "model", None)
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(
            f"{type(model).__name__} does not keep its headless part as '.model'.",
            where=folder.name,
            do="It can be embedded with, not generated from.",
        )
    return inner


def _tokenizer(folder: Folder, trust_remote_code: bool) -> Any:
    tokenizer = _from_folder(AutoTokenizer, folder, "tokenizer", trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise ModelError(
            "The tokenizer is a slow one, which cannot tell where its tokens stand.",
            where=folder.name,
            do="Give a folder with a tokenizer.json.",
        )
    tokenizer.chat_template = tokenizer.chat_template or folder.chat_template()
    return tokenizer


def _from_folder(auto: Any, folder: Folder, part: str, **options: Any) -> Any:
    try:
        return auto.from_pretrained(folder.path, local_files_only=True, **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"The {part} cannot be loaded: {reason}",
            where=folder.name,
            do="Check that the folder is complete.",
        ) from error


def _processor(folder: Folder, family: Family, config: Any, tokenizer: Any, image_processor: Any) -> Any:
    """The folder's processor without its video part, which needs torchvision.

    The class is found as AutoProcessor finds it, and built from the parts that are already loaded.
    """
    names = (family.processor, folder.processor_class(), PROCESSOR_MAPPING_NAMES.get(config.model_type))
    found = next(filter(None, (processor_class_from_name(name) for name in names if name)), None)
    if found is None:
        raise ModelError(
            f"No processor is known for '{config.model_type}'.",
            where=folder.name,
            do="Register a family for it (entry point group 'clearsight.family').",
        )
    parts = {"get_attributes": classmethod(lambda cls: ["image_processor", "tokenizer"])}
    trimmed: Any = type(found.__name__, (found,), parts)
    settings, _ = trimmed.get_processor_dict(folder.path)
    return trimmed.from_args_and_dict([image_processor, tokenizer], settings)


def _image_input(
    folder: Folder, family: Family, config: Any, base: Any, tokenizer: Any, image_processor: Any
) -> ImageInput:
    """Learns from one call of the processor, on a grey square, what an image becomes."""
    try:
        processor = _processor(folder, family, config, tokenizer, image_processor)
        token = str(processor.image_token)
        outputs = processor(text=[token], images=[Image.new("RGB", (64, 64), "grey")])
        settings = processor._merge_kwargs(
            processor.valid_processor_kwargs, tokenizer_init_kwargs=tokenizer.init_kwargs, return_tensors="pt"
        )
        token_id = getattr(config, "image_token_id", None)
        token_id = processor.image_token_id if token_id is None else token_id
    except (
        AttributeError,
        NotImplementedError,
        TypeError,
        ValueError,
        OSError,
        ImportError,
        IndexError,
    ) as error:
        raise ModelError(
            f"The processor of '{config.model_type}' does not work as those of transformers do: {error}",
            where=folder.name,
            do="Register a family for it (entry point group 'clearsight.family').",
        ) from error
    accepted = signature(base.forward).parameters.keys()
    ids_L = torch.as_tensor(outputs["input_ids"][0])
    types = {
        name: tuple(sorted(set(ids_L[torch.as_tensor(values[0]) == 1].tolist())))
        for name, values in outputs.items()
        if name.endswith("token_type_ids") and name in accepted
    }
    per_token = {"input_ids", "attention_mask", "labels", *types}
    names = frozenset(name for name in outputs if name in accepted and name not in per_token)
    return ImageInput(
        processor=processor,
        token=token,
        placeholder=tokenizer.convert_ids_to_tokens(int(token_id)),
        token_id=int(token_id),
        settings=settings["images_kwargs"],
        token_types=types,
        names=names,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' reports and progress bars: what matters in them is raised here."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
