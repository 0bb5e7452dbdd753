"""The command line: flags from the jobs' configs, exit codes that mean something, heavy imports inside.

Exit codes: 0 done; 1 a check of `verify` failed; 2 a flag, name or argument does not fit; 3 input data cannot
be used; 4 the model cannot be used; 5 done, but some items were skipped (`--on-error skip`); 130 interrupted,
what was reported done is kept; 141 nobody reads the output any more.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError

from clearsight import __version__
from clearsight.cli.flags import command
from clearsight.errors import ClearsightError, DataError, UsageError

if TYPE_CHECKING:
    from clearsight.cli.terminal import Terminal

SOME_SKIPPED = 5
INTERRUPTED = 130
BROKEN_PIPE = 141

HELP = """Turns a generative multimodal model into a retriever without training, and shows what changed.

Start with `clearsight demo`: the main job on the shipped model, offline, in two minutes.
"""

# job module -> (config, function, commands that call it)
JOBS = {
    "demo": ("DemoConfig", "demo"),
    "embed": ("EmbedConfig", "embed"),
    "repair": ("RepairConfig", "repair"),
    "evaluate": ("EvaluateConfig", "evaluate"),
    "rerank": ("RerankConfig", "rerank"),
    "diagnose": ("DiagnoseConfig", "diagnose"),
    "mine": ("MineConfig", "mine"),
    "train": ("TrainConfig", "train"),
    "tasks": ("TasksConfig", "tasks"),
    "reproduce": ("ReproduceConfig", "reproduce"),
    "export": ("ExportConfig", "export"),
    "verify": ("VerifyConfig", "verify"),
    "push": ("PushConfig", "push"),
    "search": ("SearchConfig", "search"),
    "serve": ("ServeConfig", "serve"),
}
# group -> (sentence, command -> (config, function)), all in the job module of the group's name; "" is the
# group's own
GROUPS = {
    "index": (
        "Index a folder of pictures and texts, or show what an index is.",
        {"": ("IndexConfig", "index"), "info": ("IndexInfoConfig", "index_info")},
    ),
    "info": (
        "Show versions and devices, a model, a prompt as rendered, or a run.",
        {
            "system": ("SystemConfig", "info_system"),
            "model": ("ModelConfig", "info_model"),
            "prompt": ("PromptConfig", "info_prompt"),
            "run": ("RunConfig", "info_run"),
        },
    ),
    "sae": (
        "Train a sparse autoencoder, look at one, convert it, compare two.",
        {
            "train": ("SaeTrainConfig", "sae_train"),
            "info": ("SaeInfoConfig", "sae_info"),
            "convert": ("SaeConvertConfig", "sae_convert"),
            "compare": ("SaeCompareConfig", "sae_compare"),
        },
    ),
}


def build_app() -> App:
    """All commands, without loading torch or transformers."""
    app = App(
        name="clearsight",
        help=HELP,
        version=__version__,
        help_format="plaintext",  # Markdown costs 0.1 s
        suppress_keyboard_interrupt=False,  # `main` says what is kept; cyclopts would leave without a word
    )
    for name, (config, function) in JOBS.items():
        _add(app, name, f"clearsight.jobs.{name}", config, function)
    for group, (sentence, commands) in GROUPS.items():
        branch = App(name=group, help=sentence)
        app.command(branch)
        for name, (config, function) in commands.items():
            _add(branch, name, f"clearsight.jobs.{group}", config, function)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):  # an argument need not be text, nor a terminal know our signs
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = build_app()(
            list(sys.argv[1:] if argv is None else argv),
            exit_on_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except CycloptsError:  # cyclopts has said what is wrong
        return UsageError.exit_code
    except ClearsightError as error:
        return _fail(error)
    except BrokenPipeError:  # who read our output has seen enough; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return _fail(_refused(error))
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nInterrupted. What was reported done is kept; the same command goes on from there.\n"
        )
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _add(app: App, name: str, module: str, config: str, function: str) -> None:
    home = importlib.import_module(module)

    def run(settings: Any, as_json: bool) -> int:
        from clearsight.cli.terminal import Terminal

        ui = Terminal(as_json=as_json)
        try:
            return _finish(ui, getattr(home, function)(settings, ui))
        finally:
            ui.progress.close()

    if name:
        app.command(command(getattr(home, config), run), name=name)
    else:
        app.default(command(getattr(home, config), run))


def _finish(ui: Terminal, result: Any) -> int:
    if ui.as_json:
        import json

        ui.result(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    skipped = getattr(result, "skipped", ())
    for item_id, reason in skipped[:10]:
        ui.say(f"skipped {item_id}: {reason}")
    if len(skipped) > 10:
        ui.say(f"... and {len(skipped) - 10} more; the run's report names them all.")
    return SOME_SKIPPED if skipped else getattr(result, "exit_code", 0)


def _refused(error: OSError) -> DataError:
    """A disk that is full, a folder that may not be written, a path through a file."""
    return DataError(
        f"The system refuses: {error.strerror or error}.",
        where=str(error.filename or ""),
        do="Check the path, who may read and write there, and the room on the disk; then call again.",
    )


def _fail(error: ClearsightError) -> int:
    sys.stderr.write(f"error: {error.what}\n")
    if error.where:
        first, *more = (error.shown or error.where).split("\n")
        sys.stderr.write("\n         ".join((f"  where: {first}", *more)) + "\n")
    if error.do:
        sys.stderr.write(f"  do: {error.do}\n")
    return error.exit_code
