"""The shipped models: stock classes load them, they do what their cards say, training is what it claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Qwen2VLForConditionalGeneration

from clearsight.data import world
from clearsight.data.scenes import Scene, draw, random_scene
from clearsight.data.scenes_read import consistent
from clearsight.data.scenes_text import caption, contradiction, question
from clearsight.models.tiny import SHIPPED, fast, forms, pack, phases, recipe, score
from clearsight.models.tiny.forms import Branch, Document
from clearsight.models.tiny.measure import take
from clearsight.models.tiny.replicas import Flat, Optimiser

GENERATOR, CONTROL = SHIPPED["tiny"], SHIPPED["tiny-contrastive"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(GENERATOR)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return Qwen2VLForConditionalGeneration.from_pretrained(GENERATOR, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def control() -> Any:
    return CLIPModel.from_pretrained(CONTROL, dtype=torch.float32).eval()


def stock_inputs(tokenizer: Any, images: list[Any], prompt: str, answer: str = "") -> dict[str, Any]:
    """Inputs of the stock model for one prompt over many images, as its users build them."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * recipe.IMAGE_TOKENS) + answer
    ids = tokenizer([text] * len(images), return_tensors="pt").input_ids
    pixels = AutoImageProcessor.from_pretrained(GENERATOR)(images, return_tensors="pt")
    kinds = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds, **pixels}


# --------------------------------------------------------------------------------------------------- folders
def test_both_models_fit_into_ten_megabytes_of_bfloat16() -> None:
    total = 0
    for folder in (GENERATOR, CONTROL):
        file = folder / "model.safetensors"
        total += file.stat().st_size
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118
    assert total <= 10e6


@pytest.mark.parametrize("folder", [GENERATOR, CONTROL])
def test_folders_are_complete_and_the_card_states_the_scores(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for needed in (
        "license: apache-2.0",
        "## Data",
        "## Recipe",
        "## Scores",
        "## What it cannot do",
        "seed",
    ):
        assert needed in card
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (folder / name).is_file()


def test_scores_say_how_they_were_made() -> None:
    scores = json.loads((GENERATOR.parent / "scores.json").read_text())
    assert scores["scenes"] == 2000
    for needed in ("command", "seed", "seconds", "torch", "captions", "questions", "matching", "control"):
        assert needed in scores


def test_chat_template_has_no_system_turn_of_its_own(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}]
    plain = tokenizer.apply_chat_template(turns, tokenize=False)
    assert plain == "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi<|im_end|>\n"
    system = [{"role": "system", "content": "Be brief."}, *turns]
    assert tokenizer.apply_chat_template(system, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n" + plain + "<|im_start|>assistant\n"
    )


# ----------------------------------------------------------------------- training speaks the template
def test_patches_equal_the_image_processor() -> None:
    rng = np.random.default_rng(0)
    images = [draw(random_scene(rng), rng) for _ in range(4)]
    stock = recipe.image_processor()(images, return_tensors="np")
    fast_patches = recipe.patches(np.stack([np.asarray(image) for image in images]))
    assert stock["image_grid_thw"].tolist() == [[1, 8, 8]] * 4
    np.testing.assert_allclose(
        fast_patches.reshape(-1, fast_patches.shape[-1]), stock["pixel_values"], atol=1e-5
    )


def test_documents_read_like_the_chat_template(tokenizer: Any) -> None:
    rng = np.random.default_rng(1)
    packer = pack.Packer(tokenizer, 1, 1)
    for make in (forms.image_document, forms.text_document, forms.hierarchical_document) * 5:
        document = make(rng, forms.FOCUS)
        laid = pack.lay(document, forms.encode(tokenizer, pack.texts_of(document)), packer.first,
                        packer.image_id, 1 << 30)  # fmt: skip
        assert laid is not None
        for number, branch in enumerate(document.branches, 1):
            content = [{"type": "image"}] if document.image is not None else []
            content.append({"type": "text", "text": document.content + branch.prompt})
            turns = [{"role": "user", "content": content}]
            if document.system:
                turns.insert(0, {"role": "system", "content": document.system})
            text = (
                tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
                + branch.answer
            )
            wanted = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * recipe.IMAGE_TOKENS)).input_ids
            got = [token for token, b in zip(laid.ids, laid.branch, strict=True) if b in (0, number)]
            assert got == wanted


def _caption(scene: Scene, rng: np.random.Generator) -> Branch:
    return Branch("Describe the image.", caption(scene, rng))


def test_packed_likelihoods_equal_the_stock_model(model: Any, tokenizer: Any) -> None:
    rng = np.random.default_rng(2)
    scenes = world.scenes(3)
    documents = [
        Document("", tuple(_caption(scene, rng) for _ in range(3)), image=np.asarray(draw(scene)))
        for scene in scenes
    ]
    told = take(model, tokenizer, documents)
    for scene, document, answers in zip(scenes, documents, told, strict=True):
        for branch, answer in zip(document.branches, answers, strict=True):
            ended = branch.answer + "<|im_end|>"
            inputs = stock_inputs(tokenizer, [draw(scene)], branch.prompt, ended)
            with torch.inference_mode():
                log_p = model(**inputs).logits.log_softmax(-1)[0]
            count = len(tokenizer(ended).input_ids)
            target = inputs["input_ids"][0, -count:]
            stock = float(log_p[-count - 1 : -1].gather(1, target[:, None]).sum())
            assert answer.log_p == pytest.approx(stock, abs=2e-3)


def test_tower_equals_the_stock_tower(model: Any) -> None:
    rng = np.random.default_rng(3)
    pixels = torch.from_numpy(
        recipe.patches(np.stack([np.asarray(draw(random_scene(rng))) for _ in range(3)]))
    )
    with torch.inference_mode():
        stock = model.model.visual(pixels.flatten(0, 1), grid_thw=torch.tensor([[1, 8, 8]] * 3)).pooler_output
        torch.testing.assert_close(
            fast.vision_tokens(model, pixels).flatten(0, 1), stock, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("processes", [1, 2])
def test_flat_optimiser_equals_adamw(processes: int) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    twin = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    twin.load_state_dict(net.state_dict())
    flat = Flat.of([net], processes)
    flat.work_P = flat.master_P  # float32 throughout, so that the two can be compared closely
    parameters = flat.attach([net])
    ranks = [Optimiser(flat, parameters, rank, None, 20, 1e-2, 0.05) for rank in range(processes)]
    groups = [{"params": [p for p in twin.parameters() if p.ndim > 1], "weight_decay": 0.05},
              {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0}]  # fmt: skip
    adam = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98))
    for step in range(4):
        given = [[torch.randn(p.shape) for p in parameters] for _ in range(processes)]
        mean = [sum(parts) / processes for parts in zip(*given, strict=True)]
        for p, gradient in zip(twin.parameters(), mean, strict=True):
            p.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = ranks[0].rate_at(step)
        adam.step()
        for rank in range(processes):
            flat.grads[rank] = torch.cat([g.flatten() for g in given[rank]])
        # Without a barrier the ranks are stepped in turn through the phases that they would meet at.
        stepped = [rank.reduce(processes) for rank in ranks]
        for rank, gradient in zip(ranks, stepped, strict=True):
            rank.apply(gradient, step)
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)


def test_training_never_shows_a_held_out_scene() -> None:
    rng = np.random.default_rng(4)
    documents = [forms.document(rng, diet) for diet in (forms.JOINT, forms.FOCUS) for _ in range(150)]
    assert not any(document.scene is None or document.scene.held_out for document in documents)


def test_data_of_a_step_depends_on_nothing_else(tokenizer: Any) -> None:
    plan = recipe.Recipe(joint_rows=3)
    one, two, other = (phases.joint_batch(plan, tokenizer, step) for step in (5, 5, 6))
    assert one.ids_BL.tobytes() == two.ids_BL.tobytes()
    assert one.ids_BL.tobytes() != other.ids_BL.tobytes()


# ------------------------------------------------------------------------------------ what they can
def test_stock_generation_describes_scenes(model: Any, tokenizer: Any) -> None:
    scenes = world.scenes(40)
    inputs = stock_inputs(tokenizer, [draw(scene) for scene in scenes], "Describe the image.")
    written = model.generate(**inputs, max_new_tokens=64)[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    assert np.mean([consistent(text, scene) for text, scene in zip(texts, scenes, strict=True)]) >= 0.8


def test_true_captions_are_likelier_than_false_ones(model: Any, tokenizer: Any) -> None:
    rng = np.random.default_rng(5)
    documents = []
    for scene in world.scenes(40):
        texts = (caption(scene, rng), contradiction(scene, rng)[0])
        questions = tuple(
            Branch(forms.TRUE_FALSE.format(what="image", caption=text.rstrip(".")), "True", words=("False",))
            for text in texts
        )
        asked = tuple(
            Branch(q.text, q.answer) for q in (question(scene, rng, "count"), question(scene, rng, "tint"))
        )
        documents.append(Document("", questions + asked, image=np.asarray(draw(scene))))
    told = take(model, tokenizer, documents)
    margins = np.array([[answer.first - answer.words[0] for answer in one[:2]] for one in told])
    assert (margins[:, 0] > margins[:, 1]).mean() > 0.85
    assert np.mean([answer.greedy for one in told for answer in one[2:]]) > 0.9


def test_scores_of_a_diagonal() -> None:
    scores = np.array([[3.0, 1, 2], [5, 4, 4], [0, 0, 0]])
    # Ranks of the diagonal with ties against it: 1, 3, 3.
    assert score.hits(scores) == [pytest.approx(100 / 3), 100, 100]


def test_control_pools_at_the_end_token(control: Any) -> None:
    words = AutoTokenizer.from_pretrained(CONTROL)
    texts = [item.text or "" for item in world.texts(4)]
    padded = words(texts, padding="max_length", max_length=90, return_tensors="pt")
    assert (padded.input_ids == words.eos_token_id).sum(1).tolist() == [1] * 4
    with torch.inference_mode():
        together = control.get_text_features(**padded).pooler_output
        for text, row in zip(texts, together, strict=True):
            alone = control.get_text_features(**words([text], return_tensors="pt")).pooler_output[0]
            torch.testing.assert_close(alone, row, atol=1e-4, rtol=1e-4)


def test_control_retrieves(control: Any) -> None:
    words, processor = AutoTokenizer.from_pretrained(CONTROL), AutoImageProcessor.from_pretrained(CONTROL)
    task = world.image_to_text(100)
    with torch.inference_mode():
        images = control.get_image_features(**processor([q.image for q in task.queries], return_tensors="pt"))
        texts = control.get_text_features(
            **words([c.text for c in task.candidates], padding=True, return_tensors="pt")
        )
    rates = score.both_ways(images.pooler_output.numpy(), texts.pooler_output.numpy())
    assert rates["i2t"][2] > 50
    assert rates["t2i"][2] > 50


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    from clearsight.models.tiny.train import train

    plan = recipe.Recipe(
        warmup_steps=2,
        joint_steps=2,
        focus_steps=2,
        control_steps=2,
        warmup_images=4,
        joint_rows=2,
        control_images=4,
    )
    train(plan, tmp_path, "cpu")
    first = (tmp_path / "generator" / "model.safetensors").read_bytes()
    (tmp_path / "control.pt").unlink()
    train(plan, tmp_path, "cpu")
    assert (tmp_path / "generator" / "model.safetensors").read_bytes() == first
    assert json.loads((tmp_path / "run.json").read_text())["seconds"].keys() == {
        "warmup",
        "joint",
        "focus",
        "control",
    }
