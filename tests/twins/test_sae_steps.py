"""The fast engines against the reference: codes, losses, weights and moments after several steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.errors import UsageError
from clearsight.sae import AdamConfig, LossConfig, SaeConfig, TrainConfig, TrainState, make_step
from clearsight.sae.steps import Step, choose_engine, fused
from clearsight.sae.steps import sparse_kernels as kernels
from clearsight.sae.steps.fused import FusedStep
from clearsight.sae.steps.select import Scratch, Slots, encode_topk, select_by_screen
from clearsight.sae.steps.select_kernels import group_count, select_rows
from clearsight.threads import even_edges, spread, weighted_edges

WIDTH, CONCEPTS, BATCH, STEPS = 24, 96, 64, 6
CPU = torch.device("cpu")


def config(
    form: dict[str, object],
    adam: dict[str, object],
    loss: dict[str, object],
    norm: str | None = None,
    sizes: tuple[int, int, int] = (WIDTH, CONCEPTS, 6),
) -> TrainConfig:
    width, concepts, k = sizes
    sae = SaeConfig(width, concepts, **{"k": k, **form})
    return TrainConfig(
        sae, AdamConfig(**{"lr": 1e-3, **adam}), LossConfig(**loss), batch=BATCH, decoder_norm=norm
    )


def batches(seed: int = 0) -> torch.Tensor:
    """Correlated rows with a mean; the last batch is made of other rows, so that concepts die."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(STEPS, BATCH, WIDTH, generator=generator) * torch.linspace(0.1, 2, WIDTH)
    return rows + 0.3


def start(asked: TrainConfig, rows: torch.Tensor) -> TrainState:
    """First weights, the encoder lengthened: as they come, a row's only code has a gradient of exactly 0, and
    Adam makes a full step of the rounding that is left of it."""
    state = TrainState.start(asked, rows)
    state.weights["encoder_CD"] *= 1.2
    return state


def both(asked: TrainConfig, fast: Step, rows: torch.Tensor | None = None) -> None:
    """Train side by side and compare all that a state holds, and all that a step says, after every step."""
    rows = batches() if rows is None else rows
    ours = start(asked, rows[0])
    theirs = TrainState.from_tensors({n: v.clone() for n, v in ours.to_tensors().items()}, asked)
    slow = make_step(asked, "reference")
    for batch in rows:
        said, expected = fast(ours, batch / ours.scale), slow(theirs, batch / theirs.scale)
        for name, value, right in zip(expected._fields, said, expected, strict=True):
            assert value.shape == ()
            torch.testing.assert_close(value, right, rtol=1e-5, atol=1e-7, msg=name)
        mine, other = ours.to_tensors(), theirs.to_tensors()
        for name, right in other.items():
            if right.is_floating_point():
                distance = (mine[name] - right).double().norm()
                assert distance <= 1e-5 * right.double().norm() + 1e-12, name
            else:
                assert torch.equal(mine[name], right), name


OPTIONS = {
    "ours": ({}, {}, {}, None),
    "revived": ({}, {}, {"dead_window": 2 * BATCH}, None),
    "revived_few": ({}, {}, {"dead_window": BATCH, "aux_k": 2, "aux_weight": 1.0}, None),
    "clipped": ({}, {"clip": 1e-2}, {}, None),
    "clipped_revived": ({}, {"clip": 1e-2}, {"dead_window": BATCH}, "free"),
    "unclipped": ({}, {"clip": None}, {}, None),
    "release": ({"centred": False, "decoder_bias": False}, {}, {"sparsity": 1e-2, "aux_k": 0}, "project"),
    "not_centred": ({"centred": False}, {}, {"dead_window": BATCH}, "tangent"),
    "relative": ({}, {}, {"error": "relative", "dead_window": BATCH}, "project"),
    "penalised": ({}, {"warmup": 4}, {"sparsity": 0.5, "dead_window": BATCH}, None),
    "all_concepts": ({"k": CONCEPTS}, {}, {}, None),
    "one_concept": ({"k": 1}, {}, {"dead_window": BATCH}, None),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fused_equals_reference(options: tuple[dict, dict, dict, str | None]) -> None:
    both(config(*options), make_step(config(*options), "fused"))


@pytest.mark.parametrize("name", ["ours", "revived", "clipped_revived", "release", "all_concepts"])
def test_screened_equals_reference(name: str) -> None:
    """By way of bfloat16, on any CPU: slower where it is not native, and as exact."""
    asked = config(*OPTIONS[name])
    both(asked, FusedStep(asked, screen=True))


def test_batches_of_changing_size() -> None:
    """Working memory is kept from batch to batch; a smaller or larger one must not see what is left in it."""
    asked = config({}, {}, {"dead_window": BATCH}, None)
    rows = batches()
    ours = TrainState.start(asked, rows[0])
    theirs = TrainState.from_tensors({n: v.clone() for n, v in ours.to_tensors().items()}, asked)
    fast, slow = make_step(asked, "fused"), make_step(asked, "reference")
    for batch in (rows[0], rows[1, :7], rows[2, :1], torch.cat([rows[3], rows[4]])):
        fast(ours, batch), slow(theirs, batch)
    for name, right in theirs.to_tensors().items():
        torch.testing.assert_close(ours.to_tensors()[name], right, rtol=1e-4, atol=1e-6, msg=name)


def test_threads_change_nothing() -> None:
    """Equal to rounding with any number of threads; the last bits of torch's own products may differ."""
    asked = config({}, {"clip": 1e-2}, {"dead_window": BATCH}, None)
    ends = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            state = TrainState.start(asked, batches()[0])
            step = make_step(asked, "fused")
            for batch in batches().round(decimals=1):
                step(state, batch)
            ends.append(state.to_tensors())
        finally:
            torch.set_num_threads(before)
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(ends[2][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_nan_stays_visible() -> None:
    """A row with NaN gives a loss of NaN, not a fine number."""
    asked = config({}, {}, {}, None)
    rows = batches()[0].clone()
    state = TrainState.start(asked, rows)
    rows[3, 5] = torch.nan
    assert make_step(asked, "fused")(state, rows).loss.isnan()


@pytest.mark.parametrize(
    ("form", "loss", "norm"),
    [
        ({"activation": "relu"}, {}, None),
        ({"activation": "jumprelu"}, {}, None),
        ({"activation": "sparsemax", "score": "attention"}, {}, None),
        ({"score": "attention"}, {}, None),
        ({}, {"sparsity": 0.1}, "free"),
    ],
)
def test_others_fall_back_visibly(form: dict, loss: dict, norm: str | None) -> None:
    asked = config(form, {}, loss, norm)
    assert choose_engine(asked, CPU, "auto") == "reference"
    with pytest.raises(UsageError, match="fused"):
        make_step(asked, "fused")


def test_auto_is_fused() -> None:
    assert choose_engine(config({}, {}, {}, None), CPU, "auto") == "fused"
    assert fused.refusal(config({}, {}, {}, None), torch.device("cuda")) is not None


def select(pre: np.ndarray, bias: np.ndarray, k: int, groups: int) -> list[list[tuple[int, float]]]:
    rows = len(pre)
    start = np.arange(rows, dtype=np.int64) * k
    index, value = np.full(rows * k, -1, np.int32), np.full(rows * k, np.nan, np.float32)
    count = np.full(rows, -1, np.int32)
    select_rows(pre, bias, k, groups, 0, rows, start, index, value, count)
    return [
        [(int(index[s]), float(value[s])) for s in range(start[b], start[b] + count[b])] for b in range(rows)
    ]


def select_naive(pre: np.ndarray, bias: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
    """Sort by (score downwards, concept upwards), take k, drop what is not positive."""
    scores = pre + bias
    kept = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        kept.append(sorted((c, float(row[c])) for c in order if row[c] > 0))
    return kept


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_select_is_exact(data: st.DataObject) -> None:
    """Any size, any number of groups the bound allows, with ties, zeros and rows without a positive score."""
    concepts = data.draw(st.integers(1, 150))
    k = data.draw(st.integers(1, concepts))
    groups = data.draw(st.integers(k, concepts))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    spread_ = data.draw(st.sampled_from([0.6, 3.0, 1e6]))  # 0.6: many ties
    pre = np.round(generator.standard_normal((3, concepts)) * spread_).astype(np.float32)
    pre[0] -= 2 * abs(pre[0]).max()
    bias = np.round(generator.standard_normal(concepts)).astype(np.float32)
    assert select(pre, bias, k, groups) == select_naive(pre, bias, k)


@pytest.mark.parametrize("value", [0.0, 1e-45, 3e38, np.inf])
def test_select_of_equal_scores(value: float) -> None:
    pre = np.full((2, 130), value, np.float32)
    expected = [(c, float(np.float32(value))) for c in range(7)] if value > 0 else []
    assert select(pre, np.zeros(130, np.float32), 7, group_count(130, 7)) == [expected, expected]


def test_the_bound_of_the_gradient_is_one() -> None:
    """Clipping is skipped only where the bound is within the limit: it may never fall below the norm."""
    generator = np.random.default_rng(1)
    rows, slots = 20, 120
    offset = np.sort(generator.integers(0, slots, 31)).astype(np.int64)
    offset[0], offset[-1] = 0, slots
    entries = kernels.Entries(
        offset,
        generator.integers(0, 2 * rows, slots).astype(np.int32),
        generator.standard_normal(slots).astype(np.float32),
        generator.standard_normal(slots).astype(np.float32),
    )
    centred = generator.standard_normal((rows, 9)).astype(np.float32)
    error = generator.standard_normal((2 * rows, 9)).astype(np.float32)
    decoder = np.zeros((30, 9), np.float32)
    square = np.empty(30)
    kernels.gradient_squares(entries, centred, error, decoder, False, 0, 30, square)
    naive = 0.0
    for c in range(30):
        for source, factor in (
            (error, entries.weight_S),
            (np.concatenate([centred] * 2), entries.slope_S),
        ):
            part = slice(offset[c], offset[c + 1])
            naive += float(np.square(factor[part] @ source[entries.row_S[part]]).sum())
    assert square.sum() == pytest.approx(naive, rel=1e-5)
    bound = kernels.gradient_bound(entries, np.linalg.norm(centred, axis=1), np.square(error).sum(axis=1))
    assert naive <= bound <= 30 * naive


@given(total=st.integers(1, 50), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_work_is_cut_into_pieces_that_cover_it(total: int, seed: int) -> None:
    offset = np.concatenate([[0], np.random.default_rng(seed).integers(0, 9, total).cumsum()])
    for edges in (even_edges(total), weighted_edges(offset.astype(np.int64), 2.0)):
        seen = np.zeros(total, int)

        def work(first: int, last: int, seen: np.ndarray = seen) -> None:
            seen[first:last] += 1

        spread(work, edges)
        assert (seen == 1).all()


def test_an_exception_in_a_thread_is_raised() -> None:
    def work(first: int, last: int) -> None:
        raise ValueError(first)

    with pytest.raises(ValueError):
        spread(work, even_edges(8))


def slots(rows: int, k: int) -> Slots:
    start_B = np.arange(rows, dtype=np.int64) * k
    return Slots(
        start_B, np.full(rows, -7, np.int32), np.zeros(rows * k, np.int32), np.zeros(rows * k, np.float32)
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    concepts=st.integers(1, 400),
    width=st.integers(1, 40),
    share=st.floats(0, 1),
    spread_=st.sampled_from([0.0, 1e-3, 1.0, 1e4]),
)
def test_codes_are_those_of_float64(
    seed: int, concepts: int, width: int, share: float, spread_: float
) -> None:
    """Both ways give k positive scores, and nothing left out scores above them by more than the rounding."""
    generator = np.random.default_rng(seed)
    k = max(1, round(share * concepts))
    rows = torch.from_numpy(generator.standard_normal((5, width)).astype(np.float32))
    encoder = generator.standard_normal((concepts, width)) * np.exp(generator.standard_normal((concepts, 1)))
    encoder = torch.from_numpy(encoder.astype(np.float32))
    bias = torch.from_numpy((generator.standard_normal(concepts) * spread_).astype(np.float32))
    exact = (rows.double() @ encoder.double().T + bias.double()).numpy()
    rounding = 1e-6 * (1 + abs(exact).max()) * width
    for screen in (False, True):
        start, index, value = encode_topk(rows, encoder, bias, k, screen=screen)
        for b in range(5):
            part = slice(start[b], start[b + 1])
            assert (np.diff(index[part]) > 0).all()
            assert abs(value[part] - exact[b, index[part]]).max(initial=0) <= rounding
            left_out = np.delete(exact[b], index[part])
            if start[b + 1] - start[b] == k:
                assert left_out.max(initial=-np.inf) <= value[part].min() + rounding
            else:
                assert left_out.max(initial=-np.inf) <= rounding


def test_a_screen_that_cannot_tell_falls_back() -> None:
    """Concepts that differ by less than bfloat16 holds: every bound overlaps, float32 decides, row by row."""
    generator = torch.Generator().manual_seed(2)
    one = torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0)
    encoder = one + 1e-5 * torch.randn(600, 32, generator=generator)
    encoder[:100] = 0.05 * torch.randn(100, 32, generator=generator)
    rows = torch.stack([one * 5, -one * 5, torch.zeros(32)])
    held = slots(3, 4)
    bias = torch.zeros(600)
    assert select_by_screen(rows, encoder, bias, 4, held, Scratch()) >= 1
    expected = (rows @ encoder.T).relu().topk(4, dim=1)
    for b in range(3):
        found = held.index_S[4 * b : 4 * b + held.count_B[b]]
        right = expected.indices[b][expected.values[b] > 0]
        assert sorted(found) == sorted(right.tolist())


def test_encode_of_no_rows() -> None:
    start, index, value = encode_topk(torch.zeros(0, 4), torch.ones(6, 4), torch.zeros(6), 2)
    assert start.tolist() == [0]
    assert len(index) == len(value) == 0


IN_TRITON = """
import sys
sys.path.insert(0, sys.argv[1])
import test_sae_steps
getattr(test_sae_steps, sys.argv[2])(*sys.argv[3:])
"""


def in_triton(folder: Path, *call: str, interpret: bool = True) -> None:
    """Triton reads its environment when it is imported: a process of its own. Nothing is left at home."""
    pytest.importorskip("triton")
    extra = {"TRITON_CACHE_DIR": str(folder), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IN_TRITON, str(Path(__file__).parent), *call],
        env={**os.environ, **extra, **({"TRITON_INTERPRET": "1"} if interpret else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_triton_equals_reference(tmp_path: Path) -> None:
    """The CUDA step by Triton's interpreter, on a few numbers."""
    in_triton(tmp_path, "triton_cases", "clipped_revived")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_triton_in_all_options(name: str, tmp_path: Path) -> None:
    in_triton(tmp_path, "triton_cases", name)


@pytest.mark.slow
def test_triton_selects_exactly(tmp_path: Path) -> None:
    in_triton(tmp_path, "triton_selections")


@pytest.mark.slow
def test_triton_compiles(tmp_path: Path) -> None:
    """To machine code of an H100 or H200, which needs no device."""
    in_triton(tmp_path, "triton_compilations", interpret=False)


def triton_cases(name: str) -> None:
    from clearsight.sae.steps.triton import TritonStep

    form, adam, loss, norm = OPTIONS[name]
    loss = {**loss, **({"dead_window": 5} if "dead_window" in loss else {})}
    form = {**form, **({"k": 12} if form.get("k") == CONCEPTS else {})}
    asked = config(form, adam, loss, norm, sizes=(6, 12, 2))
    with torch.no_grad():
        both(asked, TritonStep(asked), batches()[:2, :5, -6:])


def triton_selections() -> None:
    """With so many equal scores that the spare room does not hold them, and without."""
    from clearsight.sae.steps.triton import TritonStep

    step = TritonStep(config({}, {}, {}, None))
    generator = torch.Generator().manual_seed(0)
    for decimals in (0, 8):
        pre = torch.randn(3, 50, generator=generator).round(decimals=decimals)
        pre[0] = 1.0
        pre[1] -= 1.5
        bias = torch.randn(50, generator=generator).round(decimals=decimals) * (decimals > 0)
        codes = step.select(pre, bias, 3)
        expected = select_naive(pre.numpy(), bias.numpy(), 3)
        for b in range(3):
            n = int(codes.count_B[b])
            found = zip(codes.index_BK[b, :n].tolist(), codes.value_BK[b, :n].tolist(), strict=True)
            assert list(found) == expected[b]
            assert (codes.index_BK[b, n:] == 50).all()


def triton_compilations() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from clearsight.sae.steps import triton_kernels as gpu

    integers = {"index": "*i32", "count": "*i32", "row": "*i32", "certain": "*i32", "offset": "*i64"}
    numbers = dict.fromkeys(("concepts", "slots", "k", "rows", "width"), "i32")
    numbers |= dict.fromkeys(("penalty", "rate", "root", "eps", "keep1", "beta2", "keep2"), "fp32")
    constants = {"GROUPS": 64, "SPARE": 16, "BLOCK_D": 64, "TANGENT": True, "NORMALISE": True}
    for kernel in (
        gpu.select_kernel,
        gpu.decode_kernel,
        gpu.bias_gradient_kernel,
        gpu.squares_kernel,
        gpu.update_kernel,
    ):
        types = {
            name: "constexpr" if name in constants else (integers | numbers).get(name, "*fp32")
            for name in kernel.arg_names
        }
        fixed = {(i,): constants[name] for i, name in enumerate(kernel.arg_names) if name in constants}
        made = triton.compile(ASTSource(kernel, types, fixed), target=GPUTarget("cuda", 90, 32))
        assert made.asm["cubin"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIONS)
def test_triton_on_a_device(name: str) -> None:
    """The compiled kernels, one step of each option, against the reference on the same device."""
    asked = config(*OPTIONS[name])
    rows = batches()[0].cuda()
    ours = start(asked, rows)
    theirs = TrainState.from_tensors({n: v.clone() for n, v in ours.to_tensors().items()}, asked)
    said = make_step(asked, "triton", "cuda")(ours, rows)
    expected = make_step(asked, "reference", "cuda")(theirs, rows)
    for value, right in zip(said, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-4, atol=1e-6)
    for name_, right in theirs.to_tensors().items():
        torch.testing.assert_close(ours.to_tensors()[name_], right, rtol=1e-4, atol=1e-5, msg=name_)
