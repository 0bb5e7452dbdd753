"""Sparsemax that sorts only candidates, against the algorithm as published, which sorts everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.sae import sparsemax

Array = NDArray[np.float64]


def full_sort(row: Array) -> Array:
    """Martins and Astudillo 2016, algorithm 1, for one row in float64."""
    ordered = np.sort(row)[::-1]
    sums = np.cumsum(ordered)
    size = max(j for j in range(1, len(row) + 1) if 1 + j * ordered[j - 1] > sums[j - 1])
    return np.maximum(row - (sums[size - 1] - 1) / size, 0)


def jacobian(row: Array) -> Array:
    """Its section 2.5: diag(s) - s s^T / |s|, s the support."""
    support = (full_sort(row) > 0).astype(float)
    return np.diag(support) - np.outer(support, support) / support.sum()


def draw(kind: str, rows: int, width: int) -> Array:
    rng = np.random.default_rng(width)
    if kind == "ties":
        return rng.integers(-1, 2, (rows, width)) * 0.5
    if kind == "equal":
        return np.full((rows, width), 3.0)
    scale = {"narrow": 0.01, "middle": 1.0, "wide": 50.0, "far": 1.0}[kind]
    return rng.standard_normal((rows, width)) * scale + (1e6 if kind == "far" else 0)


@pytest.mark.parametrize("width", [1, 2, 3, 17, 400])
@pytest.mark.parametrize("kind", ["narrow", "middle", "wide", "ties", "equal", "far"])
def test_value_and_gradient(kind: str, width: int) -> None:
    rows = draw(kind, 23, width)
    scores = torch.tensor(rows, requires_grad=True)
    result = sparsemax(scores)
    twin = np.stack([full_sort(row) for row in rows])
    within = 1e-9 if kind == "far" else 1e-12
    assert np.abs(result.detach().numpy() - twin).max() <= within
    upstream = np.random.default_rng(1).standard_normal(rows.shape)
    (gradient,) = torch.autograd.grad(result, scores, torch.tensor(upstream))
    expected = np.stack([jacobian(row) @ g for row, g in zip(rows, upstream, strict=True)])
    assert np.abs(gradient.numpy() - expected).max() <= 1e-12


def test_gradcheck() -> None:
    """Away from the border of the support, where no gradient exists."""
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(6, 9, generator=generator, dtype=torch.float64) * 2).requires_grad_()
    assert torch.autograd.gradcheck(sparsemax, (scores,), eps=1e-7, atol=1e-6)


def test_single_precision_of_wide_rows() -> None:
    rows = draw("middle", 8, 5000) * 0.3
    result: Tensor = sparsemax(torch.tensor(rows, dtype=torch.float32))
    twin = np.stack([full_sort(row) for row in rows])
    assert result.dtype == torch.float32
    assert np.abs(result.numpy() - twin).max() < 1e-6


def test_no_rows() -> None:
    assert sparsemax(torch.zeros(0, 4)).shape == (0, 4)
