"""Files that are missing, damaged, or not those published: which error says so."""

import dataclasses
import gzip
import hashlib
import pickle
import struct
import sys

import numpy as np
import pytest
import torch
from published_files import WRITERS, write_amat, write_cifar, write_idx, write_mnist, write_pcam

import pgconv


@pytest.mark.parametrize("name", WRITERS)
def test_every_missing_file_is_named_with_where_to_look_and_to_get_it(tmp_path, name):
    for file in pgconv.data.files(name):
        WRITERS[name](tmp_path)
        (tmp_path / file.name).unlink()
        with pytest.raises(FileNotFoundError) as error:
            pgconv.data.get(name, tmp_path, verify=False)
        assert all(part in str(error.value) for part in (file.name, str(tmp_path / file.folder), file.address))
    with pytest.raises(ValueError, match="root must be the folder"):
        pgconv.data.get(name)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "PCam"])
def test_every_truncated_file_is_found(tmp_path, name):
    for file in pgconv.data.files(name):
        WRITERS[name](tmp_path)
        path = tmp_path / file.name
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match=f"{file.name} must have .*, found .*{file.address}"):
            pgconv.data.get(name, tmp_path, verify=False)
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=file.name):
            pgconv.data.get(name, tmp_path, verify=False)


@pytest.mark.parametrize("name", WRITERS)
def test_other_files_than_those_published_are_refused(tmp_path, name):
    WRITERS[name](tmp_path)
    with pytest.raises(ValueError, match=r"must have \d+ (bytes|lines|items), found \d+"):
        pgconv.data.get(name, tmp_path)


def publish(monkeypatch, name, folder):
    """As if the files that lie there were those published."""
    told = []
    for file in pgconv.data.files(name):
        data = (folder / file.name).read_bytes()
        digest = "md5:" + hashlib.md5(data).hexdigest() if file.digest else None
        lines = data.count(b"\n")
        told.append(dataclasses.replace(file, count=lines, size=len(data) if file.size else None, digest=digest))
    table = {"MNIST6-180": "MNIST", "RotMNIST": "ROTMNIST"}.get(name, name)
    monkeypatch.setattr(pgconv.data.published, table, tuple(told))


@pytest.mark.parametrize("name", ["MNIST6-180", "CIFAR10", "CIFAR100"])
def test_checksums(tmp_path, monkeypatch, name):
    WRITERS[name](tmp_path)
    publish(monkeypatch, name, tmp_path)
    whole = pgconv.data.get(name, tmp_path)
    for file in pgconv.data.files(name):
        path = tmp_path / file.name
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"{file.name} must have the md5 checksum"):
            pgconv.data.get(name, tmp_path)
        path.write_bytes(data + b"\0")
        with pytest.raises(ValueError, match=f"{file.name} must have {len(data)} bytes, found more"):
            pgconv.data.get(name, tmp_path)
        path.write_bytes(data)
    again = pgconv.data.get(name, tmp_path)
    assert torch.equal(whole.train.tensors[0], again.train.tensors[0])


def test_lines_are_counted(tmp_path, monkeypatch):
    write_amat(tmp_path)
    publish(monkeypatch, "RotMNIST", tmp_path)
    pgconv.data.get("RotMNIST", tmp_path)
    path = tmp_path / "mnist_all_rotation_normalized_float_test.amat"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="must have 10 lines, found 9"):
        pgconv.data.get("RotMNIST", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 " * 784 + "10", "labels from 0 to 9, found 0 to 10"),
        ("0 " * 784 + "2.5", "no whole numbers"),
        ("nan " * 784 + "2", "not finite"),
        ("0 " * 700 + "2", "lines of 784 numbers and a label"),
        ("0 " * 784 + "six", "lines of 784 numbers and a label"),
        ("\xff" * 785, "lines of 784 numbers and a label"),
    ],
)
def test_lines_that_are_no_image(tmp_path, line, message):
    write_amat(tmp_path)
    with open(tmp_path / "mnist_all_rotation_normalized_float_test.amat", "a", encoding="latin-1") as stream:
        stream.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        pgconv.data.get("RotMNIST", tmp_path, verify=False)


def test_damaged_mnist(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    data = path.read_bytes()
    for spoiled, message in (
        (b"\0\0\x0d\x03" + data[4:], "magic number 00000803, found 00000d03"),
        (data[:4] + struct.pack(">I", 41) + data[8:], "32144 values, as its header says, found 31360"),
        (data[:8] + struct.pack(">II", 14, 56) + data[16:], r"items of shape \[28, 28\], found \[14, 56\]"),
        (data[:10], "a header of 16 bytes, found 10 bytes"),
    ):
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match=message):
            pgconv.data.get("MNIST6-180", tmp_path, verify=False)
    write_idx(path, np.zeros((39, 28, 28), np.uint8), compressed=False)
    with pytest.raises(ValueError, match="a label for each of 39 images"):
        pgconv.data.get("MNIST6-180", tmp_path, verify=False)
    path.unlink()
    for spoiled in (gzip.compress(data)[:-20], b"no gzip data", gzip.compress(data)[:-8] + bytes(8)):
        path.with_name(path.name + ".gz").write_bytes(spoiled)
        with pytest.raises(ValueError, match="whole gzip data"):
            pgconv.data.get("MNIST6-180", tmp_path, verify=False)


def test_labels_that_are_no_class(tmp_path):
    write_cifar(tmp_path, 10)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin must have labels from 0 to 9"):
        pgconv.data.get("CIFAR10", tmp_path, verify=False)


def test_pickles_are_not_read(tmp_path):
    """The version of CIFAR10 for Python beside nothing else: its files are not looked at."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]}))
    with pytest.raises(FileNotFoundError, match=r"data_batch_1\.bin"):
        pgconv.data.get("CIFAR10", tmp_path)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"x": np.zeros((6, 32, 32, 3), np.uint8)}, "96"),
        ({"x": np.zeros((6, 96, 96, 3), np.float32)}, "float32"),
        ({"x": np.zeros((5, 96, 96, 3), np.uint8)}, "each of the 5 images"),
        ({"y": np.full((6, 1, 1, 1), 2, np.uint8)}, "labels from 0 to 1"),
    ],
)
def test_other_arrays_are_no_pcam(tmp_path, spoiled, message):
    write_pcam(tmp_path, **spoiled)
    with pytest.raises(ValueError, match=message):
        pgconv.data.get("PCam", tmp_path, verify=False)


def test_pcam_reads_no_file_but_its_own(tmp_path):
    write_pcam(tmp_path)
    import h5py

    for spoil in ("nothing", "link", "external"):
        with h5py.File(tmp_path / "camelyonpatch_level_2_split_train_x.h5", "w") as stream:
            if spoil == "link":
                stream["x"] = h5py.ExternalLink("camelyonpatch_level_2_split_test_x.h5", "x")
            elif spoil == "external":
                secret = str(tmp_path / "camelyonpatch_level_2_split_test_x.h5")
                stream.create_dataset("x", (1, 96, 96, 3), np.uint8, external=[(secret, 0, 96 * 96 * 3)])
        with pytest.raises(ValueError, match=r"split_train_x\.h5 must have an array 'x'"):
            pgconv.data.get("PCam", tmp_path, verify=False)
    (tmp_path / "camelyonpatch_level_2_split_train_x.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="HDF5 data"):
        pgconv.data.get("PCam", tmp_path, verify=False)


def test_pcam_without_h5py_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install pgconv\[data\]"):
        pgconv.data.get("PCam", tmp_path)
