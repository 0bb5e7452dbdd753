"""What `clearsight serve` shows on a fresh machine: drawn scenes, indexed once by the shipped model.

The pictures are files, so that everything works as with a person's own folder; captions of other scenes are
items of text, and what is known of each scene is metadata to filter by.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.data.indexed import cache_folder
from clearsight.data.scenes import Scene
from clearsight.errors import DataError
from clearsight.files import write_atomic
from clearsight.jobs.ui import Ui

if TYPE_CHECKING:
    from clearsight.types import Item

SCENES = 400
"""Pictures, and as many texts."""
UNLABELLED = 200
"""Pictures that the model captions to align itself: enough for scenes of this world, and quick."""
NAME = "drawn-world"
"""Of the folder, as the page shows it."""
EDITION = 1
"""Of what is drawn; the number changes with it."""
DONE = "ready"


def world_index(ui: Ui, *, device: str | None = None, scenes: int = SCENES) -> Path:
    """The folder of the drawn world's index, made where it is not there yet.

    An interrupted call is gone on with by the next: what is drawn, embedded and captioned is kept.

    Raises:
        DataError: the cache cannot be written.
    """
    from clearsight.index import Index

    folder = cache_folder().parent / f"served-{EDITION}-{scenes}" / NAME
    index = folder / ".clearsight"
    if (index / DONE).exists():
        return index
    ui.say(f"Nothing was given to serve: {scenes} scenes are drawn and indexed by the shipped model, once.")
    try:
        _draw(folder, scenes)
        started = (index / "index.json").exists()
        made = Index.open(index, device=device) if started else _created(Index, index, folder, device)
        with made:
            made.sync(progress=ui.progress)
            made.refit(progress=ui.progress)
        write_atomic(index / DONE, b"")
    except OSError as fault:
        raise DataError(
            f"The drawn world cannot be written ({fault.strerror}).",
            where=str(folder),
            do="Make room, or set CLEARSIGHT_CACHE to another folder.",
        ) from fault
    return index


def _created(kind: Any, index: Path, folder: Path, device: str | None) -> Any:
    return kind.create(
        index, "tiny", items=folder, device=device, unlabelled=UNLABELLED, overwrite=index.exists()
    )


def _draw(folder: Path, scenes: int) -> None:
    """Pictures, and one table that names them and holds the texts."""
    from clearsight.data import world

    table = folder / "world.jsonl"
    if table.exists():  # written last
        return
    task = world.text_to_image(2 * scenes)
    rows: list[dict[str, Any]] = []
    for n, item in enumerate(task.candidates[:scenes], 1):
        name = f"scenes/scene-{n:03}.png"
        (folder / "scenes").mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_png(item))
        rows.append({"id": name, "image": name, **_facts(world.scene_of(item))})
    rows += [
        {"id": f"text-{n:03}", "text": item.text, **_facts(world.scene_of(item))}
        for n, item in enumerate(task.queries[scenes:], 1)
    ]
    write_atomic(table, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _png(item: Item) -> bytes:
    from clearsight.data.images import open_image

    file = io.BytesIO()
    assert item.image is not None
    open_image(item.image).save(file, "PNG")
    return file.getvalue()


def _facts(scene: Scene) -> dict[str, Any]:
    return {
        "things": len(scene.things),
        "shapes": ", ".join(sorted({thing.shape for thing in scene.things})),
        "colors": ", ".join(sorted({thing.color for thing in scene.things})),
        "tint": scene.tint,
        "texture": scene.texture,
    }
