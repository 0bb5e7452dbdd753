"""The checks of a plain model, embedded by Clearsight's own encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clearsight.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clearsight.jobs.ui import Ui
    from clearsight.jobs.verify import Check, VerifyConfig
    from clearsight.types import Item

WORKER = "clearsight.jobs.verify_model"


def model_checks(config: VerifyConfig, items: Sequence[Item], ui: Ui) -> list[Check]:
    """Every check of a model, in the order of the table."""
    import numpy as np
    import torch

    from clearsight.jobs.verify import EQUAL, at_most, drift_checks, largest, shape_checks, unit

    encoder = _encoder(_settings(config))
    ui.say(f"Embedding {len(items)} items with {config.folder} ...")
    rows_ND = unit(encoder.embed(items).rows_ND)
    alone_ND = np.concatenate([unit(encoder.embed([item]).rows_ND) for item in items])
    whole_ND = unit(_encoder(_settings(config), share_prefix=False).embed(items).rows_ND)
    half = _encoder(_settings(config), dtype=torch.bfloat16)
    half_ND = unit(half.embed(items).rows_ND)
    ui.say("... and in a second process")
    again_ND = unit(_in_fresh_process(config, items))
    return [
        at_most("fresh process", largest(rows_ND, again_ND), EQUAL, "largest difference of an entry"),
        at_most("alone or in a batch", largest(rows_ND, alone_ND), EQUAL),
        at_most("prefix reuse", largest(rows_ND, whole_ND), EQUAL, "keys and values shared, or not"),
        *drift_checks(rows_ND, half_ND),
        *shape_checks(rows_ND),
    ]


def _settings(config: VerifyConfig) -> dict[str, Any]:
    return {
        "model": config.folder,
        "prompt": config.prompt,
        "pooling": config.pooling,
        "trust_remote_code": config.trust_remote_code,
    }


def _encoder(settings: dict[str, Any], **options: Any) -> Any:
    from clearsight.models.encoder import Encoder

    return Encoder.load(device="cpu", **settings, **options)


def _in_fresh_process(config: VerifyConfig, items: Sequence[Item]) -> NDArray[np.float32]:
    import numpy as np

    from clearsight.data import open_image

    with TemporaryDirectory() as place:
        rows = []
        for number, item in enumerate(items):
            file = Path(place) / f"{number}.png"
            if item.image is not None:
                open_image(item.image, item_id=item.id).save(file)
            image = None if item.image is None else str(file)
            rows.append({"id": item.id, "text": item.text, "image": image, "instruction": item.instruction})
        request, out = Path(place) / "request.json", Path(place) / "rows.npy"
        request.write_text(json.dumps({"settings": _settings(config), "items": rows, "out": str(out)}))
        command = [sys.executable, "-m", WORKER, str(request)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise ModelError(f"A fresh process cannot embed: {last[:400]}", where=config.folder)
        rows_ND: NDArray[np.float32] = np.load(out)
    return rows_ND


def main(request_file: str) -> None:
    """What the fresh process does."""
    import numpy as np

    from clearsight.types import Item

    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    items = [Item(**row) for row in request["items"]]
    np.save(request["out"], _encoder(request["settings"]).embed(items).rows_ND)


if __name__ == "__main__":
    main(sys.argv[1])
