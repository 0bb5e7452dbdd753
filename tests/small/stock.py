"""Small sentence-transformers folders, written by that library around the families' tiny random models.

| function | what it stands for | reads |
|---|---|---|
| write_clip | CLIP folders | text, image |
| write_old_clip | those of 2020: weights in 0_CLIPModel, legacy names | text, image |
| write_text | embedding models: BERT + mean + Dense + Normalize, with prompts | text |
| write_two_sided | text, query and document apart in a Router | text |
| write_static | one vector a token, no transformer | text |
| write_fused | a chat model (LLaVA) with mean pooling | text, image, image+text |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import processors

from families.build import byte_tokenizer, clip, llava, randomise

PROMPTS = {"query": "Instruct: Find it\nQuery:", "document": "passage: "}


def write_clip(folder: Path, seed: int = 0) -> Path:
    return _saved(folder, [_transformer(clip, folder, seed)])


def write_old_clip(folder: Path, seed: int = 0) -> Path:
    write_clip(folder, seed)
    inner = folder / "0_CLIPModel"
    inner.mkdir()
    for file in list(folder.iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(inner / file.name)
    (inner / "sentence_bert_config.json").unlink()
    row = {"idx": 0, "name": "0", "path": inner.name, "type": "sentence_transformers.models.CLIPModel"}
    (folder / "modules.json").write_text(json.dumps([row]))
    return folder


def write_text(
    folder: Path,
    seed: int = 0,
    *,
    prompts: Mapping[str, str] = PROMPTS,
    truncate: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    from sentence_transformers.base.modules import Dense, Normalize

    parts = [_bert(folder, seed), _pooling(), _randomised(Dense(32, 16), seed + 1), Normalize()]
    return _saved(folder, [part.to(dtype) for part in parts], prompts=prompts, truncate_dim=truncate)


def write_two_sided(folder: Path, seed: int = 0) -> Path:
    from sentence_transformers.base.modules import Dense, Normalize, Router

    routes: Any = {
        side: [_randomised(Dense(32, 16), place), Normalize()]
        for place, side in enumerate(("query", "document"), start=seed)
    }
    return _saved(folder, [_bert(folder, seed), _pooling(), Router(routes, default_route="document")])


def write_static(folder: Path, seed: int = 0) -> Path:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    core = byte_tokenizer([], {}).backend_tokenizer
    return _saved(folder, [_randomised(StaticEmbedding(core, embedding_dim=8), seed)])


def write_fused(folder: Path, seed: int = 0, *, prompts: Mapping[str, str] | None = None) -> Path:
    from sentence_transformers.base.modules import Normalize

    modules = [_transformer(llava, folder, seed), _pooling(), Normalize()]
    return _saved(folder, modules, prompts=prompts or {})


def _bert(folder: Path, seed: int) -> Any:
    return _transformer(_write_bert, folder, seed)


def _write_bert(folder: Path, seed: int) -> Path:
    roles = {"pad_token": "[PAD]", "sep_token": "[SEP]"}
    tokenizer = byte_tokenizer(["[PAD]", "[CLS]", "[SEP]"], roles)
    first, last = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", first), ("[SEP]", last)]
    )
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        architectures=["BertModel"],
    )
    model = transformers.BertModel(config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _transformer(build: Any, folder: Path, seed: int) -> Any:
    from sentence_transformers.base.modules import Transformer

    bare = folder.with_name(f"{folder.name}-bare")
    bare.mkdir(parents=True)
    return Transformer(str(build(bare, seed)))


def _pooling() -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(32, "mean")


def _randomised(module: Any, seed: int) -> Any:
    randomise(module, seed)
    return module


def _saved(folder: Path, modules: list[Any], **options: Any) -> Path:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.save(str(folder), create_model_card=False)
    return folder
