"""Tasks: what is read from files in the published formats, how it is split, labels, and what is exact in them."""

import hashlib
import pickle
import sys

import pytest
import torch
from published_files import write_amat, write_cifar, write_mnist, write_pcam

import pgconv
from pgconv.data import registry
from pgconv.data.motions import flip, half_turn, mirror


def pixels_of(task, split):
    """What a split was before it was normalised, from 0 to 255."""
    images, _ = split.tensors
    mean, std = (torch.tensor(v)[:, None, None] for v in (task.mean, task.std))
    return (images * std + mean) * 255


def rows(images):
    """Images as a set of byte strings."""
    return {image.round().to(torch.uint8).numpy().tobytes() for image in images}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("name", "change"), [("MNIST6-180", half_turn), ("MNIST6-M", mirror), ("MNIST6-flip", flip)])
def test_mnist6_is_every_six_and_its_exact_image(tmp_path, name, change, compressed):
    sixes = write_mnist(tmp_path / "MNIST" / "raw", compressed)
    task = pgconv.data.get(name, tmp_path, verify=False)
    assert (task.name, task.classes, task.image_shape) == (name, 2, (1, 28, 28))
    assert (task.mean, task.std) == ((0.1307,), (0.3081,))
    assert [len(split) for split in (task.train, task.validation, task.test)] == [36, 4, 20]
    found = []
    for split in (task.train, task.validation, task.test):
        images, labels = split.tensors
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert torch.equal(images[labels == 1], change(images[labels == 0]))
        found.append(rows(pixels_of(task, split)[labels == 0]))
    # Both versions of an image are in one split, so disjoint images mean disjoint splits.
    assert found[0] | found[1] == rows(sixes["train"]) and not found[0] & found[1]
    assert found[2] == rows(sixes["t10k"])
    expected = (sixes["t10k"] / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(task.test[: len(expected)][0], expected)


def test_mnist6_without_validation_is_as_published(tmp_path):
    sixes = write_mnist(tmp_path)
    task = pgconv.data.get("MNIST6-180", tmp_path, validation=0, verify=False)
    assert len(task.train) == 2 * len(sixes["train"]) and len(task.validation) == 0
    assert task.validation.tensors[0].shape == (0, 1, 28, 28)


def test_rotation_comes_before_the_transformation_and_repeats(tmp_path):
    write_mnist(tmp_path)
    options = {"rotation": 45.0, "verify": False}
    task, again = (pgconv.data.get("MNIST6-180", tmp_path, **options) for _ in range(2))
    other = pgconv.data.get("MNIST6-180", tmp_path, seed=1, **options)
    images, labels = task.test.tensors
    assert torch.equal(images[labels == 1], half_turn(images[labels == 0]))
    assert torch.equal(images, again.test.tensors[0]) and not torch.equal(images, other.test.tensors[0])
    upright = pgconv.data.get("MNIST6-180", tmp_path, verify=False).test.tensors[0]
    assert not torch.allclose(images, upright)
    # The angles do not depend on how many images are held out.
    all_of_it = pgconv.data.get("MNIST6-180", tmp_path, validation=0, **options)
    assert torch.equal(all_of_it.test.tensors[0], images)


def test_rotmnist(tmp_path):
    tables = write_amat(tmp_path / "mnist_rotation_new")
    task = pgconv.data.get("RotMNIST", tmp_path, verify=False)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [20, 4, 10]
    images, labels = task.test.tensors
    torch.testing.assert_close(images.flatten(1), (tables["test"][:, :-1] - 0.13) / 0.297)
    assert labels.tolist() == list(range(10))
    trained, validated = (rows(pixels_of(task, s)) for s in (task.train, task.validation))
    assert len(trained | validated) == 24


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(tmp_path, classes):
    contents = write_cifar(tmp_path / {10: "cifar-10-batches-bin", 100: "cifar-100-binary"}[classes], classes)
    task = pgconv.data.get(f"CIFAR{classes}", tmp_path, verify=False)
    pool = torch.cat([pixels for pixels, _ in contents[:-1]])
    assert task.classes == classes and task.image_shape == (3, 32, 32)
    assert [len(task.train), len(task.validation), len(task.test)] == [0.9 * len(pool), 0.1 * len(pool), 10]
    pixels, labels = contents[-1]
    torch.testing.assert_close(pixels_of(task, task.test), pixels.float(), atol=1e-3, rtol=0)
    assert torch.equal(task.test.tensors[1], labels.long())
    trained, validated = (rows(pixels_of(task, s)) for s in (task.train, task.validation))
    assert trained | validated == rows(pool) and not trained & validated


def test_published_splits_are_those_of_random_split(tmp_path):
    """45000 and 5000, 10000 and 2000, 5326 and 592 images, in the order of torch's own generator."""
    for count, held, expected in ((50000, 0.1, 5000), (12000, 1 / 6, 2000), (5918, 0.1, 592), (50000, 5000, 5000)):
        kept, out = pgconv.data.task.partition(count, held, torch.Generator().manual_seed(42))
        sizes = [count - expected, expected]
        first, second = torch.utils.data.random_split(range(count), sizes, torch.Generator().manual_seed(42))
        assert kept.tolist() == list(first.indices) and out.tolist() == list(second.indices)


def test_pcam_stays_in_its_files(tmp_path):
    contents = write_pcam(tmp_path / "pcam")
    task = pgconv.data.get("PCam", tmp_path, verify=False)
    assert task.image_shape == (3, 96, 96)
    for split, part in zip((task.train, task.validation, task.test), contents):
        pixels, labels = contents[part]
        torch.testing.assert_close(
            pixels_of(task, split), pixels.permute(0, 3, 1, 2).float(), atol=1e-3, rtol=0, check_stride=False
        )
        assert torch.equal(split.tensors[1], labels)
    image = task.train[2][0]
    assert len(pickle.dumps(task.train)) < 20_000, "images are pickled with the split"
    assert torch.equal(pickle.loads(pickle.dumps(task.train))[2][0], image)
    loader = torch.utils.data.DataLoader(task.train, batch_size=3, num_workers=1)
    assert torch.equal(next(iter(loader))[0][2], image)


def test_digits_without_scikit_learn_say_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install pgconv\[data\]"):
        pgconv.data.get("digits6-180")


@pytest.mark.parametrize(
    ("name", "change"), [("digits6-180", half_turn), ("digits6-M", mirror), ("digits6-flip", flip)]
)
@pytest.mark.parametrize("rotation", [0, 30.0])
def test_digits6(name, change, rotation):
    task = pgconv.data.get(name, rotation=rotation)
    splits = (task.train, task.validation, task.test)
    assert [len(split) for split in splits] == [2 * 109, 2 * 12, 2 * 60]
    every = []
    for split in splits:
        images, labels = split.tensors
        assert images.shape[1:] == task.image_shape == (1, 16, 16)
        assert torch.equal(images[labels == 1], change(images[labels == 0]))
        every.append(images[labels == 0])
    assert len(torch.cat(every).flatten(1).unique(dim=0)) == 181


def test_rotated_digits():
    task, again = (pgconv.data.get("rotated-digits", size=32) for _ in range(2))
    splits = [task.train, task.validation, task.test]
    assert sum(map(len, splits)) == 1797 and task.classes == 10 and task.image_shape == (1, 32, 32)
    assert torch.cat([split.tensors[1] for split in splits]).bincount().min() == 174
    assert all(
        torch.equal(a.tensors[0], b.tensors[0]) for a, b in zip(splits, [again.train, again.validation, again.test])
    )
    other = pgconv.data.get("rotated-digits", size=32, seed=7)
    assert not torch.equal(task.test.tensors[1], other.test.tensors[1])
    upright = pgconv.data.get("rotated-digits", size=32, rotation=0)
    assert torch.equal(task.test.tensors[1], upright.test.tensors[1])
    assert not torch.allclose(task.test.tensors[0], upright.test.tensors[0])


def test_a_split_is_indexed_like_a_tensor_dataset():
    split = pgconv.data.get("rotated-digits").validation
    images, labels = split.tensors
    image, label = split[3]
    assert image.shape == (1, 16, 16) and torch.equal(image, images[3]) and label == labels[3]
    for index in (slice(2, 9), torch.tensor([5, 1, 1]), labels == 4):
        assert torch.equal(split[index][0], images[index]) and torch.equal(split[index][1], labels[index])
    assert torch.equal(split[-1][0], images[-1])
    with pytest.raises(IndexError):
        split[len(split)]
    batches = list(torch.utils.data.DataLoader(split, batch_size=50))
    assert torch.equal(torch.cat([batch for batch, _ in batches]), images)
    assert torch.equal(torch.cat([batch for _, batch in batches]), labels)
    assert len(list(split)) == len(split)
    images.zero_()
    assert split.tensors[0].abs().sum() > 0, "what was handed out is a view of what is kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "MNIST"}, "name must be one of 'MNIST6-180'"),
        (
            {"name": "digits6-180", "rotate": 3},
            "each option of digits6-180 must be one of 'validation', 'rotation', 'size'",
        ),
        ({"name": "digits6-180", "change": 3}, "each option"),
        ({"name": "PCam", "validation": 0.1}, "each option of PCam must be one of 'verify'"),
        ({"name": "digits6-180", "validation": 1.0}, "validation must be a share"),
        ({"name": "digits6-180", "validation": 121}, "validation must be a share of the 121 images"),
        ({"name": "digits6-180", "validation": -0.1}, "validation"),
        ({"name": "digits6-180", "validation": True}, "validation"),
        ({"name": "digits6-180", "validation": "some"}, "validation"),
        ({"name": "digits6-180", "rotation": 200}, "rotation must be a number of degrees from 0 to 180"),
        ({"name": "digits6-180", "rotation": float("nan")}, "rotation"),
        ({"name": "digits6-180", "size": 28}, "size must be one of 16, 32"),
        ({"name": "digits6-180", "seed": 1.5}, "seed must be an integer"),
        ({"name": "CIFAR10", "root": 3}, "root must be the folder"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        pgconv.data.get(**arguments)


def test_files_say_what_is_expected():
    assert set(pgconv.data.names()) == set(registry._TASKS)
    for name in pgconv.data.names():
        for file in pgconv.data.files(name):
            assert file.address.startswith("http") and file.count > 0
            for digest in filter(None, (file.digest, file.address_digest)):
                algorithm, _, value = digest.partition(":")
                assert len(bytes.fromhex(value)) == hashlib.new(algorithm).digest_size
    assert sum(file.size for file in pgconv.data.files("CIFAR10")) == 60000 * 3073
    with pytest.raises(ValueError, match="name"):
        pgconv.data.files("STL10")
