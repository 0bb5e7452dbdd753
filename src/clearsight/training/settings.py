"""What a training is: every value that changes its outcome, and those that only change how it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clearsight.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16"]

FREE = ("token_budget", "workers", "save_every", "checkpointing", "precision")
"""Settings that a resumed training may change: they decide speed and memory, and the losses' last digits."""


@dataclass(frozen=True)
class TrainSettings:
    """Defaults are the paper's (From Generator to Embedder, section IV-A) but for the batch, which is for one
    small machine; alpha, dropout and target modules are its authors' release's.

    Attributes:
        prompt, pooling, layer: the encoder's.
        batch: clusters of a step, of all processes together.
        one_set: all clusters of a step come from one data set.
        epochs: how often each cluster is seen; `steps`, where given, counts instead.
        rate, warmup, weight_decay, clip: AdamW's peak rate; steps in which it rises from 0, after which it
            falls to 0 at the last; decay; the largest norm of the gradient (0: any).
        temperature, learn_temperature: of InfoNCE; learning starts from it.
        matryoshka: further widths whose leading entries are trained to stand alone.
        rank, alpha, dropout, dora, targets: LoRA's; targets are names of linear layers of the decoder.
        max_tokens: a longer text is cut (and counted); more than the model's context is refused.
        image_size, square: pixels of a side that an image is shrunk to, its area kept below; `square` brings
            it to exactly that, as the paper does in training.
        caption_weight: weight of the next-token loss of the pair's text given its image (or of the positive
            given the query), added to InfoNCE; 0 leaves it out. InfoNCE's gradient grows with
            1 / temperature: at 0.02 a weight of 20 is felt, one of 0.1 is not (measured).
        seed: of first weights, order and dropout.
        token_budget: padded tokens of one forward pass with gradients; None chooses by device.
        checkpointing: recompute the layers in the backward pass: less memory, a third more time.
        precision: of the frozen weights; auto is bfloat16 on a GPU that has it, else float32. The adapter is
            float32.
        workers: threads that open and prepare, at least one.
        save_every: steps between checkpoints.

    Raises:
        UsageError: a value out of its range.
    """

    prompt: str = "hierarchical"
    pooling: str = "last"
    layer: int = -1
    batch: int = 32
    one_set: bool = False
    epochs: float = 1.5
    steps: int | None = None
    rate: float = 5e-5
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    temperature: float = 0.02
    learn_temperature: bool = False
    matryoshka: tuple[int, ...] = ()
    rank: int = 8
    alpha: int = 64
    dropout: float = 0.1
    dora: bool = False
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
    max_tokens: int = 1024
    image_size: int | None = None
    square: bool = False
    caption_weight: float = 0.0
    seed: int = 0
    token_budget: int | None = None
    checkpointing: bool = False
    precision: Precision = "auto"
    workers: int | None = None
    save_every: int = 100

    def __post_init__(self) -> None:
        positive = ("batch", "epochs", "rate", "temperature", "rank", "alpha", "max_tokens", "save_every")
        wrong = [name for name in positive if not getattr(self, name) > 0]
        at_least_0 = ("warmup", "weight_decay", "clip", "caption_weight", "seed")
        wrong += [name for name in at_least_0 if not getattr(self, name) >= 0]
        optional = ("steps", "token_budget", "workers", "image_size")
        wrong += [name for name in optional if getattr(self, name) is not None and getattr(self, name) < 1]
        wrong += [] if 0 <= self.dropout < 1 else ["dropout"]
        wrong += [] if all(width > 0 for width in self.matryoshka) else ["matryoshka"]
        wrong += [] if self.targets else ["targets"]
        if wrong:
            raise UsageError(
                f"{wrong[0]} is {getattr(self, wrong[0])}.",
                where=wrong[0],
                do="Give a number above 0 (warmup, weight_decay, clip, caption_weight, seed: 0 too; dropout: "
                "below 1), and at least one target.",
            )
        if self.square and self.image_size is None:
            raise UsageError("square needs a size.", where="image_size", do="Give the pixels of a side.")


def identity(settings: TrainSettings, **facts: Any) -> dict[str, Any]:
    """What must be the same for a training to go on: settings that change its outcome, model and data."""
    kept = {name: value for name, value in asdict(settings).items() if name not in FREE}
    return {**{name: list(v) if isinstance(v, tuple) else v for name, v in kept.items()}, **facts}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each entry that differs."""
    names = [*before, *(name for name in now if name not in before)]
    absent = "absent"
    return [
        f"{name}: {before.get(name, absent)} before, {now.get(name, absent)} now"
        for name in names
        if before.get(name, absent) != now.get(name, absent)
    ]


def rate_at(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """The learning rate of a step (from 0): linear from 0 to `peak` in `warmup` steps, then linear to 0."""
    if step < warmup:
        return peak * step / max(1, warmup)
    return peak * max(0.0, (steps - step) / max(1, steps - warmup))
