"""Repairs of an embedding space: scikit-learn estimators over rows, and their use on `Embeddings`."""

from clearsight.repair.affine import Affine
from clearsight.repair.base import Repair
from clearsight.repair.chain import Chain
from clearsight.repair.choose import (
    AlignmentChoice,
    AlignmentTrial,
    ShrinkageChoice,
    Trial,
    choose_alignment,
    choose_shrinkage,
    k_occurrence_skewness,
)
from clearsight.repair.files import load_repair, save_repair
from clearsight.repair.groups import PerGroup, fit_repair
from clearsight.repair.refine import Refinement, RefineRound, mutual_neighbours
from clearsight.repair.self_align import SelfAlign
from clearsight.repair.state import repairs
from clearsight.repair.subspace import RemoveSubspace, RemoveTopComponents
from clearsight.repair.whitening import Centre, ShrinkageZCA

__all__ = [
    "Affine",
    "AlignmentChoice",
    "AlignmentTrial",
    "Centre",
    "Chain",
    "PerGroup",
    "RefineRound",
    "Refinement",
    "RemoveSubspace",
    "RemoveTopComponents",
    "Repair",
    "SelfAlign",
    "ShrinkageChoice",
    "ShrinkageZCA",
    "Trial",
    "choose_alignment",
    "choose_shrinkage",
    "fit_repair",
    "k_occurrence_skewness",
    "load_repair",
    "mutual_neighbours",
    "repairs",
    "save_repair",
]
