"""Folder -> every file in it, with a reason where it cannot be a photo; opens no file and writes nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from heeler.errors import DataError
from heeler.files import is_hidden

__all__ = ["Found", "Tree", "walk"]

HIDDEN_FILE = "hidden file"
IN_HIDDEN_FOLDER = "in a hidden folder"
SPECIAL_FILE = "a pipe, socket or device, not a file"
LINK_OUT = "a link that leaves the folder"
LINK_BROKEN = "a link to nothing"
LINK_TO_COUNTED = "a link to a photo that is counted already"
LINK_TO_COUNTED_FOLDER = "a link to a folder that is counted already"

# fmt: off
NOT_PHOTO_SUFFIXES = frozenset((
    ".7z", ".avi", ".bak", ".bash", ".bin", ".bz2", ".c", ".cfg", ".conf", ".cpp", ".css", ".csv", ".db", ".doc",
    ".docx", ".exe", ".flac", ".gz", ".h", ".h5", ".hdf5", ".htm", ".html", ".ini", ".ipynb", ".jar", ".js",
    ".json", ".jsonl", ".log", ".m4a", ".m4v", ".mat", ".md", ".md5", ".mkv", ".mov", ".mp3", ".mp4", ".mpeg",
    ".mpg", ".npy", ".npz", ".odp", ".ods", ".odt", ".onnx", ".parquet", ".pdf", ".pickle", ".pkl", ".ppt", ".pptx",
    ".pt", ".pth", ".py", ".pyc", ".r", ".rar", ".rst", ".rtf", ".safetensors", ".sh", ".sha1", ".sha256", ".sql",
    ".sqlite", ".svg", ".tar", ".tgz", ".toml", ".tsv", ".txt", ".url", ".wav", ".webm", ".wmv", ".xls", ".xlsx",
    ".xml", ".xz", ".yaml", ".yml", ".zip", ".zst",
))
# fmt: on


class Found(NamedTuple):
    """One thing that is no folder: path below the root with forward slashes, name to open, reason ("" = may be one)."""

    path: str
    file: str
    reason: str = ""


class Tree(NamedTuple):
    """All that was found below a root, in no order; ``folders`` holds the paths of the folders that count."""

    files: list[Found]
    folders: list[str]


class _Scan(NamedTuple):
    files: list[Found]
    folders: list[str]
    links: list[Found]


def walk(root: Path) -> Tree:
    """List every file below a folder, without opening any.

    Links to files and folders below ``root`` are followed, and no file is counted twice: the file's own place wins,
    then the first link in path order. Links out of ``root`` are not followed.

    Args:
        root: an existing folder.

    Returns:
        The files, each with the reason why it cannot be a photo or "", and the folders that are not hidden.

    Raises:
        DataError: ``root`` cannot be opened.
    """
    scan = _scan(os.fspath(root), "")
    tree = Tree(scan.files, scan.folders)
    if scan.links:
        _follow(scan.links, os.path.realpath(root), tree)
    return tree


def _scan(top: str, prefix: str) -> _Scan:
    """All below ``top`` with links set aside; paths begin with ``prefix``."""
    scan = _Scan([], [], [])
    stack = [(top, prefix, False)]
    while stack:
        folder, prefix, hidden = stack.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            if not prefix:
                raise DataError(
                    f"cannot open the folder {top}: {error.strerror}", hint="check who may read that folder"
                ) from error
            scan.files.append(Found(prefix[:-1], folder, f"a folder that cannot be opened: {error.strerror}"))
            continue
        for entry in entries:
            path = prefix + entry.name
            skip = hidden or is_hidden(entry.name)
            if entry.is_dir(follow_symlinks=False):
                stack.append((entry.path, path + "/", skip))
                if not skip:
                    scan.folders.append(path)
            elif skip:
                scan.files.append(Found(path, entry.path, IN_HIDDEN_FOLDER if hidden else HIDDEN_FILE))
            elif entry.is_symlink():
                scan.links.append(Found(path, entry.path))
            else:
                regular = entry.is_file(follow_symlinks=False)
                scan.files.append(Found(path, entry.path, _name_reason(entry.name) if regular else SPECIAL_FILE))
    return scan


def _name_reason(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of 100,000 names costs seconds
    return f"not a photo: {suffix} file" if suffix in NOT_PHOTO_SUFFIXES else ""


def _follow(links: list[Found], real_root: str, tree: Tree) -> None:
    """Add what the links lead to, to ``tree``; each real folder is scanned at most once, so loops end."""
    files, folders = tree
    inside = os.path.join(real_root, "")  # noqa: PTH118 - Path would drop the separator that the test below needs
    counted = {os.path.normpath(inside + found.path) for found in files if not found.reason}
    scanned = {os.path.normpath(inside + folder) for folder in folders} | {real_root}
    queue = sorted(links)
    for link in queue:
        real = os.path.realpath(link.file)
        reason = LINK_OUT
        if real == real_root or real.startswith(inside):
            kind = _kind(real)
            if kind == "folder" and real not in scanned:
                scanned.add(real)
                scan = _scan(real, link.path + "/")
                folders += [link.path, *scan.folders]
                files.extend(_once(found, found.file, counted) for found in scan.files)
                queue += sorted(scan.links)
                continue
            if kind == "file":
                files.append(_once(link._replace(reason=_name_reason(link.path)), real, counted))
                continue
            reason = {"folder": LINK_TO_COUNTED_FOLDER, "special": SPECIAL_FILE}.get(kind, LINK_BROKEN)
        files.append(link._replace(reason=reason))


def _once(found: Found, real: str, counted: set[str]) -> Found:
    if found.reason:
        return found
    if real in counted:
        return found._replace(reason=LINK_TO_COUNTED)
    counted.add(real)
    return found


def _kind(real: str) -> str:
    try:
        mode = Path(real).stat().st_mode
    except OSError:
        return "nothing"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "special"
