"""Exported rerankers: the head as Dense layers, the wording as a chat template, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from scipy.special import logsumexp, softmax

from clearsight.data.world import composed
from clearsight.errors import DataError, ModelError, UsageError
from clearsight.formats.cross_encoder import FORMS, PairJudge, plan_reranker
from clearsight.formats.cross_encoder_head import SIGMOID, expected_place, run, tokens_of
from clearsight.formats.cross_encoder_template import images_out_of_order, pair_template
from clearsight.formats.sentence_transformers_folder import VERIFY, read_facts
from clearsight.formats.sentence_transformers_template import own_chat_template
from clearsight.jobs.export import ExportConfig, export
from clearsight.jobs.verify import VerifyConfig, verify
from clearsight.models.load import load_model
from clearsight.rerank import Phrasing, Reranker, get_phrasing
from clearsight.rerank.prompts import Rule
from clearsight.types import MODALITIES, Item
from families.build import BUILDERS


@pytest.fixture(scope="module")
def tiny() -> Reranker:
    return Reranker.load("tiny", scorer="p_true")


# The head


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "sets",
    [
        ((3,), (1,)),
        ((3, 4, 9), (1, 0)),
        ((0, 1, 2, 3, 4, 5, 6), (7,)),
        ((0,), (1, 2), (3,)),
        tuple((n,) for n in range(10)),
        tuple((n, n + 10, n + 20) for n in range(10)),
    ],
)
def test_layers_are_the_distribution_over_the_answers(sets: Any, bias: bool, cap: float | None) -> None:
    random = np.random.default_rng(0)
    rows_VD, bias_V = random.standard_normal((30, 6)), random.standard_normal(30) * bias
    states_TD = random.standard_normal((40, 6)) * 8
    logits_TV = states_TD @ rows_VD.T + bias_V
    if cap is not None:
        logits_TV = cap * np.tanh(logits_TV / cap)
    p_TA = softmax(np.stack([logsumexp(logits_TV[:, list(some)], axis=1) for some in sets], 1), axis=1)
    tokens = tokens_of(sets)
    layers, activation = expected_place(sets, rows_VD[tokens], bias_V[tokens] if bias else None, cap=cap)
    found_T = run(layers, states_TD)
    if activation == SIGMOID:
        found_T = 1 / (1 + np.exp(-found_T))
    assert (activation == SIGMOID) == (len(sets) == 2)
    np.testing.assert_allclose(found_T, p_TA @ np.arange(len(sets)), atol=1e-9)


def test_layers_hold_in_float32_far_from_zero() -> None:
    """As torch runs them, whose Softplus is a line above 20."""
    random = np.random.default_rng(1)
    rows_SD = random.standard_normal((12, 4)) * 10
    sets = (tuple(range(6)), tuple(range(6, 12)))
    layers, _ = expected_place(sets, rows_SD)
    states_TD = random.standard_normal((200, 4)) * 5
    out = torch.tensor(states_TD, dtype=torch.float32)
    for layer in layers:
        linear = torch.nn.Linear(*layer.matrix_DF.shape)
        linear.weight.data = torch.tensor(layer.matrix_DF.T, dtype=torch.float32)
        linear.bias.data = torch.tensor(layer.offset_F, dtype=torch.float32)
        name = layer.activation.rpartition(".")[2]
        out = getattr(torch.nn, name)()(linear(out))
    logits_TS = states_TD @ rows_SD.T
    odds_T = logsumexp(logits_TS[:, 6:], axis=1) - logsumexp(logits_TS[:, :6], axis=1)
    assert abs(odds_T).max() > 50
    np.testing.assert_allclose(out[:, 0].detach().numpy(), odds_T, rtol=1e-5, atol=1e-3)


# The wording


def turns(query: Item, candidate: Item) -> list[dict[str, Any]]:
    """A pair as sentence-transformers gives it to a chat template."""

    def turn(role: str, item: Item) -> dict[str, Any]:
        parts = [{"type": "image"}] if item.image is not None else []
        parts += [{"type": "text", "text": item.text}] if item.text is not None else []
        return {"role": role, "content": parts}

    said = [{"type": "text", "text": query.instruction}]
    system = [{"role": "system", "content": said}] if query.instruction else []
    return [*system, turn("query", query), turn("document", candidate)]


ODD = Phrasing(
    "odd",
    words={"true": "Yes", "false": "No"},
    forms={
        "true_false": (
            Rule(
                user='Say "{query.text}": {query.image} {% {candidate}',
                query=("image+text",),
                system="Be \\ brief",
            ),
            Rule(user="{query.text}|{candidate.text}", query=("text",), candidate=("text",), trim=".!"),
            Rule(user="{query} -> {candidate}\n?"),
        )
    },
)


@pytest.mark.parametrize(
    "phrasing", [get_phrasing("official"), get_phrasing("shipped"), ODD], ids=lambda p: p.name
)
@pytest.mark.parametrize("family", ["tiny", "qwen2_vl", "paligemma", "chameleon"])
def test_pairs_are_worded_as_our_own(tmp_path: Path, family: str, phrasing: Phrasing) -> None:
    from clearsight.models.wording import Wording

    loaded = load_model("tiny" if family == "tiny" else BUILDERS[family](tmp_path / "model"), head=True)
    own = own_chat_template(loaded)
    assert own is not None
    template = pair_template(phrasing, "true_false", own, several_images=True)
    wording = Wording(loaded, generation_prompt=True)
    image = composed(1).queries[0].image
    sides = {
        "text": ("  a red. {{ square }} ", None),
        "image": (None, image),
        "image+text": ("what's <this>?!", image),
    }
    for one in MODALITIES:
        for other in MODALITIES:
            for instruction in (None, "Find it."):
                query = Item("q", *sides[one], instruction=instruction)
                candidate = Item("c", *sides[other])
                spans, _ = wording(phrasing.pair("true_false", query, candidate).turns)
                expected = "".join(span.text for span in spans)
                found = loaded.tokenizer.apply_chat_template(
                    turns(query, candidate), chat_template=template, tokenize=False
                )
                if family == "paligemma" and "<image>" in found:  # its processor adds bos and newline
                    expected = expected.replace("<bos>", "").removesuffix("\n")
                assert found == expected, (one, other, instruction)


def test_a_model_of_one_image_refuses_two(tiny: Reranker) -> None:
    own = own_chat_template(tiny.scorer.judge.loaded)
    template = pair_template(get_phrasing("shipped"), "true_false", own, several_images=False)
    image = composed(1).queries[0].image
    pair = turns(Item("q", image=image), Item("c", image=image))
    with pytest.raises(Exception, match="one image a prompt"):
        tiny.scorer.judge.loaded.tokenizer.apply_chat_template(pair, chat_template=template, tokenize=False)


def test_images_in_another_order_are_found() -> None:
    rules = (Rule(user="{candidate.image}{query}", candidate=("image",)), Rule(user="{query}{candidate}"))
    phrasing = Phrasing("p", forms={"true_false": rules})
    assert images_out_of_order(phrasing, "true_false") == [("image", "image"), ("image+text", "image")]
    for name in ("official", "shipped"):
        assert all(not images_out_of_order(get_phrasing(name), FORMS[one]) for one in ("p_true",))


# What is refused


@pytest.mark.parametrize(
    ("scorer", "reason"),
    [
        ("choice", "asks twice a pair"),
        ("likelihood", "probabilities of a whole text"),
        ("likelihood_plain", "probabilities of a whole text"),
        ("p_true_release", "two decimals"),
        ("number_paper", "write its answer"),
        ("listwise", "all candidates"),
    ],
)
def test_scorers_of_more_than_one_answer_are_refused(scorer: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        export(ExportConfig("tiny", out=tmp_path / "out", scorer=scorer))
    assert "p_true" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_answers_that_the_tokenizer_splits_are_refused(tmp_path: Path) -> None:
    reranker = Reranker.load(BUILDERS["llava"](tmp_path / "model"), scorer="p_true")
    with pytest.raises(UsageError, match="splits the answers"):
        plan_reranker(PairJudge(reranker))


def test_ties_and_images_in_another_order_are_refused(tiny: Reranker) -> None:
    with pytest.raises(UsageError, match="second prompt"):
        plan_reranker(PairJudge(Reranker(tiny.scorer, tie="entropy")))
    rules = (Rule(user="{candidate.image}{query.image}", query=("image",), candidate=("image",)),)
    swapped = Phrasing("p", words={"true": "True", "false": "False"}, forms={"true_false": rules})
    scorer = type(tiny.scorer)("p_true", tiny.scorer.judge, tiny.scorer.form, swapped)
    with pytest.raises(UsageError, match="candidate's image first for image with image"):
        plan_reranker(PairJudge(Reranker(scorer)))


def test_a_head_that_no_dense_can_follow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = Reranker.load("tiny", scorer="p_true")
    head = reranker.scorer.judge.loaded.model.get_output_embeddings()
    monkeypatch.setattr(head, "forward", lambda states: torch.nn.functional.linear(states, head.weight) ** 2)
    with pytest.raises(UsageError, match="changes its logits"):
        plan_reranker(PairJudge(reranker))


def test_flags_of_a_retriever_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pooling"):
        export(ExportConfig("tiny", out=tmp_path / "out", scorer="p_true", pooling="mean"))
    with pytest.raises(UsageError, match="no remote-code"):
        export(ExportConfig("tiny", out=tmp_path / "out", scorer="p_true", remote_code=True))
    with pytest.raises(UsageError, match="Give a model"):
        export(ExportConfig(out=tmp_path / "out", scorer="p_true"))
    with pytest.raises(UsageError, match="language head"):
        export(ExportConfig("tiny-contrastive", out=tmp_path / "out", scorer="p_true"))


# What is written, and verify; sentence-transformers is played by a script


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export") / "out"
    export(ExportConfig("tiny", out=place, scorer="p_true"))
    return place


def test_the_folder_and_its_card(folder: Path) -> None:
    modules = [row["type"].rpartition(".")[2] for row in json.loads((folder / "modules.json").read_text())]
    assert modules[:2] == ["Transformer", "Pooling"]
    assert set(modules[2:]) == {"Dense"}
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert (settings["model_type"], settings["activation_fn"]) == ("CrossEncoder", SIGMOID)
    assert read_facts(folder)["scorer"] == "p_true"
    assert not list(folder.rglob("*.py"))
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "text-ranking"
    assert "CrossEncoder" in card.text
    assert "`True`" in card.text


def test_a_reranker_is_no_encoder_here(folder: Path) -> None:
    with pytest.raises(ModelError, match="reranker"):
        load_model(folder)


FAKE = """\
#!{python}
import hashlib, json, os, sys
import numpy as np
FAULT = {fault!r}
request = json.load(open(sys.argv[2]))
def told(item):
    return [item["text"], item["image"] and hashlib.sha256(open(item["image"], "rb").read()).hexdigest()]
def score(pair, job):
    said = [told(request["items"][n]) for n in pair] + [os.getpid()] * (FAULT == "process")
    said += [len(job["batches"])] * (FAULT == "batch")
    seed = int(hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12], 16)
    value = 0.5 if FAULT == "same" else np.random.default_rng(seed).random()
    return value + (job["dtype"] is not None) * (0.4 if FAULT == "drift" else 0.001)
for job in request["jobs"]:
    assert job["method"] == "predict"
    assert sorted(sum(job["batches"], [])) == list(range(len(request["pairs"])))
    np.save(job["out"], np.array([score(pair, job) for pair in request["pairs"]], np.float32))
"""


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ("", set()),
        ("process", {"fresh process"}),
        ("batch", {"alone or in a batch", "mixed batch"}),
        ("same", {"ties"}),
        ("drift", {"bfloat16 drift"}),
    ],
)
def test_each_fault_fails_its_check(folder: Path, tmp_path: Path, fault: str, failed: set[str]) -> None:
    script = tmp_path / "python"
    script.write_text(FAKE.format(python=sys.executable, fault=fault))
    script.chmod(0o755)
    result = verify(VerifyConfig(str(folder), count=6, python=script))
    assert {check.name for check in result.checks if check.passed is False} == failed
    assert json.loads((folder / VERIFY).read_text())["passed"] == (not failed)
    result = verify(VerifyConfig(str(folder), count=6, against="tiny", python=script))
    assert "against, predict" in {check.name for check in result.checks if check.passed is False}


def test_too_few_items_are_said(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"text": "alone"}))
    with pytest.raises(DataError, match="Too few pairs"):
        verify(VerifyConfig(str(folder), items=file))
