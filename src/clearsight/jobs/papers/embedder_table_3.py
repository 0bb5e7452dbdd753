"""From Generator to Embedder, table III: system prompt and representation prompts, controlled.

The prompts that MMEB's candidates bring along are left out, so that what a candidate is told is the table's.
"""

from __future__ import annotations

from clearsight.jobs.papers.base import EMBEDDER, PUBLISHED, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.mmeb import DATA, META, SENTENCES, groups, mmeb_tasks
from clearsight.jobs.papers.settings import Column, Setting, measured_cells, row_name

MODEL = "Qwen2-VL-2B"
NONE = "no system: none"
# Table III, row by row: system prompt; Rep_Q; Rep_D without and with "in one word"; Avg. Score, Avg. Task.
_ROWS = (
    (NONE, "controlled", 13.94, 15.26),
    ("no system: D w/o OW", "controlled_d_wordy", 24.21, 24.47),
    ("no system: D w/ OW", "controlled_d", 33.74, 34.34),
    ("no system: Q + D w/ OW", "controlled_qd", 34.28, 35.52),
    ("system: none", "controlled_system", 42.29, 42.99),
    ("system: D w/o OW", "controlled_system_d_wordy", 42.46, 43.30),
    ("system: D w/ OW", "controlled_system_d", 41.44, 42.23),
    ("system: Q", "controlled_system_q", 42.44, 43.34),
    ("system: Q + D w/o OW", "controlled_system_qd_wordy", 42.46, 43.49),
    ("system: Q + D w/ OW", "controlled_system_qd", 41.71, 42.72),
)


def settings() -> tuple[Setting, ...]:
    return tuple(
        Setting(label, prompt, against=None if label == NONE else NONE) for label, prompt, *_ in _ROWS
    )


def columns() -> list[Column]:
    """Over all sets alike, and over meta-tasks alike."""
    every, meta = groups()["all"], tuple(groups()[name] for name in META.values())
    return [
        Column("Avg. Score", every, expected=len(every)),
        Column("Avg. Task", every, expected=len(every), groups=meta),
    ]


def redo(bench: Bench) -> Redone:
    tasks, absent = mmeb_tasks(bench)
    cells = measured_cells(bench, settings(), tasks, columns())
    return Redone(
        tuple(cells),
        (
            *SENTENCES,
            *absent,
            "The release's candidate prompts are written set by set (such as 'Represent the class label') "
            "and are not in the text at hand; ours are the query's sentence on the candidate's side.",
        ),
    )


TABLE = PUBLISHED.add(
    "embedder-table-3",
    Published(
        name="embedder-table-3",
        title="System prompt and representation prompts, in a controlled setting",
        paper=EMBEDDER,
        place="Table III (unless it says otherwise the paper's analyses use Qwen2-VL-2B)",
        models={MODEL: "Qwen/Qwen2-VL-2B-Instruct"},
        data=DATA,
        numbers={
            row_name(MODEL, label): {"Avg. Score": score, "Avg. Task": task}
            for label, _, score, task in _ROWS
        },
        redo=redo,
    ),
)
