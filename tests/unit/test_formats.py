"""Autoencoders on disk: what is written is what is read, and nothing else gets in."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from clearsight.errors import DataError, UsageError
from clearsight.formats import describe_sae, formats, load_sae, save_sae
from clearsight.formats.unpickle import read_torch
from clearsight.sae import SparseAutoencoder
from sae_forms import FORMS, make_rows, make_sae


def same(first: SparseAutoencoder, second: SparseAutoencoder, *, atol: float = 0.0) -> None:
    rows_ND = make_rows(width=first.config.width)
    codes = first.encode(rows_ND).toarray()
    assert codes.any()
    np.testing.assert_allclose(second.encode(rows_ND).toarray(), codes, atol=atol, rtol=0)
    np.testing.assert_allclose(second.reconstruct(rows_ND), first.reconstruct(rows_ND), atol=atol, rtol=0)


# Round trips


@pytest.mark.parametrize("name", FORMS)
def test_an_autoencoder_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    sae = make_sae(name)
    back = load_sae(save_sae(sae, tmp_path / "sae"))
    same(sae, back, atol=1e-6 if sae.config.score == "attention" else 0)
    assert back.config == sae.folded().config


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(list(FORMS)), seed=st.integers(0, 1000), width=st.integers(1, 9))
def test_folding_changes_nothing(
    name: str, seed: int, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Centring, attention scores and thresholds are in the weights: the arithmetic of the file is plain."""
    sae = make_sae(name, width=width, concepts=3 * width + 8, seed=seed)
    folder = save_sae(sae, tmp_path_factory.mktemp("sae") / "x")
    held = {one: tensor.double() for one, tensor in load_file(folder / "sae_weights.safetensors").items()}
    facts = json.loads((folder / "cfg.json").read_text())
    rows_ND = torch.from_numpy(make_rows(width=width, seed=seed)).double()
    centred_ND = rows_ND - held["b_dec"] * facts["apply_b_dec_to_input"]
    pre_NC = centred_ND @ held["W_enc"] + held["b_enc"]
    if facts["architecture"] == "standard":
        codes_NC = pre_NC.relu()
    elif facts["architecture"] == "topk":
        kept = pre_NC.relu().topk(facts["k"])
        codes_NC = torch.zeros_like(pre_NC).scatter(1, kept.indices, kept.values)
    elif facts["architecture"] == "jumprelu":
        codes_NC = pre_NC.relu() * (pre_NC > held["threshold"])
    else:
        assert facts["architecture"] == "clearsight_sparsemax"
        same(sae, load_sae(folder), atol=1e-4)
        return
    expected_ND = codes_NC @ held["W_dec"] + held["b_dec"]
    # A score that lies on the border of a top-k or a threshold may fall on either side: such rows are rare.
    close_N = (torch.from_numpy(sae.reconstruct(rows_ND.float())) - expected_ND).abs().amax(dim=1) < 1e-4
    assert close_N.double().mean() > 0.95


@pytest.mark.parametrize("name", [name for name in FORMS if name.startswith("topk")])
def test_sparsify_comes_back(name: str, tmp_path: Path) -> None:
    sae = make_sae(name)
    back = load_sae(save_sae(sae, tmp_path, format="sparsify"))
    same(sae, back, atol=1e-5)
    assert back.config.centred


@pytest.mark.parametrize("format", ["saelens", "sparsify"])
def test_facts_travel_with_the_weights(format: str, tmp_path: Path) -> None:
    given = {"model": "some/model", "layer": -1, "seed": 3}
    described = describe_sae(save_sae(make_sae("topk"), tmp_path, format=format, facts=given))
    assert described.facts == given
    assert described.format == format
    assert described.shapes["W_dec"] == (40, 12)


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    save_sae(make_sae("topk"), tmp_path)
    save_sae(make_sae("relu", seed=1), tmp_path)
    same(make_sae("relu", seed=1), load_sae(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def test_no_pickle_is_ever_written(tmp_path: Path) -> None:
    written = [name for name in formats if formats.get(name).write is not None]
    assert sorted(written) == ["saelens", "sparsify"]
    for name in written:
        for file in save_sae(make_sae("topk"), tmp_path / name, format=name).iterdir():
            assert file.suffix in (".json", ".safetensors")
            assert b"\x80\x02" not in file.read_bytes()[:2]


def test_an_interrupted_save_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sae(make_sae("topk"), tmp_path)
    from clearsight.formats import checkpoint

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        save_sae(make_sae("relu"), tmp_path)
    with pytest.raises(DataError, match=r"no cfg.json.*interrupted"):
        load_sae(tmp_path)


def test_another_k_than_the_file_says(tmp_path: Path) -> None:
    save_sae(make_sae("topk"), tmp_path)
    assert set(np.diff(load_sae(tmp_path, k=2).encode(make_rows()).indptr)) == {2}
    with pytest.raises(UsageError, match="k is 41"):
        load_sae(tmp_path, k=41)


# Strangers' SAELens


def lens(folder: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """A folder of SAELens that Clearsight did not write, with something changed."""
    folder.mkdir()
    sae = make_sae("topk")
    facts = {"architecture": "topk", "d_in": 12, "d_sae": 40, "k": 5, "apply_b_dec_to_input": True}
    tensors = {
        "W_enc": sae.encoder_CD.detach().T.contiguous(),
        "b_enc": sae.encoder_bias_C.detach(),
        "W_dec": sae.decoder_CD.detach(),
        "b_dec": sae.decoder_bias_D.detach(),
    }
    change(facts, tensors)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(facts))
    return folder


def test_a_plain_saelens_folder_is_read(tmp_path: Path) -> None:
    same(make_sae("topk"), load_sae(lens(tmp_path / "x", lambda facts, tensors: None)))


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    def halve(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    sae = load_sae(lens(tmp_path / "x", halve))
    assert sae.encoder_CD.dtype == torch.float32
    assert sae.encode(make_rows()).nnz == 5 * 64


def test_a_description_from_before_version_6_is_read(tmp_path: Path) -> None:
    def age(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        facts.clear()
        facts.update(d_in=12, d_sae=40, activation_fn_str="topk", activation_fn_kwargs={"k": 5})

    same(make_sae("topk"), load_sae(lens(tmp_path / "x", age)))


def test_rescaling_by_decoder_lengths_is_folded(tmp_path: Path) -> None:
    sae = load_sae(lens(tmp_path / "x", lambda facts, _: facts.update(rescale_acts_by_decoder_norm=True)))
    plain = make_sae("topk")
    length_C = plain.decoder_CD.norm(dim=1)
    rows_ND = torch.from_numpy(make_rows())
    score_NC = plain.preactivations(rows_ND) * length_C
    kept = score_NC.relu().topk(5)
    codes_NC = torch.zeros_like(score_NC).scatter(1, kept.indices, kept.values)
    np.testing.assert_allclose(sae.encode(rows_ND).toarray(), codes_NC.detach(), atol=1e-5)
    expected_ND = (codes_NC / length_C) @ plain.decoder_CD + plain.decoder_bias_D
    np.testing.assert_allclose(sae.reconstruct(rows_ND), expected_ND.detach(), atol=1e-5)


def test_a_negative_threshold_lets_nothing_negative_through(tmp_path: Path) -> None:
    def jump(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        facts["architecture"] = "jumprelu"
        tensors["threshold"] = torch.linspace(-1, 1, 40)

    codes = load_sae(lens(tmp_path / "x", jump)).encode(make_rows())
    assert codes.nnz
    assert codes.data.min() > 0


REFUSED: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], object], str]] = {
    "unknown architecture": (lambda f, t: f.update(architecture="jump_relu"), r"'jump_relu'.*'jumprelu'"),
    "input normalisation": (lambda f, t: f.update(normalize_activations="layer_norm"), "layer_norm"),
    "fine-tuning": (lambda f, t: f.update(finetuning_scaling_factor=True), "finetuning_scaling_factor"),
    "another width": (lambda f, t: f.update(d_in=13), r"d_in 13.*\(12, 40\)"),
    "an extra tensor": (lambda f, t: t.update(r_mag=torch.ones(40)), "also holds 'r_mag'"),
    "a missing tensor": (lambda f, t: t.pop("b_enc"), "'b_enc' is missing"),
    "a wrong shape": (lambda f, t: t.update(b_enc=torch.ones(39)), r"'b_enc' has the shape \(39,\)"),
    "a transposed decoder": (lambda f, t: t.update(W_dec=torch.ones(12, 40)), r"'W_dec' has the shape"),
    "a vector for a matrix": (lambda f, t: t.update(W_enc=torch.ones(40)), "2 dimensions"),
    "no k": (lambda f, t: f.pop("k"), "does not say k"),
    "k beyond the concepts": (lambda f, t: f.update(k=41), "k = 41 with 40"),
    "k of no number": (lambda f, t: f.update(k="many"), "k = 'many'"),
    "NaN": (lambda f, t: t["W_dec"][3].fill_(float("nan")), "NaN"),
    "strange metadata": (
        lambda f, t: f.update(metadata={"clearsight": {"config": {"width": 0, "concepts": 1}}}),
        "under metadata cannot be read",
    ),
    "metadata of another SAE": (
        lambda f, t: f.update(metadata={"clearsight": {"config": {"width": 12, "concepts": 41}}}),
        "'d_sae' is 40, but 41",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_or_strange_saelens_folder_is_refused(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        load_sae(lens(tmp_path / "x", change))


# overcomplete and dictionary_learning


def overcomplete_state(multiplier: float = 0.3) -> dict[str, torch.Tensor]:
    sae = make_sae("topk-no-bias")
    return OrderedDict(
        {
            "encoder.final_block.0.weight": sae.encoder_CD.detach(),
            "encoder.final_block.0.bias": sae.encoder_bias_C.detach(),
            "dictionary._weights": sae.decoder_CD.detach() * 3,
            "dictionary.multiplier": torch.tensor(multiplier),
        }
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_overcomplete_is_read(wrapped: bool, tmp_path: Path) -> None:
    state, logs = overcomplete_state(), defaultdict(list)
    logs["loss"] += [0.5, 0.25]
    torch.save({"model_state": state, "logs": logs} if wrapped else state, tmp_path / "sae_x.pt")
    sae = load_sae(tmp_path / "sae_x.pt", k=5)
    assert describe_sae(tmp_path).format == "overcomplete"
    assert (sae.config.centred, sae.config.decoder_bias, sae.config.k) == (False, False, 5)
    np.testing.assert_allclose(np.linalg.norm(sae.dictionary_CD, axis=1), np.exp(0.3), rtol=1e-5)
    original = make_sae("topk-no-bias")
    assert abs(sae.encode(make_rows()) - original.encode(make_rows())).max() == 0
    assert load_sae(tmp_path).config.k == 40  # the papers' 50 do not fit 40 concepts
    assert load_sae(tmp_path, activation="relu").config.activation == "relu"
    with pytest.raises(UsageError, match="cannot be read as batchtopk"):
        load_sae(tmp_path, activation="batchtopk")


def test_an_overcomplete_with_another_encoder_is_refused(tmp_path: Path) -> None:
    torch.save({**overcomplete_state(), "encoder.mlp_blocks.0.0.weight": torch.ones(3, 3)}, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"also holds 'encoder.mlp_blocks"):
        load_sae(tmp_path)


def test_dictionary_learning_is_read(tmp_path: Path) -> None:
    sae = make_sae("topk")
    state = {
        "encoder.weight": sae.encoder_CD.detach(),
        "encoder.bias": sae.encoder_bias_C.detach(),
        "decoder.weight": sae.decoder_CD.detach().T,
        "b_dec": sae.decoder_bias_D.detach(),
        "k": torch.tensor(5, dtype=torch.int32),
        "threshold": torch.tensor(-1.0),
    }
    torch.save(state, tmp_path / "ae.pt")
    same(sae, load_sae(tmp_path))
    with pytest.raises(UsageError, match="is topk, not batchtopk"):
        load_sae(tmp_path, activation="batchtopk")
    torch.save({**state, "threshold": torch.tensor(0.3)}, tmp_path / "ae.pt")
    with pytest.raises(DataError, match=r"top-k or a batch top-k"):
        load_sae(tmp_path)
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "BatchTopKSAE"}}')
    batch = load_sae(tmp_path)
    assert batch.config.activation == "batchtopk"
    assert batch.encode(make_rows()).data.min() > 0.3


# What is not an SAE


def test_an_unknown_format_says_what_was_looked_for(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.ones(2, 2), "W_decoder": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(DataError) as caught:
        load_sae(tmp_path)
    text = str(caught.value)
    assert "it holds W_decoder, encoder.weight" in text
    assert all(name in text for name in ("saelens (W_enc", "overcomplete (", "dictionary_learning ("))
    assert "The nearest is sparsify: it lacks encoder.bias, W_dec, b_dec." in text


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    save_sae(make_sae("topk"), tmp_path)
    with pytest.raises(UsageError, match=r"Unknown sae_format 'sealens'.*Did you mean 'saelens'"):
        load_sae(tmp_path, format="sealens")
    with pytest.raises(UsageError, match=r"'overcomplete' is read, not written.*saelens or sparsify"):
        save_sae(make_sae("topk"), tmp_path, format="overcomplete")
    with pytest.raises(UsageError, match=r"sparsify has no batchtopk"):
        save_sae(make_sae("batchtopk"), tmp_path / "y", format="sparsify")
    assert not (tmp_path / "y").exists()
    with pytest.raises(DataError, match=r"no checkpoint of sparsify: that has encoder.weight.*W_enc"):
        load_sae(tmp_path, format="sparsify")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="This is a file"):
        save_sae(make_sae("topk"), tmp_path / "file")


def test_nothing_or_too_much_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is nothing here"):
        load_sae(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no file of weights. Looked for sae_weights.safetensors"):
        load_sae(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save(overcomplete_state(), tmp_path / name)
    with pytest.raises(DataError, match=r"2 files of weights.*Name the file"):
        load_sae(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
@pytest.mark.parametrize("name", ["sae_weights.safetensors", "ae.pt", "cfg.json"])
def test_a_truncated_checkpoint_is_refused(name: str, keep: int, tmp_path: Path) -> None:
    if name == "ae.pt":
        torch.save(overcomplete_state(), tmp_path / name)
    else:
        save_sae(make_sae("topk"), tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:keep].rstrip(b"}\n") if name == "cfg.json" else whole[:keep])
    with pytest.raises(DataError, match="cut short"):
        load_sae(tmp_path)


def test_a_damaged_number_is_found_by_its_checksum(tmp_path: Path) -> None:
    torch.save(overcomplete_state(), tmp_path / "x.pt")
    data = bytearray((tmp_path / "x.pt").read_bytes())
    at = data.index(overcomplete_state()["dictionary._weights"].numpy().tobytes())
    data[at + 100] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(DataError, match="CRC"):
        load_sae(tmp_path)


def test_an_sae_of_another_width_than_the_vectors_says_so(tmp_path: Path) -> None:
    sae = load_sae(save_sae(make_sae("topk"), tmp_path))
    with pytest.raises(DataError, match=r"\(64, 13\) do not fit an autoencoder of width 12"):
        sae.encode(make_rows(width=13))


# The unpickler


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("place", ["top", "value", "key", "logs"])
def test_a_malicious_pickle_is_refused_and_nothing_is_executed(
    place: str, protocol: int, tmp_path: Path
) -> None:
    evil = Call(os.mkdir, str(tmp_path / "executed"))
    trees = {"top": evil, "value": {"x": evil}, "key": {evil: 1}, "logs": defaultdict(list, a=[evil])}
    torch.save(trees[place], tmp_path / "x.pt", pickle_protocol=protocol)
    with pytest.raises(DataError, match="Nothing was run"):
        load_sae(tmp_path / "x.pt")
    assert not (tmp_path / "executed").exists()
    # The same file does what it says where pickles are trusted: the test would fail without the reader.
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "executed").exists()


def packed(program: bytes, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", program)
        archive.writestr("x/data/0", bytes(16))
    return file


def tensor_program(size: str, stride: str, *, count: int = 4) -> bytes:
    """A tensor of any claimed shape over a storage of 4 numbers."""
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK" + bytes([count]) + b"tQK\x00" + size.encode("latin1")
        + stride.encode("latin1") + b"\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


FOUR = tensor_program("K\x04\x85", "K\x01\x85")
REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
PROGRAMS: dict[str, bytes] = {
    "another function": b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.",
    "a known function of torch": b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00x\x85R.",
    "a dotted name": b"\x80\x02cbuiltins\nlist.__class__\n.",
    "a name from the stack": b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
    "a new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "a call of a stand-in": b"\x80\x02cbuiltins\nlist\n)R.",
    "a dictionary made from something": b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
    "attributes of a function": REBUILD + b"N}X\x01\x00\x00\x00aK\x01s\x86b.",
    "attributes of a stand-in": b"\x80\x02cbuiltins\nlist\n}X\x01\x00\x00\x00aK\x01sb.",
    "attributes of a tensor": tensor_program("K\x04\x85", "K\x01\x85")[:-1]
    + b"}X\x05\x00\x00\x00shapeK\x01sb.",
    "a far memory entry": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "an empty program": b"",
    "no end": b"\x80\x02K\x01",
    "a stack underflow": b"\x80\x02R.",
    "an unhashable key": b"\x80\x02}]K\x01s.",
    "a reference of no tensor": b"\x80\x02K\x01Q.",
    "a tensor beyond its storage": tensor_program("K\x05\x85", "K\x01\x85"),
    "a tensor that repeats numbers": tensor_program("J\x00\x00\x00\x7f\x85", "K\x00\x85"),
    "a negative stride": tensor_program("K\x02\x85", "J\xff\xff\xff\xff\x85"),
    "a shape of no numbers": tensor_program("N\x85", "K\x01\x85"),
    "two strides for one dimension": tensor_program("K\x02\x85", "K\x01K\x01\x86"),
    "a storage of another size": tensor_program("K\x04\x85", "K\x01\x85", count=5),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_a_pickle_that_is_no_checkpoint_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Nothing was run|cannot be read"):
        read_torch(packed(PROGRAMS[case], tmp_path / "x.pt"))


def test_the_program_of_these_tests_is_otherwise_good(tmp_path: Path) -> None:
    stored = read_torch(packed(tensor_program("K\x02K\x02\x86", "K\x02K\x01\x86"), tmp_path / "x.pt"))
    assert torch.equal(stored.load(), torch.zeros(2, 2))


def test_what_the_unpickler_knows_cannot_be_changed_by_a_file(tmp_path: Path) -> None:
    good = packed(FOUR, tmp_path / "good.pt")
    for case, program in PROGRAMS.items():
        with pytest.raises(DataError):
            read_torch(packed(program, tmp_path / "bad.pt"))
        assert read_torch(good).shape == (4,), case


def test_a_compressed_or_foreign_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, protocol=2))
    with pytest.raises(DataError, match="compressed"):
        read_torch(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        archive.writestr("letter.txt", "hello")
    with pytest.raises(DataError, match=r"not written by torch\.save"):
        read_torch(tmp_path / "y.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "z.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"torch before 1\.6"):
        read_torch(tmp_path / "z.pt")


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
NUMBERS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
PLAIN = st.recursive(
    NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(tree=PLAIN, dtype=st.sampled_from(DTYPES), rows=st.integers(0, 4), transposed=st.booleans())
def test_what_torch_saves_is_read_as_torch_reads_it(
    tree: Any, dtype: torch.dtype, rows: int, transposed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensor = (torch.arange(rows * 3).reshape(rows, 3) % 2).to(dtype)
    tensor = tensor.T if transposed else tensor
    logs: defaultdict[str, list[Any]] = defaultdict(list, a=[tree])
    file = tmp_path_factory.mktemp("torch") / "x.pt"
    torch.save({"tree": tree, "logs": logs, "x": tensor, "view": tensor[1:], "p": (1, tree)}, file)
    got = read_torch(file)
    assert got["tree"] == tree
    assert got["logs"] == {"a": [tree]}
    assert got["p"] == (1, tree)
    assert torch.equal(got["x"].load(), tensor)
    assert torch.equal(got["view"].load(), tensor[1:])
    assert (got["x"].shape, got["x"].dtype) == (tensor.shape, dtype)


def test_modules_and_parameters_are_read(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    torch.save({"state": layer.state_dict(), "weight": layer.weight}, tmp_path / "x.pt")
    got = read_torch(tmp_path / "x.pt")
    assert torch.equal(got["state"]["bias"].load(), layer.bias.data)
    assert torch.equal(got["weight"].load(), layer.weight.data)
