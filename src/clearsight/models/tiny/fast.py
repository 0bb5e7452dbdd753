"""Forward passes for training: the numbers of the stock model, arranged for rows of packed tokens on a CPU.

The stock tower attends image by image; here all images have 64 patches and go through as one batch. The stock
decoder's mask cannot say that several questions share one image; here it can. Both are compared with the
stock model in the tests.

Legend: B rows, L tokens, I images, P patches, D width, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import rotate_half
from transformers.vision_utils import get_vision_position_ids


def vision_tokens(model: Qwen2VLForConditionalGeneration, patches_IPD: Tensor) -> Tensor:
    """Image tokens (I, 16, text width) of images cut by :func:`recipe.patches`."""
    tower = model.model.visual
    images, patches = patches_IPD.shape[:2]
    weight = tower.patch_embed.proj.weight
    hidden = linear(patches_IPD.to(weight.dtype), weight.flatten(1))
    grid = torch.tensor([[1, 8, 8]], device=hidden.device)
    positions = get_vision_position_ids(grid, tower.spatial_merge_size)
    cos, sin = (t.to(hidden.dtype)[None, :, None, :] for t in tower.rotary_pos_emb(hidden, positions))
    for block in tower.blocks:
        hidden = vision_block(block, hidden, cos, sin)
    return tower.merger(hidden.reshape(images * patches, -1)).view(
        images, -1, model.config.text_config.hidden_size
    )


def vision_block(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One layer of the tower, every patch seeing the patches of its image."""
    attention = block.attn
    images, patches, _ = hidden.shape
    q, k, v = attention.qkv(block.norm1(hidden)).view(images, patches, 3, attention.num_heads, -1).unbind(2)
    q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
    mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), None)
    hidden = hidden + attention.proj(mixed)
    return hidden + block.mlp(block.norm2(hidden))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention of (B, H, L, d) by two plain batched products: on a CPU faster than the fused
    kernel's
    backward pass. ``mask`` is added to the scores, (B, 1, L, L). Returns (B, L, H*d)."""
    batch, heads, length, width = q.shape
    scores = torch.matmul(q * width**-0.5, k.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    mixed = torch.matmul(torch.softmax(scores, dim=-1), v)
    return mixed.transpose(1, 2).reshape(batch, length, heads * width)


def hidden_states(
    model: Qwen2VLForConditionalGeneration,
    ids_BL: Tensor,
    positions_3BL: Tensor,
    mask_B1LL: Tensor,
    image_at: Tensor,
    patches_IPD: Tensor,
) -> Tensor:
    """Final-norm hidden states (B, L, D) of packed rows.

    Args:
        ids_BL: token ids.
        positions_3BL: M-RoPE positions (time, height, width).
        mask_B1LL: added to the scores: 0 where a token may look, a large negative number elsewhere.
        image_at: indices of image tokens in the flattened (B*L) rows, in the order of the images.
        patches_IPD: the images' patches; rows beyond the images named by ``image_at`` are padding.
    """
    text = model.model.language_model
    hidden = text.embed_tokens(ids_BL)
    if len(image_at):
        flat = vision_tokens(model, patches_IPD).flatten(0, 1)[: len(image_at)].to(hidden.dtype)
        hidden = hidden.flatten(0, 1).index_copy(0, image_at, flat).view_as(hidden)
    cos, sin = (t[:, None].to(hidden.dtype) for t in text.rotary_emb(hidden, positions_3BL))
    for layer in text.layers:
        hidden = decoder_layer(layer, hidden, cos, sin, mask_B1LL)
    return _norm(text.norm, hidden)


def _norm(module: Any, x: Tensor) -> Tensor:
    return rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)


def decoder_layer(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
    """One decoder layer."""
    batch, length, _ = hidden.shape
    part = layer.self_attn
    x = _norm(layer.input_layernorm, hidden)
    q = part.q_proj(x).view(batch, length, -1, part.head_dim).transpose(1, 2)
    k = part.k_proj(x).view(batch, length, -1, part.head_dim).transpose(1, 2)
    v = part.v_proj(x).view(batch, length, -1, part.head_dim).transpose(1, 2)
    q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
    k, v = (t.repeat_interleave(part.num_key_value_groups, dim=1) for t in (k, v))
    hidden = hidden + part.o_proj(attend(q, k, v, mask))
    return hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))


def visibility(document_BL: Tensor, branch_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask (B, 1, L, L): a token sees earlier tokens of its document's shared prefix (branch 0)
    and of
    its own branch. Every token sees itself."""
    length = document_BL.shape[1]
    same_document = document_BL[:, :, None] == document_BL[:, None, :]
    same_branch = (branch_BL[:, :, None] == branch_BL[:, None, :]) | (branch_BL[:, None, :] == 0)
    causal = torch.ones(length, length, dtype=torch.bool, device=document_BL.device).tril()
    seen = same_document & same_branch & causal
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -3e4)[:, None]
