"""Loading a sentence-transformers folder; every refusal says what to do."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from clearsight.errors import ModelError
from clearsight.models.family import Family
from clearsight.models.folder import Folder
from clearsight.models.load import LoadedModel
from clearsight.models.stock import folder as files
from clearsight.models.stock.model import StockModel
from clearsight.models.wording import SafeTokenizer
from clearsight.types import MODALITIES, Modality

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EXTRA = "pip install 'clearsight[sentence-transformers]'"
FAMILY = Family("sentence-transformers", kind="contrastive")
"""Contrastive in what matters here: a finished vector an item, no token states to pool or to look into."""

_NO_LIMIT = 1_000_000  # transformers writes 1e30 where a tokenizer knows no length
_ASKED: dict[Modality, Any] = {"text": "text", "image": "image", "image+text": ("image", "text")}
_DOCUMENT = ("document", "passage", "corpus")


def load_stock(
    folder: Folder, *, device: torch.device, dtype: torch.dtype | None, trust_remote_code: bool
) -> LoadedModel:
    """The model of a sentence-transformers folder.

    Args:
        dtype: None is float32 on a CPU and the checkpoint's own elsewhere. The modules after the first
            (pooling, Dense) work in float32 whatever it is.

    Raises:
        ModelError: the library is missing, another kind of model, files missing, remote code that was not
            allowed.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ModelError(
            "This is a sentence-transformers folder, and that library is not installed.",
            where=folder.name,
            do=f"Install it: {EXTRA}.",
        )
    files.need_embedder(folder)
    paths = files.module_folders(folder)
    files.fetch_modules(folder, paths)
    pipeline = _pipeline(folder, device, dtype, trust_remote_code)
    modules = [type(module).__name__ for module in pipeline]
    normalised = _take_off_normalize(pipeline)
    kind = pipeline.dtype or torch.float32
    if kind != torch.float32:
        _finish_in_float32(pipeline)
    stock = _described(pipeline, modules, normalised)
    tokenizer = pipeline.tokenizer
    fast = isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.is_fast
    return LoadedModel(
        name=folder.name,
        model=cast(Any, pipeline),
        base=cast(Any, pipeline),
        tokenizer=tokenizer,
        text=SafeTokenizer(tokenizer) if fast else None,
        image_processor=_image_processor(pipeline),
        images=None,
        family=FAMILY,
        device=device,
        dtype=kind,
        context=stock.context or _NO_LIMIT,
        revision=files.revision(folder, paths),
        stock=stock,
    )


def _pipeline(
    folder: Folder, device: torch.device, dtype: torch.dtype | None, trust_remote_code: bool
) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    wanted = dtype or (torch.float32 if device.type == "cpu" else "auto")
    try:
        pipeline = SentenceTransformer(
            str(folder.path),
            device=str(device),
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": wanted},
        )
    except ImportError as error:
        raise ModelError(
            f"A part of the model needs another library: {_first_line(error)}",
            where=folder.name,
            do="Install it (for images often: pip install torchvision, in the build that fits torch).",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        do = "Check that the folder is complete."
        if "trust_remote_code" in str(error):
            do = "If you trust its code, allow that: trust_remote_code=True, or --trust-remote-code."
        raise ModelError(
            f"sentence-transformers cannot load it: {_first_line(error)}", where=folder.name, do=do
        ) from error
    return pipeline.eval()


def _described(pipeline: SentenceTransformer, modules: list[str], normalised: bool) -> StockModel:
    import sentence_transformers

    prompts = pipeline.prompts
    default = pipeline.prompts.get(pipeline.default_prompt_name or "", "")
    document = next((prompts[name] for name in _DOCUMENT if name in prompts), default)
    processor = _image_processor(pipeline)
    words = {"query": prompts.get("query", default) or "", "candidate": document or ""}
    return StockModel(
        pipeline=pipeline,
        accepts=frozenset(kind for kind in MODALITIES if pipeline.supports(_ASKED[kind])),
        prompts=cast(Any, words),
        chat="message" in pipeline.modalities,
        context=_context(pipeline),
        counter=_counter(pipeline.tokenizer),
        truncate=pipeline.truncate_dim,
        facts={
            "prompts": words,
            "modules": modules,
            "normalize_taken_off": normalised,
            "truncate": pipeline.truncate_dim,
            "similarity": str(pipeline.similarity_fn_name),
            "image_processor": None if processor is None else type(processor).__name__,
            "sentence_transformers": sentence_transformers.__version__,
        },
    )


def _take_off_normalize(pipeline: SentenceTransformer) -> bool:
    """Take a last Normalize off (from every route, where the last module is a Router)."""
    from sentence_transformers.base.modules import Normalize, Router

    last = list(pipeline.named_children())[-1]
    if isinstance(last[1], Normalize):
        del pipeline._modules[last[0]]
        return True
    if not isinstance(last[1], Router):
        return False
    routes: list[Any] = list(last[1].sub_modules.values())
    if not all(len(route) > 1 and isinstance(route[-1], Normalize) for route in routes):
        return False
    for route in routes:
        del route[-1]
    return True


class _Float32(nn.Module):
    """Between the first module and the others: states and vectors in float32."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        wide = {
            name: value.float()
            for name, value in features.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return {**features, **wide}


def _finish_in_float32(pipeline: SentenceTransformer) -> None:
    """Pools, and whitening in a Dense, lose what matters in half precision (cosine 0.95 to 0.98)."""
    (name, first), *others = list(pipeline.named_children())
    pipeline._modules.clear()
    for key, module in ((name, first), ("float32", _Float32()), *others):
        pipeline._modules[key] = module if module is first else module.float()


def _context(pipeline: SentenceTransformer) -> int | None:
    """The library's limit; the config's where that is none (CLIP folders without a tokenizer length)."""
    limit = pipeline.max_seq_length
    if limit is not None and limit < _NO_LIMIT:
        return int(limit)
    config = pipeline.config
    if config is None:
        return None
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit is not None and 0 < limit < _NO_LIMIT else None


def _counter(tokenizer: Any) -> Tokenizer | None:
    """A copy that neither truncates nor pads, and that nobody else sets to."""
    core = tokenizer.backend_tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else tokenizer
    if not isinstance(core, Tokenizer):
        return None
    copy = Tokenizer.from_str(core.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _image_processor(pipeline: SentenceTransformer) -> Any:
    processor = getattr(pipeline[0], "processor", None)  # not every first module has one
    return getattr(processor, "image_processor", None)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
