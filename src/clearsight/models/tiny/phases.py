"""The phases of training: their data, their losses, and the modules that they learn.

Legend: I images, L tokens of a caption.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from clearsight.data.scenes import COLORS, SHAPES, SIZES, TEXTURES, TINTS, Scene, draw, random_scene
from clearsight.data.scenes_text import caption
from clearsight.models.tiny import fast, forms, recipe
from clearsight.models.tiny.pack import Packer
from clearsight.models.tiny.recipe import IMAGE_TOKENS, Recipe
from clearsight.sae.steps.select import multiplies_bfloat16

PHASES = ("warmup", "joint", "control", "focus")


# ------------------------------------------------------------------------------------------------------ data
def _rng(seed: int, phase: str, step: int) -> np.random.Generator:
    """The generator of a step's data; ``step`` counts the batches of all replicas."""
    return np.random.default_rng([seed, PHASES.index(phase), step])


_CELL_OF_TOKEN = tuple(3 * (0, 1, 1, 2)[t // 4] + (0, 1, 1, 2)[t % 4] for t in range(IMAGE_TOKENS))
_HEADS = {
    "shape": len(SHAPES) + 1,
    "color": len(COLORS) + 1,
    "size": len(SIZES) + 1,
    "token": IMAGE_TOKENS,
    "tint": len(TINTS),
    "texture": len(TEXTURES),
}
"""What each image token must tell in the warm-up: the object of its cell, its own place, and the background.
"""


def dense_labels(scene: Scene) -> np.ndarray:
    """(16, 6) class numbers for the heads; 0 stands for an empty cell."""
    cells = {
        t.place: (SHAPES.index(t.shape) + 1, list(COLORS).index(t.color) + 1, list(SIZES).index(t.size) + 1)
        for t in scene.things
    }
    tint, texture = list(TINTS).index(scene.tint), TEXTURES.index(scene.texture)
    return np.array(
        [(*cells.get(cell, (0, 0, 0)), token, tint, texture) for token, cell in enumerate(_CELL_OF_TOKEN)]
    )


def warmup_batch(plan: Recipe, tokenizer: Any, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches (I, 64, 384) and labels (I, 16, 6) of one step."""
    rng = _rng(plan.seed, "warmup", step)
    scenes = [random_scene(rng, "train") for _ in range(plan.warmup_images)]
    images = np.stack([np.asarray(draw(s, rng)) for s in scenes])
    return recipe.patches(images), np.stack([dense_labels(s) for s in scenes])


def joint_batch(plan: Recipe, tokenizer: Any, step: int) -> forms.Packed:
    """Packed rows of one step."""
    return _packed(plan, tokenizer, _rng(plan.seed, "joint", step), forms.JOINT)


def focus_batch(plan: Recipe, tokenizer: Any, step: int) -> forms.Packed:
    """Packed rows of one step."""
    return _packed(plan, tokenizer, _rng(plan.seed, "focus", step), forms.FOCUS)


def _packed(plan: Recipe, tokenizer: Any, rng: np.random.Generator, diet: forms.Diet) -> forms.Packed:
    packer = Packer(tokenizer, plan.joint_rows, plan.row_tokens)
    return packer.fill(lambda: forms.document(rng, diet))


def control_batch(plan: Recipe, tokenizer: Any, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (I, 3, 64, 64), caption ids and mask (I, L) of one step; every scene occurs once."""
    rng = _rng(plan.seed, "control", step)
    scenes: dict[str, Scene] = {}
    while len(scenes) < plan.control_images:
        scene = random_scene(rng, "train")
        scenes[scene.key] = scene
    texts = [caption(s, rng) for s in scenes.values()]
    # A fixed length: a CPU pays for every new matrix shape. Short captions have at most 50 tokens.
    coded = tokenizer(texts, padding="max_length", truncation=True, max_length=52, return_tensors="np")
    images = np.stack([np.asarray(draw(s, rng)) for s in scenes.values()])
    return recipe.normalised(images).transpose(0, 3, 1, 2), coded["input_ids"], coded["attention_mask"]


BATCHES: dict[str, Callable[[Recipe, Any, int], Any]] = {
    "warmup": warmup_batch,
    "joint": joint_batch,
    "focus": focus_batch,
    "control": control_batch,
}


# ---------------------------------------------------------------------------------------------------- losses
def warmup_loss(model: Any, heads: nn.Linear, batch: Any, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the dense heads, averaged over heads, images and tokens, and the share right of each
    head.
    """
    patches, labels = (torch.from_numpy(x).to(device) for x in batch)
    told = heads(fast.vision_tokens(model, patches.to(model.dtype))).float()
    losses, right, start = [], {}, 0
    for i, (name, classes) in enumerate(_HEADS.items()):
        part = told[..., start : start + classes]
        losses.append(cross_entropy(part.flatten(0, 1), labels[..., i].flatten()))
        right[name] = (part.argmax(-1) == labels[..., i]).float().mean().detach()
        start += classes
    return torch.stack(losses).mean(), right


def joint_loss(model: Any, batch: forms.Packed, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted next-token cross-entropy at the targets."""
    on = {name: torch.from_numpy(value).to(device) for name, value in vars(batch).items()}
    mask = fast.visibility(on["document_BL"], on["branch_BL"], model.dtype)
    hidden = fast.hidden_states(
        model, on["ids_BL"], on["positions_3BL"], mask, on["image_at"], on["images"].to(model.dtype)
    )
    logits = linear(hidden.flatten(0, 1)[on["at_T"]], model.lm_head.weight).float()
    losses = cross_entropy(logits, on["target_T"], reduction="none")
    caption_token = on["weight_T"] == 1.0
    short = on["weight_T"] > 1.0
    return (losses * on["weight_T"]).sum() / on["weight_T"].sum(), {
        "caption": losses[caption_token].mean().detach(),
        "short": losses[short].mean().detach(),
    }


def control_loss(model: Any, batch: Any, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Symmetric InfoNCE over the batch."""
    pixels, ids, mask = (torch.from_numpy(x).to(device) for x in batch)
    out = model(input_ids=ids, attention_mask=mask, pixel_values=pixels.to(model.dtype))
    logits = out.logits_per_image.float()
    own = torch.arange(len(logits), device=device)
    loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    return loss, {"hit@1": (logits.argmax(1) == own).float().mean().detach()}


LOSSES: dict[str, Callable[[list[Any], Any, str], tuple[Tensor, dict[str, Tensor]]]] = {
    "warmup": lambda modules, batch, device: warmup_loss(modules[0], modules[1], batch, device),
    "joint": lambda modules, batch, device: joint_loss(modules[0], batch, device),
    "focus": lambda modules, batch, device: joint_loss(modules[0], batch, device),
    "control": lambda modules, batch, device: control_loss(modules[0], batch, device),
}


# --- modules
def working_dtype(device: str) -> torch.dtype:
    """bfloat16, but for a CPU without instructions for it, where float32 is 20 times as fast."""
    return torch.float32 if device == "cpu" and not multiplies_bfloat16() else torch.bfloat16


def moved(module: nn.Module, device: str) -> nn.Module:
    """The module on the device in its working dtype; rotary frequencies stay float32, as stock loading keeps
    them.
    """
    buffers = {name: b.clone() for name, b in module.named_buffers() if name.endswith("inv_freq")}
    module.to(device=device, dtype=working_dtype(device))
    for name, buffer in buffers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, buffer.to(device))
    return module


def compiles(device: str) -> bool:
    """Whether layers can be compiled: about a third faster on a CPU, the same numbers to rounding."""
    return device != "cpu" or shutil.which("g++") is not None


def build(phase: str, plan: Recipe, tokenizer: Any, device: str, compiled: bool = False) -> list[nn.Module]:
    """Freshly seeded modules of a phase: those its loss is a function of."""
    torch.manual_seed(plan.seed + (phase == "control"))
    if phase == "control":
        return [_quick(moved(recipe.new_control(tokenizer), device), compiled)]
    generator: Any = moved(recipe.new_generator(tokenizer), device)
    if phase in ("joint", "focus"):
        return [generator]
    heads = nn.Linear(generator.config.text_config.hidden_size, sum(_HEADS.values())).to(
        device, working_dtype(device)
    )
    return [generator, heads]


def _quick(control: Any, compiled: bool) -> Any:
    """The contrastive model with plain attention and, if asked for, compiled layers."""
    control.set_attn_implementation("eager")
    if compiled:
        for tower in (control.text_model, control.vision_model):
            for layer in tower.encoder.layers:
                layer.forward = torch.compile(layer.forward, dynamic=False)
    return control


def trained(phase: str, modules: list[Any]) -> list[nn.Module]:
    """The modules whose parameters the phase learns: the warm-up leaves the language model alone."""
    return [modules[0].model.visual, modules[1]] if phase == "warmup" else modules
