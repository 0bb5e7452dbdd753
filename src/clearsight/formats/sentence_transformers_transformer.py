"""The settings of sentence-transformers' Transformer module (sentence_bert_config.json), and of Pooling.

The Transformer module loads the base model and its processor: which method gives which output for which
modality, and what the processor is told at each call. A retriever's folder and a reranker's share them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

from clearsight.formats.sentence_transformers_template import chat_template, own_chat_template
from clearsight.models.forward import layer_index, residual_reader
from clearsight.models.load import LoadedModel
from clearsight.pooling import IMAGE, PROMPT

if TYPE_CHECKING:
    from clearsight.formats.sentence_transformers import Retriever

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]


def generative_settings(retriever: Retriever, *, remote: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """sentence_bert_config.json and the chat template."""
    loaded = retriever.loaded
    own = own_chat_template(loaded)
    assert own is not None, "refused before"
    template = chat_template(
        retriever.template,
        own,
        generation_prompt=retriever.generation_prompt,
        counterparts=retriever.counterparts,
    )
    layers = loaded.model.config.get_text_config().num_hidden_layers
    index = layer_index(retriever.layer, layers)
    output: str | list[Any] = "last_hidden_state" if index == layers else ["hidden_states", index]
    settings = token_settings(loaded, template, output)
    if remote:
        settings["clearsight"] = _remote_settings(retriever)
    return settings, {"chat_template.jinja": template}


def token_settings(loaded: LoadedModel, template: str, output: str | list[Any]) -> dict[str, Any]:
    """A state for every token, of any item, worded by the template.

    Args:
        output: which of the model's outputs: a name, or a name and a place in it.
    """
    entry = {"method": "forward", "method_output_name": output}
    settings: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": entry,
            "image": entry,
            "image+text": entry,
            "message": {**entry, "format": "structured"},
        },
        "module_output_name": "token_embeddings",
    }
    processing = _processing_kwargs(loaded, template)
    return settings | ({"processing_kwargs": processing} if processing else {})


def loading_settings(dtype: Dtype) -> dict[str, Any]:
    """How the weights and the processor are loaded, unless its caller says otherwise."""
    return {"model_kwargs": {"dtype": dtype}, "processor_kwargs": {"use_fast": False}}


def _processing_kwargs(loaded: LoadedModel, template: str) -> dict[str, Any]:
    """What the folder's processor must be told at each call."""
    processor = type(loaded.processor)
    processing: dict[str, Any] = {}
    if "chat_template" not in inspect.signature(processor.__init__).parameters:
        # Such a processor drops the template that lies in its folder; handed over at each call it is used.
        processing["chat_template"] = {"chat_template": template}
    if "return_for_text_completion" in processor.valid_processor_kwargs.__annotations__:
        processing["text"] = {"return_for_text_completion": True}  # no separator behind the item
    return processing


def contrastive_settings(retriever: Retriever, *, remote: bool) -> tuple[dict[str, Any], dict[str, str]]:
    loaded = retriever.loaded
    names = {"text": "get_text_features", "image": "get_image_features"}
    entries: dict[str, Any] = {
        modality: {"method": method, "method_output_name": "pooler_output"}
        for modality, method in names.items()
    }
    settings: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": entries,
        "module_output_name": "sentence_embedding",
    }
    processing: dict[str, Any] = {}
    if loaded.family.pad_to_context:
        processing["text"] = {"padding": "max_length", "max_length": loaded.context}
    images = _image_settings(loaded)
    if images:
        processing["image"] = images
    if processing:
        settings["processing_kwargs"] = processing
    if not remote:
        return settings, {}
    fused = {"method": "forward", "method_output_name": None}
    settings["modality_config"] = {
        **entries,
        "image+text": fused,
        "message": {**fused, "format": "structured"},
    }
    own = own_chat_template(loaded)
    assert own is not None, "contrastive models have the plain layout"
    words = chat_template(
        retriever.template, own, generation_prompt=False, counterparts=retriever.counterparts
    )
    settings["clearsight"] = {"fused": True, "wording": words, "context": loaded.context}
    return settings, {}


def _image_settings(loaded: LoadedModel) -> dict[str, Any]:
    """Settings of the folder's image processor that its processor would overrule by defaults of its own."""
    name = PROCESSOR_MAPPING_NAMES.get(loaded.model.config.model_type)
    found = None if name is None else processor_class_from_name(name)
    defaults = getattr(found, "images_kwargs", None) or {}
    own = {name: getattr(loaded.image_processor, name, default) for name, default in defaults.items()}
    return {name: value for name, value in own.items() if value != defaults[name]}


def _remote_settings(retriever: Retriever) -> dict[str, Any]:
    """What the code in the folder is told; see `remote/clearsight_modules.py`."""
    loaded, pooling = retriever.loaded, retriever.pooling
    assert loaded.images is not None
    settings: dict[str, Any] = {
        "image_token_id": loaded.images.token_id,
        "leaves_out": [{IMAGE: "image", PROMPT: "prompt"}[kind] for kind in pooling.leaves_out],
    }
    if pooling.stream == "attention":
        last: Any = loaded.base.get_decoder().layers[-1]
        reader = residual_reader(last)
        name = next(name for name, child in last.named_children() if child is reader)
        settings["stream"] = {"reader": name, "final_norm": pooling.final_norm}
    return settings


def pooling_settings(loaded: LoadedModel, mode: str) -> dict[str, Any]:
    """The older names of the keys: every version reads them, other servers too."""
    return {
        "word_embedding_dimension": int(loaded.model.config.get_text_config().hidden_size),
        "pooling_mode_cls_token": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_tokens": mode == "mean",
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": mode == "lasttoken",
        "include_prompt": True,
    }


def needs_an_image(loaded: LoadedModel) -> bool:
    """Whether the processor takes no text alone (PaliGemma): then one batch cannot mix modalities."""
    from clearsight.models.wording import paligemma_layout

    return loaded.family.layout is paligemma_layout
