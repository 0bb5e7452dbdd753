"""Complete folders of tiny random models, one builder for each family: nothing is downloaded.

A folder holds what a user's folder holds: config, float32 weights, a byte-level BPE tokenizer with the
family's special tokens (LLaVA, SigLIP: the SentencePiece form), the settings of the PIL image processor, and
the family's chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WIDTH = 32
TOWER = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CORPUS = (
    "a red square above a small blue circle",
    "Summarize the above image and sentence in one word: ",
    "Summarize the above image with the question in one word: ",
    "user system assistant You are a helpful assistant.",
    "Represent the given text/image in one word.",
    "what colour is the large triangle? green or yellow",
)

LETTERS = ["▁", *sorted(set("".join(CORPUS)) - {" "}), "\n"]

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_PLAIN = CHATML.replace(
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    "",
)
VICUNA = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
INTERNVL = CHATML_PLAIN.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")


def byte_tokenizer(
    specials: Sequence[str], roles: dict[str, Any], *, template: str | None = None, bos: bool = False
) -> Any:
    """Byte-level BPE with a few merges; `roles`: the named special tokens (bos_token, image_token, ...)."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    return _finish(core, specials, roles, template, bos)


def metaspace_tokenizer(
    specials: Sequence[str], roles: dict[str, Any], *, template: str | None = None
) -> Any:
    """SentencePiece-like BPE with byte fallback: a space is prepended only at the very start of the text."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {piece: i for i, piece in enumerate([*pieces, *LETTERS, "▁a", "▁th", "th", "▁the"])}
    merges = [("▁", "a"), ("t", "h"), ("▁", "th"), ("▁th", "e")]
    core = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finish(core, specials, roles, template, bos=True)


def _finish(
    core: Tokenizer, specials: Sequence[str], roles: dict[str, Any], template: str | None, bos: bool
) -> Any:
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    if bos:
        token = roles["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{token} $A",
            pair=f"{token} $A {token} $B",
            special_tokens=[(token, core.token_to_id(token))],
        )
    named = {
        k: v
        for k, v in roles.items()
        if k in ("bos_token", "eos_token", "pad_token", "sep_token", "unk_token")
    }
    extra = {k: v for k, v in roles.items() if k not in named}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, extra_special_tokens=extra, **named)
    tokenizer.chat_template = template
    return tokenizer


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights of the size a trained model has, norms included, so that a wrong input moves the output far."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(noise * 0.1)


def save(
    folder: Path,
    config: Any,
    tokenizer: Any,
    image_processor: Any,
    *,
    seed: int,
    processor: dict[str, Any] | None = None,
    model_class: str | None = None,
) -> Path:
    """Write the folder in the layout of a hub checkpoint."""
    model = getattr(transformers, model_class or config.architectures[0])(config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    if processor is not None:
        (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def text_config(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        **more,
    }


QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def _qwen(kind: str, folder: Path, seed: int, vision: dict[str, Any], **text: Any) -> Path:
    tokenizer = byte_tokenizer(
        QWEN_TOKENS, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, template=CHATML
    )
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    config = getattr(transformers, f"{kind}Config")(
        text_config=text_config(len(tokenizer), rope_parameters=rope, **text),
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 8, "temporal_patch_size": 2, **vision},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        architectures=[f"{kind}ForConditionalGeneration"],
    )
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 1024, "longest_edge": 4096}
    )
    return save(
        folder, config, tokenizer, images, seed=seed, processor={"processor_class": f"{kind}Processor"}
    )


def qwen2_vl(
    folder: Path, seed: int = 0, *, width: int = WIDTH, layers: int = 2, vocabulary: int | None = None
) -> Path:
    """Qwen2-VL; `width=640, layers=12, vocabulary=32000` has 109 M parameters."""
    big: dict[str, Any] = {}
    vision = {"embed_dim": WIDTH, "hidden_size": width, "mlp_ratio": 2}
    if width != WIDTH:
        heads = width // 64
        big = {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": heads,
            "head_dim": 64,
            "num_key_value_heads": heads,
            "max_position_embeddings": 32768,
        }
        vision = {
            "embed_dim": width // 2,
            "hidden_size": width,
            "mlp_ratio": 4,
            "num_heads": heads // 2,
            "depth": layers // 2,
        }
    if vocabulary is not None:
        big["vocab_size"] = vocabulary
    return _qwen("Qwen2VL", folder, seed, vision, num_hidden_layers=layers, **big)


def qwen2_5_vl(folder: Path, seed: int = 0) -> Path:
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "out_hidden_size": WIDTH,
        "window_size": 32,
        "fullatt_block_indexes": [1],
    }
    return _qwen("Qwen2_5_VL", folder, seed, vision)


def qwen3_vl(folder: Path, seed: int = 0) -> Path:
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    return _qwen("Qwen3VL", folder, seed, vision)


def paligemma2(folder: Path, seed: int = 0) -> Path:
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "image_token": "<image>"}
    tokenizer = byte_tokenizer(["<pad>", "<eos>", "<bos>", "<image>"], roles, bos=True)
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.PaliGemmaConfig(
        # The processor adds 1152 location tokens to the tokenizer.
        text_config={
            "model_type": "gemma2",
            **text_config(len(tokenizer) + 1152),
            "query_pre_attn_scalar": 16,
        },
        vision_config={**TOWER, "image_size": 32, "patch_size": 8, "projection_dim": WIDTH},
        image_token_index=image_token_id,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        architectures=["PaliGemmaForConditionalGeneration"],
    )
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    return save(
        folder, config, tokenizer, images, seed=seed, processor={"processor_class": "PaliGemmaProcessor"}
    )


def chameleon(folder: Path, seed: int = 0) -> Path:
    codes = [f"IMGIMG{''.join('ABCDEFGHIJ'[int(d)] for d in str(i))}Z" for i in range(16)]
    specials = ["<s>", "</s>", "<pad>", "<reserved08706>", "<image>", "<racm3:break>", "<eoss>", *codes]
    roles = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "sep_token": "<reserved08706>",
        "image_token": "<image>",
        "boi_token": "<racm3:break>",
        "eoi_token": "<eoss>",
    }
    tokenizer = byte_tokenizer(specials, roles, bos=True)
    text = text_config(len(tokenizer))
    text.pop("head_dim")
    config = transformers.ChameleonConfig(
        **text,
        vocabulary_map=tokenizer.get_vocab(),
        architectures=["ChameleonForConditionalGeneration"],
        vq_config={
            "embed_dim": 16,
            "num_embeddings": 16,
            "latent_channels": 16,
            "resolution": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 1,
        },
    )
    images = transformers.ChameleonImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    settings = {"processor_class": "ChameleonProcessor", "image_seq_length": 16, "image_token": "<image>"}
    return save(folder, config, tokenizer, images, seed=seed, processor=settings)


LLAVA_ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "image_token": "<image>",
}
LLAVA_TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": WIDTH,
}


def _llava(kind: str, folder: Path, seed: int, images: Any, **more: Any) -> Path:
    tokenizer = metaspace_tokenizer(
        ["<unk>", "<s>", "</s>", "<image>", "<pad>"], LLAVA_ROLES, template=VICUNA
    )
    config = getattr(transformers, f"{kind}Config")(
        text_config={"model_type": "llama", **text_config(len(tokenizer))},
        vision_config=LLAVA_TOWER,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        architectures=[f"{kind}ForConditionalGeneration"],
        **more,
    )
    settings = {
        "processor_class": f"{kind}Processor",
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
    }
    return save(folder, config, tokenizer, images, seed=seed, processor=settings)


def llava(folder: Path, seed: int = 0) -> Path:
    images = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return _llava("Llava", folder, seed, images, image_seq_length=16)


def llava_next(folder: Path, seed: int = 0) -> Path:
    grid = [[32, 64], [64, 32], [64, 64]]
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grid
    )
    return _llava("LlavaNext", folder, seed, images, image_grid_pinpoints=grid)


def _idefics(kind: str, folder: Path, seed: int) -> Path:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    specials = [
        "<|im_start|>",
        "<end_of_utterance>",
        "<pad>",
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
        *rows,
    ]
    roles = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<pad>"}
    tokenizer = byte_tokenizer(specials, roles, template=IDEFICS)
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            "model_type": "llama",
            **text_config(len(tokenizer), pad_token_id=tokenizer.pad_token_id),
        },
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        architectures=[f"{kind}ForConditionalGeneration"],
    )
    images = getattr(transformers, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    settings = {"processor_class": f"{kind}Processor", "image_seq_len": 4}
    return save(folder, config, tokenizer, images, seed=seed, processor=settings)


def idefics3(folder: Path, seed: int = 0) -> Path:
    return _idefics("Idefics3", folder, seed)


def smolvlm(folder: Path, seed: int = 0) -> Path:
    return _idefics("SmolVLM", folder, seed)


def gemma3(folder: Path, seed: int = 0) -> Path:
    specials = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    ]
    roles = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = byte_tokenizer(specials, roles, template=GEMMA, bos=True)
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Gemma3Config(
        text_config=text_config(
            len(tokenizer),
            sliding_window=16,
            query_pre_attn_scalar=16,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        mm_tokens_per_image=4,
        image_token_index=ids("<image_soft_token>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        architectures=["Gemma3ForConditionalGeneration"],
    )
    images = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    settings = {"processor_class": "Gemma3Processor", "image_seq_length": 4}
    return save(folder, config, tokenizer, images, seed=seed, processor=settings)


def internvl(folder: Path, seed: int = 0) -> Path:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    roles = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = byte_tokenizer(specials, roles, template=INTERNVL)
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **text_config(len(tokenizer))},
        vision_config={**TOWER, "image_size": [32, 32], "patch_size": [8, 8]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        architectures=["InternVLForConditionalGeneration"],
    )
    images = transformers.GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=3
    )
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    return save(folder, config, tokenizer, images, seed=seed, processor=settings)


def clip(folder: Path, seed: int = 0) -> Path:
    roles = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    tokenizer = byte_tokenizer(["<|startoftext|>", "<|endoftext|>"], roles)
    bos, eos = tokenizer.convert_tokens_to_ids(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", bos), ("<|endoftext|>", eos)],
    )
    config = transformers.CLIPConfig(
        text_config={
            **TOWER,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": eos,
        },
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        projection_dim=24,
        architectures=["CLIPModel"],
    )
    images = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return save(folder, config, tokenizer, images, seed=seed)


def siglip2(folder: Path, seed: int = 0) -> Path:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS, "th", "the"]
    tokenizer = transformers.Siglip2Tokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=[("t", "h"), ("th", "e")],
        padding_side="right",
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", pieces.index("<eos>"))]
    )
    config = transformers.Siglip2Config(
        text_config={
            **TOWER,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "projection_size": WIDTH,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        vision_config={**TOWER, "num_patches": 16, "patch_size": 8},
        architectures=["Siglip2Model"],
    )
    images = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    return save(folder, config, tokenizer, images, seed=seed)


GENERATIVE: dict[str, Callable[[Path], Path]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "paligemma": paligemma2,
    "chameleon": chameleon,
    "llava": llava,
    "llava_next": llava_next,
    "smolvlm": smolvlm,
}
GENERIC: dict[str, Callable[[Path], Path]] = {"idefics3": idefics3, "gemma3": gemma3, "internvl": internvl}
CONTRASTIVE: dict[str, Callable[[Path], Path]] = {"clip": clip, "siglip2": siglip2}
BUILDERS = {**GENERATIVE, **GENERIC, **CONTRASTIVE}
