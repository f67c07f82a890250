"""What a user can run on a module: is it equivariant, does the fast path agree with the reference, and what is best done before the
first step."""

from pgconv.diagnostics.equivariance import equivariance_error
from pgconv.diagnostics.self_check import CheckReport, self_check
from pgconv.diagnostics.warmup import WarmupReport, warmup

__all__ = ["CheckReport", "WarmupReport", "equivariance_error", "self_check", "warmup"]
