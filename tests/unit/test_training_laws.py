"""What training rests on, without a model: loss, masks, cached gradients, order, settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clearsight.errors import DataError, UsageError
from clearsight.training import TrainSettings
from clearsight.training.contrast import info_nce, negatives
from clearsight.training.gradcache import GradCache
from clearsight.training.plan import Plan
from clearsight.training.recipes import RECIPES
from clearsight.training.settings import differences, identity, rate_at
from clearsight.training.step import seeded

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------------------- the loss
def naive_loss(
    queries: Tensor, candidates: Tensor, own: Sequence[int], allowed: Tensor, scale: float
) -> float:
    """Equation 2, term by term."""
    total = 0.0
    for i, query in enumerate(queries):
        score = [scale * float(torch.cosine_similarity(query, c, dim=0)) for c in candidates]
        rest = sum(math.exp(s) for j, s in enumerate(score) if j != own[i] and bool(allowed[i, j]))
        total += -math.log(math.exp(score[own[i]]) / (math.exp(score[own[i]]) + rest))
    return total / len(queries)


@given(seed=st.integers(0, 10**6), pairs=st.integers(1, 6), more=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_the_loss_is_equation_2(seed: int, pairs: int, more: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, candidates = (torch.randn(n, 5, generator=generator) for n in (pairs, pairs + more))
    own = torch.randperm(pairs + more, generator=generator)[:pairs]
    allowed = torch.rand(pairs, pairs + more, generator=generator) < 0.7
    loss = info_nce(queries, candidates, own, allowed, 4.0)
    assert float(loss) == pytest.approx(naive_loss(queries, candidates, own.tolist(), allowed, 4.0), abs=1e-5)


def test_matryoshka_is_the_mean_over_widths() -> None:
    queries, candidates = torch.randn(4, 6), torch.randn(4, 6)
    own, allowed = torch.arange(4), torch.ones(4, 4, dtype=torch.bool)
    widths = [float(info_nce(queries[:, :w], candidates[:, :w], own, allowed, 3.0)) for w in (2, 3, 6)]
    together = info_nce(queries, candidates, own, allowed, 3.0, widths=(3, 2))
    assert float(together) == pytest.approx(np.mean(widths), abs=1e-6)


def test_duplicated_positives_are_no_negatives() -> None:
    """Pairs 0 and 1 share a positive's content, pairs 0 and 2 a query's; the last candidate is of no pair."""
    query_code, positive_code = torch.tensor([7, 8, 7]), torch.tensor([1, 1, 2])
    candidate_code, pair = torch.tensor([1, 1, 2, 3]), torch.tensor([0, 1, 2, -1])
    wanted = [[False, False, False, True], [False, False, True, True], [False, True, False, True]]
    found = negatives(query_code, positive_code, candidate_code, pair)
    # Pair 2's query equals pair 0's, whose positive is candidate 0: no negative of pair 2. Candidate 1 has
    # candidate 0's content and another query: told apart by content alone it would stay.
    assert found[0].tolist() == wanted[0]
    assert found[1].tolist() == wanted[1]
    assert found[2].tolist() == wanted[2]


def test_all_positives_alike_have_no_loss_and_no_gradient() -> None:
    queries = torch.randn(3, 4, requires_grad=True)
    codes = torch.ones(3, dtype=torch.long)
    mask = negatives(torch.arange(3), codes, codes, torch.arange(3))
    loss = info_nce(queries, torch.randn(3, 4), torch.arange(3), mask, 50.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(queries.grad, torch.zeros(3, 4))


def test_no_pairs_are_no_loss() -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    loss = info_nce(empty, torch.randn(2, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 2).bool(), 1.0)
    loss.backward()
    assert float(loss.detach()) == 0


# ---------------------------------------------------------------------------------------- cached gradients
class Net(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 5))

    def embed(self, items: Sequence[Tensor]) -> Tensor:
        return self.layers(torch.stack(list(items)))


def loss_of(rows: Tensor) -> Tensor:
    half = len(rows) // 2
    every = torch.ones(half, half, dtype=torch.bool)
    return info_nce(rows[:half], rows[half:], torch.arange(half), every, 10.0)


def gradients(net: Net) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters()]


def cut(items: Sequence[Tensor], sizes: Sequence[int]) -> list[list[Tensor]]:
    ends = np.cumsum(sizes)
    return [list(items[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("sizes", [[12], [1, 11], [5, 4, 3], [1] * 12])
def test_cached_gradients_are_the_full_batch(sizes: list[int]) -> None:
    items = list(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)))
    whole, cached = Net(0.0), Net(0.0)
    loss_of(whole.embed(items)).backward()
    cache = GradCache(cached.embed, cut(items, sizes), width=5, device=CPU)
    rows = cache.rows_UD.requires_grad_()
    loss_of(rows).backward()
    cache.backward(rows.grad)
    for a, b in zip(gradients(whole), gradients(cached), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_the_second_pass_replays_dropout() -> None:
    """Twin: the same chunks in the same order, all graphs kept, one backward pass."""
    items, sizes = list(torch.randn(12, 4)), [5, 4, 3]
    straight, cached = Net(0.5), Net(0.5)
    torch.manual_seed(11)
    loss_of(torch.cat([straight.embed(chunk) for chunk in cut(items, sizes)])).backward()
    after = torch.rand(1)
    torch.manual_seed(11)
    cache = GradCache(cached.embed, cut(items, sizes), width=5, device=CPU)
    rows = cache.rows_UD.requires_grad_()
    loss_of(rows).backward()
    cache.backward(rows.grad)
    assert torch.equal(torch.rand(1), after), "the random numbers do not go on where the first pass ended"
    for a, b in zip(gradients(straight), gradients(cached), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_no_chunks_are_no_rows() -> None:
    cache = GradCache(Net(0.0).embed, [], width=5, device=CPU)
    assert cache.rows_UD.shape == (0, 5)
    cache.backward(cache.rows_UD)


def test_random_numbers_follow_from_seed_step_and_rank() -> None:
    drawn = []
    torch.manual_seed(0)
    outside = torch.rand(1)
    torch.manual_seed(0)
    for seed, step, rank in ((0, 1, 0), (0, 1, 0), (0, 2, 0), (0, 1, 1), (1, 1, 0)):
        with seeded(seed, step, rank, CPU):
            drawn.append(float(torch.rand(1)))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4
    assert torch.equal(torch.rand(1), outside), "the caller's own numbers were disturbed"


# --------------------------------------------------------------------------------------- order and settings
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    batch=st.integers(1, 5),
    one_set=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_an_epoch_sees_every_cluster_once(sizes: list[int], batch: int, one_set: bool, seed: int) -> None:
    names = [f"set{i}" for i, size in enumerate(sizes) for _ in range(size)]
    plan = Plan.of(names, TrainSettings(batch=batch, one_set=one_set, epochs=2, seed=seed))
    assert plan.steps == 2 * plan.per_epoch
    for epoch in range(2):
        steps = range(epoch * plan.per_epoch, (epoch + 1) * plan.per_epoch)
        seen = [plan.clusters(step) for step in steps]
        assert sorted(np.concatenate(seen).tolist()) == list(range(len(names)))
        assert all(0 < len(one) <= batch for one in seen)
        if one_set:
            assert all(len({names[g] for g in one}) == 1 for one in seen)
    again = Plan.of(names, TrainSettings(batch=batch, one_set=one_set, epochs=2, seed=seed))
    last = plan.steps - 1
    assert again.clusters(last).tolist() == plan.clusters(last).tolist(), "a step depends on those before"


def test_epochs_differ_and_no_clusters_are_refused() -> None:
    plan = Plan.of(["a"] * 50, TrainSettings(batch=50, epochs=2))
    assert plan.clusters(0).tolist() != plan.clusters(1).tolist()
    with pytest.raises(DataError, match="no clusters"):
        Plan.of([], TrainSettings())


def test_the_rate_is_transformers_linear_schedule() -> None:
    from transformers import get_linear_schedule_with_warmup

    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = get_linear_schedule_with_warmup(optimiser, 7, 30)
    for step in range(30):
        assert rate_at(step, peak=3e-4, warmup=7, steps=30) == pytest.approx(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 0), ("rate", 0.0), ("dropout", 1.0), ("steps", 0), ("targets", ()), ("matryoshka", (0,))],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        TrainSettings(**{name: value})
    with pytest.raises(UsageError, match="square needs a size"):
        TrainSettings(square=True)


def test_what_differs_is_listed() -> None:
    before = identity(TrainSettings(matryoshka=(8, 4)), model="a")
    now = identity(TrainSettings(rate=1e-3, workers=7, token_budget=99), model="b")
    assert differences(before, now) == [
        "rate: 5e-05 before, 0.001 now",
        "matryoshka: [8, 4] before, [] now",
        "model: a before, b now",
    ], "workers and token budgets may change; nothing else is left out"
    assert differences(before, before) == []


@pytest.mark.parametrize("name", ["qwen2-vl-2b", "qwen2-vl-7b"])
def test_recipes_are_the_papers(name: str) -> None:
    recipe = RECIPES.get(name)
    settings = TrainSettings(**recipe.settings)
    assert (recipe.pairs, recipe.sets) == (829_000, 20)
    assert (settings.rate, settings.warmup, settings.epochs, settings.temperature) == (5e-5, 100, 1.5, 0.02)
    assert (settings.rank, settings.alpha, settings.dropout, settings.dora) == (8, 64, 0.1, True)
    assert (settings.max_tokens, settings.image_size, settings.square) == (1024, 448, True)
    assert settings.targets == ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
