"""`clearsight push`: an exported folder to the hub; never without being asked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from clearsight.errors import DataError, UsageError
from clearsight.jobs.ui import Quiet, Ui


@dataclass(frozen=True)
class PushConfig:
    """Upload an exported folder to the Hugging Face hub, private unless you say otherwise.

    A folder that `clearsight verify` has not passed as it lies there is refused.
    """

    folder: Annotated[Path, "a folder that `clearsight export` wrote"] = field(metadata={"positional": True})
    repo: Annotated[str, "where to: owner/name"] = field(metadata={"positional": True})
    public: Annotated[bool, "anyone may see it; a repository that exists keeps what it is"] = False
    force: Annotated[bool, "also what verify has not passed"] = False
    message: Annotated[str, "of the commit"] = "A retriever made with Clearsight"


@dataclass(frozen=True)
class PushResult:
    repo: str
    url: str
    private: bool

    def to_json(self) -> dict[str, Any]:
        return {"repo": self.repo, "url": self.url, "private": self.private}


def push(config: PushConfig, ui: Ui | None = None, *, api: Any = None) -> PushResult:
    """Create the repository where there is none, and upload every file.

    Args:
        api: a `huggingface_hub.HfApi`; None makes one.

    Raises:
        UsageError: no owner/name, or a folder that verify has not passed.
        DataError: no export lies there, or the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    ui = ui or Quiet()
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", config.repo):
        raise UsageError(f"'{config.repo}' is no repository.", where="REPO", do="Give owner/name.")
    _check(config)
    api = HfApi() if api is None else api
    try:
        made = api.create_repo(config.repo, repo_type="model", private=not config.public, exist_ok=True)
        done = api.upload_folder(
            repo_id=config.repo,
            folder_path=str(config.folder),
            repo_type="model",
            commit_message=config.message,
        )
    except HfHubHTTPError as error:
        raise DataError(
            f"The hub refuses: {_first_line(error)}",
            where=config.repo,
            do="Log in with a token that may write there: hf auth login.",
        ) from error
    except (OSError, HFValidationError, ValueError) as error:
        raise DataError(
            f"The hub cannot be reached: {_first_line(error)}",
            where=config.repo,
            do="Check the network and HF_HUB_OFFLINE, then push again; nothing is lost.",
        ) from error
    url = str(getattr(done, "commit_url", None) or made)
    ui.say(f"{config.folder} is at {url}")
    return PushResult(config.repo, url, not config.public)


def _check(config: PushConfig) -> None:
    from clearsight.formats.sentence_transformers_folder import VERIFY, folder_digest, read_facts

    if not read_facts(config.folder):
        raise DataError(
            "No export lies here.", where=str(config.folder), do="Give a folder of `clearsight export`."
        )
    if config.force:
        return
    file = config.folder / VERIFY
    reason = "has not been verified"
    if file.is_file():
        facts = json.loads(file.read_bytes())
        if not facts.get("passed"):
            reason = "failed verification"
        elif facts.get("digest") != folder_digest(config.folder):
            reason = "has changed since it was verified"
        else:
            return
    raise UsageError(
        f"This folder {reason}.",
        where=str(config.folder),
        do=f"clearsight verify {config.folder}, or --force.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
