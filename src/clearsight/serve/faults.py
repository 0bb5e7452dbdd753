"""What a client is told when something is wrong: one shape for each style of API, and no internals.

| raised | status | told |
|---|---|---|
| `RefusedError`, `HTTPException` | its own | its own sentence |
| `UsageError`, `ItemError` | 400 | what, where, do: they are about the request |
| `DataError` | 400, or 500 where it names a place on disk | as above, or nothing |
| `BusyError` | 503 with Retry-After | its own sentence |
| `RequestValidationError` | 400 | the first field at fault, not its value |
| everything else | 500 | an id that stands in the log beside the traceback |
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from clearsight.errors import ClearsightError, DataError, ItemError, ModelError, UsageError
from clearsight.serve.batcher import BusyError
from clearsight.serve.schemas import Fault

LOG = logging.getLogger("clearsight.serve")
BUSY_SECONDS = 1
_NAMES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}


class RefusedError(ClearsightError):
    """A request that is refused with a status of its own.

    Args:
        status: of HTTP.
        headers: to send with it.
        code: OpenAI's word for the fault.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        where: str | None = None,
        do: str | None = None,
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what, where=where, do=do)
        self.status, self.headers, self.code = status, dict(headers or {}), code


def answer_of(error: BaseException, path: str) -> Response:
    """The response to a request of `path` that ended in `error`."""
    refused = error if isinstance(error, RefusedError) else _refused(error)
    fault = Fault(what=refused.what, where=refused.where, do=refused.do)
    if refused.status == 500:
        fault.id = secrets.token_hex(6)
        LOG.error("error %s on %s", fault.id, _printable(path), exc_info=error)
    return JSONResponse(_shaped(fault, refused, path), refused.status, refused.headers)


def _refused(error: BaseException) -> RefusedError:
    if isinstance(error, BusyError):
        return RefusedError(503, error.what, do=error.do, headers={"Retry-After": str(BUSY_SECONDS)})
    if isinstance(error, UsageError | ItemError) or (isinstance(error, DataError) and not _on_disk(error)):
        return RefusedError(400, error.what, where=error.where, do=error.do)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        what = _SENTENCES.get(error.status_code, str(error.detail))
        return RefusedError(error.status_code, what, headers=headers)
    kind = (
        "The model or the index failed" if isinstance(error, ModelError | DataError) else "The server failed"
    )
    return RefusedError(500, f"{kind}.", do="Tell the id to whoever runs the server.")


_SENTENCES = {
    400: "The body is not JSON that can be read.",
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
}


def _on_disk(error: DataError) -> bool:
    """Whether the message speaks of the server's own files."""
    return any(os.path.isabs(part) or os.sep in part for part in (error.where or "",) if part)


def _invalid(error: RequestValidationError) -> RefusedError:
    """The first fault of a body, without the value: it may be long, secret, or not JSON at all (NaN)."""
    first: dict[str, Any] = next(iter(error.errors()), {})
    place = ".".join(str(part) for part in first.get("loc", ()) if part != "body")
    what = (
        "The body is not JSON." if first.get("type") == "json_invalid" else str(first.get("msg", "invalid"))
    )
    do = "Send JSON with Content-Type: application/json; /docs shows its form."
    return RefusedError(400, what.rstrip(".") + ".", where=place[:200] or None, do=do)


def _shaped(fault: Fault, refused: RefusedError, path: str) -> dict[str, Any]:
    sentence = " ".join(part for part in (fault.what, fault.do) if part)
    ending = f" (id {fault.id})" if fault.id else ""
    if path.startswith(("/v1/embeddings", "/v1/models")):
        name = _NAMES.get(
            refused.status, "server_error" if refused.status >= 500 else "invalid_request_error"
        )
        return {
            "error": {"message": sentence + ending, "type": name, "param": fault.where, "code": refused.code}
        }
    if path.startswith(("/v2/", "/rerank", "/v1/rerank")):
        place = f" [{fault.where}]" if fault.where else ""
        return {"message": f"{fault.what}{place} {fault.do or ''}".strip() + ending, "id": fault.id}
    return fault.model_dump()


def _printable(path: str) -> str:
    """The path as one line of a log."""
    return path.encode("unicode_escape").decode("ascii")[:200]
