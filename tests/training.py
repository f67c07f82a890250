"""Small runs on noise, for the tests of training."""

import torch

from pgconv.data import Split, Task
from pgconv.train import Config, Trainer
from pgconv.train.world import World

ALONE = World(0, 1, torch.device("cpu"))
SHAPES = {
    "MNIST6-180": (1, 28, 2),
    "MNIST6-M": (1, 28, 2),
    "MNIST6-flip": (1, 28, 2),
    "RotMNIST": (1, 28, 10),
    "CIFAR10": (3, 32, 10),
    "CIFAR100": (3, 32, 100),
}
SHAPES |= {
    "digits6-180": (1, 16, 2),
    "digits6-M": (1, 16, 2),
    "digits6-flip": (1, 16, 2),
    "rotated-digits": (1, 16, 10),
}


def split(count, channels, size, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Split(pixels, labels, torch.arange(count), (0.5,) * channels, (0.25,) * channels)


def noise(name, train=4, validation=3, test=2):
    """A task of the right shapes with nothing to learn."""
    shape = channels, size, classes = SHAPES[name]
    parts = (split(count, *shape, seed) for seed, count in enumerate((train, validation, test)))
    return Task(name, classes, (channels, size, size), (0.5,), (0.25,), *parts)


def run(config, task=None, folder=None, world=ALONE):
    trainer = Trainer(config, task or noise(config.task), world, folder)
    trainer.fit()
    return trainer


def weights(trainer):
    return {name: x.clone() for name, x in trainer.network.state_dict().items()}


def same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(x, b[name]) for name, x in a.items())


SMALL = Config(
    "small", "digits6-180", network_options={"width": 4, "factors": (1,), "kernel_size": 3, "num_samples": 4, "partial": True},
    epochs=4, batch_size=8, warmup_epochs=1,
)  # fmt: skip
