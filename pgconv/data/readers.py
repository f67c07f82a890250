"""Readers of the files the data sets are published in. Nothing is unpickled, and what a file says of itself is not believed."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgconv.data.sources import File, check_digest, content, damaged, find


def read_idx(file: File, root: Any, shape: tuple[int, ...], verify: bool) -> np.ndarray:
    """An idx file of bytes, plain or ``.gz``: ``uint8 [n, *shape]``, read-only.

    Format: the bytes 0, 0, 8 (unsigned bytes) and the number of axes, each axis as four bytes (big endian), the values.

    Raises:
        FileNotFoundError: the file is not there
        ValueError: for another magic number, other axes, too few or too many values; another checksum if ``verify``

    Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits".
    """
    path = find(file, root, ("", ".gz"))
    data = content(file, path, verify)
    magic = bytes((0, 0, 8, 1 + len(shape)))
    if data[:4].tobytes() != magic:
        raise damaged(file, path, f"the magic number {magic.hex()}", data[:4].tobytes().hex() or "nothing")
    start = 4 * (2 + len(shape))
    if len(data) < start:
        raise damaged(file, path, f"a header of {start} bytes", f"{len(data)} bytes")
    count, *axes = data[4:start].view(">u4").tolist()
    if tuple(axes) != shape:
        raise damaged(file, path, f"items of shape {list(shape)}", str(axes))
    values, expected = data[start:], count * math.prod(shape)
    if len(values) != expected:
        raise damaged(file, path, f"{expected} values, as its header says", str(len(values)))
    if verify:
        check_digest(file, path, data)
    return values.reshape(count, *shape)


def read_amat(file: File, root: Any, side: int, classes: int, verify: bool) -> tuple[Tensor, Tensor]:
    """A text file with one image a line: its ``side * side`` numbers row by row, then the label.

    Returns:
        images ``float32 [n, 1, side, side]``, labels ``int64 [n]``

    Raises:
        FileNotFoundError: the file is not there
        ValueError: for a line with something else than that many numbers, values that are not finite, labels that are not
            classes; another number of lines if ``verify``

    Source: Larochelle et al., "An empirical evaluation of deep architectures on problems with many factors of variation" (2007).
    """
    path = find(file, root)
    line = f"lines of {side * side} numbers and a label from 0 to {classes - 1}"
    if path.stat().st_size == 0:
        raise damaged(file, path, line, "an empty file")
    try:
        table = np.loadtxt(path, dtype=np.float32, comments=None, encoding="ascii", ndmin=2)
    except ValueError as error:
        raise damaged(file, path, line, f"something else ({error})") from error
    if table.shape[1] != side * side + 1:
        raise damaged(file, path, line, f"{table.shape[1]} numbers a line")
    if verify and len(table) != file.count:
        raise damaged(file, path, f"{file.count} lines", str(len(table)))
    if not np.isfinite(table).all():
        raise damaged(file, path, line, "values that are not finite")
    labels = table[:, -1].astype(np.int64)
    if (labels != table[:, -1]).any():
        raise damaged(file, path, line, "labels that are no whole numbers")
    _check_labels(file, path, labels, classes)
    # A view: the table is not copied.
    return torch.from_numpy(table)[:, :-1].unflatten(1, (1, side, side)), torch.from_numpy(labels)


def read_cifar(files: tuple[File, ...], root: Any, classes: int, verify: bool) -> tuple[Tensor, Tensor]:
    """Files of the binary version, one behind the other: of each image the label (for 100 classes: coarse, fine), then its bytes.

    Returns:
        images ``uint8 [n, 3, 32, 32]``, (fine) labels ``int64 [n]``

    Raises:
        FileNotFoundError: a file is not there
        ValueError: for a file that ends within an image, labels that are not classes; another size or checksum if ``verify``

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    """
    size, skip = 3 * 32 * 32, 1 if classes == 10 else 2
    paths = [find(file, root) for file in files]
    counts = [path.stat().st_size // (skip + size) for path in paths]
    # Filled file by file: beside the images of all there are the bytes of one.
    images, labels = np.empty((sum(counts), size), np.uint8), np.empty(sum(counts), np.int64)
    start = 0
    for file, path, count in zip(files, paths, counts):
        data = content(file, path, verify)
        if len(data) != count * (skip + size):
            raise damaged(file, path, f"whole images of {skip + size} bytes", f"{len(data)} bytes")
        if verify:
            check_digest(file, path, data)
        records = data.reshape(count, skip + size)
        _check_labels(file, path, records[:, skip - 1], classes)
        images[start : start + count], labels[start : start + count] = records[:, skip:], records[:, skip - 1]
        start += count
    return torch.from_numpy(images).reshape(-1, 3, 32, 32), torch.from_numpy(labels)


def _check_labels(file: File, path: Path, labels: np.ndarray, classes: int) -> None:
    if len(labels) == 0:
        raise damaged(file, path, "at least one image", "none")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise damaged(file, path, f"labels from 0 to {classes - 1}", f"{low} to {high}")


class H5Pixels:
    """Images ``uint8 [n, side, side, 3]`` of an HDF5 file, read when they are asked for, as ``[n, 3, side, side]``.

    Every process opens the file for itself: HDF5's handles do not survive a fork, and cannot be pickled.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, Any] | None = None

    def __getitem__(self, rows: Tensor) -> Tensor:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), _h5py().File(self._path, "r")["x"])
        stored = self._opened[1]
        found = np.empty((len(rows), *stored.shape[1:]), np.uint8)
        for image, row in zip(found, rows.tolist()):
            image[...] = stored[row]
        return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous()

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_opened": None}


def read_pcam(images: File, labels: File, root: Any, side: int, verify: bool) -> tuple[H5Pixels, Tensor]:
    """Two HDF5 files with the arrays ``x`` (``uint8 [n, side, side, 3]``, left on the disk) and ``y`` (``[n, 1, 1, 1]``, 0 or 1).

    Raises:
        ImportError: h5py is not installed
        FileNotFoundError: a file is not there
        ValueError: for a file that is not HDF5 or has other arrays; another number of images if ``verify``

    Source: Veeling et al., "Rotation equivariant CNNs for digital pathology" (2018).
    """
    path, count, _ = _h5_array(images, root, "x", (side, side, 3), verify, read=False)
    y_path, y_count, y = _h5_array(labels, root, "y", (1, 1, 1), verify, read=True)
    if count != y_count:
        raise damaged(labels, y_path, f"a label for each of the {count} images in {path.name}", str(y_count))
    values = y.astype(np.int64).reshape(-1)
    _check_labels(labels, y_path, values, 2)
    return H5Pixels(path), torch.from_numpy(values)


def _h5_array(
    file: File, root: Any, key: str, shape: tuple[int, ...], verify: bool, read: bool
) -> tuple[Path, int, np.ndarray]:
    """Where the file lies, how many items of that shape its array has, and those items, if they are to be read."""
    h5py, path = _h5py(), find(file, root)
    expected = f"an array {key!r} of bytes [n, {', '.join(map(str, shape))}] that lies in it"
    try:
        with h5py.File(path, "r") as stream:
            # Linked, external and virtual arrays would be read from other files, which nobody named.
            if not isinstance(stream.get(key, getlink=True), h5py.HardLink) or not isinstance(
                stream[key], h5py.Dataset
            ):
                raise damaged(file, path, expected, f"only {sorted(stream)}")
            array = stream[key]
            if array.is_virtual or array.external:
                raise damaged(file, path, expected, "one that lies in other files")
            if array.dtype != np.uint8 or array.shape[1:] != shape or array.ndim != 1 + len(shape):
                raise damaged(file, path, expected, f"{array.dtype} {list(array.shape)}")
            if verify and len(array) != file.count:
                raise damaged(file, path, f"{file.count} items", str(len(array)))
            return path, len(array), array[:] if read else array[:0]
    except OSError as error:
        raise damaged(file, path, "HDF5 data", f"something else ({error})") from error


def _h5py() -> Any:
    """The module, which is needed for this data set alone."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "data.get: PCam's files are read by h5py, which is not installed: pip install pgconv[data]"
        ) from error
    return h5py
