"""Runs by name: every one builds and goes; ends, resumptions and processes change nothing; what is written is whole."""

import math
import os
from pathlib import Path

import published_table
import pytest
import torch
from training import ALONE, SHAPES, SMALL, noise, run, same, weights

import pgconv
from pgconv.data.motions import flip, half_turn, mirror
from pgconv.train import Trainer, checkpoint, configs
from pgconv.train.loop import LAST_LR, Best
from pgconv.train.world import World


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


def test_the_divergence_of_gates_is_part_of_the_loss():
    task = noise("digits6-180", train=8)
    own = SMALL.changed(["network.partial=input"])
    free, held = (Trainer(own.changed([f"gate_penalty={factor}"]), task, ALONE) for factor in (0.0, 0.5))
    torch.manual_seed(1)
    losses = [float(trainer.step(0, *task.train[:])[0]) for trainer in (free, held)]
    # Three convolutions, each with three gates beside the identity, of probability sigmoid(2); the prior is 0.9.
    p = 1 / (1 + math.exp(-2.0))
    each = p * math.log(p / 0.9) + (1 - p) * math.log((1 - p) / 0.1)
    assert losses[1] - losses[0] == pytest.approx(0.5 * 9 * each, abs=1e-5)


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


def test_batches_have_a_share_for_every_process():
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes, received 8"):
        Trainer(SMALL, noise("digits6-180"), World(1, 3, torch.device("cpu")))


def test_models_of_a_run_are_the_librarys():
    config = configs.get("cifar10-ckresnet-e2-8-augerino")
    network = config.make_network(noise("CIFAR10"))
    assert isinstance(network, pgconv.models.Augerino) and network.group.name == "E(2)"
    assert isinstance(network.network, pgconv.models.CKResNet)


def test_a_compiled_network_trains_the_same_way(monkeypatch):
    """Traced whole or in parts, with the same random numbers, as this compiler leaves operations as they are."""
    compiled = []

    def compile_(network):
        compiled.append(network)
        return torch._dynamo.optimize("aot_eager")(network)

    monkeypatch.setattr(torch, "compile", compile_)
    config, task = SMALL.changed(["epochs=2", "weight_penalty=0.01"]), noise("digits6-180", train=8)
    plain = run(config, task)
    trainer = Trainer(config, task, ALONE, compiled=True)
    trainer.fit()
    assert compiled == [trainer.network]
    for one, two in zip(plain.history, trainer.history, strict=True):
        one.pop("seconds"), two.pop("seconds")
        assert two == pytest.approx(one, rel=1e-5)


def test_the_page_of_published_runs_is_up_to_date():
    text = published_table.PAGE.read_text(encoding="utf-8")
    assert text == published_table.page(), "run python tests/published_table.py"
    published = [name for name in configs.names() if configs.get(name).published is not None]
    assert all(text.count(f"`python -m pgconv.train {name} --root FOLDER`") == 1 for name in published)
    assert text.count("| not run here |") == sum(bool(pgconv.data.files(configs.get(n).task)) for n in configs.names())
