"""`clearsight reproduce prompts`: what each part of a prompt does, on MMEB or on any task."""

from __future__ import annotations

from clearsight.jobs.papers.base import EMBEDDER, PUBLISHED, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.embedder_table_4 import MODELS, NUMBERS, strategies
from clearsight.jobs.papers.mmeb import DATA, SENTENCES, meta_columns, mmeb_tasks, task_columns
from clearsight.jobs.papers.settings import Setting, measured_cells

NONE = "No-Prompt"
WORLD = ("world/i2t", "world/t2i", "world/composed")
WORLD_QUERIES = 300


def settings() -> tuple[Setting, ...]:
    """Table IV's strategies and its neighbours, each tested against no prompt at all."""
    return (
        *strategies(),
        Setting("+ Q-Rein., no keyword", "hierarchical_wordy", against=NONE),
        Setting("VladVA", "vladva", against=NONE),
        Setting("FreeRet, usual layer end", "freeret", "last", against=NONE),
        Setting("FreeRet", "freeret", "last_attention", against=NONE),
        Setting("FreeRet, final norm", "freeret", "last_attention_norm", against=NONE),
    )


def redo(bench: Bench) -> Redone:
    """On the tasks given; else on MMEB where data are given; else on the shipped world."""
    differs: tuple[str, ...] = ()
    if bench.tasks or bench.data is None:
        names = bench.tasks or WORLD
        bench.n = bench.n or (WORLD_QUERIES if not bench.tasks else None)
        tasks = {name: bench.task((name,)) for name in names}
        columns = task_columns(list(tasks))
        differs = (f"These are {', '.join(tasks)}, not MMEB: nothing published stands beside them.",)
    else:
        tasks, absent = mmeb_tasks(bench)
        columns, differs = meta_columns(), (*SENTENCES, *absent)
    cells = measured_cells(bench, settings(), tasks, columns)
    wording = (
        "VladVA's and FreeRet's sentences are ours, written after what is told of them. FreeRet reads the "
        "residual after the last attention; whether the final norm follows is not stated: both are shown.",
    )
    return Redone(tuple(cells), (*differs, *wording))


TABLE = PUBLISHED.add(
    "prompts",
    Published(
        name="prompts",
        title="What each part of the hierarchical prompt does, beside other training-free prompts",
        paper=EMBEDDER,
        place="Table IV, and prompts beside it",
        models=MODELS,
        data=DATA,
        numbers=NUMBERS,
        redo=redo,
        default_model="tiny",
    ),
)
