"""What the concepts of an SAE do in a retriever: strength, modality, bridging, influence, and their overlap.

Mathematics over codes (sparse) and a dictionary; nothing here knows a model, a file or a screen.
"""

from clearsight.concepts.attribution import attribution, bias_attribution, reconstructed_similarity
from clearsight.concepts.bridge import REDUCTIONS, Reduction, bridge
from clearsight.concepts.codes import Coder
from clearsight.concepts.curves import Density, EnergyCurve, energy_curve, gini, modality_density
from clearsight.concepts.means import CodeDisagreement, code_disagreement, compare_codes, mean_of_codes
from clearsight.concepts.profile import ConceptProfile, profile, profile_codes
from clearsight.concepts.sets import (
    Overlap,
    expected_jaccard,
    jaccard,
    overlap,
    overlap_table,
    set_size,
    top_set,
    top_sets,
)

__all__ = [
    "REDUCTIONS",
    "CodeDisagreement",
    "Coder",
    "ConceptProfile",
    "Density",
    "EnergyCurve",
    "Overlap",
    "Reduction",
    "attribution",
    "bias_attribution",
    "bridge",
    "code_disagreement",
    "compare_codes",
    "energy_curve",
    "expected_jaccard",
    "gini",
    "jaccard",
    "mean_of_codes",
    "modality_density",
    "overlap",
    "overlap_table",
    "profile",
    "profile_codes",
    "reconstructed_similarity",
    "set_size",
    "top_set",
    "top_sets",
]
