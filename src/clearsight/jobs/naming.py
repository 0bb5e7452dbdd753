"""What the items of a diagnosis and its concepts are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from clearsight.jobs.examine import Subject
    from clearsight.types import Item, Task


def items_of(task: Task) -> dict[str, Item]:
    """Items by id; those of one modality from both sides are named by their side (`image_text_pairs`)."""
    known = {item.id: item for item in (*task.queries, *task.candidates)}
    for role, side in (("query", task.queries), ("candidate", task.candidates)):
        known |= {f"{role} {item.id}": item for item in side}
    return known


def names_of(subject: Subject, image_codes: csr_array, text_codes: csr_array) -> tuple[str, ...]:
    """For each concept the words of its texts, else of its pictures' captions; "" where neither tell."""
    from clearsight.concepts.names import concept_names

    texts, images = subject.texts.ids, subject.images.ids
    words_of = {name: item.text or "" for name, item in items_of(subject.case.task).items()}
    captions: list[list[str]] = [[] for _ in images]
    for image, text in subject.pairs_P2.tolist():
        captions[image].append(words_of[texts[text]])
    of_texts = concept_names(text_codes, [words_of[name] for name in texts])
    of_images = concept_names(image_codes, [" ".join(told) for told in captions])
    return tuple(text or image for text, image in zip(of_texts, of_images, strict=True))
