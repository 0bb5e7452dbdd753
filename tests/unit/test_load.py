"""Loading: what is accepted, and what each refusal says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from clearsight.errors import ModelError
from clearsight.models.load import load_model

FolderOf = Callable[[str], Path]


@pytest.fixture
def copy(folder_of: FolderOf, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(folder_of("qwen2_vl"), tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(name: str | Path, **options: bool) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(name, **options)  # type: ignore[arg-type]
    error = caught.value
    assert error.exit_code == 4
    assert error.where == str(name)
    assert error.do
    return error


def test_a_loaded_model_says_what_it_is(folder_of: FolderOf, capfd: pytest.CaptureFixture[str]) -> None:
    folder = folder_of("qwen2_vl")
    capfd.readouterr()
    loaded = load_model(folder)
    assert capfd.readouterr() == ("", "")
    assert (loaded.kind, loaded.family.name, loaded.context) == ("generative", "qwen2-vl", 1024)
    assert loaded.model is loaded.base
    assert (loaded.device.type, loaded.dtype) == (
        ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    )
    assert loaded.model.dtype == loaded.dtype
    assert not loaded.model.training
    assert type(loaded.image_processor).__name__.endswith("Pil")
    assert load_model(str(folder), dtype=torch.bfloat16, device="cpu").model.dtype == torch.bfloat16


def test_verbosity_of_transformers_is_given_back(folder_of: FolderOf) -> None:
    before = transformers.utils.logging.get_verbosity()
    load_model(folder_of("clip"))
    assert transformers.utils.logging.get_verbosity() == before


def test_revision_changes_with_weights_and_settings(copy: Path) -> None:
    first = load_model(copy).revision
    assert load_model(copy).revision == first
    weights = load_file(copy / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] * 1.001}, copy / "model.safetensors", metadata={"format": "pt"})
    second = load_model(copy).revision
    edit(copy / "preprocessor_config.json", image_std=[0.5, 0.5, 0.5])
    assert len({first, second, load_model(copy).revision}) == 3


def test_the_chat_template_of_older_folders(copy: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    assert load_model(copy).tokenizer.chat_template is None
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_model(copy).tokenizer.chat_template == template


def test_missing_folders(tmp_path: Path) -> None:
    assert "no such model folder" in str(refusal(tmp_path / "nowhere"))
    assert "'tiny'" in str(refusal("tinny"))
    assert "no config.json" in str(refusal(tmp_path))
    (tmp_path / "file").write_text("x")
    assert "is a file" in str(refusal(tmp_path / "file"))


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "the hub cannot be reached" in str(refusal("nobody/no-such-model"))


def test_missing_or_short_weights(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    short = {k: v for k, v in weights.items() if "layers.1.mlp" not in k}
    save_file(short, copy / "model.safetensors", metadata={"format": "pt"})
    error = refusal(copy)
    assert "lack 3 tensors" in str(error)
    assert "layers.1.mlp" in str(error)
    (copy / "model.safetensors").write_bytes(b"cut off")
    assert "model cannot be loaded" in str(refusal(copy))
    (copy / "model.safetensors").unlink()
    assert "no weights" in str(refusal(copy))
    (copy / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "part-2.safetensors"}})
    )
    (copy / "part-1.safetensors").write_bytes(b"")
    assert "part-2.safetensors is missing" in str(refusal(copy))


def test_faulty_settings(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    assert "tokenizer cannot be loaded" in str(refusal(copy))
    (copy / "config.json").write_text("{")
    assert "config.json is not JSON" in str(refusal(copy))


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ("Qwen2Config", "a language model without images"),
        ("ViTConfig", "neither a generative multimodal model"),
        ("T5Config", "an encoder-decoder"),
    ],
)
def test_models_of_the_wrong_kind(config: str, what: str, tmp_path: Path) -> None:
    getattr(transformers, config)().save_pretrained(tmp_path)
    assert what in str(refusal(tmp_path))


def test_an_unknown_architecture(copy: Path) -> None:
    edit(copy / "config.json", model_type="qwen9_vl")
    assert "does not know the architecture 'qwen9_vl'" in str(refusal(copy))


def test_remote_code_runs_only_when_asked(copy: Path) -> None:
    edit(copy / "config.json", model_type="stranger", auto_map={"AutoConfig": "code.Stranger"})
    (copy / "code.py").write_text("raise RuntimeError('it ran')")
    error = refusal(copy)
    assert "trust_remote_code=True" in str(error)
    with pytest.raises((RuntimeError, ModelError), match="it ran"):
        load_model(copy, trust_remote_code=True)
