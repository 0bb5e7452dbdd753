"""What a server refuses for its size, in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds; each is told in `GET /info` and named by the refusal.

    Attributes:
        body_bytes: of one request, as it arrives (pictures are a third larger as data URLs).
        held_bytes: bodies of all requests at work; more answers 503.
        read_seconds: for a body to arrive.
        pixels: of all pictures of one request together.
        inputs: items of one request to embed.
        documents: of one request to rerank.
        characters: of one text.
        all_characters: of all texts of one request.
        waiting: requests that may wait for the model.
        batch: items that are embedded together.
    """

    body_bytes: int = 32 << 20
    held_bytes: int = 512 << 20
    read_seconds: float = 60.0
    pixels: int = 64_000_000
    inputs: int = 512
    documents: int = 256
    characters: int = 20_000
    all_characters: int = 1_000_000
    waiting: int = 256
    batch: int = 64

    def told(self) -> dict[str, int]:
        """Those that a client can keep to."""
        told = ("body_bytes", "pixels", "inputs", "documents", "characters", "all_characters")
        return {name: int(value) for name, value in asdict(self).items() if name in told}
