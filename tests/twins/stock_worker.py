"""A process that knows nothing of Clearsight: `python stock_worker.py REQUESTS.json`.

For each request (as `encode_folder.py` documents, with `ids`: a file for token ids) opens the folder with
sentence-transformers and writes the vectors. A request that fails leaves refused.txt in its `place`.
"""

from __future__ import annotations

import json
import runpy
import sys
import traceback
from pathlib import Path

if "clearsight" in sys.modules:
    raise SystemExit("This process must not load Clearsight.")


def token_ids(model: object, items: list, task: str | None) -> list[list[int]]:
    """Ids of each item alone, without padding."""
    rows = []
    for item in items:
        features = model.preprocess([item], **({} if task is None else {"task": task}))
        mask = features.get("attention_mask")
        ids = features["input_ids"][0] if "input_ids" in features else []
        rows.append([] if len(ids) == 0 else ids[mask[0] == 1].tolist() if mask is not None else ids.tolist())
    return rows


def answer(request: dict, encode_folder: dict) -> None:
    models, items = encode_folder["answer"](request)
    if "ids" in request:
        ids = {str(task): token_ids(models[None], items, task) for task in (None, "query", "document")}
        Path(request["ids"]).write_text(json.dumps(ids))


def main(file: str) -> None:
    requests = json.loads(Path(file).read_text(encoding="utf-8"))
    encode_folder = runpy.run_path(requests["script"])
    for request in requests["requests"]:
        try:
            answer(request, encode_folder)
        except Exception:
            Path(request["place"], "refused.txt").write_text(traceback.format_exc())
    if any(name.partition(".")[0] == "clearsight" for name in sys.modules):
        raise SystemExit("Something in this process loaded Clearsight.")


if __name__ == "__main__":
    main(sys.argv[1])
