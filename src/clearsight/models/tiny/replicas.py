"""Data-parallel training on the cores of one machine: one process and one thread for each replica.

On a CPU two processes of one thread each do half again as many steps as one process with two threads, because
they meet three times a step instead of at every operation. Weights, moments and gradients are flat tensors in
shared memory; the model's parameters are views into them, and every process updates its own slice.

On an accelerator the replicas of a step are worked through by one process; the mathematics is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.98)
EPSILON = 1e-8
CLIP = 1.0


@dataclass
class Flat:
    """Flat state of P parameters: working weights in the modules' dtype, float32 weights, two moments, one
    gradient for each process, and whether an entry decays. Safe to send to other processes once :meth:`share`
    was called."""

    work_P: Tensor
    master_P: Tensor
    first_P: Tensor
    second_P: Tensor
    decays_P: Tensor
    grads: list[Tensor]
    norms: Tensor

    @classmethod
    def of(cls, modules: Sequence[nn.Module], processes: int) -> Flat:
        """State for the modules' parameters as they are now.

        Args:
            modules: their parameters, each counted once.
            processes: how many will share the state.
        """
        parameters = [p for module in modules for p in module.parameters()]
        master = torch.cat([p.detach().float().flatten() for p in parameters])
        decays = torch.cat([torch.full((p.numel(),), float(p.ndim > 1), device=p.device) for p in parameters])
        zeros = torch.zeros_like(master)
        return cls(
            torch.cat([p.detach().flatten() for p in parameters]),
            master,
            zeros.clone(),
            zeros.clone(),
            decays,
            [zeros.clone() for _ in range(processes)],
            torch.zeros(processes),
        )

    def share(self) -> None:
        """Move everything into shared memory."""
        for tensor in (
            self.work_P,
            self.master_P,
            self.first_P,
            self.second_P,
            self.decays_P,
            self.norms,
            *self.grads,
        ):
            tensor.share_memory_()

    def attach(self, modules: Sequence[nn.Module]) -> list[nn.Parameter]:
        """Make the modules' parameters views of the working weights."""
        parameters = [p for module in modules for p in module.parameters()]
        start = 0
        for p in parameters:
            p.data = self.work_P[start : start + p.numel()].view_as(p)
            start += p.numel()
        return parameters

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"master": self.master_P, "first": self.first_P, "second": self.second_P}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over a checkpoint's tensors."""
        for mine, name in ((self.master_P, "master"), (self.first_P, "first"), (self.second_P, "second")):
            mine.copy_(state[name])
        self.work_P.copy_(self.master_P)


class Optimiser:
    """AdamW (Loshchilov and Hutter 2019) on a slice of the flat state, clipped to a total gradient norm of 1.

    The rate rises for 100 steps, or a tenth of them, and falls along a cosine to a fiftieth.
    """

    def __init__(
        self,
        flat: Flat,
        parameters: list[nn.Parameter],
        rank: int,
        barrier: Any,
        steps: int,
        rate: float,
        decay: float,
    ) -> None:
        self.flat, self.parameters, self.rank, self.barrier = flat, parameters, rank, barrier
        self.steps, self.rate, self.decay = steps, rate, decay
        self.warm = min(100, max(1, steps // 10))
        size, processes = len(flat.master_P), len(flat.grads)
        self.mine = slice(size * rank // processes, size * (rank + 1) // processes)

    def wait(self) -> None:
        """Meet the other processes."""
        if self.barrier is not None:
            self.barrier.wait(600)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step counted from 0."""
        share = max(0.0, (step - self.warm) / max(1, self.steps - self.warm))
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))
        return self.rate * min(1.0, (step + 1) / self.warm) * cosine

    def update(self, step: int, replicas: int) -> None:
        """Average the gradients of all replicas, update this process's slice, and wait for the others."""
        self.collect()
        self.wait()
        gradient = self.reduce(replicas)
        self.wait()
        self.apply(gradient, step)
        self.wait()

    def collect(self) -> None:
        """Move this process's gradients into its flat one."""
        own, start = self.flat.grads[self.rank], 0
        for p in self.parameters:
            part = own[start : start + p.numel()]
            if p.grad is None:
                part.zero_()
            else:
                part.copy_(p.grad.flatten())
            p.grad = None
            start += p.numel()

    def reduce(self, replicas: int) -> Tensor:
        """The mean gradient of this process's slice; its squared norm goes to the others."""
        gradient = torch.stack([g[self.mine] for g in self.flat.grads]).sum(0).div_(replicas)
        self.flat.norms[self.rank] = gradient.square().sum()
        return gradient

    @torch.no_grad()
    def apply(self, gradient: Tensor, step: int) -> None:
        """One step of AdamW on this process's slice."""
        gradient = gradient * min(1.0, CLIP / (float(self.flat.norms.sum().sqrt()) + 1e-6))
        master, first, second = (
            t[self.mine] for t in (self.flat.master_P, self.flat.first_P, self.flat.second_P)
        )
        rate = self.rate_at(step)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = (second / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPSILON)
        master.sub_(self.flat.decays_P[self.mine] * master, alpha=rate * self.decay)
        master.addcdiv_(first, spread, value=-rate / (1 - BETAS[0] ** (step + 1)))
        self.flat.work_P[self.mine] = master.to(self.flat.work_P.dtype)
