"""The checks of a sentence-transformers folder: it is opened by processes that do not load Clearsight."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clearsight.errors import DataError, ModelError, UsageError
from clearsight.types import MODALITIES, ROLES, Item, Modality, Role

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clearsight.jobs.ui import Ui
    from clearsight.jobs.verify import Check, VerifyConfig

METHODS: Mapping[Role, str] = {"query": "encode_query", "candidate": "encode_document"}
MINUTES = 30
_FAULT = re.compile(r"[\w.]*(Error|Exception): ")


@dataclass
class Session:
    """Embeddings of the items by a fresh process each time it runs.

    Attributes:
        groups: positions, of items or of pairs, that may share a batch.
        pairs: positions of a query and of a document each, where a reranker is asked.
    """

    config: VerifyConfig
    items: Sequence[Item]
    groups: Sequence[Sequence[int]]
    place: Path
    pairs: Sequence[tuple[int, int]] = ()
    _jobs: list[dict[str, Any]] = field(default_factory=list)

    def ask(
        self, name: str, method: str, batches: Sequence[Sequence[int]] | None = None, dtype: str | None = None
    ) -> None:
        """Add a job: its vectors are under `name` in what `run` gives."""
        self._jobs.append(
            {
                "out": str(self.place / f"{name}.npy"),
                "method": method,
                "batches": [list(batch) for batch in batches or self.groups],
                "dtype": dtype,
            }
        )

    def run(self) -> dict[str, NDArray[np.float32]]:
        """The vectors of every job asked for since the last run.

        Raises:
            ModelError: the process could not open the folder or embed; the message ends with what it said.
        """
        import numpy as np

        jobs, self._jobs = self._jobs, []
        request = self.place / "request.json"
        text = {
            "folder": str(Path(self.config.folder).resolve()),
            "items": self._rows(),
            "pairs": list(self.pairs),
            "jobs": jobs,
            "trust_remote_code": self.config.trust_remote_code,
        }
        request.write_text(json.dumps(text), encoding="utf-8")
        from clearsight.formats import remote

        script = Path(remote.__file__).with_name("encode_folder.py")
        python = _program(self.config.python)
        try:
            done = subprocess.run(
                [python, script, request], capture_output=True, text=True, check=False, timeout=60 * MINUTES
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(
                f"The folder's process failed: {error}.", where=str(python), do="Give another --python."
            ) from error
        if done.returncode:
            raise _refusal(self.config.folder, done.stderr)
        return {Path(job["out"]).stem: np.load(job["out"]) for job in jobs}

    def _rows(self) -> list[dict[str, Any]]:
        return [{"text": item.text, "image": self._image(n, item)} for n, item in enumerate(self.items)]

    def _image(self, place: int, item: Item) -> str | None:
        from clearsight.data import open_image

        if item.image is None:
            return None
        file = self.place / f"{place}.png"
        if not file.is_file():
            open_image(item.image, item_id=item.id).save(file)
        return str(file)


def is_reranker(folder: str) -> bool:
    """Whether the folder's settings say CrossEncoder."""
    file = Path(folder) / "config_sentence_transformers.json"
    try:
        settings = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError:
        return False  # the library will say what is wrong with it
    return isinstance(settings, dict) and settings.get("model_type") == "CrossEncoder"


def folder_checks(config: VerifyConfig, items: Sequence[Item], ui: Ui) -> list[Check]:
    """Every check of a folder, in the order of the table."""
    from clearsight.formats.sentence_transformers_folder import read_facts
    from clearsight.jobs.verify import EQUAL, at_most, drift_checks, largest, shape_checks

    facts = read_facts(config.folder)
    if config.against is not None and not facts:
        raise UsageError(
            "Clearsight did not export this folder.", where="--against", do="Leave --against out."
        )
    kept = _embeddable(items, facts, config)
    groups = [[n for n, item in enumerate(kept) if item.modality == kind] for kind in MODALITIES]
    with TemporaryDirectory() as place:
        session = Session(config, kept, [group for group in groups if group], Path(place))
        mixed = facts.get("mixed_batches", False) and len(session.groups) > 1
        session.ask("plain", "encode")
        for role in ROLES:
            session.ask(role, METHODS[role])
        session.ask("alone", METHODS["candidate"], [[n] for n in range(len(kept))])
        if mixed:
            session.ask("mixed", METHODS["candidate"], [range(len(kept))])
        session.ask("half", METHODS["candidate"], dtype="bfloat16")
        ui.say(f"Embedding {len(kept)} items with {config.folder} ...")
        found = session.run()
        session.ask("again", METHODS["candidate"])
        ui.say("... and in a second process")
        again = session.run()["again"]
    rows_ND = found["candidate"]
    lengths_N = (rows_ND.astype("float64") ** 2).sum(axis=1) ** 0.5
    checks = [
        at_most("fresh process", largest(rows_ND, again), EQUAL, "largest difference of an entry"),
        at_most("alone or in a batch", largest(rows_ND, found["alone"]), EQUAL),
        *([at_most("mixed batch", largest(rows_ND, found["mixed"]), EQUAL)] if mixed else []),
        at_most("length 1", float(abs(lengths_N - 1).max()), EQUAL),
    ]
    if facts:
        checks.append(at_most("encode is encode_document", largest(found["plain"], rows_ND), EQUAL))
    if config.against is not None:
        checks += _against(config, kept, found, facts)
    return [*checks, *drift_checks(rows_ND, found["half"]), *shape_checks(rows_ND)]


def _embeddable(items: Sequence[Item], facts: Mapping[str, Any], config: VerifyConfig) -> list[Item]:
    """The items of modalities that the folder embeds, without instructions; of a stranger's folder only texts
    are sure."""
    kinds = facts.get("modalities", MODALITIES if config.items is not None else ("text",))
    kept = [replace(item, instruction=None) for item in items if item.modality in kinds]
    if len(kept) < 2:
        raise DataError(
            f"The folder embeds {', '.join(kinds)}, and {len(kept)} of the items are that.",
            do="Give others: --items.",
        )
    return kept


def _against(
    config: VerifyConfig,
    items: Sequence[Item],
    found: Mapping[str, NDArray[np.float32]],
    facts: Mapping[str, Any],
) -> list[Check]:
    """The folder's vectors beside those of Clearsight's own encoder and repair."""
    from clearsight.jobs.verify import EQUAL, at_most, largest, unit
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import load_model

    assert config.against is not None
    model, repair = _origin(config.against, config.folder, facts)
    loaded = load_model(model, device="cpu", trust_remote_code=config.trust_remote_code)
    encoder = Encoder(loaded, prompt=_template(facts), pooling=facts["pooling"], layer=facts["layer"])
    sides: Mapping[Role, Modality | None] = {"query": facts["queries"], "candidate": facts["candidates"]}
    others: Mapping[Role, Role] = {"query": "candidate", "candidate": "query"}
    pinned = None not in sides.values()
    checks = []
    for role in ROLES:
        chosen = [n for n, item in enumerate(items) if not pinned or item.modality == sides[role]]
        if not chosen:
            continue
        own = encoder.embed([items[n] for n in chosen], role, counterpart=sides[others[role]])
        rows_ND = own.rows_ND if repair is None else _repaired(repair, own)
        note = f"largest difference to Clearsight's own, {len(chosen)} items"
        checks.append(
            at_most(f"against, {METHODS[role]}", largest(found[role][chosen], unit(rows_ND)), EQUAL, note)
        )
    if not checks:
        raise DataError("No item is of the modalities this folder was made for.", do="Give others: --items.")
    return checks


def _origin(against: str, folder: str, facts: Mapping[str, Any]) -> tuple[str, Any]:
    """The model and the fitted repair: of a run, the run's own; of a model, what the export kept."""
    from clearsight.formats.sentence_transformers_folder import REPAIR
    from clearsight.repair import load_repair
    from clearsight.run import Run

    file = Path(folder) / REPAIR
    if not (Path(against) / "manifest.json").is_file():
        return against, load_repair(file) if file.is_file() else None
    run = Run.open(against)
    if not facts.get("outcome") or not run.manifest.get("config", {}).get("model"):
        raise UsageError(
            "This folder was not exported from a run with a model.",
            where="--against",
            do="Give the model instead.",
        )
    own = run.folder / "repairs" / f"{facts['outcome']}.safetensors"
    return run.manifest["config"]["model"], load_repair(own) if own.is_file() else None


def _repaired(repair: Any, embeddings: Any) -> NDArray[np.float32]:
    from clearsight.repair import PerGroup

    repaired = repair.transform(embeddings if isinstance(repair, PerGroup) else embeddings.rows_ND)
    rows_ND: NDArray[np.float32] = repaired.rows_ND if isinstance(repair, PerGroup) else repaired
    return rows_ND


def _template(facts: Mapping[str, Any]) -> Any:
    """The prompt as it was when the folder was written."""
    from clearsight.models.prompts import Rule, Template

    def tuples(table: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}

    try:
        given = facts["template"]
        return Template(**{**tuples(given), "rule": tuple(Rule(**tuples(rule)) for rule in given["rule"])})
    except (KeyError, TypeError) as error:
        raise DataError(
            f"The export's description is incomplete: {error}.", where="template", do="Export again."
        ) from error


def _program(python: Path | None) -> str:
    """The Python to run: this one, a file (a path may not lose its "./"), or a name of the PATH."""
    if python is None:
        return sys.executable
    return str(python.absolute()) if python.is_file() else str(python)


def _refusal(folder: str, said: str) -> ModelError:
    """What the process said last of what went wrong: behind it libraries write advice of their own."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    faults = [line for line in lines if _FAULT.match(line)]
    last = (faults or lines or ["nothing"])[-1]
    if "No module named 'sentence_transformers'" in said:
        do = "pip install 'clearsight[sentence-transformers]', or name a Python that has it: --python."
    elif "trust_remote_code" in said:
        do = "If you trust its code: --trust-remote-code."
    elif "orchvision" in said:
        do = (
            "Its processor asks for torchvision: install the build that belongs to your torch, from the same "
            "index (PyPI's is for CUDA), or name a Python that has it: --python."
        )
    else:
        do = "Export again, or look at what sentence-transformers says of the folder."
    return ModelError(f"sentence-transformers refuses the folder: {last[:400]}", where=folder, do=do)
