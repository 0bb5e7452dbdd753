"""InfoNCE over all pairs of a batch, known positives left out of the negatives.

Legend of shapes: N pairs, M candidates, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

HOTTEST = 100.0
"""The largest 1 / temperature that learning may reach, as in CLIP (Radford et al. 2021)."""


def info_nce(
    queries_ND: Tensor,
    candidates_MD: Tensor,
    own_N: Tensor,
    negative_NM: Tensor,
    scale: Tensor | float,
    *,
    widths: Sequence[int] = (),
) -> Tensor:
    """The mean over pairs of -log(exp(s own) / (exp(s own) + sum over negatives of exp(s))), s = scale * cos.

    Equation 2 of From Generator to Embedder; scale is 1 / temperature. With `widths` (Matryoshka), the mean
    over the full vectors and their first w entries, each normalised by itself.

    Args:
        queries_ND, candidates_MD: float32, of any length.
        own_N: row of each query's positive.
        negative_NM: which candidates are negatives of a query. Its own positive need not be left out.
        widths: 1..D each.

    Returns:
        A scalar; 0 where there are no pairs.
    """
    if not len(queries_ND):
        return (queries_ND.sum() + candidates_MD.sum()) * 0.0 * scale
    kept_NM = negative_NM.scatter(1, own_N.unsqueeze(1), True)
    full = queries_ND.shape[1]
    losses = []
    for width in sorted({*widths, full}):
        cosine_NM = normalize(queries_ND[:, :width], dim=-1) @ normalize(candidates_MD[:, :width], dim=-1).T
        losses.append(cross_entropy((cosine_NM * scale).masked_fill(~kept_NM, -torch.inf), own_N))
    return torch.stack(losses).mean()


def negatives(
    query_code_N: Tensor,
    positive_code_N: Tensor,
    candidate_code_M: Tensor,
    pair_M: Tensor,
) -> Tensor:
    """Which candidates may be negatives of which queries, (N, M): not those equal in content to the query's
    own positive, nor positives of an equal query.

    Args:
        query_code_N, positive_code_N: codes of the contents of each pair; equal content, equal code.
        candidate_code_M: codes of the candidates.
        pair_M: the pair whose positive a candidate is; -1 for a candidate that belongs to none.
    """
    if not len(query_code_N):
        return torch.ones(0, len(candidate_code_M), dtype=torch.bool, device=candidate_code_M.device)
    same_content_NM = positive_code_N.unsqueeze(1) == candidate_code_M.unsqueeze(0)
    same_query_NM = (query_code_N.unsqueeze(1) == query_code_N[pair_M].unsqueeze(0)) & (pair_M >= 0)
    return ~(same_content_NM | same_query_NM)
