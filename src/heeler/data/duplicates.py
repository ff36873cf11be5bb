"""The same photo twice: exactly, by its bytes, or nearly, by a perceptual hash that a closer look confirms."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from heeler.records import ByteArray, Photo

THUMBNAIL_PX = 32
# Bits of 64 that may differ before a pair is not even looked at.
HASH_RADIUS = 6
# Correlation of the two miniatures from which a pair counts as one photo.
MIN_CORRELATION = 0.985
_PART_RANK = {"test": 0, "valid": 1, None: 2, "train": 3}


def mark_duplicates(photos: Iterable[Photo]) -> tuple[Photo, ...]:
    """Count each content once.

    Of photos with the same bytes one stays: the one that the user put into the test part, else the valid part, else
    the first by path, so that nothing in a given test part can be in train. Where the copies' classes differ, none
    stays: which is right cannot be known.

    Args:
        photos: in path order, hashes filled in.

    Returns:
        The same photos, some with status ``duplicate`` or ``left_out`` and the reason.
    """
    all_photos = list(photos)
    by_content: dict[str, list[int]] = defaultdict(list)
    for i, photo in enumerate(all_photos):
        if photo.status == "ok" and photo.sha256:
            by_content[photo.sha256].append(i)
    for rows in by_content.values():
        if len(rows) > 1:
            copies = [all_photos[i] for i in rows]
            labels = {photo.label for photo in copies}
            keep = min(rows, key=lambda i: (_PART_RANK[all_photos[i].part], i))
            for i in rows:
                photo = all_photos[i]
                if len(labels) > 1:
                    other = next(copy for copy in copies if copy.label != photo.label)
                    reason = f"same bytes, other class: {other.path}"
                    all_photos[i] = replace(photo, status="left_out", reason=reason)
                elif i != keep:
                    reason = f"same bytes as {all_photos[keep].path}"
                    all_photos[i] = replace(photo, status="duplicate", reason=reason)
    return tuple(all_photos)


def thumbnails(squares: ByteArray) -> ByteArray:
    """Grey miniatures, each pixel the mean of its area.

    Args:
        squares: (N, S, S, 3) uint8.

    Returns:
        (N, 32, 32) uint8.
    """
    import torch

    grey = torch.from_numpy(squares[:, :, :, 1].astype(np.float32) * 0.587)
    grey += torch.from_numpy(squares[:, :, :, 0].astype(np.float32) * 0.299)
    grey += torch.from_numpy(squares[:, :, :, 2].astype(np.float32) * 0.114)
    small = torch.nn.functional.adaptive_avg_pool2d(grey[:, None], THUMBNAIL_PX)[:, 0]
    result: ByteArray = small.round().clamp(0, 255).to(torch.uint8).numpy()
    return result


def perceptual_hashes(thumbs: ByteArray) -> NDArray[np.uint64]:
    """64 bits that survive re-encoding and resizing: signs of the low cosine frequencies about their median.

    Args:
        thumbs: (N, 32, 32) uint8.

    Returns:
        (N,) uint64. The method is pHash's (Zauner, "Implementation and benchmarking of perceptual image hash
        functions", 2010): an orthonormal DCT-II, frequencies 1 to 8 of each axis.
    """
    n = THUMBNAIL_PX
    frequency, position = np.arange(1, 9)[:, None], np.arange(n)[None, :]
    basis = np.cos(np.pi * frequency * (2 * position + 1) / (2 * n)).astype(np.float32)
    low = np.einsum("fi,nij,gj->nfg", basis, thumbs.astype(np.float32), basis, optimize=True).reshape(-1, 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    packed = np.packbits(bits, axis=1)
    return packed.view(np.uint64)[:, 0]


def near_duplicates(thumbs: ByteArray) -> list[tuple[int, int]]:
    """Pairs of photos that show the same picture, re-encoded or resized.

    A pair whose hashes differ in at most ``HASH_RADIUS`` bits is looked at more closely: the correlation of the two
    miniatures, once their overall light and contrast are removed, must reach ``MIN_CORRELATION``.

    Args:
        thumbs: (N, 32, 32) uint8.

    Returns:
        Pairs (i, j), i < j, sorted.
    """
    if len(thumbs) < 2:
        return []
    pairs = _close_hashes(perceptual_hashes(thumbs))
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    found = []
    for start in range(0, len(pairs), 65536):
        block = pairs[start : start + 65536]
        correlation = np.einsum("nd,nd->n", flat[block[:, 0]], flat[block[:, 1]])
        found.append(block[correlation >= MIN_CORRELATION])
    return sorted((int(i), int(j)) for i, j in np.concatenate(found)) if found else []


def _close_hashes(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(P, 2) pairs within the radius. Of ``radius + 1`` bands of bits, such a pair agrees on at least one."""
    edges = np.linspace(0, 64, HASH_RADIUS + 2).astype(int)
    found = []
    for low, high in itertools.pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][0] + np.uint64(1)))
        for block in np.split(order, starts[1:]):
            # Rows a few at a time: should all photos share one band, the matrix must not be N x N.
            step = max(1, (1 << 22) // len(block))
            for top in range(0, len(block) if len(block) > 1 else 0, step):
                rows = block[top : top + step]
                near = np.bitwise_count(hashes[rows][:, None] ^ hashes[block][None, :]) <= HASH_RADIUS
                i, j = np.nonzero(near)
                pairs = np.column_stack([rows[i], block[j]])
                found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), dtype=np.int64)
