"""The ``cuda`` backend: native kernels on NVIDIA GPUs."""

from pgconv.backends.cuda.backend import BACKEND

__all__ = ["BACKEND"]
