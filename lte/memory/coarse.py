"""A copy of vectors at a quarter of their size, to look where the near ones are; those are then looked at exactly.

The scan of all rows is bound by memory: 8-bit numbers halve its time. The result is exact nevertheless, since for every
row the score differs by at most the length of what was rounded away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lte.memory.encoder import Vectors

BLOCK = 16384  # rows rounded at once
LEVELS = 127  # of a signed 8-bit number, to each side


class Coarse:
    """8-bit copies of (n, dim) unit rows; never changed once made."""

    def __init__(self, rows: Vectors) -> None:
        import faiss  # here: importing a room does no work

        self.size = len(rows)
        self.step = float(np.abs(rows).max()) / LEVELS
        self.error = 0.0
        self._index: Any = faiss.IndexScalarQuantizer(
            rows.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            rounded = np.rint(block / self.step).astype(np.float32)
            self._index.add(rounded)
            lost = np.linalg.norm(block - rounded * self.step, axis=1).max()
            # a query may be a thousandth too long, and adding up in another order changes the last digits
            self.error = max(self.error, float(lost) * 1.001 + 1e-5)

    def nearest(
        self, query: Vectors, rows: Vectors, count: int, floor: float, allowed: NDArray[np.bool_] | None
    ) -> tuple[Vectors, NDArray[np.int64]] | None:
        """Exact scores and row numbers of the `count` nearest of the rows that are allowed, best first.

        query  (dim,) of length one; rows: those that this was made from
        floor  rows that score less need not be right, or there at all
        None   where looking at all rows is as fast: too many are about as near
        """
        import faiss

        most = self.size if allowed is None else int(allowed.sum())
        wanted = max(2 * count, 64)
        while wanted < self.size // 8:
            wanted = min(wanted, most)
            bits = None if allowed is None else np.packbits(allowed, bitorder="little")
            sel = None if bits is None else faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
            params = None if sel is None else faiss.SearchParameters(sel=sel)  # type: ignore[call-arg]
            rough, found = self._index.search(query[None], wanted, params=params)
            exact = rows[found[0]] @ query
            order = np.argsort(-exact, kind="stable")[:count]
            beyond = float(rough[0, -1]) * self.step + self.error  # the most that a row outside the list can score
            if wanted == most or beyond < floor or (len(order) == count and exact[order[-1]] >= beyond):
                return exact[order], found[0][order]
            wanted *= 8
        return None
