"""The main job: its command line, its files, and what the two networks must and cannot learn."""

import csv
import subprocess
import sys

import pytest
import torch

from pgconv.demo import __main__ as command
from pgconv.demo import data, model, train

SHORT = ["--epochs", "1", "--width", "2", "--rounds", "1"]


def test_command_line_writes_table_plots_and_csv(tmp_path, capsys):
    arguments = ["--epochs", "1", "--width", "4", "--samples", "4", "--rounds", "1", "--output", str(tmp_path)]
    assert command.main(arguments) == 0
    text = capsys.readouterr().out
    for words in ("test accuracy", "learned part of the group", "theta", "fused", "materialised", "reference"):
        assert words in text
    for name in ("learned_subsets.png", "rotation_response.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["network"] for row in rows] == ["G-CNN", "Partial G-CNN"]


@pytest.mark.parametrize(("group", "samples"), [("M(2)", "2"), ("E(2)", "4")])
def test_other_groups_and_task(tmp_path, group, samples):
    arguments = [
        "--task",
        "6-M",
        "--group",
        group,
        "--epochs",
        "1",
        "--width",
        "2",
        "--samples",
        samples,
        "--rounds",
        "1",
    ]
    assert command.main([*arguments, "--output", str(tmp_path)]) == 0


def test_help_and_wrong_options():
    run = subprocess.run([sys.executable, "-m", "pgconv.demo", "--help"], capture_output=True, text=True, check=True)
    for option in ("--task", "--group", "--epochs", "--seed", "--output"):
        assert option in run.stdout
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--epochs", "0"])
    with pytest.raises(ValueError, match="task"):
        data.load("9-180", seed=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--samples", "3", "--group", "E(2)"], ("--samples", "num_samples=3", "group='E(2)'", "even")),
        (["--samples", "1", "--group", "M(2)"], ("--samples", "num_samples=1", "group='M(2)'")),
        (["--lr", "nan"], ("--lr", "a finite number > 0", "'nan'")),
        (["--gate-lr", "-1"], ("--gate-lr", "a finite number > 0", "'-1'")),
        (["--rotation", "inf"], ("--rotation", "a finite number >= 0", "'inf'")),
        (["--seed", "-1"], ("--seed", "an integer from 0 to", "'-1'")),
        (["--seed", "1" + "0" * 30], ("--seed", "an integer from 0 to")),
        (["--width", "x"], ("--width", "an integer >= 1", "'x'")),
        (["--batch-size", "1"], ("--batch-size", "an integer >= 2", "'1'")),
        (["--output", "{file}/below"], ("--output", "a folder", "below")),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else "",
)
def test_an_option_that_cannot_be_ends_in_one_line(options, words, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    options = [text.format(file=tmp_path / "file") for text in options]
    with pytest.raises(SystemExit) as ended:
        command.main([*SHORT, "--output", str(tmp_path), *options])
    line = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and all(word in line for word in words), line


def test_no_digit_is_in_both_halves_and_classes_are_exact_images_of_each_other():
    digits = data.load("6-180", seed=3)
    assert len(digits.train) + len(digits.test) == 181
    together = torch.cat([digits.train, digits.test]).flatten(1)
    assert len(together.unique(dim=0)) == 181
    images, labels = data.batch("6-180", digits.test)
    assert torch.equal(images[labels == 1], torch.rot90(images[labels == 0], 2, (-2, -1)))


def test_full_group_cannot_and_partial_group_can():
    digits = data.load("6-180", seed=0)
    torch.manual_seed(0)
    full = model.DigitNet("SE(2)", partial=False)
    assert train.class_difference(full, digits) < 1e-5
    assert train.accuracy(full, digits) == 0.5
    torch.manual_seed(0)
    partial = model.DigitNet("SE(2)", partial=True)
    options = {
        "epochs": 60,
        "batch_size": 32,
        "lr": 1e-2,
        "range_lr": 1e-2,
        "gate_lr": 5e-2,
        "rotation": 45.0,
        "seed": 0,
    }
    losses = train.fit(partial, digits, **options, progress=lambda loss: None)
    assert losses[-1] < 0.3 < losses[0]
    assert train.accuracy(partial, digits) >= 0.98
    upright, upside_down = (
        train.probability_of_six(partial, digits.test, angles).mean().item()
        for angles in (list(range(-45, 46, 15)), list(range(135, 226, 15)))
    )
    assert upright >= 0.9 and upside_down <= 0.1
