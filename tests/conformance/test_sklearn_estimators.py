"""Every repair keeps scikit-learn's contract, checked by scikit-learn itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

from clearsight.repair import (
    Centre,
    Chain,
    RemoveSubspace,
    RemoveTopComponents,
    SelfAlign,
    ShrinkageZCA,
)

REPAIRS = [
    Centre(),
    ShrinkageZCA(),
    ShrinkageZCA(preset="release"),
    ShrinkageZCA("ledoit_wolf"),
    ShrinkageZCA("oas", normalize_input=False),
    RemoveSubspace(),
    RemoveTopComponents(2),
    SelfAlign(components=3),
    Chain([RemoveTopComponents(1), ShrinkageZCA()]),
]


@parametrize_with_checks(REPAIRS)
def test_keeps_the_contract(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
