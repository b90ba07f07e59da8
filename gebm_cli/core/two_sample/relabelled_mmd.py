"""MMD^2 of many kernels under many relabelings, as one streamed matrix product.

With K~ a kernel matrix of the N = n + m pooled rows without its diagonal, e the ones, and a the 0/1 labels of x:

    S = a'K~a, R = e'K~a, T = e'K~e,
    MMD^2_u(a) = S / (n(n-1)) + (T - 2R + S) / (m(m-1)) - 2 (R - S) / (nm)                     (any n, m)

With v the +-1 of pairs and H_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j), without its diagonal:

    MMD^2(v) = v'H~v / (n(n-1))                                      (n = m; drops k(x_i, y_i), Gretton et al. 2012, lemma 6)

Of the symmetric matrices only the blocks on and above the diagonal are made: with P_I = M_II L_I + 2 sum_{J>I} M_IJ L_J the forms
are sum_I L_I'P_I, and a column of ones among the labels gives R and T in the same product. Memory is O(K block b + N b + block^2)
for K kernels and b relabelings, never O(N^2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gebm_cli.core.kernels import Kernel, matrices

BLOCK = 1024  # pooled rows
BUFFER_BYTES = 160_000_000  # of the products of all kernels


@dataclass
class RelabelledMmd:
    """MMD^2 of each kernel under relabelings of x (n, d) and y (m, d); call it with labels to get (K, b) float64.

    Args:
        paired: labels are the signs of pairs (`SignFlips`, n = m); else 0/1 of pooled rows (`Permutations`).
        on_block: called after each block of the kernel matrices.

    The product is computed in the type of x, its sums in float64. In float32 two values that are equal differ by about `rounding`.

    Attributes:
        squares: sum of K~_ij^2 over the pooled rows for each kernel, (K,) float64: the same under every relabeling. After a call.

    Raises:
        ValueError: fewer than 2 rows a side, rows of different length, or pairs of unequal number.
    """

    kernels: Sequence[Kernel]
    x: Tensor
    y: Tensor
    paired: bool = False
    on_block: Callable[[], None] = lambda: None
    squares: Tensor = field(init=False)
    _spread: Tensor = field(init=False)
    _centres: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        n, m = len(self.x), len(self.y)
        if self.x.dim() != 2 or self.x.shape[1:] != self.y.shape[1:] or min(n, m) < 2:
            raise ValueError(
                f"need x (n, d) and y (m, d), n and m at least 2, got {tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        if self.paired and n != m:
            raise ValueError(f"sign flips need as many x as y, got {n} and {m}")
        self.squares = self._spread = torch.zeros(len(self.kernels), dtype=torch.float64)

    @property
    def rounding(self) -> Tensor:
        """Of each kernel's statistics, (K,): that of an entry of the kernel, averaged over a row. After a call."""
        pooled = len(self.x) + len(self.y)
        entry, spread = ((sums / (pooled * (pooled - 1))).sqrt() for sums in (self.squares, self._spread))
        return torch.finfo(self.x.dtype).eps * (8 * spread + 8 * entry / pooled**0.5)

    @property
    def max_columns(self) -> int:
        """How many relabelings one call should be given."""
        size = self.x.element_size() * min(BLOCK, len(self.x) + len(self.y)) * len(self.kernels)
        return max(64, BUFFER_BYTES // size)

    @property
    def n_blocks(self) -> int:
        """How often one call calls `on_block`."""
        k = len(self._cuts())
        return k * (k + 1) // 2

    @torch.no_grad()
    def __call__(self, labels: Tensor) -> Tensor:
        # Ones ride along in the last column.
        ones = labels.new_ones(len(labels), 1)
        columns = torch.cat([labels, ones], 1).to(self.x)
        shape = (len(self.kernels), columns.shape[1])
        sizes = (shape, shape, shape[:1], shape[:1])
        inner, along, squares, spread = (torch.zeros(s, dtype=torch.float64, device=self.x.device) for s in sizes)
        self._centres = []
        cuts = self._cuts()
        for i, rows in enumerate(cuts):
            products = self._products(cuts[i:], columns, squares, spread)
            for k, product in enumerate(products):
                inner[k] += _column_sums(columns[rows] * product)
                if not self.paired:
                    along[k] += 0.5 * (_column_sums(product) + _column_sums(columns[rows] * product[:, -1:]))
        self.squares, self._spread = squares.cpu(), spread.cpu()
        return self._statistics(inner, along)[:, :-1].cpu()

    def _statistics(self, inner: Tensor, along: Tensor) -> Tensor:
        n, m = len(self.x), len(self.y)
        if self.paired:
            return inner / (n * (n - 1))
        total = inner[:, -1:]
        between = along - inner
        return inner / (n * (n - 1)) + (total - 2 * along + inner) / (m * (m - 1)) - 2 * between / (n * m)

    def _products(self, cuts: list[slice], columns: Tensor, squares: Tensor, spread: Tensor) -> Tensor:
        """P of the first block of rows for each kernel, (K, block, b)."""
        rows = cuts[0]
        result = columns.new_zeros(len(self.kernels), rows.stop - rows.start, columns.shape[1])
        for others in cuts:
            diagonal = others == rows
            weight = 1 if diagonal else 2
            for k, matrix in enumerate(self._matrices(rows, others)):
                if diagonal:
                    matrix.diagonal().zero_()
                squares[k] += weight * _square_sum(matrix)
                if self.paired:
                    matrix = _of_pairs(matrix)
                else:  # a constant cancels in MMD^2_u, and without it little is left to round
                    if len(self._centres) == k:
                        self._centres.append(matrix[0, 1:].median())
                    matrix.sub_(self._centres[k])
                if diagonal:
                    matrix.diagonal().zero_()
                spread[k] += weight * _square_sum(matrix)
                result[k].addmm_(matrix, columns[others], alpha=weight)
            self.on_block()
        return result

    def _matrices(self, rows: slice, others: slice) -> Iterator[Tensor]:
        if self.paired:
            left, right = (torch.cat([self.x[part], self.y[part]]) for part in (rows, others))
            return matrices(self.kernels, left, right)
        return matrices(self.kernels, self._pooled(rows), self._pooled(others))

    def _pooled(self, rows: slice) -> Tensor:
        n = len(self.x)
        return torch.cat([self.x[rows], self.y[max(0, rows.start - n) : max(0, rows.stop - n)]])

    def _cuts(self) -> list[slice]:
        n, size = (len(self.x), BLOCK // 2) if self.paired else (len(self.x) + len(self.y), BLOCK)
        return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _of_pairs(matrix: Tensor) -> Tensor:
    """H of pairs, (b, b'), from the kernel matrix (2b, 2b') of [x; y] with [x'; y']."""
    a, b = len(matrix) // 2, matrix.shape[1] // 2
    return (matrix[:a, :b] + matrix[a:, b:]).sub_(matrix[:a, b:]).sub_(matrix[a:, :b])


def _column_sums(product: Tensor) -> Tensor:
    return product.sum(0, dtype=torch.float64)


def _square_sum(block: Tensor) -> Tensor:
    flat = block.reshape(-1)
    return (flat @ flat).double()
