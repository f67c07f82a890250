"""The published experiments by name, and the same on scikit-learn's digits: ``python -m pgconv.train --list``."""

from pgconv.train.config import Config
from pgconv.train.configs import get, names
from pgconv.train.loop import Trainer

__all__ = ["Config", "Trainer", "get", "names"]
