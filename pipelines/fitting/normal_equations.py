"""The linear system of one Gauss-Newton step: frames coupled to their two neighbours, and one shared shape.

Unknowns of a frame: `J` rotation increments and the translation, as `J + 1` blocks of three. Frames are coupled only
block by block (joint with the same joint), so the frames' matrix is banded with half-width `2 D + 2`. The shape is
eliminated with a Schur complement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalEquations:
    """`H x = -g` in blocks; `next1[n]` couples frame n+1 (rows) with n (columns), `next2[n]` frame n+2 with n."""

    frames: Float64[np.ndarray, "N D D"]
    next1: Float64[np.ndarray, "N1 J1 3 3"]
    next2: Float64[np.ndarray, "N2 J1 3 3"]
    shape_coupling: Float64[np.ndarray, "N D B"]
    shape: Float64[np.ndarray, "B B"]
    gradient: Float64[np.ndarray, "N D"]
    shape_gradient: Float64[np.ndarray, " B"]

    @property
    def num_frames(self) -> int:
        return self.frames.shape[0]

    @property
    def size(self) -> int:
        return self.frames.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Increments that minimise the damped quadratic model."""

    frames: Float64[np.ndarray, "N D"]
    shape: Float64[np.ndarray, " B"]


def banded_matrix(equations: NormalEquations) -> Float64[np.ndarray, "W ND"]:
    """The frames' matrix in LAPACK's lower banded form: entry (i, j) at row i - j, column j."""
    n, d = equations.num_frames, equations.size
    width = (2 * d if n > 2 else d if n > 1 else d - 3) + 3
    banded = np.zeros((width, n, d))
    rows, columns = np.tril_indices(d)
    banded[(rows - columns)[:, None], np.arange(n)[None], columns[:, None]] = equations.frames[:, rows, columns].T
    for gap, blocks in ((1, equations.next1), (2, equations.next2)):
        for a in range(3):
            for b in range(3):
                if len(blocks):
                    banded[gap * d + a - b, : n - gap, b::3] += blocks[:, :, a, b]
    return banded.reshape(width, n * d)


def damped_step(equations: NormalEquations, banded: Float64[np.ndarray, "W ND"], damping: float) -> Step | None:
    """The step with every diagonal entry scaled by `1 + damping`; None where the damped matrix is not definite."""
    n, d = equations.num_frames, equations.size
    damped = banded.copy()
    damped[0] = damped[0] * (1 + damping) + 1e-9
    coupling = equations.shape_coupling.reshape(n * d, -1)
    right = np.concatenate([equations.gradient.reshape(-1, 1), coupling], 1)
    try:
        factor = cholesky_banded(damped, lower=True, overwrite_ab=True, check_finite=False)
        solved = cho_solve_banded((factor, True), right, overwrite_b=True, check_finite=False)
        schur = equations.shape + damping * np.diag(np.diag(equations.shape)) - coupling.T @ solved[:, 1:]
        shape = np.linalg.solve(schur, equations.shape_gradient - coupling.T @ solved[:, 0])
    except (LinAlgError, np.linalg.LinAlgError):
        return None
    frames = solved[:, 0] - solved[:, 1:] @ shape
    return Step(frames=-frames.reshape(n, d), shape=-shape)


def marginal_variances(equations: NormalEquations) -> Float64[np.ndarray, "N D"]:
    """Diagonal of the inverse of the whole matrix (shape included): the unknowns' variances at the optimum.

    Two frames make one block of a block-tridiagonal matrix; forward elimination and a backward pass give the
    diagonal blocks of its inverse (the Rauch-Tung-Striebel smoother's recursion).
    """
    n, d = equations.num_frames, equations.size
    pairs = (n + 1) // 2
    diagonal, lower = _paired_blocks(equations)
    padded = np.zeros((pairs * 2 * d, equations.shape.shape[0]))
    padded[: n * d] = equations.shape_coupling.reshape(n * d, -1)
    coupling = padded.reshape(pairs, 2 * d, -1)
    inverses = [np.linalg.inv(diagonal[0])]
    carried = [coupling[0]]
    for k in range(1, pairs):
        gain = lower[k - 1] @ inverses[-1]
        inverses.append(np.linalg.inv(diagonal[k] - gain @ lower[k - 1].T))
        carried.append(coupling[k] - gain @ carried[-1])
    variances, solved = np.empty((pairs, 2 * d)), np.empty_like(coupling)
    covariance = inverses[-1]
    variances[-1], solved[-1] = np.diag(covariance), inverses[-1] @ carried[-1]
    for k in range(pairs - 2, -1, -1):
        back = inverses[k] @ lower[k].T
        covariance = inverses[k] + back @ covariance @ back.T
        variances[k] = np.diag(covariance)
        solved[k] = inverses[k] @ carried[k] - back @ solved[k + 1]
    flat = solved.reshape(pairs * 2 * d, -1)
    schur = equations.shape - coupling.reshape(flat.shape).T @ flat
    total = variances.reshape(-1) + np.einsum("ib,bi->i", flat, np.linalg.solve(schur, flat.T))
    return np.maximum(total[: n * d].reshape(n, d), 0.0)


def _paired_blocks(equations: NormalEquations) -> tuple[np.ndarray, np.ndarray]:
    n, d = equations.num_frames, equations.size
    pairs = (n + 1) // 2
    diagonal = np.tile(np.eye(2 * d), (pairs, 1, 1))
    lower = np.zeros((max(pairs - 1, 0), 2 * d, 2 * d))
    for frame in range(n):
        half = slice(0, d) if frame % 2 == 0 else slice(d, 2 * d)
        diagonal[frame // 2, half, half] = equations.frames[frame] + 1e-9 * np.eye(d)
    for gap, blocks in ((1, equations.next1), (2, equations.next2)):
        for frame in range(len(blocks)):
            block = _block_diagonal(blocks[frame])
            row, column = (frame + gap) % 2 * d, frame % 2 * d
            if (frame + gap) // 2 == frame // 2:
                diagonal[frame // 2, row : row + d, column : column + d] = block
                diagonal[frame // 2, column : column + d, row : row + d] = block.T
            else:
                lower[frame // 2, row : row + d, column : column + d] = block
    return diagonal, lower


def _block_diagonal(blocks: Float64[np.ndarray, "J1 3 3"]) -> Float64[np.ndarray, "D D"]:
    result = np.zeros((len(blocks), 3, len(blocks), 3))
    index = np.arange(len(blocks))
    result[index, :, index, :] = blocks
    return result.reshape(3 * len(blocks), -1)
