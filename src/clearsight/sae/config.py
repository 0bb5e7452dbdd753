"""What an autoencoder is, and how it is trained: flat frozen records, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.sae.activations import Activation, activations
from clearsight.sae.scores import Score, scores


@dataclass(frozen=True)
class SaeConfig:
    """The form of a sparse autoencoder: everything that its weights do not say.

    Raises:
        UsageError: a name that does not exist, a size below 1, k above the number of concepts, centring
            without a decoder bias.
    """

    width: Annotated[int, "Entries of an activation vector (D)."]
    concepts: Annotated[int, "Number of concepts (C)."]
    activation: Annotated[str, "relu, topk, batchtopk, jumprelu or sparsemax."] = "topk"
    score: Annotated[str, "linear (an encoder matrix) or attention (of the row over the concepts)."] = (
        "linear"
    )
    k: Annotated[int, "Concepts a row: at most (topk), on average (batchtopk), aimed at (jumprelu)."] = 32
    centred: Annotated[bool, "Subtract the decoder bias from the input."] = True
    decoder_bias: Annotated[bool, "Add a trained bias to the reconstruction."] = True
    sparsemax_mode: Annotated[Literal["simplex", "mask"], "simplex: the paper's; mask: its release's."] = (
        "simplex"
    )
    dense_limit: Annotated[
        float, "sparsemax, mask: leave out concepts that fire on more than this share of rows (0..1)."
    ] = 0.1

    def __post_init__(self) -> None:
        if self.width < 1 or self.concepts < 1:
            raise UsageError(
                f"width is {self.width}, concepts is {self.concepts}.", do="Give at least 1 each."
            )
        scores.get(self.score)
        if activations.get(self.activation).uses_k and not 1 <= self.k <= self.concepts:
            raise UsageError(
                f"k is {self.k} with {self.concepts} concepts.", do=f"Give k from 1 to {self.concepts}."
            )
        if self.sparsemax_mode not in ("simplex", "mask"):
            raise UsageError(f"sparsemax_mode is '{self.sparsemax_mode}'.", do="Give 'simplex' or 'mask'.")
        if self.centred and not self.decoder_bias:
            raise UsageError(
                "Centring subtracts the decoder bias, and there is none.",
                do="Give centred=False, or decoder_bias=True.",
            )
        if not 0 < self.dense_limit <= 1:
            raise UsageError(f"dense_limit is {self.dense_limit}.", do="Give a share above 0, at most 1.")

    @property
    def kind(self) -> Activation:
        """The row of `activations` that this form uses."""
        row = activations.get(self.activation)
        return row.modes.get(self.sparsemax_mode, row)

    @property
    def scoring(self) -> Score:
        """The row of `scores` that this form uses."""
        return scores.get(self.score)


@dataclass(frozen=True)
class AdamConfig:
    """Adam, its learning rate over time, and clipping.

    The rate rises linearly over `warmup` steps and falls linearly to 0 over the last `decay` share of
    `TrainConfig.steps`.
    """

    lr: Annotated[float, "Learning rate at its height."] = 8e-4
    beta1: Annotated[float, "Decay of the first moment, a step."] = 0.9
    beta2: Annotated[float, "Decay of the second moment, a step."] = 0.999
    eps: Annotated[float, "Added to the root of the second moment."] = 1e-8
    clip: Annotated[float | None, "Largest L2 norm of the whole gradient; None: unlimited."] = 1.0
    warmup: Annotated[int, "Steps over which the rate rises."] = 0
    decay: Annotated[float, "Share of all steps, at the end, over which the rate falls to 0 (0..1)."] = 0.0

    def __post_init__(self) -> None:
        if not (self.lr > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0):
            raise UsageError(
                f"lr {self.lr}, betas {self.beta1} and {self.beta2}, eps {self.eps} are not Adam's.",
                do="Give lr and eps above 0, betas from 0 to below 1.",
            )
        if self.warmup < 0 or not 0 <= self.decay <= 1 or (self.clip is not None and self.clip <= 0):
            raise UsageError(
                f"warmup {self.warmup}, decay {self.decay}, clip {self.clip}.",
                do="Give a warm-up from 0, a decay from 0 to 1, a clip above 0 or None.",
            )


@dataclass(frozen=True)
class LossConfig:
    """Reconstruction error + sparsity * penalty + aux_weight * error of the dead concepts' reconstruction of
    the residual. What is None is decided by the kind of activation: see `TrainConfig.resolved_loss`."""

    error: Annotated[
        Literal["mse", "relative"] | None, "mse: mean square; relative: 10 mean of square over row length."
    ] = None
    sparsity: Annotated[float | None, "Weight of mean |code| |direction|; jumprelu: of (L0/k - 1)^2."] = None
    aux_k: Annotated[int | None, "Dead concepts that reconstruct the residual, a row; 0: none do."] = None
    aux_weight: Annotated[float, "Weight of their loss."] = 1 / 32
    dead_window: Annotated[int, "A concept is dead after this many vectors without firing."] = 1_000_000

    def __post_init__(self) -> None:
        if self.error not in (None, "mse", "relative"):
            raise UsageError(f"error is '{self.error}'.", do="Give 'mse' or 'relative'.")
        if min(self.sparsity or 0, self.aux_k or 0, self.aux_weight) < 0 or self.dead_window < 1:
            raise UsageError(
                f"sparsity {self.sparsity}, aux_k {self.aux_k}, aux_weight {self.aux_weight}, "
                f"dead_window {self.dead_window}.",
                do="Give no negative number, and a window of at least 1 vector.",
            )


@dataclass(frozen=True)
class TrainConfig:
    """How an autoencoder is trained. Two runs with equal configs and streams give equal weights on a CPU.

    Attributes:
        decoder_norm: what keeps decoder rows at length 1. "tangent": the gradient's component along the row
            is removed, and the row is normalised after the step; "project": it is normalised after the step
            alone; "free": nothing is done. None: "tangent" where the decoder is a matrix of its own and its
            lengths are not needed, else "free".
        scaled: rows are divided by one number, the root mean square of the first batch's (centred) entries,
            while training; the result works on unscaled rows. Learning rate, penalty and clipping then
            mean the same for every model.

    Raises:
        UsageError: numbers that make no training; "tangent" or "project" with attention scores, where decoder
            rows are products; decay without a number of steps.
    """

    sae: Annotated[SaeConfig, "The form of the autoencoder."]
    adam: Annotated[AdamConfig, "Optimiser."] = field(default_factory=AdamConfig)
    loss: Annotated[LossConfig, "Loss."] = field(default_factory=LossConfig)
    batch: Annotated[int, "Vectors a step."] = 4096
    epochs: Annotated[int, "Passes, where the stream is made of an array here."] = 1
    steps: Annotated[int | None, "Steps in all; None: to the end of the stream."] = None
    seed: Annotated[int, "Of the first weights, and of an array's order."] = 0
    decoder_norm: Annotated[Literal["tangent", "project", "free"] | None, "See above."] = None
    scaled: Annotated[bool, "Divide rows by one number while training."] = True

    def __post_init__(self) -> None:
        if self.batch < 1 or self.epochs < 1 or (self.steps is not None and self.steps < 1):
            raise UsageError(
                f"batch {self.batch}, epochs {self.epochs}, steps {self.steps}.", do="Give at least 1 each."
            )
        if self.decoder_norm not in (None, "tangent", "project", "free"):
            raise UsageError(
                f"decoder_norm is '{self.decoder_norm}'.", do="Give 'tangent', 'project' or 'free'."
            )
        if self.decoder_norm in ("tangent", "project") and not self.sae.scoring.own_decoder:
            raise UsageError(
                f"Decoder rows of '{self.sae.score}' scores are products and cannot be kept at length 1.",
                do="Give decoder_norm='free'.",
            )
        if self.adam.decay and self.steps is None:
            raise UsageError("The rate decays to the end of training.", do="Give the number of steps.")
        if self.loss.aux_k and (self.sae.kind.unit_input or not self.sae.kind.homogeneous):
            raise UsageError(
                "Codes of sparsemax are no multiples of scores that dead concepts could share.",
                do="Give aux_k=0 or leave it out.",
            )
        if (self.loss.aux_k or 0) > self.sae.concepts:
            raise UsageError(
                f"aux_k is {self.loss.aux_k} with {self.sae.concepts} concepts.", do="Give at most that many."
            )

    @property
    def row_norm(self) -> Literal["tangent", "project", "free"]:
        """`decoder_norm`, decided."""
        if self.decoder_norm is not None:
            return self.decoder_norm
        return "tangent" if self.sae.scoring.own_decoder and not self.sae.kind.free_decoder else "free"

    @property
    def resolved_loss(self) -> LossConfig:
        """`loss` with nothing left at None. aux_k is half the width (Gao et al. 2024), where it is on."""
        loss, kind, sae = self.loss, self.sae.kind, self.sae
        aux_k = min(sae.concepts, max(1, sae.width // 2)) if kind.revives else 0
        return LossConfig(
            error=loss.error or kind.error,
            sparsity=kind.sparsity(sae.width, sae.concepts) if loss.sparsity is None else loss.sparsity,
            aux_k=aux_k if loss.aux_k is None else loss.aux_k,
            aux_weight=loss.aux_weight,
            dead_window=loss.dead_window,
        )

    def rate(self, step: int) -> float:
        """The learning rate of step number `step`, counted from 0."""
        adam = self.adam
        factor = min(1.0, (step + 1) / adam.warmup) if adam.warmup else 1.0
        if adam.decay and self.steps is not None:
            factor = min(factor, (self.steps - step) / (adam.decay * self.steps))
        return adam.lr * max(0.0, factor)

    def to_plain(self) -> dict[str, Any]:
        """As nested dicts of numbers and strings."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TrainConfig:
        """What `to_plain` gave. Raises UsageError on fields that do not exist."""
        parts = {"sae": SaeConfig, "adam": AdamConfig, "loss": LossConfig}
        for made, given in [(cls, plain), *((parts[name], plain.get(name, {})) for name in parts)]:
            unknown = set(given) - {one.name for one in fields(made)}
            if unknown:
                raise UsageError(
                    f"{made.__name__} has no field '{sorted(unknown)[0]}'.",
                    do="It may come from another version of Clearsight.",
                )
        return cls(
            **{name: parts[name](**value) if name in parts else value for name, value in plain.items()}
        )
