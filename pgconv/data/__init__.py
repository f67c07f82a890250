"""The tasks of the published experiments, read from their standard files, and small ones on scikit-learn's digits."""

from pgconv.data.registry import files, get, names
from pgconv.data.sources import File
from pgconv.data.task import Split, Task

__all__ = ["File", "Split", "Task", "files", "get", "names"]
