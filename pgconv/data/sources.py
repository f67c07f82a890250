"""Which files the published data sets consist of, where they come from, and how a file is found and checked."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgconv._shapes import describe


@dataclass(frozen=True)
class File:
    """A file of a published data set.

    Attributes:
        name: as it lies in the folder; of MNIST's files ``name + ".gz"`` is read as well
        folder: where it usually lies below ``root``; it may also lie in ``root`` itself
        count: how many images or labels it has
        size: in bytes without compression; None where it is not published
        digest: of its bytes without compression, ``"md5:..."`` or ``"sha1:..."``; None where none is published
        address: what to download: the file itself, compressed, or an archive that contains it
        address_digest: of what is at the address
    """

    name: str
    folder: str
    count: int
    size: int | None
    digest: str | None
    address: str
    address_digest: str | None


def _mnist(part: str, kind: str, count: int, digest: str, compressed: str) -> File:
    name = f"{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
    size = 16 + 784 * count if kind == "images" else 8 + count
    address = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz"
    return File(name, "MNIST/raw", count, size, f"md5:{digest}", address, f"md5:{compressed}")


MNIST = (
    _mnist("train", "images", 60000, "6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    _mnist("train", "labels", 60000, "a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"),
    _mnist("t10k", "images", 10000, "2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3"),
    _mnist("t10k", "labels", 10000, "27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"),
)


def _rotated(part: str, count: int) -> File:
    return File(
        f"mnist_all_rotation_normalized_float_{part}.amat",
        "mnist_rotation_new",
        count,
        None,
        None,
        "http://www.iro.umontreal.ca/~lisa/icml2007data/mnist_rotation_new.zip",
        "md5:0f9a947ff3d30e95cd685462cbf3b847",
    )


ROTMNIST = (_rotated("train_valid", 12000), _rotated("test", 50000))


def _cifar(classes: int, name: str, count: int, digest: str) -> File:
    labels, folder, archive = {
        10: (1, "cifar-10-batches-bin", "c32a1d4ab5d03f1284b67883e8d87530"),
        100: (2, "cifar-100-binary", "03b5dce01913d631647c71ecec9e9cb8"),
    }[classes]
    address = f"https://www.cs.toronto.edu/~kriz/cifar-{classes}-binary.tar.gz"
    return File(name, folder, count, count * (labels + 3072), f"sha1:{digest}", address, f"md5:{archive}")


CIFAR10 = (
    _cifar(10, "data_batch_1.bin", 10000, "aadd24acce27caa71bf4b10992e9e7b2d74c2540"),
    _cifar(10, "data_batch_2.bin", 10000, "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795"),
    _cifar(10, "data_batch_3.bin", 10000, "1dd00a74ab1d17a6e7d73e185b69dbf31242f295"),
    _cifar(10, "data_batch_4.bin", 10000, "aab85764eb3584312d3c7f65fd2fd016e36a258e"),
    _cifar(10, "data_batch_5.bin", 10000, "26e2849e66a845b7f1e4614ae70f4889ae604628"),
    _cifar(10, "test_batch.bin", 10000, "67eb016db431130d61cd03c7ad570b013799c88c"),
)
CIFAR100 = (
    _cifar(100, "train.bin", 50000, "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"),
    _cifar(100, "test.bin", 10000, "8fb6623e830365ff53cf14adec797474f5478006"),
)


def _pcam(part: str, kind: str, count: int, compressed: str) -> File:
    name = f"camelyonpatch_level_2_split_{part}_{kind}.h5"
    # The digests are Zenodo's; the project's own page gives those of the validation and test files exchanged.
    address = f"https://zenodo.org/records/2546921/files/{name}.gz"
    return File(name, "pcam", count, None, None, address, f"md5:{compressed}")


PCAM = (
    _pcam("train", "x", 262144, "1571f514728f59376b705fc836ff4b63"),
    _pcam("train", "y", 262144, "35c2d7259d906cfc8143347bb8e05be7"),
    _pcam("valid", "x", 32768, "d5b63470df7cfa627aeec8b9dc0c066e"),
    _pcam("valid", "y", 32768, "2b85f58b927af9964a4c15b8f7e8f179"),
    _pcam("test", "x", 32768, "d8c2d60d490dbd479f8199bdfa0cf6ec"),
    _pcam("test", "y", 32768, "60a7035772fbdb7f34eb86d4420cf66a"),
)


def find(file: File, root: Any, endings: tuple[str, ...] = ("",)) -> Path:
    """Where the file lies: in its usual folder below ``root``, or in ``root``; the first of the endings that is there.

    Raises:
        ValueError: ``root`` is no path
        FileNotFoundError: with the folders looked in, and where the file comes from
    """
    if not isinstance(root, (str, Path)):
        raise ValueError(
            f"data.get: root must be the folder with the files of the data set (pgconv.data.files(name)), received {describe(root)}"
        )
    folders = (Path(root) / file.folder, Path(root))
    for folder in folders:
        for ending in endings:
            path = folder / (file.name + ending)
            if path.is_file():
                return path
    names = " or ".join(file.name + ending for ending in endings)
    raise FileNotFoundError(
        f"data.get: {names} is neither in {folders[0]} nor in {folders[1]}; it comes from {file.address} (docs/data.md)"
    )


def damaged(file: File, path: Path, expected: str, found: str) -> ValueError:
    """The error for a file that is not what it should be."""
    return ValueError(f"data.get: {path} must have {expected}, found {found}; get it anew from {file.address}")


def content(file: File, path: Path, verify: bool) -> np.ndarray:
    """Bytes of a file without its compression, read-only ``uint8 [size]``; of the published size if ``verify``.

    Raises:
        ValueError: for another size, and a compressed file that is damaged
    """
    expected = file.size if verify else None
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            # One byte more than expected: a file that is too long shows, however long it is.
            data = np.frombuffer(stream.read(-1 if expected is None else expected + 1), np.uint8)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(file, path, "whole gzip data", f"damage ({error})") from error
    if expected is not None and len(data) != expected:
        raise damaged(file, path, f"{expected} bytes", "more" if len(data) > expected else str(len(data)))
    return data


def check_digest(file: File, path: Path, data: np.ndarray) -> None:
    """Compare the checksum of a file's bytes with the published one, where there is one.

    Raises:
        ValueError: for another checksum
    """
    if file.digest is None:
        return
    algorithm, _, expected = file.digest.partition(":")
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise damaged(file, path, f"the {algorithm} checksum {expected}", found)
