"""Items, tasks and vectors from people's own files and from benchmarks."""

from typing import TYPE_CHECKING

from clearsight.lazy import names_from

if TYPE_CHECKING:
    from clearsight.data.content import content_key
    from clearsight.data.images import open_image
    from clearsight.data.own_tasks import load_vector_task
    from clearsight.data.records import LoadedItems, load_items
    from clearsight.data.sources import TASK_SOURCES, TaskOptions, TaskSource, load_task, task_sources
    from clearsight.data.tables import Skipped
    from clearsight.data.vectors import load_vectors, save_vectors

__all__ = [
    "TASK_SOURCES",
    "LoadedItems",
    "Skipped",
    "TaskOptions",
    "TaskSource",
    "content_key",
    "load_items",
    "load_task",
    "load_vector_task",
    "load_vectors",
    "open_image",
    "save_vectors",
    "task_sources",
]

_HOMES = {
    "content_key": "content",
    "open_image": "images",
    "load_vector_task": "own_tasks",
    "Skipped": "tables",
    **dict.fromkeys(("LoadedItems", "load_items"), "records"),
    **dict.fromkeys(("TASK_SOURCES", "TaskOptions", "TaskSource", "load_task", "task_sources"), "sources"),
    **dict.fromkeys(("load_vectors", "save_vectors"), "vectors"),
}

__getattr__ = names_from(__name__, _HOMES)  # a search needs no benchmarks
