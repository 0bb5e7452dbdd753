"""A job's frozen config becomes a command: flags, help and types are read from the dataclass, written once.

A field is `name: Annotated[type, "sentence with unit"] = default`; `field(metadata={"positional": True})`
makes it an argument. Values of a tuple field may be repeated or separated by commas.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

C = TypeVar("C")


def command(config_type: type[C], run: Callable[[C, bool], int]) -> Callable[..., int]:
    """A function with the signature of `config_type`, for cyclopts.

    Args:
        run: called with the config and whether `--json` was given; returns the exit code.
    """
    hints = typing.get_type_hints(config_type, include_extras=True)
    parameters = [_parameter(hints[f.name], f) for f in dataclasses.fields(config_type)]  # type: ignore[arg-type]
    as_json = Annotated[
        bool, Parameter(name="--json", help="print the result as JSON on stdout", negative="")
    ]
    parameters.append(
        inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=as_json)
    )
    parameters.sort(key=lambda parameter: parameter.kind)  # arguments first; a config may inherit flags
    signature = inspect.Signature(parameters, return_annotation=int)

    def call(*args: Any, **kwargs: Any) -> int:
        given = dict(signature.bind(*args, **kwargs).arguments)
        wants_json = given.pop("as_json", False)
        return run(config_type(**{name: _split(value) for name, value in given.items()}), wants_json)

    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
    paragraphs = inspect.cleandoc(config_type.__doc__ or "").split("\n\n")
    call.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    call.__name__ = config_type.__name__
    return call


def _parameter(hint: Any, field: dataclasses.Field[Any]) -> inspect.Parameter:
    kind, sentence = hint.__origin__, hint.__metadata__[0]
    positional = field.metadata.get("positional", False)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
        annotation=Annotated[kind, Parameter(help=sentence, negative="")],
    )


def _split(value: Any) -> Any:
    """`--repairs base,realign` is the same as `--repairs base --repairs realign`."""
    if not isinstance(value, tuple) or not all(isinstance(part, str) for part in value):
        return value
    return tuple(piece.strip() for part in value for piece in part.split(",") if piece.strip())
