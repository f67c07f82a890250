"""Models and weights of the method's public release and of LieConv.

``accelerate`` makes the convolutions of a model built with these packages compute on this library, in place; ``load_release`` and
``load_lieconv`` read their weights into this library's own layers. Neither package is imported: layers are recognised by the names
and shapes they have.
"""

from pgconv.compat.accelerate import accelerate
from pgconv.compat.lieconv_weights import load_lieconv
from pgconv.compat.release_weights import load_release
from pgconv.compat.report import Report

__all__ = ["Report", "accelerate", "load_lieconv", "load_release"]
