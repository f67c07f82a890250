"""What ``accelerate`` did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """Layers by the names they have in the model (a shared one by its first name, the model itself by "").

    Attributes:
        replaced: what each replaced layer is
        kept: why each of the others was left as it is

    Example:
        >>> print(Report({"lift": "LiftingConv, 1 to 8 channels"}, {"last": "GroupConv: padding is 'circular'"}))
        1 of 2 layers replaced
          lift: LiftingConv, 1 to 8 channels
        left as they are
          last: GroupConv: padding is 'circular'
    """

    replaced: Mapping[str, str]
    kept: Mapping[str, str]

    def __str__(self) -> str:
        if not self.replaced and not self.kept:
            return "nothing to replace: no convolution of the release or of LieConv was found"
        lines = [f"{len(self.replaced)} of {len(self.replaced) + len(self.kept)} layers replaced"]
        lines += [f"  {name or '(the model)'}: {text}" for name, text in self.replaced.items()]
        lines += ["left as they are"] if self.kept else []
        lines += [f"  {name or '(the model)'}: {text}" for name, text in self.kept.items()]
        return "\n".join(lines)
