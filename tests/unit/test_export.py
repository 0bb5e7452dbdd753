"""Exported folders: what is folded, what is refused, what is written, what the card says, what is pushed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from clearsight.errors import ClearsightError, DataError, UsageError
from clearsight.files import to_json
from clearsight.formats.sentence_transformers import Retriever, plan_folder
from clearsight.formats.sentence_transformers_folder import (
    EXPORT,
    VERIFY,
    export_facts,
    folder_digest,
    read_facts,
    write_export,
)
from clearsight.formats.sentence_transformers_repair import JOINT, heads_of
from clearsight.jobs.evaluate import EvaluateConfig, evaluate
from clearsight.jobs.export import ExportConfig, export
from clearsight.jobs.push import PushConfig, push
from clearsight.models.load import load_model
from clearsight.models.prompts import Rule, Template, get_template
from clearsight.pooling import poolings
from clearsight.repair import (
    Centre,
    Chain,
    PerGroup,
    RemoveTopComponents,
    SelfAlign,
    ShrinkageZCA,
    save_repair,
)
from clearsight.types import Embeddings
from families.build import BUILDERS


@pytest.fixture(scope="module")
def rows() -> Embeddings:
    random = np.random.default_rng(0)
    rows_ND = random.standard_normal((60, 8)) * np.geomspace(3, 0.1, 8) + 2
    one = Embeddings.of(
        [str(n) for n in range(60)], rows_ND, modality=["text"] * 20 + ["image"] * 20 + ["image+text"] * 20
    )
    return replace(one, side_N=np.array(["query", "candidate"] * 30))


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(BUILDERS["clip"](tmp_path_factory.mktemp("models") / "clip"))


def retriever(loaded: Any, prompt: str = "one_word", pooling: str = "mean", **more: Any) -> Retriever:
    return Retriever(loaded, get_template(prompt), poolings.get(pooling), **more)


def apply(layers: Any, rows_ND: np.ndarray) -> np.ndarray:
    """The modules as sentence-transformers runs them, naively, in float32."""
    out = rows_ND.astype(np.float32)
    for layer in layers:
        if layer.normalize:
            out = out / np.linalg.norm(out, axis=1, keepdims=True)
        out = out @ layer.affine.matrix_DE.astype(np.float32) + layer.affine.offset_E.astype(np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def unit(rows_ND: np.ndarray) -> np.ndarray:
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


# What is folded


@pytest.mark.parametrize(
    ("estimator", "by", "layers"),
    [
        (ShrinkageZCA(), "joint", 1),
        (ShrinkageZCA(normalize_input=False), "side", 1),
        (Chain([Centre(), RemoveTopComponents(2), ShrinkageZCA()]), "side", 1),
        (Chain([Centre(), ShrinkageZCA()], normalize_between=True), "modality", 2),
    ],
)
def test_folded_layers_are_the_repair(rows: Embeddings, estimator: Any, by: Any, layers: int) -> None:
    repair = PerGroup(estimator, by=by).fit(rows)
    heads = heads_of(repair)
    assert heads.by == {"joint": JOINT, "side": "role", "modality": "modality"}[by]
    labels = {"joint": None, "side": rows.side_N, "modality": rows.modality_N}[by]
    for key, chain in heads.layers.items():
        assert len(chain) == layers
        chosen = slice(None) if labels is None else labels == key
        repaired_ND = unit(repair.transform(rows).rows_ND[chosen])
        np.testing.assert_allclose(apply(chain, rows.rows_ND[chosen]), repaired_ND, atol=1e-5)


def test_self_alignment_is_by_modality_unless_each_side_has_one(rows: Embeddings) -> None:
    images, texts = (rows.take(rows.modality_N == kind) for kind in ("image", "text"))
    repair = PerGroup(SelfAlign(components=5)).fit_pairs(images, texts)
    assert heads_of(repair).by == "modality"
    assert heads_of(repair).width == 5
    by_role = heads_of(repair, queries="text", candidates="image+text")
    assert by_role.by == "role"
    expected_ND = unit(repair.transform(texts).rows_ND)
    np.testing.assert_allclose(apply(by_role.layers["query"], texts.rows_ND), expected_ND, atol=1e-5)
    expected_ND = unit(repair.transform(images).rows_ND)
    np.testing.assert_allclose(apply(by_role.layers["candidate"], images.rows_ND), expected_ND, atol=1e-5)
    assert heads_of(repair, queries="image", candidates="image+text").by == JOINT  # one map for both


def test_a_side_that_was_not_fitted_is_named(rows: Embeddings) -> None:
    repair = PerGroup(Centre(), by="side").fit(rows.take(rows.side_N == "candidate"))
    with pytest.raises(DataError, match="query"):
        heads_of(repair)


# What is refused


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pooling": "mean_no_image"}, "leaves out image tokens"),
        ({"pooling": "mean_no_prompt"}, "leaves out prompt tokens"),
        ({"pooling": "last_attention"}, "does not give out"),
    ],
)
def test_what_stock_modules_cannot_do_is_said(tiny: Any, options: dict, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        plan_folder(retriever(tiny, **options))
    assert "--remote-code" in str(caught.value)
    plan = plan_folder(retriever(tiny, **options), remote_code=True)
    assert plan.form == "remote code"
    assert plan.files["modules.json"][0]["type"] == "clearsight_modules.Transformer"


def test_a_repair_by_modality_names_the_way_out(tiny: Any, rows: Embeddings) -> None:
    repair = PerGroup(ShrinkageZCA(), by="modality").fit(rows)
    with pytest.raises(UsageError, match="--queries text --candidates image"):
        plan_folder(retriever(tiny, repair=repair))
    assert plan_folder(retriever(tiny, repair=repair, queries="text", candidates="image")).form == "stock"


def test_a_contrastive_model_has_no_words_behind_the_text(clip: Any) -> None:
    with pytest.raises(UsageError, match="--prompt plain"):
        plan_folder(retriever(clip, "one_word", "features"))
    plan = plan_folder(retriever(clip, "plain", "features"))
    assert (plan.form, plan.mixed_batches, plan.modalities) == ("stock", False, ("text", "image"))
    with pytest.raises(UsageError, match="image and text in one"):
        plan_folder(retriever(clip, "plain", "features", queries="image+text", candidates="image"))


def test_a_prefix_of_a_contrastive_model_is_a_prompt(clip: Any) -> None:
    prefixed = Template(
        "prefixed", "", (Rule(role=("query",), system="S", before="find: "), Rule(before="doc: "))
    )
    plan = plan_folder(Retriever(clip, prefixed, poolings.get("features")))
    settings = plan.files["config_sentence_transformers.json"]
    assert settings["prompts"] == {"query": "S\nfind: ", "document": "doc: "}
    assert settings["default_prompt_name"] == "document"


def test_code_of_its_own_that_no_form_can_carry(tmp_path: Path) -> None:
    paligemma = load_model(BUILDERS["paligemma"](tmp_path / "model"))
    with pytest.raises(UsageError, match="hides prompt tokens"):
        plan_folder(retriever(paligemma, pooling="mean_no_prompt"), remote_code=True)
    assert not plan_folder(retriever(paligemma)).mixed_batches


# What is written


def written(tiny: Any, folder: Path, **options: Any) -> Path:
    one = retriever(tiny, **options)
    plan = plan_folder(one, remote_code=True)
    return write_export(folder, one, plan, facts=export_facts(one, plan, {}), card="# card")


def test_weights_are_linked_and_types_are_the_older_names(
    tiny: Any, rows: Embeddings, tmp_path: Path
) -> None:
    wide = np.random.default_rng(1).standard_normal((40, 192)).astype(np.float32)
    both = Embeddings.of([str(n) for n in range(40)], wide)
    both = replace(both, side_N=np.array(["query", "candidate"] * 20))
    folder = written(tiny, tmp_path / "out", repair=PerGroup(ShrinkageZCA(), by="side").fit(both))
    weights = folder / "model.safetensors"
    source = Path(tiny.model.config.name_or_path) / "model.safetensors"
    assert weights.read_bytes() == source.read_bytes()
    if os.stat(source).st_dev == os.stat(weights).st_dev:
        assert os.stat(weights).st_ino == os.stat(source).st_ino
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"] for module in modules] == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Router")
    ]
    router = json.loads((folder / modules[2]["path"] / "router_config.json").read_text())
    assert router["parameters"]["default_route"] == "document"
    dense = router["structure"]["query"][1]
    tensors = load_file(folder / modules[2]["path"] / dense / "model.safetensors")
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        "linear.weight": (np.float32, (192, 192)),
        "linear.bias": (np.float32, (192,)),
    }
    assert not list(tmp_path.glob(".out*"))
    assert not list(folder.rglob("*.py"))


def test_the_code_comes_with_a_folder_that_needs_it(tiny: Any, tmp_path: Path) -> None:
    folder = written(tiny, tmp_path / "out", pooling="mean_no_image")
    code = (folder / "clearsight_modules.py").read_text()
    assert "import clearsight" not in code
    assert "from clearsight" not in code


def test_nothing_is_replaced_unasked(tiny: Any, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="no export"):
            export(ExportConfig("tiny", out=taken, overwrite=overwrite))
    folder = tmp_path / "out"
    export(ExportConfig("tiny", out=folder, prompt="plain"))
    with pytest.raises(UsageError, match="--overwrite"):
        export(ExportConfig("tiny", out=folder))
    (folder / "left.txt").write_text("of the first")
    export(ExportConfig("tiny", out=folder, prompt="freeret", overwrite=True))
    assert read_facts(folder)["template"]["name"] == "freeret"
    assert not (folder / "left.txt").exists()
    assert (taken / "thesis.tex").read_text() == "mine"


def test_a_write_that_fails_leaves_what_was_there(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tiny, tmp_path / "out")
    before = folder_digest(folder)
    one = retriever(tiny, "plain")
    plan = plan_folder(one)
    monkeypatch.setattr("clearsight.formats.sentence_transformers_folder.to_json", lambda value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_export(folder, one, plan, facts={}, card="", overwrite=True)
    monkeypatch.undo()
    assert folder_digest(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folders_own_chat_template_is_the_only_one(tmp_path: Path) -> None:
    source = BUILDERS["llava"](tmp_path / "model")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    kept = (source / "chat_template.jinja").read_text()
    (source / "chat_template.jinja").unlink()
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": kept}))
    folder = tmp_path / "out"
    export(ExportConfig(str(source), out=folder))
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())
    assert (folder / "chat_template.jinja").read_text().endswith(kept)


def test_a_broken_description_is_said(tiny: Any, tmp_path: Path) -> None:
    folder = written(tiny, tmp_path / "out")
    (folder / EXPORT).write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_facts(folder)
    (folder / EXPORT).write_text("{}")
    with pytest.raises(DataError, match="does not describe"):
        read_facts(folder)


def test_a_repair_of_another_model_is_refused(rows: Embeddings, tmp_path: Path) -> None:
    save_repair(tmp_path / "repair.safetensors", PerGroup(ShrinkageZCA()).fit(rows))
    with pytest.raises(DataError, match="width 8; the model's have 192"):
        export(ExportConfig("tiny", repair=tmp_path / "repair.safetensors", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_prompt_in_the_form_of_a_release_is_refused(tmp_path: Path) -> None:
    source = BUILDERS["qwen2_vl"](tmp_path / "model")
    for remote in (False, True):
        config = ExportConfig(str(source), prompt="plain@vlm2vec", out=tmp_path / "out", remote_code=remote)
        with pytest.raises(UsageError, match="form 'vlm2vec'"):
            export(config)


# From a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    repairs = ("base", "realign", "self_aligned")
    evaluate(
        EvaluateConfig(
            "tiny",
            task=("world/t2i",),
            n=24,
            repairs=repairs,
            unlabelled="24",
            cache=root / "cache",
            out=root / "run",
        )
    )
    return root / "run"


def test_a_run_knows_everything(run: Path, tmp_path: Path) -> None:
    result = export(ExportConfig(run=run, recipe="self_aligned", out=tmp_path / "out"))
    assert result.form == "stock"  # queries are texts, candidates images: by role
    facts = read_facts(tmp_path / "out")
    assert (facts["queries"], facts["candidates"]) == ("text", "image")
    assert facts["outcome"].endswith("self-aligned")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "hit_rate@1" in card
    assert "centred on the mean of their own set" in card
    assert "library_name: sentence-transformers" in card
    result = export(ExportConfig(run=run, recipe="base", out=tmp_path / "base"))
    assert read_facts(tmp_path / "base")["repair"] is None
    assert result.to_json()["form"] == "stock"


def test_a_run_is_asked_for_what_it_has(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="base, realign, self_aligned"):
        export(ExportConfig(run=run, out=out))
    with pytest.raises(UsageError, match="no recipe 'refined'"):
        export(ExportConfig(run=run, recipe="refined", out=out))
    with pytest.raises(UsageError, match="There are: world/t2i"):
        export(ExportConfig(run=run, task="world/i2t", recipe="base", out=out))
    with pytest.raises(UsageError, match="knows its own prompt"):
        export(ExportConfig(run=run, recipe="base", prompt="plain", out=out))
    with pytest.raises(UsageError, match="Give a model or a run"):
        export(ExportConfig(out=out))
    with pytest.raises(UsageError, match="--run"):
        export(ExportConfig("tiny", recipe="base", out=out))
    with pytest.raises(DataError, match="No run"):
        export(ExportConfig(run=tmp_path, recipe="base", out=out))
    assert not out.exists()


# The card


def test_the_card_says_what_the_folder_is(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export(ExportConfig("tiny", out=tmp_path / "out", pooling="mean_no_image", remote_code=True))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "sentence-similarity"
    assert {"multimodal", "custom_code"} <= set(card.data.tags)
    assert "trust_remote_code=True" in card.text
    assert "leaves out image tokens" in card.text
    assert "encode_query" in card.text
    assert "float32" in card.text


# Pushing


class FakeHub:
    """Records what it is asked; fails with `error` when it is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.error:
            raise self.error
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return f"https://hub/{repo_id}"

    def upload_folder(self, **options: Any) -> object:
        self.calls.append(("upload_folder", options))
        return object()


def test_only_what_was_verified_as_it_lies_there_is_pushed(tiny: Any, tmp_path: Path) -> None:
    folder, hub = written(tiny, tmp_path / "out"), FakeHub()
    config = PushConfig(folder, "me/retriever")
    with pytest.raises(UsageError, match="has not been verified"):
        push(config, api=hub)
    record = {"passed": False, "digest": folder_digest(folder)}
    (folder / VERIFY).write_bytes(to_json(record))
    with pytest.raises(UsageError, match="failed verification"):
        push(config, api=hub)
    (folder / VERIFY).write_bytes(to_json({**record, "passed": True}))
    (folder / "README.md").write_text("# a better card")
    assert push(config, api=hub).to_json() == {
        "repo": "me/retriever",
        "url": "https://hub/me/retriever",
        "private": True,
    }
    assert [name for name, _ in hub.calls] == ["create_repo", "upload_folder"]
    assert hub.calls[0][1]["private"] is True
    (folder / "chat_template.jinja").write_text("another")
    with pytest.raises(UsageError, match="has changed"):
        push(config, api=hub)
    assert len(hub.calls) == 2
    push(replace(config, force=True, public=True), api=hub)
    assert hub.calls[2][1]["private"] is False


def test_a_hub_that_cannot_be_reached_is_said(tiny: Any, tmp_path: Path) -> None:
    folder = written(tiny, tmp_path / "out")
    with pytest.raises(DataError, match="cannot be reached"):
        push(PushConfig(folder, "me/x", force=True), api=FakeHub(OSError("no route")))
    with pytest.raises(UsageError, match="owner/name"):
        push(PushConfig(folder, "just-a-name", force=True), api=FakeHub())
    with pytest.raises(ClearsightError, match="No export"):
        push(PushConfig(tmp_path, "me/x", force=True), api=FakeHub())
