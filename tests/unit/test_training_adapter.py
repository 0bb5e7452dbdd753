"""Adapters: peft's own folders load, fit or are refused; the merged model exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from clearsight.data import world
from clearsight.errors import ModelError
from clearsight.models.adapter import find_adapter, renamed_quietly
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model

ITEMS = world.image_to_text(6, seed=5).queries


def peft_folder(folder: Path, **settings: Any) -> Path:
    """What peft itself writes for a random LoRA on the shipped model with its head."""
    loaded = load_model("tiny", head=True)
    torch.manual_seed(0)
    with renamed_quietly():
        model: Any = PeftModel(
            loaded.model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **settings)
        )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder, save_embedding_layers=False)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "tiny"}))
    rows = Encoder(loaded, prompt="hierarchical", pooling="last").embed(ITEMS, "query").rows_ND
    np.save(folder / "rows.npy", rows)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peft_folder(tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize("dora", [False, True])
def test_a_peft_folder_is_a_model_and_fits_its_base(tmp_path: Path, plain: Path, dora: bool) -> None:
    folder = peft_folder(tmp_path, use_dora=True) if dora else plain
    wanted = np.load(folder / "rows.npy")
    base = Encoder.load("tiny", prompt="hierarchical", pooling="last")
    without = base.embed(ITEMS, "query").rows_ND
    alone = Encoder.load(folder, prompt="hierarchical", pooling="last")
    given = Encoder.load("tiny", adapter=folder, prompt="hierarchical", pooling="last")
    assert np.abs(wanted - without).max() > 0.05, "the adapter changes nothing: the test shows nothing"
    for encoder in (alone, given):
        np.testing.assert_allclose(encoder.embed(ITEMS, "query").rows_ND, wanted, atol=2e-4)
        assert encoder.origin()["revision"] != base.origin()["revision"]
    assert load_model(folder, head=True).model.get_output_embeddings() is not None


def test_the_revision_changes_with_the_adapter(tmp_path: Path, plain: Path) -> None:
    other = Path(shutil.copytree(plain, tmp_path / "other"))
    weights = load_file(other / "adapter_model.safetensors")
    save_file({k: v * 1.5 for k, v in weights.items()}, other / "adapter_model.safetensors")
    assert find_adapter(plain).revision("a") != find_adapter(other).revision("a")
    assert find_adapter(plain).revision("a") != find_adapter(plain).revision("b")


def test_an_adapter_that_clearsight_trained_brings_its_prompt(tmp_path: Path, plain: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "own"))
    base = load_model("tiny").revision
    facts = {"encoder": {"prompt": "one_word", "pooling": "last", "layer": -2}, "base": {"revision": base}}
    (folder / "clearsight.json").write_text(json.dumps(facts))
    encoder = Encoder.load(folder)
    assert (encoder.template.name, encoder.pooling, encoder.layer) == ("one_word", "last", -2)
    assert Encoder.load(folder, pooling="mean").pooling == "mean"
    (folder / "clearsight.json").write_text(json.dumps({**facts, "base": {"revision": "another"}}))
    with pytest.raises(ModelError, match="other weights of 'tiny'"):
        Encoder.load(folder)


def changed(plain: Path, to: Path, config: dict[str, Any] | None = None, rename: str = "") -> Path:
    folder = Path(shutil.copytree(plain, to))
    if config:
        known = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**known, **config}))
    if rename:
        weights = load_file(folder / "adapter_model.safetensors")
        renamed = {name.replace("layers.4", rename): value for name, value in weights.items()}
        save_file(renamed, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, plain: Path) -> None:
    deeper = changed(plain, tmp_path / "deeper", rename="layers.31")
    with pytest.raises(ModelError, match=r"no module '.*layers.31"):
        load_model(deeper)
    wider = Path(shutil.copytree(plain, tmp_path / "wider"))
    weights = load_file(wider / "adapter_model.safetensors")
    save_file(
        {k: torch.zeros(v.shape[0] + 1, *v.shape[1:]) for k, v in weights.items()},
        wider / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match="made for another model"):
        load_model(wider)
    fewer = Path(shutil.copytree(plain, tmp_path / "fewer"))
    kept = [k for k in weights if "lora_B" in k or "layers.0" in k]
    save_file({k: weights[k] for k in kept}, fewer / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="No place for, or no value of"):
        load_model(fewer)
    with pytest.raises(ModelError, match="made for another model"):
        load_model("tiny-contrastive", adapter=plain)


def test_names_of_older_versions_are_found(tmp_path: Path, plain: Path) -> None:
    older = Path(shutil.copytree(plain, tmp_path / "older"))
    weights = load_file(older / "adapter_model.safetensors")
    save_file(
        {k.replace("model.language_model.layers", "model.layers"): v for k, v in weights.items()},
        older / "adapter_model.safetensors",
    )
    rows = Encoder.load(older, prompt="hierarchical", pooling="last").embed(ITEMS, "query").rows_ND
    np.testing.assert_allclose(rows, np.load(plain / "rows.npy"), atol=2e-4)


def test_what_is_no_lora_adapter_is_refused(tmp_path: Path, plain: Path) -> None:
    with pytest.raises(ModelError, match="of type IA3"):
        load_model(changed(plain, tmp_path / "ia3", {"peft_type": "IA3"}))
    with pytest.raises(ModelError, match="does not name its base"):
        load_model(changed(plain, tmp_path / "homeless", {"base_model_name_or_path": None}))
    broken = changed(plain, tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(broken)
    more = changed(plain, tmp_path / "more")
    save_file({"base_model.model.model.norm.weight": torch.zeros(3)}, more / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="more than LoRA's matrices"):
        load_model(more)
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        load_model("tiny", adapter=tmp_path)
    with pytest.raises(ModelError, match="This is an adapter, not a model"):
        load_model(plain, adapter=plain)


def test_the_merged_model_exports(tmp_path: Path, plain: Path) -> None:
    from clearsight.jobs.export import ExportConfig, export

    out = tmp_path / "export"
    export(ExportConfig(str(plain), out=out, prompt="one_word", pooling="last"))
    exported, merged = AutoModel.from_pretrained(out).state_dict(), load_model(plain).model.state_dict()
    base = load_model("tiny").model.state_dict()
    assert exported.keys() == merged.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(changed) == 10, "two layers in each of five blocks"
    assert all(torch.equal(exported[name], merged[name]) for name in merged)
    assert not (out / "adapter_config.json").exists()
