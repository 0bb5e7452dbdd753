"""`clearsight verify`: what passes, fails and is recorded; sentence-transformers is played by a script."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from clearsight.errors import DataError, ModelError, UsageError
from clearsight.formats.sentence_transformers_folder import VERIFY, folder_digest
from clearsight.jobs.export import ExportConfig, export
from clearsight.jobs.push import PushConfig, push
from clearsight.jobs.verify import Check, VerifyConfig, VerifyResult, at_least, at_most, shape_checks, verify

# Takes the place of the Python that has sentence-transformers: vectors are drawn from what the items hold.
FAKE = """\
#!{python}
import hashlib, json, os, sys
import numpy as np
FAULT = {fault!r}
request = json.load(open(sys.argv[2]))
if FAULT == "refuse":
    sys.exit("ValueError: Please pass the argument `trust_remote_code=True` to allow custom code to be run.")
if FAULT == "torchvision":
    sys.exit("  File 'x'\\nImportError: Q requires the Torchvision.\\n\\nTo install, run:\\npip x")
if FAULT == "missing":
    sys.exit("ModuleNotFoundError: No module named 'sentence_transformers'")
def vector(item, job):
    said = [item["text"], item["image"] and hashlib.sha256(open(item["image"], "rb").read()).hexdigest()]
    said += [job["method"] == "encode_query"]
    said += [os.getpid()] * (FAULT == "process") + [len(job["batches"])] * (FAULT == "batch")
    seed = int(hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12], 16)
    row = np.random.default_rng(0 if FAULT == "same" else seed).standard_normal(16)
    if job["dtype"] is not None:
        row += np.random.default_rng(seed + 1).standard_normal(16) * (3 if FAULT == "drift" else 0.01)
    row = row * (np.nan if FAULT == "nan" else 1)
    return (row / np.linalg.norm(row)).astype(np.float32)
for job in request["jobs"]:
    assert sorted(sum(job["batches"], [])) == list(range(len(request["items"])))
    np.save(job["out"], np.stack([vector(item, job) for item in request["items"]]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export") / "out"
    export(ExportConfig("tiny", out=place, prompt="plain"))
    return place


def fake(tmp_path: Path, fault: str = "") -> Path:
    script = tmp_path / f"python-{fault or 'good'}"
    script.write_text(FAKE.format(python=sys.executable, fault=fault))
    script.chmod(0o755)
    return script


def names_of_failed(result: VerifyResult) -> set[str]:
    return {check.name for check in result.checks if check.passed is False}


def test_a_good_folder_passes_and_may_be_pushed(folder: Path, tmp_path: Path) -> None:
    result = verify(VerifyConfig(str(folder), count=9, python=fake(tmp_path)))
    # The script's documents are worded alike, whatever the method's name.
    assert result.passed
    assert result.exit_code == 0
    assert {
        "fresh process",
        "alone or in a batch",
        "mixed batch",
        "ties",
        "mean cosine",
        "bfloat16 drift",
    } <= {check.name for check in result.checks}
    record = json.loads((folder / VERIFY).read_text())
    assert record["passed"]
    assert record["digest"] == folder_digest(folder)
    assert record["checks"] == result.to_json()["checks"]

    class Hub:
        def create_repo(self, *args: object, **options: object) -> str:
            return "https://hub/me/x"

        def upload_folder(self, **options: object) -> str:
            return "commit"

    assert push(PushConfig(folder, "me/x"), api=Hub()).private


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ("process", {"fresh process"}),
        ("batch", {"alone or in a batch", "mixed batch"}),
        ("drift", {"bfloat16 drift"}),
        ("same", {"ties", "mean cosine"}),
    ],
)
def test_each_fault_fails_its_check(folder: Path, tmp_path: Path, fault: str, failed: set[str]) -> None:
    result = verify(VerifyConfig(str(folder), count=9, python=fake(tmp_path, fault)))
    assert names_of_failed(result) == failed
    assert result.exit_code == 1
    assert result.to_json()["passed"] is False
    assert not json.loads((folder / VERIFY).read_text())["passed"]


def test_vectors_of_another_origin_fail(folder: Path, tmp_path: Path) -> None:
    result = verify(VerifyConfig(str(folder), against="tiny", count=6, python=fake(tmp_path)))
    assert {"against, encode_query", "against, encode_document"} <= names_of_failed(result)


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ("refuse", "--trust-remote-code"),
        ("missing", "--python"),
        (
            "torchvision",
            "refuses the folder: ImportError: Q requires the Torchvision(.|\n)*from the same index",
        ),
    ],
)
def test_a_refusal_says_what_to_do(folder: Path, tmp_path: Path, fault: str, advice: str) -> None:
    with pytest.raises(ModelError, match=advice):
        verify(VerifyConfig(str(folder), count=6, python=fake(tmp_path, fault)))
    with pytest.raises(ModelError, match="another --python"):
        verify(VerifyConfig(str(folder), count=6, python=tmp_path / "nothing"))


def test_a_python_is_named_by_path_or_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fake(tmp_path).parent)
    assert verify(VerifyConfig(str(folder), count=6, python=Path("./python-good"))).passed
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(folder)
    assert verify(VerifyConfig(str(folder), count=6, python=Path("python-good"))).passed


def test_a_strangers_folder_is_asked_for_texts(tmp_path: Path) -> None:
    place = tmp_path / "theirs"
    place.mkdir()
    (place / "modules.json").write_text("[]")
    result = verify(VerifyConfig(str(place), count=9, python=fake(tmp_path)))
    assert result.passed
    assert not (place / VERIFY).exists()
    with pytest.raises(UsageError, match="did not export"):
        verify(VerifyConfig(str(place), against="tiny", python=fake(tmp_path)))


def test_items_of_ones_own(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"thing number {n}"}) for n in range(8)))
    assert verify(VerifyConfig(str(folder), items=file, python=fake(tmp_path))).passed
    file.write_text(file.read_text() + "\n" + json.dumps({"text": "thing number 3"}))  # the same is no tie
    assert verify(VerifyConfig(str(folder), items=file, python=fake(tmp_path))).passed
    file.write_text(json.dumps({"text": "alone"}))
    with pytest.raises(DataError, match="1 of the items"):
        verify(VerifyConfig(str(folder), items=file, python=fake(tmp_path)))
    with pytest.raises(UsageError, match="--count"):
        verify(VerifyConfig(str(folder), count=2, python=fake(tmp_path)))


def test_a_model_is_embedded_by_our_own_encoder() -> None:
    result = verify(VerifyConfig("tiny", count=6, prompt="hierarchical", pooling="last"))
    assert {"fresh process", "alone or in a batch", "prefix reuse"} <= {check.name for check in result.checks}
    assert not names_of_failed(result) & {"fresh process", "alone or in a batch", "prefix reuse", "ties"}
    with pytest.raises(UsageError, match="--against"):
        verify(VerifyConfig("tiny", against="tiny"))


def test_what_is_not_a_number_fails() -> None:
    assert at_most("x", float("nan"), 1).passed is False
    assert at_least("x", float("nan"), 1).passed is False
    assert at_most("x", 1.0, 1).passed is True
    assert VerifyResult("f", (Check("shown", 9.0),)).passed


def test_ties_are_counted() -> None:
    rows_ND = np.eye(8, dtype=np.float32)
    rows_ND[7] = rows_ND[0]
    ties = next(check for check in shape_checks(rows_ND) if check.name == "ties")
    assert ties.value == pytest.approx(2 / 8)
