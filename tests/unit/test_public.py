"""The public names are what they say, and importing the package stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clearsight
from clearsight.errors import DataError, UsageError
from clearsight.registry import Registry


def test_every_public_name_is_there_and_documented() -> None:
    for name in clearsight.__all__:
        value = getattr(clearsight, name)
        assert name == "__version__" or value.__doc__, name
    assert set(clearsight.__all__) == set(dir(clearsight))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Decoder'"):
        clearsight.Decoder  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, clearsight; sys.exit(bool({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_registry_answers_an_unknown_name_with_the_nearest() -> None:
    shapes: Registry[int] = Registry("shape")
    shapes.add("circle", 1)
    shapes.add("square", 4)
    assert shapes.get("square") == 4
    assert list(shapes) == ["circle", "square"]
    with pytest.raises(UsageError, match=r"Unknown shape 'squre'.*Did you mean 'square'.*circle, square"):
        shapes.get("squre")
    with pytest.raises(UsageError, match="already registered"):
        shapes.add("circle", 2)


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = DataError("It is broken.", where="row 3", do="Mend it.")
    assert str(error) == "It is broken. [row 3] Mend it."
    assert (error.what, error.where, error.do, error.exit_code) == ("It is broken.", "row 3", "Mend it.", 3)
