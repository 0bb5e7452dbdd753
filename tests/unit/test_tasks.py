"""`clearsight tasks`: every benchmark with its facts, and what is on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clearsight.data.benchmarks import BENCHMARKS
from clearsight.errors import DataError, UsageError
from clearsight.jobs.tasks import TasksConfig, tasks
from clearsight.progress import Silent
from small.coco import write_coco
from small.flickr30k import write_flickr30k
from small.mmeb import ONE_OF_EACH, write_mmeb, write_mmeb_train
from small.sugarcrepe import write_sugarcrepe, write_sugarcrepe_pp


class Shown:
    """Keeps what a terminal of so many columns would show."""

    def __init__(self, width: int = 100) -> None:
        self.progress, self.width, self.text = Silent(), width, ""

    def say(self, text: str) -> None:
        self.text += text

    def show(self, renderable: Any) -> None:
        console = Console(width=self.width, color_system=None)
        with console.capture() as capture:
            console.print(renderable)
        self.text += capture.get()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_every_benchmark_is_listed_with_its_facts(width: int) -> None:
    ui = Shown(width)
    result = tasks(TasksConfig(), ui)
    assert [facts.name for facts in result.benchmarks] == BENCHMARKS.names()
    lines = ui.text.splitlines()
    assert max(map(len, lines)) <= width
    for facts in result.benchmarks:
        first = next(line for line in lines if line.startswith(facts.name + " "))
        assert str(len(facts.sets)) in first.split()
        assert facts.measures[0] in first
        assert all((facts.source, facts.size, facts.licence, facts.layout, facts.citation))
    assert "world/i2t" in ui.text
    assert "on disk" not in ui.text.partition("\n")[0]
    assert all(facts.found is None for facts in result.benchmarks)


def test_what_is_on_disk(tmp_path: Path) -> None:
    write_mmeb(tmp_path / "MMEB")
    write_mmeb_train(tmp_path / "train")
    write_coco(tmp_path / "coco", 2)
    write_flickr30k(tmp_path / "flickr")
    write_sugarcrepe(tmp_path / "one", ("add_att", "swap_obj"))
    write_sugarcrepe_pp(tmp_path / "two")
    ui = Shown()
    result = tasks(TasksConfig(data=tmp_path), ui)
    found = {facts.name: facts.on_disk for facts in result.benchmarks}
    assert found == {
        **dict.fromkeys(found, "no"),
        "mmeb": "5 of 36",
        "mmeb_train": "2 of 20",
        "coco": "2 of 2",
        "flickr30k": "2 of 2",
        "sugarcrepe": "2 of 7",
        "sugarcrepe_pp": "10 of 10",
    }
    assert "5 of 36" in ui.text
    content = json.loads(json.dumps(result.to_json()))
    mmeb = next(facts for facts in content["benchmarks"] if facts["name"] == "mmeb")
    assert set(mmeb["found"]) == set(ONE_OF_EACH)
    assert mmeb["folder"] == str(tmp_path / "MMEB")


def test_one_in_detail(tmp_path: Path) -> None:
    ui = Shown()
    result = tasks(TasksConfig("mmeb/imagenet_1k", write_mmeb(tmp_path)), ui)
    assert [facts.name for facts in result.benchmarks] == ["mmeb"]
    assert "* mmeb/VOC2007" in ui.text
    assert "* mmeb/GQA" not in ui.text
    assert "mmeb/GQA" in ui.text
    for words in ("tgt_text[]", "Apache-2.0", "out-of-domain (16)", "VLM2Vec", "hub:TIGER-Lab/MMEB-eval"):
        assert words in ui.text


@pytest.mark.parametrize(
    ("config", "fault", "reason"),
    [
        (TasksConfig("mmebb"), UsageError, "Did you mean 'mmeb'"),
        (TasksConfig("mmeb/nothing"), UsageError, "no set 'nothing'.*ImageNet-1K"),
        (TasksConfig(data=Path("not-there")), DataError, "no such folder"),
    ],
)
def test_wrong_names(config: TasksConfig, fault: type[Exception], reason: str) -> None:
    with pytest.raises(fault, match=reason):
        tasks(config)
