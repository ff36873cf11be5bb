"""The same photo twice: exactly, by its bytes, or nearly, by a perceptual hash that a closer look confirms."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from heeler.records import ByteArray, Catalogue, Photo

THUMBNAIL_PX = 32
# Share of red, green and blue in what the eye sees as light, ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
# Bits of 64 that may differ before a pair is not even looked at.
HASH_RADIUS = 8
# Correlation of the two miniatures from which a pair counts as one photo.
MIN_CORRELATION = 0.985
# Pairs beyond this many are found only where they join photos that no chain of pairs has joined yet: ten thousand
# frames of a camera that stands still are fifty million pairs.
MANY_PAIRS = 1 << 19
# Hashes, and miniatures, compared at a time, so that memory stays small.
_HASH_PAIRS = 1 << 20
_THUMB_PAIRS = 1 << 13
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


def exact_duplicates(catalogue: Catalogue) -> list[list[Photo]]:
    """Groups of two or more photos with the same bytes, whatever became of them."""
    by_content: dict[str, list[Photo]] = defaultdict(list)
    for photo in catalogue.photos:
        if photo.sha256 and photo.status != "unreadable":
            by_content[photo.sha256].append(photo)
    return [copies for copies in by_content.values() if len(copies) > 1]


def thumbnails(squares: ByteArray) -> ByteArray:
    """Grey miniatures, antialiased.

    Args:
        squares: (N, S, S, 3) uint8.

    Returns:
        (N, 32, 32) uint8.
    """
    import torch

    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    # On bytes, as photos are resized: a fifth of the time of averaging floats.
    small = torch.nn.functional.interpolate(
        torch.from_numpy(squares).permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True
    )
    grey = np.einsum("nchw,c->nhw", small.numpy().astype(np.float32), np.array(LUMA, np.float32))
    result: ByteArray = np.rint(grey).astype(np.uint8)
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
        Pairs (i, j), i < j, sorted. Where there are very many, enough of them to connect the same photos.
    """
    if len(thumbs) < 2:
        return []
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    found = np.empty((0, 2), dtype=np.int64)
    joined = np.arange(len(thumbs))
    for candidates in _close_hashes(perceptual_hashes(thumbs), joined):
        if len(found) > MANY_PAIRS:
            candidates = candidates[joined[candidates[:, 0]] != joined[candidates[:, 1]]]
        alike = _alike(flat, candidates)
        found = np.concatenate([found, alike])
        if len(found) > MANY_PAIRS and len(alike):
            joined[:] = _components(found, len(thumbs))
    return sorted((i, j) for i, j in found.tolist())


def _alike(flat: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of (P, 2) pairs whose normalised miniatures (N, D) correlate."""
    found = [pairs[:0]]
    for start in range(0, len(pairs), _THUMB_PAIRS):
        block = pairs[start : start + _THUMB_PAIRS]
        correlation = np.einsum("nd,nd->n", flat[block[:, 0]], flat[block[:, 1]])
        found.append(block[correlation >= MIN_CORRELATION])
    return np.concatenate(found)


def _components(pairs: NDArray[np.int64], n_photos: int) -> NDArray[np.int64]:
    """(N,) number of the set of connected photos that each photo is in."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n_photos, n_photos))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _close_hashes(hashes: NDArray[np.uint64], joined: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Each pair within the radius once, some at a time as (P, 2).

    Of ``radius + 1`` bands of bits, such a pair agrees on at least one; the first of these yields it. Photos that
    all have one number in ``joined``, which the caller may change meanwhile, are not compared.
    """
    edges = np.linspace(0, 64, HASH_RADIUS + 2).astype(int).tolist()
    masks = [np.uint64((1 << high) - (1 << low)) for low, high in itertools.pairwise(edges)]
    for number, mask in enumerate(masks):
        band = hashes & mask
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order])) + 1
        for block in np.split(order, starts):
            # Rows a few at a time: should all photos share one band, the matrix must not be N x N.
            step = max(1, _HASH_PAIRS // len(block))
            for top in range(0, len(block), step):
                if (joined[block] == joined[block[0]]).all():
                    break
                rows = block[top : top + step]
                differ = hashes[rows][:, None] ^ hashes[block][None, :]
                i, j = np.nonzero(np.bitwise_count(differ) <= HASH_RADIUS)
                new = rows[i] < block[j]
                for earlier in masks[:number]:
                    new &= (differ[i, j] & earlier) != 0
                if new.any():
                    yield np.column_stack([rows[i[new]], block[j[new]]])
