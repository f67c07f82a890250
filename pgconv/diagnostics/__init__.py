"""Checks a user can run on a module: is it equivariant, and does the fast path agree with the reference?"""

from pgconv.diagnostics.equivariance import equivariance_error
from pgconv.diagnostics.self_check import CheckReport, self_check

__all__ = ["CheckReport", "equivariance_error", "self_check"]
