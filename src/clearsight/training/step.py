"""One step: rows of all pairs, InfoNCE over all processes, gradients back through the chunks.

Legend of shapes: U distinct items of this process, N pairs and M candidates of all processes, D width,
K numbers that describe a member.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor

from clearsight.models.batching import fill_batches
from clearsight.models.encoder import Encoder
from clearsight.models.prepare import Prepared
from clearsight.models.readout import GenerativeReadout
from clearsight.pooling import poolings
from clearsight.training.contrast import info_nce, negatives
from clearsight.training.feeding import Step
from clearsight.training.gradcache import GradCache
from clearsight.training.pairs import Member, Pairs, Place
from clearsight.training.processes import Processes
from clearsight.training.said import said_loss


class Losses(NamedTuple):
    """Of one step, over all processes.

    Attributes:
        contrast: InfoNCE, in nats.
        said: the next-token loss of a token, in nats; 0 where it takes no part.
        pairs: how many queries had a loss.
        masked: how many candidates were left out of a query's negatives, on average (its own not counted).
        tokens: tokens of this process's items, padding not counted.
    """

    contrast: float
    said: float
    pairs: int
    masked: float
    tokens: int


class Stepper:
    """Losses and gradients of steps.

    Args:
        encoder: over the model that is trained; its prompt, pooling and readout are what is trained.
        token_budget: padded tokens of a pass with gradients.
    """

    def __init__(
        self,
        encoder: Encoder,
        pairs: Pairs,
        processes: Processes,
        *,
        token_budget: int,
        seed: int,
        widths: Sequence[int] = (),
        caption_weight: float = 0.0,
        recomputes: bool = False,
    ) -> None:
        self.encoder, self.pairs, self.processes = encoder, pairs, processes
        self.token_budget, self.seed = token_budget, seed
        self.widths, self.caption_weight = tuple(widths), caption_weight
        self._pooling = poolings.get(encoder.pooling)
        readout = encoder.readout((self._pooling,))
        assert isinstance(readout, GenerativeReadout)
        # Layers that are computed again in the backward pass must do all that they did before.
        readout.forward.last_only = readout.forward.last_only and not recomputes
        self._readout = readout
        self._width = int(encoder.loaded.base.config.get_text_config().hidden_size)

    def __call__(self, step: Step, scale: Tensor) -> Losses:
        """Add the step's gradients to the parameters' and to `scale`'s; sum the former over processes next.

        Args:
            scale: 1 / temperature, a scalar; its gradient is already that of all processes.
        """
        with seeded(self.seed, step.number, self.processes.rank, self.encoder.loaded.device):
            places = list(step.ready)
            lengths = [len(step.ready[place].prepared.ids_L) for place in places]
            batches = fill_batches(lengths, self.token_budget) if places else []
            order = [int(i) for batch in batches for i in batch]
            chunks = [[step.ready[places[i]].prepared for i in batch] for batch in batches]
            cache = GradCache(self.rows, chunks, width=self._width, device=self.encoder.loaded.device)
            row_of = {places[i]: row for row, i in enumerate(order)}
            contrast, gradients_UD, pairs, masked = self._contrast(step, row_of, cache.rows_UD, scale)
            cache.backward(gradients_UD)
            said = self._said(step) if self.caption_weight else 0.0
        return Losses(contrast, said, pairs, masked, sum(lengths))

    def rows(self, prepared: Sequence[Prepared]) -> Tensor:
        """rows_BD as the encoder reads them, with gradients where they are on."""
        return self._readout.traced(prepared)[self._pooling.name]

    def _contrast(
        self, step: Step, row_of: dict[Place, int], rows_UD: Tensor, scale: Tensor
    ) -> tuple[float, Tensor, int, float]:
        """The loss over all processes, the gradient of this one's rows, pairs, and masked candidates."""
        device = rows_UD.device
        gathered = self.processes.gather(rows_UD)
        every_ND = gathered.rows_ND.detach().clone().requires_grad_()
        described = torch.tensor(
            [_described(one, step, row_of, gathered.start) for one in step.members], dtype=torch.long
        ).reshape(-1, len(_Described._fields))
        members_MK = self.processes.gather(described.to(device)).rows_ND
        column = {name: members_MK[:, i] for i, name in enumerate(_Described._fields)}
        own_N = (column["query_row"] >= 0).nonzero().squeeze(1)
        pair_M = torch.full_like(column["query_row"], -1)
        pair_M[own_N] = torch.arange(len(own_N), device=device)
        negative_NM = negatives(
            column["query_code"][own_N], column["positive_code"][own_N], column["positive_code"], pair_M
        )
        known = self.pairs.known(*_places(members_MK.cpu(), own_N.cpu()))
        negative_NM &= ~torch.from_numpy(known).to(device)
        loss = info_nce(
            every_ND[column["query_row"][own_N]],
            every_ND[column["positive_row"]],
            own_N,
            negative_NM,
            scale,
            widths=self.widths,
        )
        torch.autograd.backward(loss)
        gradients = cast(Tensor, every_ND.grad)[gathered.start : gathered.start + len(rows_UD)]
        masked = float((~negative_NM).sum()) / max(1, len(own_N)) - 1
        return float(loss.detach()), gradients, len(own_N), max(0.0, masked)

    def _said(self, step: Step) -> float:
        """The next-token loss of a token over all processes; its gradients are added."""
        loaded = self.encoder.loaded
        own = float(sum(one.targets for one in step.said))
        total = torch.tensor([own], device=loaded.device)
        self.processes.add_up([total])
        count = max(1.0, float(total))
        lengths = [len(one.prepared.ids_L) for one in step.said]
        summed = torch.zeros(1, device=loaded.device)
        for batch in fill_batches(lengths, self.token_budget) if lengths else []:
            loss = said_loss(loaded, [step.said[i] for i in batch]) / count
            torch.autograd.backward(self.caption_weight * loss)
            summed += loss.detach()
        self.processes.add_up([summed])
        return float(summed)


class _Described(NamedTuple):
    """A member as whole numbers, to tell the other processes: rows among all (-1: no query), codes of their
    contents, and where they stand in the data."""

    query_row: int
    positive_row: int
    query_code: int
    positive_code: int
    dataset: int
    query: int
    candidate: int


def _described(member: Member, step: Step, row_of: dict[Place, int], start: int) -> _Described:
    query, positive = member
    return _Described(
        -1 if query is None else start + row_of[query],
        start + row_of[positive],
        -1 if query is None else step.ready[query].code,
        step.ready[positive].code,
        positive.dataset,
        -1 if query is None else query.row,
        positive.row,
    )


def _places(members_MK: Tensor, own_N: Tensor) -> tuple[list[Place], list[Place]]:
    described = [_Described(*row) for row in members_MK.tolist()]
    queries = [Place(described[i].dataset, "query", described[i].query) for i in own_N.tolist()]
    return queries, [Place(one.dataset, "candidate", one.candidate) for one in described]


@contextmanager
def seeded(seed: int, step: int, rank: int, device: torch.device) -> Iterator[None]:
    """Random numbers that follow from these three alone; the caller's own go on undisturbed after."""
    devices = [device] if device.type == "cuda" else []
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=7).digest()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int.from_bytes(digest, "little"))
        yield
