"""The ``triton`` backend: kernels for GPUs that Triton compiles at their first use. Nothing here imports Triton before that."""

from pgconv.backends.triton.backend import BACKEND

__all__ = ["BACKEND"]
