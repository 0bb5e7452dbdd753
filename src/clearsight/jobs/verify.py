"""`clearsight verify`: proves that a folder gives the vectors it should, however it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clearsight.types import Item

FAILED = 1
"""Exit code of a folder that failed."""

EQUAL = 1e-5
"""Largest difference of two unit vectors' entries that counts as none."""
LEAST_COSINE = 0.9
MOST_TIES = 0.01
MOST_ALIKE = 0.99


@dataclass(frozen=True)
class VerifyConfig:
    """Prove a folder: the same vectors in a fresh process, alone or in a batch, and against its origin.

    The folder is one that `clearsight export` wrote, any other of sentence-transformers (a retriever or a
    reranker), or a model, which is then embedded by Clearsight. The exit code is 1 if a check fails.
    """

    folder: Annotated[str, "an exported folder, or a model"] = field(metadata={"positional": True})
    items: Annotated[Path | None, "items to embed: jsonl, csv, parquet, a folder of images"] = None
    against: Annotated[
        str | None, "the model it was made from, or the run: vectors must equal Clearsight's own"
    ] = None
    count: Annotated[int, "at most so many items; of the shipped world where none are given"] = 24
    prompt: Annotated[str, "prompt name or TOML file; for a model only"] = "one_word"
    pooling: Annotated[str, "pooling; for a model only"] = "mean"
    trust_remote_code: Annotated[bool, "run code that comes with the folder; off unless you trust it"] = False
    python: Annotated[Path | None, "the Python that has sentence-transformers, for a folder; this one"] = None


@dataclass(frozen=True)
class Check:
    """One figure and what it is held against.

    Attributes:
        threshold: in words, such as "at most 1e-05"; empty where nothing is demanded.
        passed: None where nothing is demanded.
    """

    name: str
    value: float
    threshold: str = ""
    passed: bool | None = None
    note: str = ""


def at_most(name: str, value: float, limit: float, note: str = "") -> Check:
    """A check that NaN fails."""
    return Check(name, float(value), f"at most {limit:g}", bool(value <= limit), note)


def at_least(name: str, value: float, limit: float, note: str = "") -> Check:
    return Check(name, float(value), f"at least {limit:g}", bool(value >= limit), note)


@dataclass(frozen=True)
class VerifyResult:
    folder: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else FAILED

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }


def verify(config: VerifyConfig, ui: Ui | None = None) -> VerifyResult:
    """Embed the items in several ways and compare.

    Raises:
        UsageError: `against` for a folder that Clearsight did not export.
        ModelError: the folder cannot be opened.
        DataError: the items cannot be read, or there are too few.
    """
    from clearsight.jobs.verify_folder import folder_checks, is_reranker
    from clearsight.jobs.verify_model import model_checks
    from clearsight.jobs.verify_reranker import reranker_checks

    ui = ui or Quiet()
    items = _items(config)
    stock = (Path(config.folder) / "modules.json").is_file()
    if config.against is not None and not stock:
        raise UsageError("Only a folder is held against its origin.", where="--against", do="Leave it out.")
    of_folder = reranker_checks if is_reranker(config.folder) else folder_checks
    checks = (of_folder if stock else model_checks)(config, items, ui)
    result = VerifyResult(config.folder, tuple(checks))
    if stock:
        _record(config, result)
    _show(result, ui)
    return result


def shape_checks(rows_ND: NDArray[np.float32]) -> list[Check]:
    """Ties and geometry of unit rows: what would make a ranking meaningless, and what is good to know."""
    import numpy as np

    from clearsight.metrics import geometry
    from clearsight.repair.affine import unit_rows

    exact_ND = unit_rows(rows_ND.astype(np.float64))  # float32 rows are of length 1 to 1e-7 only
    cosine_NN = exact_ND @ exact_ND.T
    np.fill_diagonal(cosine_NN, -1.0)
    tied = float((cosine_NN.max(axis=1) > 1 - 1e-9).mean())
    figures = geometry(rows_ND)
    return [
        at_most("ties", tied, MOST_TIES, "share of items whose vector another item has too"),
        at_most("mean cosine", figures["anisotropy"], MOST_ALIKE, "1: all vectors are alike"),
        *(
            Check(name, figures[key], note=note)
            for name, key, note in (
                ("hubness", "hubness", "0 is even, above 1 is hubby"),
                ("effective rank", "effective_rank", f"of {rows_ND.shape[1]} dimensions"),
                ("common share", "common_share", "squared length along one direction"),
            )
        ),
    ]


def drift_checks(rows_ND: NDArray[np.float32], half_ND: NDArray[np.float32]) -> list[Check]:
    """What bfloat16 does to unit rows."""
    import numpy as np

    cosine_N = np.einsum("nd,nd->n", rows_ND.astype(np.float64), half_ND.astype(np.float64))
    note = "mean cosine of float32 and bfloat16 vectors"
    return [
        at_least("bfloat16 drift", cosine_N.mean(), LEAST_COSINE, note),
        Check("bfloat16 drift, worst", float(cosine_N.min())),
    ]


def unit(rows_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1."""
    from clearsight.repair.affine import unit_rows

    rows: NDArray[np.float32] = unit_rows(rows_ND)
    return rows


def largest(left_ND: NDArray[Any], right_ND: NDArray[Any]) -> float:
    """The largest difference of two entries; NaN where one is missing, infinity where shapes differ."""
    return float(abs(left_ND - right_ND).max()) if left_ND.shape == right_ND.shape else float("inf")


def _items(config: VerifyConfig) -> list[Item]:
    """Items of all three modalities, unless the user gives others; each content once, or it would tie."""
    from clearsight.data import load_items
    from clearsight.data.content import content_key
    from clearsight.data.world import composed
    from clearsight.types import Item

    if config.count < 6:
        raise UsageError("Fewer than six items prove little.", where="--count", do="Give 6 or more.")
    if config.items is not None:
        by_content = {content_key(item): item for item in load_items(config.items)[: config.count]}
        return list(by_content.values())
    by_text = {query.text: query for query in composed(config.count).queries}
    queries = list(by_text.values())[: config.count // 3]
    return [
        *(Item(f"text-{place}", text=query.text) for place, query in enumerate(queries)),
        *(Item(f"image-{place}", image=query.image) for place, query in enumerate(queries)),
        *(Item(f"both-{place}", query.text, query.image) for place, query in enumerate(queries)),
    ]


def _record(config: VerifyConfig, result: VerifyResult) -> None:
    """Into an exported folder, so that `push` knows."""
    from clearsight.files import to_json, write_atomic
    from clearsight.formats.sentence_transformers_folder import VERIFY, folder_digest, read_facts

    if read_facts(config.folder):
        facts: Mapping[str, Any] = {**result.to_json(), "digest": folder_digest(config.folder)}
        facts = {**facts, "against": config.against}
        write_atomic(Path(config.folder) / VERIFY, to_json(facts))


def _show(result: VerifyResult, ui: Ui) -> None:
    from rich.table import Table

    table = Table("check", "value", "threshold", "", "", box=None, padding=(0, 2, 0, 0), header_style="bold")
    words = {True: "[green]pass[/green]", False: "[bold red]FAIL[/bold red]", None: ""}
    for check in result.checks:
        table.add_row(
            check.name, f"{check.value:.3g}", check.threshold, words[check.passed], f"[dim]{check.note}[/dim]"
        )
    ui.show(table)
    failed = [check.name for check in result.checks if check.passed is False]
    ui.say(f"{result.folder}: " + (f"failed: {', '.join(failed)}" if failed else "every check passed"))
