"""Networks of the published experiments, built from the layers, and what their training needs."""

from pgconv.models._images import Penalties
from pgconv.models.augerino import Augerino
from pgconv.models.ckresnet import CKResNet
from pgconv.models.gcnn13 import GCNN13
from pgconv.models.learned import gate_probabilities, learned_ranges, monotone_loss, parameter_groups
from pgconv.models.lie_resnet import LieResNet

__all__ = [
    "Augerino",
    "CKResNet",
    "GCNN13",
    "LieResNet",
    "Penalties",
    "gate_probabilities",
    "learned_ranges",
    "monotone_loss",
    "parameter_groups",
]
