"""Items, tasks and vectors from people's own files and from benchmarks."""

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
