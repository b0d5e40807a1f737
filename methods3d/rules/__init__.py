"""The rules of layer-wise relevance propagation and its relatives, each a rewrite of one kind of function."""

from methods3d.rules.composite import COMPOSITES, Composite, composite
from methods3d.rules.propagation import Propagation

__all__ = ["COMPOSITES", "Composite", "Propagation", "composite"]
