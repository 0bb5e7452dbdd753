# mypy: ignore-errors
# Checked by the tests that run it: sentence-transformers is no dependency of the package.
"""What stock modules of sentence-transformers cannot do, for a folder that Clearsight wrote.

Needs sentence-transformers 6.2 or newer and torch, not Clearsight. Loads with `trust_remote_code=True`.

* `Transformer`: as the stock one, and it tells later modules which modality each item has; takes image or
  prompt tokens out of a mean by taking them out of the mask that Pooling reads; reads the states between
  attention and MLP of the last layer; embeds image and text in one with a contrastive model (the sum of both
  features).
* `ModalityHeads`: affine layers of a repair, others for each modality.

Legend of shapes: B items, L tokens, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from sentence_transformers.base.modality import infer_modality
from sentence_transformers.base.modules.module import Module
from sentence_transformers.base.modules.transformer import Transformer as StockTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

MODALITIES = ("text", "image", "image+text")
ITEM_MODALITY, OWN_TOKENS = "item_modality", "own_tokens"
# Noncharacters: no text meant for interchange holds them.
OPEN, CLOSE = "\ufdd0", "\ufdd1"


class Transformer(StockTransformer):
    """The stock module with the settings under "clearsight" in sentence_bert_config.json:

    image_token_id, leaves_out (of "image", "prompt"), stream ({"reader", "final_norm"}); or, for contrastive
    models, fused, wording (a chat template for texts) and context (tokens).
    """

    config_keys: ClassVar[list[str]] = [*StockTransformer.config_keys, "clearsight"]

    def __init__(self, *args, clearsight=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.clearsight = clearsight or {}

    def preprocess(self, inputs, prompt=None, **kwargs):
        if inputs and self.clearsight.get("fused"):
            return self._contrastive_inputs(inputs, prompt, kwargs.get("task"))
        return super().preprocess(inputs, prompt=prompt, **kwargs)

    def forward(self, features, **kwargs):
        if self.clearsight.get("fused"):
            return self._contrastive_features(features)
        ours = {name: features.pop(name) for name in (ITEM_MODALITY, OWN_TOKENS) if name in features}
        stream = self.clearsight.get("stream")
        if stream is None:
            features = super().forward(features, **kwargs)
        else:
            features = self._attention_states(features, stream, kwargs)
        features["attention_mask"] = self._kept(features, ours.pop(OWN_TOKENS, None))
        return {**features, **ours}

    # Which modality, which tokens

    def _process_chat_messages(self, messages, modality_kwargs, common_kwargs, chat_template_kwargs=None):
        features = super()._process_chat_messages(
            messages, modality_kwargs, common_kwargs, chat_template_kwargs=chat_template_kwargs
        )
        features[ITEM_MODALITY] = torch.tensor([item_modality(one) for one in messages])
        if "prompt" in self.clearsight.get("leaves_out", ()):
            features[OWN_TOKENS] = self._own_tokens(messages, features, dict(chat_template_kwargs or {}))
        return features

    def _kept(self, features, own_BL: Tensor | None) -> Tensor:
        """The mask without the tokens that are left out of a mean."""
        keep_BL = features["attention_mask"].bool()
        image_BL = features["input_ids"] == self.clearsight["image_token_id"]
        if "image" in self.clearsight["leaves_out"]:
            keep_BL = keep_BL & ~image_BL
        if own_BL is not None:
            keep_BL = keep_BL & (own_BL | image_BL)
        if not keep_BL.any(dim=1).all():
            raise ValueError("The pooling leaves no token of an item.")
        return keep_BL.long()

    def _own_tokens(self, messages, features, chat_template_kwargs) -> Tensor:
        """Which tokens cover a character of the item's own words (text, instruction)."""
        chat_template_kwargs.pop("restore_suffix", None)
        ids_BL, mask_BL = features["input_ids"], features["attention_mask"]
        own_BL = torch.zeros(ids_BL.shape, dtype=torch.bool)
        for row, conversation in enumerate(messages):
            marked = self.processor.apply_chat_template(
                [marked_turn(turn) for turn in conversation], tokenize=False, **chat_template_kwargs
            )
            text, spans = without_marks(marked)
            bos = self.tokenizer.bos_token
            encoded = self.tokenizer(
                text,
                add_special_tokens=bos is None or not text.startswith(bos),
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
            )
            # Some tokenizers trim white space from offsets, to nothing at times.
            ends = [(start, max(end, start + 1)) for start, end in encoded["offset_mapping"]]
            own = [
                any(start < stop and end > first for first, stop in spans) and not (special and end == 1)
                for (start, end), special in zip(ends, encoded["special_tokens_mask"], strict=True)
            ]
            places = mask_BL[row].nonzero().squeeze(1)
            found = aligned(encoded["input_ids"], own, ids_BL[row][places].tolist())
            own_BL[row, places] = torch.tensor(found)
        return own_BL

    # States between attention and MLP

    def _attention_states(self, features, stream, kwargs):
        decoder = self.model.get_decoder()
        seen: list[Tensor] = []
        reader = getattr(decoder.layers[-1], stream["reader"])
        handle = reader.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            features = super().forward(features, **kwargs)
        finally:
            handle.remove()
        features["token_embeddings"] = decoder.norm(seen[0]) if stream["final_norm"] else seen[0]
        return features

    # Contrastive models

    def _contrastive_inputs(self, inputs, prompt, task):
        items = [text_and_image(item) for item in inputs]
        texts = [self._worded(text, image, prompt, task) for text, image in items if text is not None]
        features = {}
        if texts:
            settings = {"padding": True, "max_length": self.clearsight["context"]}
            settings |= self.processing_kwargs.get("text", {})
            tokens = self.tokenizer(texts, truncation=True, return_tensors="pt", **settings)
            names = self.tokenizer.model_input_names
            features |= {f"text_{name}": value for name, value in tokens.items() if name in names}
        images = [image.convert("RGB") for _, image in items if image is not None]
        if images:
            pixels = self.processor.image_processor(images, return_tensors="pt")
            features |= {f"image_{name}": value for name, value in pixels.items()}
        kinds = [0 if image is None else 1 if text is None else 2 for text, image in items]
        return {**features, ITEM_MODALITY: torch.tensor(kinds), "modality": "message"}

    def _worded(self, text, image, prompt, task):
        parts = [{"type": "image"}] if image is not None else []
        turns = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
        if prompt:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt}]})
        named = {} if task is None else {"task": task}
        return self.tokenizer.apply_chat_template(
            turns, chat_template=self.clearsight["wording"], tokenize=False, **named
        )

    def _contrastive_features(self, features):
        kind_B = features[ITEM_MODALITY]
        total_BD = None
        for prefix, used_B, method in (
            ("text_", kind_B != 1, self.model.get_text_features),
            ("image_", kind_B != 0, self.model.get_image_features),
        ):
            if not used_B.any():
                continue
            inputs = {
                name.removeprefix(prefix): value
                for name, value in features.items()
                if name.startswith(prefix)
            }
            rows_ND = normalize(method(**inputs).pooler_output, dim=-1)
            if total_BD is None:
                total_BD = rows_ND.new_zeros(len(kind_B), rows_ND.shape[-1])
            total_BD[used_B] += rows_ND
        features["sentence_embedding"] = normalize(total_BD, dim=-1)
        return features


class ModalityHeads(Module):
    """Affine layers by modality, and the norm after the last one.

    Args:
        structure: modality -> layers in order, each {"name", "normalize", "in_features", "out_features"};
            with `normalize` rows are brought to length 1 before it.
    """

    config_keys: ClassVar[list[str]] = ["structure"]

    def __init__(self, structure):
        super().__init__()
        self.structure = structure
        self.heads = nn.ModuleDict(
            {
                layer["name"]: nn.Linear(layer["in_features"], layer["out_features"])
                for layers in structure.values()
                for layer in layers
            }
        )

    def forward(self, features, **kwargs):
        rows_BD, kind_B = features["sentence_embedding"], features[ITEM_MODALITY]
        out_BE = rows_BD.new_empty(len(rows_BD), self.get_embedding_dimension())
        for kind in kind_B.unique().tolist():
            if MODALITIES[kind] not in self.structure:
                raise ValueError(f"The repair of this model holds nothing for {MODALITIES[kind]}.")
            part = rows_BD[kind_B == kind]
            for layer in self.structure[MODALITIES[kind]]:
                part = self.heads[layer["name"]](normalize(part, dim=-1) if layer["normalize"] else part)
            out_BE[kind_B == kind] = normalize(part, dim=-1)
        features["sentence_embedding"] = out_BE
        return features

    def get_embedding_dimension(self):
        return next(iter(self.structure.values()))[-1]["out_features"]

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(
        cls,
        model_name_or_path,
        subfolder="",
        token=None,
        cache_folder=None,
        revision=None,
        local_files_only=False,
        **kwargs,
    ):
        place = {
            "model_name_or_path": model_name_or_path,
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        return cls.load_torch_weights(model=cls(**cls.load_config(**place)), **place)


def item_modality(conversation) -> int:
    """Position in MODALITIES of what the user's turns of a conversation hold."""
    kinds = {
        part.get("type", "text")
        for turn in conversation
        if turn["role"] != "system"
        for part in (turn["content"] if isinstance(turn["content"], list) else [{"type": "text"}])
    }
    return 0 if "image" not in kinds else 2 if "text" in kinds else 1


def text_and_image(item):
    """The text and the PIL image of one input, None where it has none."""
    from transformers.image_utils import load_image

    kind = infer_modality(item)
    if kind == "message":
        turns = [item] if isinstance(item, dict) else item
        content = [part for turn in turns for part in turn["content"]]
        item = {part["type"]: part[part["type"]] for part in content}
    elif not isinstance(item, dict):
        item = {kind: item}
    image = item.get("image")
    return item.get("text"), None if image is None else load_image(image)


def marked_turn(turn):
    """A chat turn with its words between marks; white space at their ends stays, as templates may trim."""

    def mark(text):
        words = text.strip()
        lead, _, trail = text.partition(words) if words else (text, "", "")
        return f"{lead}{OPEN}{words}{CLOSE}{trail}"

    content = turn["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    worded = [{**part, "text": mark(part["text"])} if part.get("type") == "text" else part for part in parts]
    return {**turn, "content": worded}


def without_marks(marked: str):
    """The text, and (start, stop) of what stood between marks."""
    text, spans = "", []
    for place, piece in enumerate(marked.replace(CLOSE, OPEN).split(OPEN)):
        if place % 2:
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    return text, spans


def aligned(ids, flags, final):
    """Flags of `final`, which is `ids` with the place of the image written out.

    What both have in common at their beginning and at their end keeps its flags; no other may have one.
    """
    most = min(len(ids), len(final))
    head = next((i for i in range(most) if ids[i] != final[i]), most)
    tail = next((i for i in range(most - head) if ids[-1 - i] != final[-1 - i]), most - head)
    if any(flags[head : len(ids) - tail]):
        raise ValueError("The item's own tokens cannot be told from the prompt's: it may be too long.")
    return [*flags[:head], *[False] * (len(final) - head - tail), *flags[len(ids) - tail :]]
