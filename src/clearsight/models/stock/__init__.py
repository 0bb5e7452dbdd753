"""Models of other houses: any sentence-transformers folder, embedded by that library's own modules."""

from clearsight.models.stock.folder import is_stock
from clearsight.models.stock.load import load_stock
from clearsight.models.stock.model import OWN_PROMPT, StockModel
from clearsight.models.stock.read import StockPreparer, StockReadout, need_modalities

__all__ = [
    "OWN_PROMPT",
    "StockModel",
    "StockPreparer",
    "StockReadout",
    "is_stock",
    "load_stock",
    "need_modalities",
]
