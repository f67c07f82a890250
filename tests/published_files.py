"""Small files in the formats of the published data sets, with random images."""

import gzip
import struct

import numpy as np
import pytest
import torch

from pgconv.data import sources

RANDOM = np.random.default_rng(0)
COUNT = {"train": 40, "t10k": 20}


def write_idx(path, values, compressed):
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    if compressed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(header + values.tobytes()))
    else:
        path.write_bytes(header + values.tobytes())


def write_mnist(folder, compressed=False):
    """Every other image is a six; returns the sixes of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    sixes = {}
    for part, count in COUNT.items():
        images = RANDOM.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.where(np.arange(count) % 2, 6, 5).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", images, compressed)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels, compressed)
        sixes[part] = torch.from_numpy(images[labels == 6])[:, None]
    return sixes


def write_amat(folder):
    folder.mkdir(parents=True, exist_ok=True)
    tables = {}
    for part, count in {"train_valid": 24, "test": 10}.items():
        table = np.concatenate([RANDOM.random((count, 784)), np.arange(count)[:, None] % 10], 1)
        np.savetxt(folder / f"mnist_all_rotation_normalized_float_{part}.amat", table, fmt="%.8e")
        tables[part] = torch.from_numpy(table.astype(np.float32))
    return tables


def write_cifar(folder, classes):
    """Ten images a file: labels (coarse and fine for 100 classes), red, green and blue plane."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = []
    for file in getattr(sources, f"CIFAR{classes}"):
        pixels = RANDOM.integers(0, 256, (10, 3, 32, 32), np.uint8)
        labels = RANDOM.integers(0, classes, 10, np.uint8)
        coarse = np.full((10, int(classes == 100)), 7, np.uint8)
        records = np.concatenate([coarse, labels[:, None], pixels.reshape(10, -1)], 1)
        (folder / file.name).write_bytes(records.tobytes())
        contents.append((torch.from_numpy(pixels), torch.from_numpy(labels)))
    return contents


def write_pcam(folder, count=6, **spoiled):
    h5py = pytest.importorskip("h5py")
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for part in ("train", "valid", "test"):
        x = RANDOM.integers(0, 256, (count, 96, 96, 3), np.uint8)
        y = RANDOM.integers(0, 2, (count, 1, 1, 1), np.uint8)
        for key, values in {"x": x, "y": y, **spoiled}.items():
            with h5py.File(folder / f"camelyonpatch_level_2_split_{part}_{key}.h5", "w") as stream:
                stream[key] = values
        contents[part] = torch.from_numpy(x), torch.from_numpy(y).flatten().long()
    return contents


WRITERS = {
    "MNIST6-180": write_mnist,
    "RotMNIST": write_amat,
    "CIFAR10": lambda folder: write_cifar(folder, 10),
    "CIFAR100": lambda folder: write_cifar(folder, 100),
    "PCam": write_pcam,
}
