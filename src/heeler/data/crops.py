"""Whether one photo shows a part of what another shows: two miniatures, laid over each other as well as they can be.

The small shift and enlargement that carries one into the other is estimated first from tangents, the first-order change
of a picture under each of them (Simard et al., "Efficient pattern recognition using a new transformation distance",
1993), in a few low frequencies; what survives is then warped and refined by Gauss-Newton steps (Lucas and Kanade, "An
iterative image registration technique", 1981), and must agree in all its detail.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heeler.records import FloatArray

Pairs = NDArray[np.int64]
Mask = NDArray[np.bool_]

N_FREQUENCIES = 8
# What is left between two pictures once the tangents have explained what they can, as a correlation.
MIN_TANGENT_CORRELATION = 0.975
# Correlation of the warped miniature with the other, away from the edge.
MIN_CROP_CORRELATION = 0.98
EDGE_PX = 2
# Share of the difference that the move may leave: two smooth pictures correlate as they lie.
MOST_LEFT = 0.5
# A crop enlarges by 2.5 to 10 %, both sides alike, and shifts no further than its margins allow. Without these bounds
# things that merely look alike, such as cells of one solar module, pass for crops: they shift and do not enlarge.
LEAST_ZOOM, MOST_ZOOM, MOST_STRETCH, SPARE_SHIFT = 0.025, 0.1, 0.02, 1 / 16
N_STEPS = 2
_BLOCK = 1 << 11


def cosines(n_px: int, n_frequencies: int = N_FREQUENCIES) -> FloatArray:
    """Orthonormal DCT-II basis, (F, n) float32."""
    frequency, position = np.arange(n_frequencies)[:, None], np.arange(n_px)[None, :]
    basis = np.cos(np.pi * frequency * (2 * position + 1) / (2 * n_px)) * np.sqrt(2 / n_px)
    basis[0] /= np.sqrt(2)
    result: FloatArray = basis.astype(np.float32)
    return result


def low_frequencies(images: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """(N, F * F - 1) coefficients of images (N, n, n) on two bases (F, n), all but that of even light."""
    half = images.reshape(-1, images.shape[2]) @ columns.T
    both: FloatArray = np.matmul(rows, half.reshape(len(images), images.shape[1], -1))
    return both.reshape(len(images), -1)[:, 1:]


def are_crops(images: FloatArray, pairs: Pairs) -> Mask:
    """Which pairs are one photo and a crop of it.

    Args:
        images: (N, n, n) miniatures, each of mean 0 and norm 1.
        pairs: (P, 2) that might be.

    Returns:
        (P,) whether each is.
    """
    result = np.zeros(len(pairs), dtype=bool)
    if len(pairs) == 0:
        return result
    numbers, places = np.unique(pairs, return_inverse=True)
    used, at = images[numbers], places.reshape(pairs.shape)
    values, tangents = _tangents(used)
    for start in range(0, len(pairs), _BLOCK):
        first, second = at[start : start + _BLOCK].T
        moves, correlation = _explain(values[first], tangents[first], values[second], tangents[second])
        before = (values[first] * values[second]).sum(axis=1)
        rows = np.flatnonzero((correlation >= MIN_TANGENT_CORRELATION) & _explains(before, correlation))
        if len(rows) == 0:
            continue
        result[start + rows] = _agree(used[first[rows]], used[second[rows]], moves[rows])
    return result


def _tangents(images: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Low frequencies (N, D) of norm 1, and their changes (N, 4, D) under a move: see ``_explain``."""
    n = images.shape[1]
    basis = cosines(n)
    slope = np.gradient(np.eye(n, dtype=np.float32), axis=0)
    shift, zoom = basis @ slope, (basis * _places(n)) @ slope
    values = low_frequencies(images, basis, basis)
    changes = [
        low_frequencies(images, *bases) for bases in ((basis, shift), (shift, basis), (basis, zoom), (zoom, basis))
    ]
    norms = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return values / norms, np.stack(changes, axis=1) / norms[:, None]


def _explain(
    first: FloatArray, first_tangents: FloatArray, second: FloatArray, second_tangents: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The moves that best carry the first pictures into the second, and how well.

    Args:
        first: (P, D) of norm 1.
        first_tangents: (P, 4, D).
        second: (P, D) of norm 1.
        second_tangents: (P, 4, D).

    Returns:
        (P, 4) moves in pixels: shift in x, in y, and the growth of x and y from the middle to the edge; (P,)
        correlation that is left.
    """
    # Tangents halfway between the two are right to second order.
    halfway: FloatArray = np.concatenate([first_tangents + second_tangents, (first + second)[:, None]], axis=1)
    halfway /= 2
    difference = second - first
    moves = _least_squares(halfway, difference)
    left = difference - np.matmul(moves[:, None], halfway)[:, 0]
    return moves[:, :4], 1 - (left * left).sum(axis=1) / 2


def _agree(first: FloatArray, second: FloatArray, moves: FloatArray) -> Mask:
    """Which (P, n, n) pictures agree once moved, and are a crop by that move."""
    # The larger view is warped to the smaller one, so that nothing is asked for from beyond its edge.
    turned = (moves[:, 2] + moves[:, 3] > 0)[:, None, None]
    larger, smaller = np.where(turned, second, first), np.where(turned, first, second)
    moves = np.where(turned[:, 0], -moves, moves)
    n = first.shape[1]
    inner = slice(EDGE_PX, n - EDGE_PX)
    for _ in range(N_STEPS):
        moves = moves + _step(_warp(larger, moves), smaller, inner)
    plain, warped, target = (_centred(each[:, inner, inner]) for each in (larger, _warp(larger, moves), smaller))
    before, after = ((each * target).sum(axis=1) for each in (plain, warped))
    zoom = -moves[:, 2:] / (n / 2)
    shift = np.abs(moves[:, :2]).max(axis=1, initial=0) / (n / 2)
    mean = zoom.mean(axis=1)
    is_crop = (mean >= LEAST_ZOOM) & (mean <= MOST_ZOOM) & (shift <= mean + SPARE_SHIFT)
    is_crop &= np.abs(zoom[:, 0] - zoom[:, 1]) <= MOST_STRETCH
    alike: Mask = is_crop & (after >= MIN_CROP_CORRELATION) & _explains(before, after)
    return alike


def _explains(before: FloatArray, after: FloatArray) -> Mask:
    """Whether moves leave at most ``MOST_LEFT`` of what correlations (P,) lack to 1."""
    explains: Mask = 1 - after <= MOST_LEFT * (1 - before)
    return explains


def _step(warped: FloatArray, target: FloatArray, inner: slice) -> FloatArray:
    """(P, 4) further moves, light and contrast left free."""
    halfway = (warped + target) / 2
    places = _places(warped.shape[1])
    slope_y, slope_x = np.gradient(halfway, axis=(1, 2))
    changes = (slope_x, slope_y, slope_x * places, slope_y * places[:, None], halfway, np.ones_like(halfway))
    tangents = np.stack(changes, axis=1)[:, :, inner, inner].reshape(len(warped), len(changes), -1)
    return _least_squares(tangents, (target - warped)[:, inner, inner].reshape(len(warped), -1))[:, :4]


def _warp(images: FloatArray, moves: FloatArray) -> FloatArray:
    """Images (P, n, n) read where the moves lead, by cubic convolution (Keys, 1981)."""
    across, down = (_readers(images.shape[1], moves[:, k], moves[:, k + 2]) for k in (0, 1))
    warped: FloatArray = np.matmul(np.matmul(down, images), across.transpose(0, 2, 1))
    return warped


def _readers(n_px: int, shift: FloatArray, growth: FloatArray) -> FloatArray:
    position = np.arange(n_px, dtype=np.float32)
    at = np.clip(position + shift[:, None] + growth[:, None] * _places(n_px), 0, n_px - 1)
    far = np.abs(at[:, :, None] - position)
    near = (1.5 * far - 2.5) * far * far + 1
    further = ((-0.5 * far + 2.5) * far - 4) * far + 2
    weights = np.where(far < 1, near, np.where(far < 2, further, 0)).astype(np.float32)
    weights /= weights.sum(axis=2, keepdims=True)
    return weights


def _places(n_px: int) -> FloatArray:
    """-1 at one edge, 1 at the other."""
    return ((np.arange(n_px) - (n_px - 1) / 2) / (n_px / 2)).astype(np.float32)


def _centred(images: FloatArray) -> FloatArray:
    flat: FloatArray = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat


def _least_squares(tangents: FloatArray, wanted: FloatArray) -> FloatArray:
    """(P, k) weights of tangents (P, k, D) that come nearest to (P, D)."""
    # A hair on the diagonal: an even picture has no slope to solve for.
    products = np.matmul(tangents, tangents.transpose(0, 2, 1)) + 1e-6 * np.eye(tangents.shape[1], dtype=np.float32)
    aims = np.matmul(tangents, wanted[:, :, None])
    return np.linalg.solve(products, aims)[:, :, 0].astype(np.float32)
