"""Agreement between raters: Krippendorff's alpha."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["ordinal_alpha"]


def ordinal_alpha(ratings: NDArray[np.float64]) -> tuple[float | None, str]:
    """Krippendorff's alpha for ranks, of ratings (raters, units) with NaN where there is none; or None, and why.

    1 is agreement in everything, 0 what chance gives. From the coincidences of values (Krippendorff 2011, Computing
    Krippendorff's Alpha-Reliability, https://repository.upenn.edu/asc_papers/43); two ranks differ by the squared number
    of ratings between their middles.
    """
    pairable = ratings[:, np.isfinite(ratings).sum(0) >= 2]
    if pairable.size == 0:
        return None, "no video was rated by two raters"
    values = np.unique(pairable[np.isfinite(pairable)])
    if len(values) == 1:
        return None, f"everyone always answered {values[0]:g}"
    counts = (pairable.T[:, :, None] == values).sum(1).astype(np.float64)
    unit_counts = counts.sum(1)
    together = np.einsum("uc,uk->uck", counts, counts) - np.einsum("uc,ck->uck", counts, np.eye(len(values)))
    coincide = (together / (unit_counts - 1)[:, None, None]).sum(0)
    totals = coincide.sum(0)
    ranks = np.cumsum(totals) - totals / 2
    apart = (ranks[:, None] - ranks) ** 2
    by_chance = (np.outer(totals, totals) * apart).sum() / (totals.sum() - 1)
    return float(1 - (coincide * apart).sum() / by_chance), ""
