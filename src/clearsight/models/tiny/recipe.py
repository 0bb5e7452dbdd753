"""The recipe of the two shipped models: sizes, steps, tokenizer, chat template."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from clearsight.data.scenes import SIDE

PATCH, MERGE, TEMPORAL = 8, 2, 2
IMAGE_TOKENS = (SIDE // (PATCH * MERGE)) ** 2
"""Image tokens of one 64x64 image in the language model: 16."""
VOCABULARY = 1024
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's template without its default system prompt: a system turn is there only where one is given."""


@dataclass(frozen=True)
class Recipe:
    """Fixed step counts and sizes of the run.

    A step averages the gradients of a fixed number of replicas; each sees ``*_rows`` rows or ``*_images``
    images.
    """

    seed: int = 0
    warmup_steps: int = 1500
    warmup_images: int = 64
    joint_steps: int = 7500
    joint_rows: int = 13
    row_tokens: int = 192
    focus_steps: int = 6500
    control_steps: int = 400
    control_images: int = 128
    rate: float = 1.3e-3
    focus_rate: float = 1.0e-3
    weight_decay: float = 0.05

    @property
    def replicas(self) -> dict[str, int]:
        """Replicas of each phase: as many processes on a CPU, worked through in turn on an accelerator."""
        return {"warmup": 1, "joint": 2, "focus": 2, "control": 2}

    def scaled(self, factor: float) -> Recipe:
        """The same recipe with every step count multiplied (at least two steps a phase)."""
        steps = {
            name: max(2, round(getattr(self, name) * factor))
            for name in ("warmup_steps", "joint_steps", "focus_steps", "control_steps")
        }
        return replace(self, **steps)


# ------------------------------------------------------------------------------------------------- tokenizer
def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most :data:`VOCABULARY` entries, Qwen's special tokens last."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - len(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    core.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def control_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same vocabulary for the contrastive model; a text becomes ``<|im_start|>text<|im_end|>``."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    ids = {name: core.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>")}
    core.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=list(ids.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTROL_TOKENS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


# ---------------------------------------------------------------------------------------------------- models
def generator_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """The shape of the generative model: a stock Qwen2-VL with five text layers and three vision layers."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": pad,
        "eos_token_id": end,
        "pad_token_id": pad,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
    }
    vision = {
        "depth": 3,
        "embed_dim": 128,
        "hidden_size": 192,
        "num_heads": 4,
        "mlp_ratio": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        bos_token_id=pad,
        eos_token_id=end,
        pad_token_id=pad,
    )


def new_generator(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLForConditionalGeneration:
    """A freshly initialised generative model (the caller seeds torch)."""
    model = Qwen2VLForConditionalGeneration(generator_config(tokenizer))
    made = model.generation_config
    made.update(
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        bos_token_id=model.config.bos_token_id,
        do_sample=False,
        max_new_tokens=128,
    )
    return model


def image_processor() -> Qwen2VLImageProcessorPil:
    """Images are brought to 64x64 pixels and cut into 16 image tokens."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=TEMPORAL,
    )


CONTROL_TOKENS, CONTROL_PATCH = 96, 16


def control_config(tokenizer: PreTrainedTokenizerFast) -> CLIPConfig:
    """The shape of the contrastive control: a stock CLIP with two small towers of three layers."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTROL_TOKENS,
        "projection_dim": 128,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>"),
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": CONTROL_PATCH,
        "projection_dim": 128,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)


def new_control(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """A freshly initialised contrastive model (the caller seeds torch)."""
    return CLIPModel(control_config(tokenizer))


def control_image_processor() -> CLIPImageProcessorPil:
    """Images are brought to 64x64 pixels."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


_MEAN_STD = (
    np.array(image_processor().image_mean, np.float32),
    np.array(image_processor().image_std, np.float32),
)


def normalised(images: np.ndarray) -> np.ndarray:
    """uint8 pixels (..., 3) -> float32 in units of CLIP's mean and deviation, which both image processors
    use.
    """
    mean, std = _MEAN_STD
    return (images.astype(np.float32) / 255.0 - mean) / std


def patches(images: np.ndarray) -> np.ndarray:
    """What Qwen2-VL's image processor makes of 64x64 images, for a whole batch at once.

    Args:
        images: uint8, (B, 64, 64, 3).

    Returns:
        float32, (B, 64, 384): patches in the merged order (2x2 blocks together), each channel, time, row,
        column.
    """
    x = normalised(images)
    batch, blocks = len(x), SIDE // (PATCH * MERGE)
    x = x.reshape(batch, blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # B, block row, block column, row, column, channel, y, x
    x = x.reshape(batch, (SIDE // PATCH) ** 2, 3, 1, PATCH, PATCH)
    return np.broadcast_to(x, (*x.shape[:3], TEMPORAL, PATCH, PATCH)).reshape(batch, x.shape[1], -1)
