"""The same photo twice: exactly, by its bytes, or nearly: re-encoded, resized, mirrored or cropped by a few per cent.

Found of 500 photos of each set that had no part in choosing the thresholds, and pairs of different photos among all
photos of the set, told by eye (``python bench/near_duplicates.py``, 2026-11-25):

    set, how photos became 224 px     quality 60   size x 0.7   mirrored   cropped by 5 %   false pairs
    clothing, 3,781, crop                  100 %        100 %       99 %             91 %             0
    clothing, 3,781, squash                100 %        100 %      100 %             96 %             2
    clothing, 3,781, pad                   100 %        100 %      100 %             96 %             2
    imagewoof, 10,023, crop                100 %        100 %      100 %             97 %             0

The other pairs, 11 of imagewoof and one of clothing, are copies. Solar cells of one module look alike without being the
same: 127 pairs among 2,624, as many as without looking for mirrored and cropped ones. Of those smooth pictures a
miniature does not hold the detail by which a crop is known, and a third of the crops are found. Squares of 64 px are
cut out half a pixel off the middle; of so few, that is enough to miss mirrored copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from heeler.data.crops import are_crops, cosines, low_frequencies
from heeler.records import ByteArray, Catalogue, FloatArray, Photo

THUMBNAIL_PX = 32
# Share of red, green and blue in what the eye sees as light, ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
# Bits of 64 that may differ in a pair that is re-encoded or resized.
HASH_RADIUS = 8
# Correlation of low frequencies from which a pair is looked at, and one of which one photo is mirrored: of crops by 5 %
# of clothes, 95 in 100 have so much, and of different clothes one pair in 700.
MIN_SIMILAR, MIN_MIRRORED = 0.86, 0.96
# Pairs for each photo that are tried as crops: a bound for sets of which all photos look alike.
MOST_LOOKS = 16
# Correlation of the two miniatures from which a pair counts as one photo, and as one photo and its mirror image, for
# which no hash speaks.
MIN_CORRELATION, MIN_MIRROR_CORRELATION = 0.985, 0.99
# Pairs beyond this many are found only where they join photos that no chain of pairs has joined yet: ten thousand
# frames of a camera that stands still are fifty million pairs.
MANY_PAIRS = 1 << 19
# Products, and miniatures, held at a time, so that memory stays small.
_PRODUCTS = 1 << 21
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
        squares: (N, H, W, 3) uint8, mostly squares.

    Returns:
        (N, 32, 32) uint8.
    """
    import torch

    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    # On bytes, as photos are resized: a fifth of the time of averaging floats.
    small = torch.nn.functional.interpolate(
        torch.tensor(squares).permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True
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
    """Pairs of photos that show the same picture: re-encoded, resized, mirrored or cropped by a few per cent.

    Two pictures whose low frequencies correlate are looked at more closely. They are a pair if their perceptual hashes
    differ in at most ``HASH_RADIUS`` bits and the miniatures, once their overall light and contrast are removed,
    correlate by ``MIN_CORRELATION``; if one correlates with the other's mirror image by ``MIN_MIRROR_CORRELATION``; or
    if one is a crop of the other (``crops.are_crops``).

    Args:
        thumbs: (N, 32, 32) uint8.

    Returns:
        Pairs (i, j), i < j, sorted. Where there are very many, enough of them to connect the same photos.
    """
    if len(thumbs) < 2:
        return []
    images = thumbs.astype(np.float32)
    images -= images.mean(axis=(1, 2), keepdims=True)
    images /= np.maximum(np.linalg.norm(images, axis=(1, 2), keepdims=True), 1e-6)
    hashes = perceptual_hashes(thumbs)
    found = np.empty((0, 2), dtype=np.int64)
    joined = np.arange(len(thumbs))
    for similar, mirrored, n_looks in _similar(images):
        if len(found) > MANY_PAIRS:
            if (joined == joined[0]).all():
                break
            similar, mirrored = (each[joined[each[:, 0]] != joined[each[:, 1]]] for each in (similar, mirrored))
        is_same = np.bitwise_count(hashes[similar[:, 0]] ^ hashes[similar[:, 1]]) <= HASH_RADIUS
        is_same[is_same] = _are_alike(images, similar[is_same])
        others = similar[~is_same][:n_looks]
        is_mirror = _are_alike(images, mirrored, mirror=True)
        new = (similar[is_same], mirrored[is_mirror], others[are_crops(images, others)])
        found = np.concatenate([found, *new])
        if len(found) > MANY_PAIRS and any(map(len, new)):
            joined[:] = _components(found, len(thumbs))
    return sorted({(i, j) for i, j in found.tolist()})


def _similar(images: FloatArray) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """Pairs (P, 2) of images (N, n, n) that are alike at a first glance, and (M, 2) of such of which one is mirrored.

    Each pair comes once, some at a time, and with them how many are worth a closer look: where there are more, the most
    alike come first.
    What is even and what is odd from left to right is multiplied apart: the sum of the two products is the
    correlation, their difference that with the mirror image.
    """
    basis = cosines(images.shape[1])
    low = low_frequencies(images, basis, basis)
    low /= np.maximum(np.linalg.norm(low, axis=1, keepdims=True), 1e-6)
    is_odd = (np.arange(len(basis) ** 2)[1:] % len(basis)) % 2 == 1
    even, odd = np.ascontiguousarray(low[:, ~is_odd]), np.ascontiguousarray(low[:, is_odd])
    n_photos, top = len(images), 0
    while top < n_photos - 1:
        n_rows = max(1, _PRODUCTS // (n_photos - top))
        rows = slice(top, top + n_rows)
        products = even[rows] @ even[top:].T, odd[rows] @ odd[top:].T
        plain = _above(products[0] + products[1], MIN_SIMILAR, MOST_LOOKS * n_rows)
        mirrored = _above(products[0] - products[1], MIN_MIRRORED, MOST_LOOKS * n_rows)
        yield plain + top, mirrored + top, MOST_LOOKS * n_rows
        top += n_rows


def _above(products: FloatArray, least: float, n_sorted: int) -> NDArray[np.int64]:
    """Places (P, 2) above the diagonal that reach ``least``; where they are more than ``n_sorted``, those first."""
    i, j = np.nonzero(products >= least)
    new = i < j
    pairs = np.column_stack([i[new], j[new]]).astype(np.int64)
    if len(pairs) <= n_sorted:
        return pairs
    return pairs[np.argpartition(-products[pairs[:, 0], pairs[:, 1]], n_sorted)]


def _are_alike(images: FloatArray, pairs: NDArray[np.int64], *, mirror: bool = False) -> NDArray[np.bool_]:
    """(P,) whether the normalised miniatures (N, n, n) of (P, 2) pairs correlate."""
    result = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), _THUMB_PAIRS):
        block = pairs[start : start + _THUMB_PAIRS]
        first = images[block[:, 0]]
        correlation = np.einsum("nij,nij->n", first[:, :, ::-1] if mirror else first, images[block[:, 1]])
        result[start : start + _THUMB_PAIRS] = correlation >= (MIN_MIRROR_CORRELATION if mirror else MIN_CORRELATION)
    return result


def _components(pairs: NDArray[np.int64], n_photos: int) -> NDArray[np.int64]:
    """(N,) number of the set of connected photos that each photo is in."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n_photos, n_photos))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels
