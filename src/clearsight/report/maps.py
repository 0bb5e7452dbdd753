"""Maps of vectors for reports: `clearsight.metrics.maps` draws them."""

from clearsight.metrics.maps import UMAP_LEAST_DISTANCE, UMAP_NEIGHBOURS, PlaneMap, embed_map

__all__ = ["UMAP_LEAST_DISTANCE", "UMAP_NEIGHBOURS", "PlaneMap", "embed_map"]
