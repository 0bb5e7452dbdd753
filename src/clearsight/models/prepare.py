"""From an item to token ids and pixels, and from prepared items to a batch.

Legend of shapes: B items of a batch, L tokens of this call, S tokens of the full sequence (S = prefix + L),
D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from clearsight.errors import ItemError
from clearsight.models.load import ImageInput, LoadedModel
from clearsight.models.prompts import Span, Template, render
from clearsight.models.wording import Wording
from clearsight.pooling import IMAGE, PROMPT, TEXT
from clearsight.types import Item, Modality, Role

if TYPE_CHECKING:
    from clearsight.models.stock.read import Sample


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One item, ready for a batch.

    Attributes:
        ids_L: token ids with image placeholders expanded; empty for an image under a contrastive model.
        kinds_L: PROMPT, TEXT or IMAGE for each token.
        pixels: the image processor's outputs for this item; empty without an image.
        cut: how many tokens of the item's own text were cut to fit (0: none).
        running: positions count tokens one by one, images included (the form `vlm2vec`).
        sample: the item as sentence-transformers takes it; then there are neither ids nor pixels.
    """

    ids_L: NDArray[np.int64]
    kinds_L: NDArray[np.uint8]
    pixels: Mapping[str, Tensor]
    cut: int = 0
    running: bool = False
    sample: Sample | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs of one forward pass, right padded (contrastive texts: as their tokenizer pads).

    Attributes:
        inputs: keyword arguments of `loaded.base`, on its device. After a prefix: add its `past_key_values`.
        mask_BL: 1 where a token of this call is valid.
        kinds_BL: kind of each token; PROMPT where padded.
        text_B, image_B: which items have tokens, and pixels; contrastive inputs hold these items only.
    """

    inputs: Mapping[str, Tensor]
    mask_BL: Tensor
    kinds_BL: Tensor
    text_B: NDArray[np.bool_]
    image_B: NDArray[np.bool_]


class Preparer:
    """Items to `Prepared`. A call changes no state, so worker threads may share one.

    Args:
        loaded: the model that will read the items.
        template: how they are worded.
        generation_prompt: end with the assistant's header (where the model has a chat template).
        max_tokens: most tokens of a sequence; the end of the item's own text is cut to fit, nothing else.
            None, and at most, is the model's context.
        image_size: an image of more than image_size x image_size pixels is first shrunk to that area, aspect
            kept; None leaves sizes to the model's image processor.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        template: Template,
        *,
        generation_prompt: bool,
        max_tokens: int | None = None,
        image_size: int | None = None,
    ) -> None:
        self._loaded, self._template, self._image_size = loaded, template, image_size
        self._wording = Wording(loaded, generation_prompt=generation_prompt, form=template.form)
        self._running = template.form == "vlm2vec"
        self._max_tokens = min(max_tokens or loaded.context, loaded.context)
        assert loaded.text is not None, "only a sentence-transformers model may lack one"
        self._text = loaded.text

    def __call__(
        self, item: Item, role: Role, image: Image.Image | None, *, counterpart: Modality | None = None
    ) -> Prepared:
        """The item under the template.

        Args:
            image: the item's, opened (RGB).
            counterpart: modality of the other side, for templates whose wording depends on it.

        Raises:
            ItemError: empty text, lone surrogates, an image that the processor refuses, or a prompt and
                image that alone exceed `max_tokens`.
        """
        _check_text(item)
        turns = render(self._template, item, role, counterpart=counterpart)
        if image is not None and self._image_size is not None:
            image = shrunk(image, self._image_size)
        if self._loaded.images is None:
            return self._contrastive(item, turns, image)
        spans, add_special_tokens = self._wording(turns)
        images = self._loaded.images
        pixels: Mapping[str, Tensor] = {}
        runs: list[int] = []
        if image is not None:
            outputs = process_image(self._loaded.image_processor, image, images.settings, item.id)
            expansion, runs = collapsed(images.processor.replace_image_token(outputs, 0), images.placeholder)
            spans = [s if s.own else Span(s.text.replace(images.token, expansion)) for s in spans]
            pixels = {name: outputs[name] for name in sorted(images.names)}
        tokens = self._text(spans, add_special_tokens=add_special_tokens, where=item.id)
        kinds_L = np.where(tokens.own_L, TEXT, PROMPT).astype(np.uint8)
        return self._fitted(item, *expanded(tokens.ids_L, kinds_L, images, runs), pixels)

    def _contrastive(self, item: Item, turns: Sequence[Any], image: Image.Image | None) -> Prepared:
        ids_L, kinds_L = np.empty(0, np.int64), np.empty(0, np.uint8)
        pixels: Mapping[str, Tensor] = {}
        if image is not None:
            outputs = process_image(self._loaded.image_processor, image, {"return_tensors": "pt"}, item.id)
            pixels = dict(outputs)
        if item.text is not None:
            spans, add_special_tokens = self._wording(turns)
            tokens = self._text(spans, add_special_tokens=add_special_tokens, where=item.id)
            ids_L, kinds_L = tokens.ids_L, np.where(tokens.own_L, TEXT, PROMPT).astype(np.uint8)
        return self._fitted(item, ids_L, kinds_L, pixels)

    def _fitted(
        self, item: Item, ids_L: NDArray[np.int64], kinds_L: NDArray[np.uint8], pixels: Mapping[str, Tensor]
    ) -> Prepared:
        excess = len(ids_L) - self._max_tokens
        if excess <= 0:
            return Prepared(ids_L, kinds_L, pixels, running=self._running)
        own = np.flatnonzero(kinds_L == TEXT)
        if excess >= len(own):
            raise ItemError(
                f"Prompt and image take {len(ids_L) - len(own)} tokens, {self._max_tokens} are allowed.",
                where=item.id,
                do="Give a smaller image_size, or more max_tokens where the model's context allows it.",
            )
        keep = np.delete(np.arange(len(ids_L)), own[len(own) - excess :])
        return Prepared(ids_L[keep], kinds_L[keep], pixels, cut=excess, running=self._running)


def collate(prepared: Sequence[Prepared], loaded: LoadedModel, *, skip: int = 0) -> Batch:
    """One batch of prepared items, in their order.

    Args:
        skip: length of a prefix that all items share and whose keys and values are cached: ids, kinds and
            mask are those after it, positions those of the full sequences, `attention_mask` covers both.
    """
    text_B = np.array([len(one.ids_L) > 0 for one in prepared])
    image_B = np.array([bool(one.pixels) for one in prepared])
    pixels = stack_pixels([one.pixels for one in prepared if one.pixels])
    if loaded.images is None:
        inputs, mask_BL, kinds_BL = _contrastive_texts(prepared, loaded)
        inputs.update(pixels)
    else:
        ids_BS, mask_BS = padded([one.ids_L for one in prepared], pad_id(loaded.tokenizer))
        kinds_BL = padded([one.kinds_L for one in prepared], PROMPT)[0][:, skip:]
        mask_BL = mask_BS[:, skip:]
        inputs = {"input_ids": ids_BS[:, skip:], "attention_mask": mask_BS, **pixels}
        if loaded.family.positions is not None:
            image_BS = (ids_BS == loaded.images.token_id) & (mask_BS == 1)
            located = {} if any(one.running for one in prepared) else pixels
            positions = loaded.family.positions(loaded.base, ids_BS, mask_BS, image_BS, located)
            inputs["position_ids"] = positions[..., skip:]
        else:
            for name, marked in loaded.images.token_types.items():
                inputs[name] = (torch.isin(ids_BS, torch.tensor(marked)) & (mask_BS == 1)).long()
    moved = {
        name: value.to(loaded.device, loaded.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    return Batch(moved, mask_BL.to(loaded.device), kinds_BL.to(loaded.device), text_B, image_B)


def encode_contrastive(loaded: LoadedModel, batch: Batch) -> Tensor:
    """features_BD, float32, unit norm: text or image features; for text and image their normalised sum."""
    names = {"input_ids", "attention_mask"}
    features_BD: Tensor | None = None
    model: Any = loaded.base
    for used_B, call, inputs in (
        (batch.text_B, model.get_text_features, {k: v for k, v in batch.inputs.items() if k in names}),
        (batch.image_B, model.get_image_features, {k: v for k, v in batch.inputs.items() if k not in names}),
    ):
        if not used_B.any():
            continue
        rows = normalize(call(**inputs).pooler_output.float(), dim=-1)
        if features_BD is None:
            features_BD = rows.new_zeros(len(used_B), rows.shape[-1])
        features_BD[torch.from_numpy(used_B).to(rows.device)] += rows
    assert features_BD is not None, "an item has a text or an image"
    return normalize(features_BD, dim=-1)


def _check_text(item: Item) -> None:
    for text in (item.text, item.instruction):
        try:
            (text or "").encode("utf-8")
        except UnicodeEncodeError:
            raise ItemError(
                "The text holds lone surrogates, which are no characters.",
                where=item.id,
                do="Replace them: text.encode('utf-8', 'replace').decode().",
            ) from None
    if item.text is not None and not item.text.strip():
        raise ItemError(
            "The text is empty.", where=item.id, do="Give a text, or None for an item without one."
        )


def shrunk(image: Image.Image, image_size: int) -> Image.Image:
    """The image with at most image_size x image_size pixels, aspect kept."""
    scale = image_size / (image.width * image.height) ** 0.5
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def process_image(image_processor: Any, image: Image.Image, settings: Mapping[str, Any], item_id: str) -> Any:
    """The image processor's outputs for one image.

    Raises:
        ItemError: it refuses the image.
    """
    try:
        return image_processor([image], **settings)
    except Exception as error:  # Image processors refuse in many ways, none of them documented.
        raise ItemError(
            f"The model's image processor refuses this image ({image.width} x {image.height}): {error}",
            where=item_id,
            do="Crop or resize the image.",
        ) from error


def collapsed(expansion: str, placeholder: str) -> tuple[str, list[int]]:
    """The expansion with each run of placeholders as one (far less to tokenise), and the runs' lengths."""
    runs: list[int] = []

    def one(match: re.Match[str]) -> str:
        runs.append(len(match[0]) // len(placeholder))
        return placeholder

    return re.sub(f"(?:{re.escape(placeholder)})+", one, expansion), runs


def expanded(
    ids_L: NDArray[np.int64], kinds_L: NDArray[np.uint8], images: ImageInput, runs: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Ids and kinds with the runs of placeholders at full length."""
    placeholders = ids_L == images.token_id
    repeats = np.ones(len(ids_L), np.int64)
    repeats[placeholders] = runs
    return ids_L.repeat(repeats), np.where(placeholders, IMAGE, kinds_L).astype(np.uint8).repeat(repeats)


def _contrastive_texts(
    prepared: Sequence[Prepared], loaded: LoadedModel
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Inputs of the items with text; mask and kinds of all items."""
    tokenizer, family = loaded.tokenizer, loaded.family
    length = loaded.context if family.pad_to_context else None
    left = family.pad_to_context and tokenizer.padding_side == "left"
    ids_BL, mask_BL = padded([one.ids_L for one in prepared], pad_id(tokenizer), length=length, left=left)
    kinds_BL, _ = padded([one.kinds_L for one in prepared], PROMPT, length=length, left=left)
    used = torch.tensor([len(one.ids_L) > 0 for one in prepared])
    if not used.any():
        return {}, mask_BL, kinds_BL
    inputs = {"input_ids": ids_BL[used]}
    if "attention_mask" in tokenizer.model_input_names:
        inputs["attention_mask"] = mask_BL[used]
    return inputs, mask_BL, kinds_BL


def padded(
    rows: Sequence[NDArray[Any]], fill: int, *, length: int | None = None, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows as int64 (B, S), and 1 where a value is valid."""
    width = length or max(map(len, rows))
    values = np.full((len(rows), width), fill, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        where = slice(width - len(row), None) if left else slice(len(row))
        values[i, where], mask[i, where] = row, 1
    return torch.from_numpy(values), torch.from_numpy(mask)


def pad_id(tokenizer: Any) -> int:
    """The id that fills up short rows."""
    # Masked wherever it stands, so that any id will do.
    return int(tokenizer.pad_token_id or 0)


def stack_pixels(pixels: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """All items' pixels along the first axis; the others (an image's tiles) are filled up with zeros."""
    stacked: dict[str, Tensor] = {}
    for name in pixels[0] if pixels else ():
        parts = [one[name] for one in pixels]
        sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
        together = parts[0].new_zeros(sum(map(len, parts)), *sizes)
        start = 0
        for part in parts:
            together[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
            start += len(part)
        stacked[name] = together
    return stacked
