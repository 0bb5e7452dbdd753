"""Means of means: over meta-tasks that hold unlike numbers of sets."""

from __future__ import annotations

from collections.abc import Sequence


def set_weights(sets: Sequence[str], groups: Sequence[Sequence[str]]) -> list[float]:
    """What each set weighs in the mean over groups of the means over their sets; groups without a set that
    is there are left out. Weights sum to 1."""
    there = [[name for name in group if name in sets] for group in groups]
    there = [group for group in there if group]
    return [
        next(1 / (len(there) * len(group)) for group in there if name in group) for name in sets
    ]  # fmt: skip
