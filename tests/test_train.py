"""Runs by name: every one builds and goes; ends, resumptions and processes change nothing; what is written is whole."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import pgconv
from pgconv.cli import main as cli
from pgconv.data import Split, Task
from pgconv.data.motions import flip, half_turn, mirror
from pgconv.train import Config, Trainer, checkpoint, configs, plot
from pgconv.train.__main__ import main
from pgconv.train.loop import LAST_LR, Best
from pgconv.train.world import World

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.mark.parametrize("name", configs.names())
def test_every_run_builds_takes_two_steps_and_resumes(name, tmp_path):
    config = configs.get(name)
    assert sum(p.numel() for p in config.make_network(noise(config.task)).parameters()) > 1000
    # Narrow, for time; else as it is.
    own = config.changed(["network.width=4", "epochs=2", "batch_size=4", "warmup_epochs=1", f"seed={3}"])
    whole = run(own)
    assert len(whole.history) == 2 and whole.steps == 1
    assert all(math.isfinite(value) for row in whole.history for value in row.values())
    first = Trainer(own, noise(config.task), ALONE, tmp_path)
    first._epoch(None)
    first.epoch = 1
    first._write(False)
    second = Trainer(own, noise(config.task), ALONE, tmp_path)
    assert second.epoch == 1
    second._epoch(None)
    third = Trainer(own, noise(config.task), ALONE)
    third._epoch(None)
    third.epoch = 1
    third._epoch(None)
    same(weights(second), weights(third))


def test_published_rows_are_complete():
    """Two tables of three data sets, and the toy tasks; T(2), SE(2), mirror and E(2)."""
    found = [configs.get(name) for name in configs.names()]
    assert sum(config.published is not None for config in found) == 3 * (11 + 10) + 2 * 4
    assert configs.get("cifar100-ckresnet-e2-16-partial").published == 61.46
    assert configs.get("rotmnist-gcnn13-se2-16-augerino").published == 99.28
    for name in ("rotmnist-ckresnet-t2", "digits6-flip-mirror-full", "rotated-digits-augerino"):
        assert name in configs.names()


@pytest.mark.parametrize("data", ["MNIST6", "digits6"])
@pytest.mark.parametrize(("task", "group"), configs._TOY_ROWS)
def test_a_full_network_cannot_tell_the_classes_of_a_toy_task_apart(task, group, data):
    """Whatever it has learned: the group has the motion that makes the second class."""
    change = task.removeprefix("MNIST6-")
    config = configs.get(f"{task.lower() if data == 'MNIST6' else f'digits6-{change}'}-{configs.SHORT[group]}-full")
    channels, size, _ = SHAPES[config.task]
    torch.manual_seed(0)
    # In float64 the quarter turns of a grid are exact enough for any difference to be one of the network.
    network = config.make_network(noise(config.task)).double().eval()
    images = torch.rand(2, channels, size, size, dtype=torch.float64)
    changed = {"180": half_turn, "M": mirror, "flip": flip}[change](images)
    logits = network(images)
    torch.testing.assert_close(network(changed), logits, rtol=1e-5, atol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("rotmnist-ckresnet-t2", 450_074),
        ("rotmnist-ckresnet-se2-8-partial", 467_791),
        ("cifar10-ckresnet-se2-16-partial", 469_903),
        ("mnist6-180-se2-partial", 48_845),
        ("mnist6-180-se2-full", 104_422),
        ("mnist6-m-e2-partial", 51_154),
        ("cifar10-gcnn13-se2-8-partial", 3_994_418),
    ],
)
def test_runs_have_the_published_parameters(name, count):
    config = configs.get(name)
    assert sum(p.numel() for p in config.make_network(noise(config.task)).parameters()) == count


def test_settings_change_a_run():
    config = configs.get("rotmnist-ckresnet-se2-8-partial")
    own = config.changed(
        ["epochs=3", "lr=0.5", "network.width=8", "task.validation=0.1", "precision=bfloat16", "augerino=None"]
    )
    assert (own.epochs, own.lr, own.precision, own.augerino) == (3, 0.5, "bfloat16", None)
    assert own.network_options["width"] == 8 and own.task_options == {"validation": 0.1} and own.published is None
    assert config.changed([]).published == 99.23
    for setting in ("epochs", "width=3", "name=x", "network.=3", "other.x=1"):
        with pytest.raises(ValueError, match="settings are key=value"):
            config.changed([setting])
    for setting, text in (
        ("epochs=0", "epochs"),
        ("task=MNIST", "task must be one of"),
        ("schedule=step", "schedule must be"),
    ):
        with pytest.raises(ValueError, match=text):
            config.changed([setting])
    with pytest.raises(ValueError, match="unknown run 'rotmnist-x'; --list shows all, such as rotmnist-"):
        configs.get("rotmnist-x")


SMALL = Config(
    "small", "digits6-180", network_options={"width": 4, "factors": (1,), "kernel_size": 3, "num_samples": 4, "partial": True},
    epochs=4, batch_size=8, warmup_epochs=1,
)  # fmt: skip


def test_rates_rise_and_fall_as_published():
    trainer = Trainer(SMALL.changed(["epochs=11", "lr=0.5", "range_lr=0.25"]), noise("digits6-180", train=17), ALONE)
    assert trainer.steps == 2 and [g["name"] for g in trainer.optimizer.param_groups] == ["rest", "ranges"]
    # An epoch counts three steps, the incomplete one too.
    for step, share in ((0, 0.0), (1, 1 / 3), (3, 1.0), (18, 0.5), (33, 0.0)):
        assert trainer.rate(step, 0.5) == pytest.approx(LAST_LR * (step > 3) * (1 - share) + 0.5 * share, abs=1e-9)
    constant = Trainer(SMALL.changed(["schedule=constant"]), noise("digits6-180"), ALONE)
    assert constant.rate(0, 0.3) == constant.rate(99, 0.3) == 0.3


def test_the_best_network_is_kept_and_runs_end_when_nothing_gets_better(tmp_path):
    assert Best().beaten_by(0.0, 9.0) and Best(0.5, 1.0).beaten_by(0.5, 0.9) and not Best(0.5, 1.0).beaten_by(0.5, 1.0)
    trainer = Trainer(SMALL.changed(["epochs=50", "patience=2"]), noise("digits6-180", train=8), ALONE, tmp_path)
    results = iter([(0.5, 1.0), (0.75, 1.0), (0.75, 1.0), (0.5, 0.1), (0.9, 0.1)])
    trainer.evaluate = lambda split: next(results)
    trainer.fit()
    assert trainer.epoch == 4 and trainer.best.epoch == 1 and trainer.over
    best = checkpoint.load(tmp_path / checkpoint.BEST)
    same(best["network"], weights(trainer))
    assert best["config"]["name"] == "small"


def test_penalties_are_part_of_the_loss():
    task = noise("digits6-180", train=8)
    images, labels = task.train[:]
    losses = []
    for setting in ("weight_penalty=0.0", "weight_penalty=0.5", "monotone=2.0"):
        trainer = Trainer(SMALL.changed([setting]), task, ALONE)
        trainer.network.last.sampler.theta.data.fill_(0.75)
        for conv in (trainer.network.blocks[0].conv1, trainer.network.blocks[0].conv2):
            conv.sampler.theta.data.fill_(0.5)
        losses.append(float(trainer.step(0, images, labels)[0]))
        torch.manual_seed(1)
    assert losses[1] > losses[0] + 1
    assert losses[2] - losses[0] == pytest.approx(2.0 * 0.25, abs=1e-5)


def test_draws_of_samples_differ_and_their_mean_is_reported():
    trainer = run(SMALL, noise("digits6-180", train=8, test=100))
    found = trainer.test(draws=5)
    assert set(found) == {"accuracy", "mean", "std", "draws"} and found == trainer.test(draws=5)
    assert "mean" not in trainer.test(draws=0)
    assert trainer.evaluate(trainer.task.test) == trainer.evaluate(trainer.task.test)
    one, two = (trainer.evaluate(trainer.task.test, draws=True)[1] for _ in range(2))
    assert one != two


@pytest.mark.parametrize(
    "settings", [["precision=bfloat16"], ["clip=0.1"], ["omega_lr=0.1", "network.kernel_net=mlp"]], ids=str
)
def test_other_settings_train(settings):
    trainer = run(SMALL.changed(settings), noise("digits6-180", train=8))
    assert all(math.isfinite(row["loss"]) for row in trainer.history)


def test_a_clipped_gradient_moves_no_further(monkeypatch):
    seen = []
    own = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, most: seen.append((own(p, most), most)))
    run(SMALL.changed(["clip=0.01", "epochs=1"]), noise("digits6-180", train=8))
    assert seen and all(most == 0.01 for _, most in seen)


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    task = noise("digits6-180", train=8)
    run(SMALL.changed(["epochs=1"]), task, tmp_path)
    with pytest.raises(ValueError, match=r"has a run with other settings \(lr, network_options\)"):
        Trainer(SMALL.changed(["epochs=1", "lr=1", "network.width=6"]), task, ALONE, tmp_path)
    longer = run(SMALL.changed(["epochs=2"]), task, tmp_path)
    assert [row["epoch"] for row in longer.history] == [0, 1]


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    checkpoint.save(path, {"network": {"a": torch.ones(2)}})
    with monkeypatch.context() as patch:

        def torn(content, scratch):
            Path(scratch).write_bytes(b"half")
            raise OSError("no space left")

        patch.setattr(torch, "save", torn)
        with pytest.raises(OSError, match="no space"):
            checkpoint.save(path, {"network": {}})
    assert torch.equal(checkpoint.load(path)["network"]["a"], torch.ones(2)) and len(list(tmp_path.iterdir())) == 1


class Command:
    """Would run a program when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_checkpoints_are_data_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"network": Command()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="is no checkpoint of a run"):
        checkpoint.load(tmp_path / "bad.pt")
    assert not (tmp_path / "unpickled").exists()
    checkpoint.save(tmp_path / "other.pt", {"weights": {}})
    with pytest.raises(ValueError, match="it has no network"):
        checkpoint.load(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="train first"):
        checkpoint.load(tmp_path / "none.pt")


COMMAND = [
    sys.executable,
    "-m",
    "pgconv.train",
    "digits6-180-se2-partial",
    "--quiet",
    "--draws",
    "2",
    "--device",
    "cpu",
]
COMMAND += ["epochs=3", "network.width=4", "network.num_samples=4", "batch_size=32", "patience=50"]


def started(*options, launcher=()):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [*launcher, *COMMAND[1:]] if launcher else COMMAND
    return subprocess.Popen(
        [*command, *map(str, options)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return out


def table(folder):
    """Without times."""
    with open(folder / "epochs.csv", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, finished(started("--out", folder))


def test_a_run_says_and_writes_what_it_found(whole):
    folder, out = whole
    result = json.loads((folder / "result.json").read_text())
    assert result["name"] == "digits6-180-se2-partial" and result["epochs"] == 3
    assert 0 <= result["test_accuracy"] <= 1 and result["test_draws"] == 2
    assert list(result["ranges"]) == ["blocks.0.conv1.sampler", "blocks.0.conv2.sampler", "last.sampler"]
    assert "test accuracy" in out and "over 2 draws" in out and "last.sampler: theta" in out
    assert [row["epoch"] for row in table(folder)] == [0, 1, 2]


def test_a_run_that_was_killed_goes_the_same_way(whole, tmp_path):
    process = started("--out", tmp_path)
    deadline = time.monotonic() + 240
    while not (tmp_path / checkpoint.LAST).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = checkpoint.load(tmp_path / checkpoint.LAST)["epoch"]
    assert done >= 1
    out = finished(started("--out", tmp_path))
    assert done == 3 or f"going on after {done} epochs" in out
    assert table(tmp_path) == table(whole[0])
    same(*(checkpoint.load(folder / checkpoint.LAST)["network"] for folder in (tmp_path, whole[0])))


def test_two_processes_train_as_one(whole, tmp_path):
    """Gradients are means over all images; layer norms know no batch."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    finished(started("--out", tmp_path, launcher=launcher))
    for one, two in zip(table(whole[0]), table(tmp_path), strict=True):
        assert one == pytest.approx(two, rel=2e-3, abs=2e-4)


def test_batches_have_a_share_for_every_process():
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes, received 8"):
        Trainer(SMALL, noise("digits6-180"), World(1, 3, torch.device("cpu")))


def test_the_command_line(capsys, tmp_path):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in configs.names()) and "99.23 %" in out and "scikit-learn" in out
    assert main(["rotmnist-ckresnet-t2", "--root", str(tmp_path)]) == 2
    assert "mnist" in capsys.readouterr().err.lower()
    assert main(["digits6-180-se2-full", "lr"]) == 2
    assert "settings are key=value" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "torchrun" in capsys.readouterr().out


def test_tensorboard_gets_the_rows_of_the_table(tmp_path, monkeypatch, capsys):
    seen = []

    class Writer:
        def __init__(self, folder):
            seen.append(folder)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append("closed")

        def add_scalar(self, name, value, epoch):
            seen.append((name, epoch))

    command = [*COMMAND[3:], "epochs=1", "--draws", "0", "--tensorboard", "--out"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    assert main([*command, str(tmp_path / "one")]) == 0
    assert seen[0] == str(tmp_path / "one") and seen[-1] == "closed"
    assert {("loss", 0), ("validation_accuracy", 0), ("theta/last.sampler", 0)} <= set(seen[1:-1])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*command, str(tmp_path / "two")]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err


def test_deterministic_algorithms_are_asked_for(tmp_path):
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for number in range(2):
            assert (
                main(
                    [*COMMAND[3:], "epochs=1", "--draws", "0", "--deterministic", "--out", str(tmp_path / str(number))]
                )
                == 0
            )
            assert torch.are_deterministic_algorithms_enabled()
        assert table(tmp_path / "0") == table(tmp_path / "1")
    finally:
        torch.use_deterministic_algorithms(before)


def test_models_of_a_run_are_the_librarys():
    config = configs.get("cifar10-ckresnet-e2-8-augerino")
    network = config.make_network(noise("CIFAR10"))
    assert isinstance(network, pgconv.models.Augerino) and network.group.name == "E(2)"
    assert isinstance(network.network, pgconv.models.CKResNet)


@pytest.fixture(scope="module")
def runs(whole, tmp_path_factory):
    """Two seeds of one run."""
    other = tmp_path_factory.mktemp("other")
    assert main([*COMMAND[3:], "--out", str(other), "seed=1"]) == 0
    return whole[0], other


def test_a_trained_network_is_tested_again(whole, capsys):
    result = json.loads((whole[0] / "result.json").read_text())
    assert cli(["evaluate", str(whole[0]), "--draws", "2"]) == 0
    out = capsys.readouterr().out
    assert (
        f"test accuracy {100 * result['test_accuracy']:.2f} % on fixed samples" in out
        and f"{100 * result['test_mean']:.2f} +- " in out
    )
    assert cli(["evaluate", str(whole[0] / "none")]) == 2
    assert "train first" in capsys.readouterr().err


def test_plots_of_runs(runs, tmp_path, capsys):
    assert cli(["plot", *map(str, runs), "--out", str(tmp_path)]) == 0
    written = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert written == {"ranges.png", "epochs.png", "response.png", "accuracies.md"}
    assert all((tmp_path / name).stat().st_size > (100 if name.endswith("md") else 5000) for name in written)
    rows = (tmp_path / "accuracies.md").read_text().splitlines()
    found = [json.loads((folder / "result.json").read_text())["test_accuracy"] for folder in runs]
    mean = torch.tensor(found, dtype=torch.float64)
    assert len(rows) == 3 and "| 0, 1 |" in rows[2]
    assert f"{100 * mean.mean():.2f} +- {100 * mean.std(correction=0):.2f} %" in rows[2]
    assert cli(["plot", str(tmp_path)]) == 2
    assert "has not ended" in capsys.readouterr().err


def test_the_response_is_the_probability_over_turned_images():
    """At no turn, the mean over the images as they are; a turn by 180 degrees makes one class the other."""
    trainer = Trainer(SMALL, pgconv.data.get("digits6-180"), ALONE)
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "plot_curves", lambda degrees, curves, *args, **options: seen.update(curves))
        plot.response([trainer], ["it"], Path("nowhere"))
    trainer.network.eval()
    images, classes = trainer.task.test.tensors
    for turned, label in ((0, 0), (180, 1)):
        want = trainer.network(images[classes == label]).softmax(1)[:, 0].mean().item()
        assert seen["it"][plot.DEGREES.index(turned)] == pytest.approx(want, abs=1e-4)


def test_the_command_of_the_package(capsys):
    assert cli(["--help"]) == 0
    assert {"train", "evaluate", "plot"} <= set(capsys.readouterr().out.split())
    assert cli([]) == cli(["fly"]) == 2
    assert cli(["train", "--list"]) == 0
    assert "rotmnist-ckresnet-t2" in capsys.readouterr().out
