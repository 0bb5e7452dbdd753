"""Which concepts of a sparse autoencoder make up the score of a hit, in the space that was searched.

Query and hit are rebuilt from their codes, x = sum_c z_c d_c + b. A repair is affine, so that each rebuilt
vector after it is a sum over concepts, y = sum_c z_c d_c W / |x| + the rest, and a concept's part in the
cosine of two such vectors is half of what its summand in each gives with the whole other:
(z_c d_c W / |x| . y' + z'_c d_c W' / |x'| . y) / 2 |y| |y'| (the attribution of Feng et al. 2026, eq. 6, for
one pair). Over all concepts and the rest the parts sum to the cosine.

Legend of shapes: K hits, C concepts, S concepts of one vector, D width of raw vectors, E of repaired ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.index.nouns import Results
from clearsight.index.statistics import raw_rows
from clearsight.repair.affine import Affine
from clearsight.types import Item, Role

if TYPE_CHECKING:
    from clearsight.index.index import Index
    from clearsight.sae import SparseAutoencoder

Rows = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """A vector from its codes, in the space that is searched.

    Attributes:
        concept_S: numbers of its concepts.
        part_SE: what each adds.
        whole_E: all of it, the rest included.
    """

    concept_S: NDArray[np.int64]
    part_SE: Rows
    whole_E: Rows


def rebuilt(
    raw_ND: NDArray[np.float32], sae: SparseAutoencoder, affine: Affine | None, *, normalize: bool = True
) -> list[Rebuilt]:
    """Raw vectors rebuilt from their codes and repaired, concept by concept.

    Args:
        affine: the repair of rows of length 1; None for none.
        normalize: whether the repair takes the norm first.
    """
    codes = sae.encode(raw_ND)
    dictionary_CD = sae.dictionary_CD.astype(np.float64)
    bias_D = sae.decoder_bias_D.detach().cpu().numpy().astype(np.float64) if sae.config.decoder_bias else 0.0
    out = []
    for row in range(len(raw_ND)):
        span = slice(codes.indptr[row], codes.indptr[row + 1])
        concept_S = codes.indices[span].astype(np.int64)
        part_SD = codes.data[span].astype(np.float64)[:, None] * dictionary_CD[concept_S]
        rest_D = np.broadcast_to(bias_D, dictionary_CD.shape[1:])
        length = np.linalg.norm(part_SD.sum(axis=0) + rest_D) if normalize else 1.0
        scale = 1.0 / length if length > 0 else 0.0
        part_SE, rest_E = part_SD * scale, rest_D * scale
        if affine is not None:
            part_SE, rest_E = part_SE @ affine.matrix_DE, rest_E @ affine.matrix_DE + affine.offset_E
        out.append(Rebuilt(concept_S, part_SE, part_SE.sum(axis=0) + rest_E))
    return out


def shares(query: Rebuilt, hit: Rebuilt) -> dict[int, float]:
    """Concept -> its part in the cosine of the rebuilt vectors, for concepts of either."""
    length = float(np.linalg.norm(query.whole_E) * np.linalg.norm(hit.whole_E))
    if length == 0:
        return {}
    parts: dict[int, float] = {}
    for one, other in ((query, hit), (hit, query)):
        for concept, part in zip(one.concept_S.tolist(), (one.part_SE @ other.whole_E).tolist(), strict=True):
            parts[concept] = parts.get(concept, 0.0) + part / (2 * length)
    return parts


def need_width(index: Index, sae: SparseAutoencoder) -> None:
    """
    Raises:
        DataError: an autoencoder of another width.
    """
    if sae.config.width != index.settings.width:
        raise DataError(
            f"The autoencoder reads vectors of width {sae.config.width}; the index's have "
            f"{index.settings.width}.",
            where="explain",
            do="Give one that was trained on this index's model.",
        )


def explained(
    index: Index, results: Results, sae: SparseAutoencoder, names: Mapping[int, str], most: int
) -> Results:
    """See `Index.explain`: the concepts that query and hit share, the largest part of the score first.

    Raises:
        DataError: an autoencoder of another width.
    """
    need_width(index, sae)
    if not results.hits:
        return results
    view = index.store.view()
    fitted = index.fitted(results.repair)
    query_1D, modality, side = _query(index, results)
    question = rebuilt(query_1D, sae, fitted.affine(modality, side))[0]
    why: dict[str, tuple[tuple[str, float], ...]] = {}
    for ids, modality_N, rows_ND in raw_rows(view, ids=[hit.id for hit in results.hits]):
        for kind in np.unique(modality_N).tolist():
            of = np.flatnonzero(modality_N == kind)
            for place, one in zip(
                of, rebuilt(rows_ND[of], sae, fitted.affine(kind, "candidate")), strict=True
            ):
                parts = shares(question, one)
                shared = set(question.concept_S.tolist()) & set(one.concept_S.tolist())
                best = sorted(shared, key=lambda concept: (-parts[concept], concept))[:most]
                why[ids[place]] = tuple((names.get(c, str(c)), parts[c]) for c in best if parts[c] > 0)
    return replace(results, hits=tuple(replace(hit, why=why.get(hit.id, ())) for hit in results.hits))


def _query(index: Index, results: Results) -> tuple[NDArray[np.float32], str, Role]:
    query = results.query
    if query.like is not None:
        for _, modality_N, rows_ND in raw_rows(index.store.view(), ids=[query.like]):
            return rows_ND[:1], str(modality_N[0]), "candidate"
        raise DataError(f"There is no item '{query.like}'.", where=query.like)
    item = Item("query", query.text, query.image)
    rows_ND = index._searcher.embed([item], index.store.view())
    return rows_ND, item.modality, "query"
