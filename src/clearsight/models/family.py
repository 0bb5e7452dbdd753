"""Model families: what differs between one architecture and the next, as rows of a table.

Most of what differs, the model folder itself says (its processor: `clearsight.models.load.ImageInput`). A
row holds what no folder says. What no row names goes the generic path, `GENERIC`: no key-value reuse,
positions left to the model, images as the model's own processor words them.

Legend of shapes: B items, S tokens of the full sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clearsight.models.wording import Layout, Release, paligemma_layout, vlm2vec_llava, vlm2vec_qwen
from clearsight.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Kind: TypeAlias = Literal["generative", "contrastive"]
Positions: TypeAlias = "Callable[[Any, Tensor, Tensor, Tensor, Mapping[str, Tensor]], Tensor]"
"""(base, ids_BS, mask_BS, image_BS, pixels) -> position_ids of the full sequences, last axis S."""


@dataclass(frozen=True)
class Family:
    """One row.

    Attributes:
        name: used in messages and manifests.
        model_types: the `model_type` of the configs it stands for.
        kind: generative (hidden states are pooled) or contrastive (the model's own features).
        prefix_reuse: keys and values of a shared prefix may be cached. Only where attention is causal, and
            tested so.
        positions: explicit position ids, where the model's own depend on what it saw before.
        layout: the text of a model that has no chat template, where it is not the parts in their order.
        processor: name of the transformers class that stands in for the folder's, where that one cannot be
            used.
        vlm2vec: how the releases that grew out of VLM2Vec word turns for this family; None: they have none.
        pad_to_context: texts are padded to the full context (contrastive models trained so).
        several_images: a prompt may hold more than one image. False where the model was trained on one and
            its authors warn of more.
        said_types: per-token inputs -> their value for tokens behind the prompt (a text that is scored),
            where the model takes a prompt and what follows it differently.
    """

    name: str
    model_types: tuple[str, ...] = ()
    kind: Kind = "generative"
    prefix_reuse: bool = False
    positions: Positions | None = None
    layout: Layout | None = None
    processor: str | None = None
    vlm2vec: Release | None = None
    pad_to_context: bool = False
    several_images: bool = True
    said_types: Mapping[str, int] = field(default_factory=dict)


def mrope_positions(
    base: Any, ids_BS: Tensor, mask_BS: Tensor, image_BS: Tensor, pixels: Mapping[str, Tensor]
) -> Tensor:
    """Qwen's three-axis positions (3, B, S) of the full sequences; one running count where there is no image.

    Given explicitly, because the model's own depend on `rope_deltas` left by the batch before. The model
    counts item by item; items whose images have one size and stand at one place are counted once.
    """
    import numpy as np
    import torch

    if "image_grid_thw" not in pixels:
        positions_BS = (mask_BS.cumsum(-1) - 1).clamp(min=0)
        return positions_BS.expand(3, *positions_BS.shape)
    grid_I3, owner_I = pixels["image_grid_thw"], image_BS.any(-1).nonzero().squeeze(-1)
    alike_B = torch.arange(len(ids_BS))
    if len(owner_I) == len(grid_I3):  # one image an item at most
        grid_B3 = torch.zeros(len(ids_BS), 3, dtype=torch.long).index_copy(0, owner_I, grid_I3.long())
        layout = torch.cat([image_BS.long(), mask_BS, grid_B3], dim=1).numpy()
        _, first_U, inverse_B = np.unique(layout, axis=0, return_index=True, return_inverse=True)
        chosen_U, alike_B = torch.from_numpy(first_U), torch.from_numpy(inverse_B.reshape(-1))
        ids_BS, image_BS, mask_BS = ids_BS[chosen_U], image_BS[chosen_U], mask_BS[chosen_U]
        grid_I3 = grid_B3[chosen_U][image_BS.any(-1)]
    positions, _ = base.get_rope_index(
        ids_BS, mm_token_type_ids=image_BS.long(), image_grid_thw=grid_I3, attention_mask=mask_BS
    )
    return positions[:, alike_B]  # type: ignore[no-any-return]


GENERIC = Family("generic")

families: Registry[Family] = Registry("family")
for _row in (
    Family("qwen2-vl", ("qwen2_vl",), prefix_reuse=True, positions=mrope_positions, vlm2vec=vlm2vec_qwen),
    Family("qwen2.5-vl", ("qwen2_5_vl",), prefix_reuse=True, positions=mrope_positions, vlm2vec=vlm2vec_qwen),
    Family("qwen3-vl", ("qwen3_vl",), prefix_reuse=True, positions=mrope_positions),
    # Its prefix attends both ways; what is said behind it is causal.
    Family("paligemma", ("paligemma",), layout=paligemma_layout, said_types={"token_type_ids": 1}),
    Family("chameleon", ("chameleon",), prefix_reuse=True),
    Family("llava", ("llava",), prefix_reuse=True, several_images=False),
    Family("llava-next", ("llava_next",), prefix_reuse=True, vlm2vec=vlm2vec_llava, several_images=False),
    # Its own processor wants num2words and a video processor; Idefics3's gives the same tensors.
    Family("smolvlm", ("smolvlm",), processor="Idefics3Processor"),
    Family("clip", ("clip",), kind="contrastive"),
    Family("siglip", ("siglip", "siglip2"), kind="contrastive", pad_to_context=True),
):
    families.add(_row.name, _row)


def family_of(model_type: str) -> Family:
    """The row that names this `model_type`; `GENERIC` where none does."""
    return next((row for row in map(families.get, families) if model_type in row.model_types), GENERIC)
