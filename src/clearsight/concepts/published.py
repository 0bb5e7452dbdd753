"""Published figures for side-by-side tables. They are other models' numbers on other data: nothing here is a
result of this package.

Source: Feng et al. 2026, "Generative Giants, Retrieval Weaklings" (arXiv version 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SOURCE = "Feng et al. 2026, Generative Giants, Retrieval Weaklings"


@dataclass(frozen=True)
class PublishedOverlap:
    """A row of Table 1: Jaccard figures of the top 1% sets by energy, attribution and bridge.

    The paper does not say how the bridge matrix was reduced to one score a concept.
    """

    model: str
    kind: Literal["contrastive", "generative"]
    energy_attribution: float
    energy_bridge: float
    attribution_bridge: float
    triple: float
    source: str = f"{SOURCE}, Table 1"


@dataclass(frozen=True)
class PublishedRemoval:
    """A row pair of Table 2: hit rate@1, @5, @10 in percent on COCO image -> text, 3000 queries."""

    model: str
    base: tuple[float, float, float]
    removal: tuple[float, float, float]
    source: str = f"{SOURCE}, Table 2"


@dataclass(frozen=True)
class PublishedPooling:
    """A row pair of Table 3: hit rate@1, @5, @10 in percent, last token beside mean pooling."""

    model: str
    task: str
    last_token: tuple[float, float, float]
    mean: tuple[float, float, float]
    source: str = f"{SOURCE}, Table 3"


OVERLAPS = (
    PublishedOverlap("CLIP", "contrastive", 0.5674, 0.6831, 0.6126, 0.4796),
    PublishedOverlap("SigLIP2", "contrastive", 0.3948, 0.5775, 0.3783, 0.2915),
    PublishedOverlap("Qwen2-VL-7B", "generative", 0.6494, 0.7957, 0.7146, 0.5989),
    PublishedOverlap("Qwen3-VL-8B", "generative", 0.6610, 0.8547, 0.6700, 0.5486),
    PublishedOverlap("PaliGemma2-3B", "generative", 0.7655, 0.8085, 0.7124, 0.6541),
    PublishedOverlap("Chameleon-7B", "generative", 0.6850, 0.8591, 0.7099, 0.5953),
)

REMOVALS = (
    PublishedRemoval("Qwen2-VL-7B", (2.95, 9.53, 15.13), (7.18, 20.91, 31.18)),
    PublishedRemoval("Qwen3-VL-8B", (2.60, 7.88, 12.33), (4.23, 13.53, 20.72)),
    PublishedRemoval("PaliGemma2-3B", (6.07, 15.46, 21.55), (24.47, 48.79, 61.03)),
    PublishedRemoval("Chameleon-7B", (1.79, 7.58, 10.12), (3.32, 14.29, 16.87)),
)

# The table heads NIGHTS "image -> text"; its queries and candidates are images.
POOLINGS = (
    PublishedPooling("Qwen2-VL-7B", "MSCOCO image -> text", (0.20, 2.65, 3.81), (2.71, 8.48, 13.22)),
    PublishedPooling("Qwen2-VL-7B", "NIGHTS image -> image", (1.89, 3.64, 5.88), (7.55, 22.80, 39.11)),
    PublishedPooling("Qwen2-VL-7B", "CIRR image+text -> image", (0.54, 1.49, 3.23), (1.41, 6.09, 9.47)),
    PublishedPooling("Qwen3-VL-8B", "MSCOCO image -> text", (0.34, 2.49, 3.86), (2.76, 7.36, 11.28)),
    PublishedPooling("Qwen3-VL-8B", "NIGHTS image -> image", (1.05, 2.96, 5.75), (6.46, 20.14, 36.42)),
    PublishedPooling("Qwen3-VL-8B", "CIRR image+text -> image", (0.49, 1.35, 3.38), (1.01, 4.46, 17.03)),
    PublishedPooling("PaliGemma2-3B", "MSCOCO image -> text", (1.63, 3.23, 5.81), (5.94, 14.22, 19.25)),
    PublishedPooling("PaliGemma2-3B", "NIGHTS image -> image", (1.29, 4.26, 8.42), (8.96, 24.67, 44.79)),
    PublishedPooling("PaliGemma2-3B", "CIRR image+text -> image", (0.43, 1.84, 4.16), (1.13, 9.06, 13.74)),
)
