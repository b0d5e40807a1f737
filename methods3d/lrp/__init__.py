"""Methods made of layer-wise relevance propagation."""

from methods3d.lrp.contrastive import CLRP
from methods3d.lrp.lrp import LRP
from methods3d.lrp.salient import SalientRelevance

__all__ = ["CLRP", "LRP", "SalientRelevance"]
