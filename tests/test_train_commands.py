"""Commands: runs in processes of their own, killed, resumed and together; what they write, and what is made of it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from training import ALONE, SMALL, same

import pgconv
from pgconv.cli import main as cli
from pgconv.ops import dispatch
from pgconv.train import Trainer, checkpoint, configs, plot, studies, study, study_page
from pgconv.train.__main__ import main
from pgconv.train.finished import markdown

ROOT = Path(__file__).resolve().parent.parent
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


def ended(process):
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
    return folder, ended(started("--out", folder))


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
    out = ended(started("--out", tmp_path))
    assert done == 3 or f"going on after {done} epochs" in out
    assert table(tmp_path) == table(whole[0])
    same(*(checkpoint.load(folder / checkpoint.LAST)["network"] for folder in (tmp_path, whole[0])))


def test_two_processes_train_as_one(whole, tmp_path):
    """Gradients are means over all images; layer norms know no batch. Rounding grows thirtyfold an epoch, to what a last bit of the
    processor's sums decides: the third says nothing more."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    ended(started("--out", tmp_path, launcher=launcher))
    for one, two, bound in zip(table(whole[0]), table(tmp_path), (1e-4, 2e-3)):
        assert one == pytest.approx(two, rel=bound, abs=bound / 10)
    assert len(table(tmp_path)) == len(table(whole[0])) == 3


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
    assert written == {"ranges.png", "epochs.png", "accuracies.png", "response.png", "accuracies.md"}
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


TINY = ["epochs=1", "network.width=4", "network.num_samples=4", "batch_size=32", "--quiet", "--workers", "1"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A study of two small runs that has ended: options of its command, and the folders of its runs and its page."""
    folder = tmp_path_factory.mktemp("study")
    own = studies.Study(
        "two",
        "two of them",
        (studies.Run("digits6-180-mirror-partial"), studies.Run("digits6-180-se2-partial", "materialize")),
        seeds=(0, 1),
        ranges=("digits6-180-mirror-partial",),
        epochs=("digits6-180-mirror-partial",),
        response=("digits6-180-se2-partial-materialize",),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(studies._STUDIES, "two", own)
        options = ["two", *TINY, "network.num_samples=2", "--runs", str(folder / "runs"), "--out", str(folder / "page")]
        assert cli(["study", *options]) == 0
        yield options, folder / "runs", folder / "page"


def test_a_study_is_a_page_of_all_its_runs(two, capsys):
    options, runs, page = two
    assert {p.name for p in page.iterdir()} == {
        "README.md", "results.csv", "accuracies.png", "ranges.png", "epochs.png", "response.png",
    }  # fmt: skip
    with open(page / "results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["order"], row["seed"]) for row in rows] == [
        ("digits6-180-mirror-partial", "", "0"),
        ("digits6-180-se2-partial", "materialize", "0"),
        ("digits6-180-mirror-partial", "", "1"),
        ("digits6-180-se2-partial", "materialize", "1"),
    ]
    text = (page / "README.md").read_text(encoding="utf-8")
    assert f"$ pgconv study {' '.join(options)}" in text and "4 runs, 1 at a time" in text and "minutes in all" in text
    assert "| seed | layer 1 | layer 2 | layer 3 |" in text
    assert "| `digits6-180-se2-partial-materialize` | 0, 1 |" in text and "| kept 1.00, 0." in text
    for row in rows:
        own = runs / f"{row['name']}{'-materialize' if row['order'] else ''}-{row['seed']}"
        result = json.loads((own / "result.json").read_text())
        assert float(row["test_accuracy"]) == result["test_accuracy"]
        assert result["epoch_seconds"] == result["seconds"] > 0


def test_runs_of_a_study_that_have_ended_are_not_run_again(two, monkeypatch, capsys):
    options, runs, _ = two
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    monkeypatch.setattr(study, "run_all", lambda jobs, *_: ran.append(len(jobs)))
    ran = []
    assert cli(["study", *options]) == 0
    assert "minutes in all" not in capsys.readouterr().out, "not the time of all runs"
    assert cli(["study", *options, "--seeds", "0"]) == 0
    (runs / "digits6-180-mirror-partial-1" / "result.json").unlink()
    with pytest.raises(FileNotFoundError):
        cli(["study", *options])
    with pytest.raises(FileNotFoundError):
        cli(["study", *options, "seed=7", "--seeds", "7"])
    assert ran == [0, 0, 1, 2]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.exists())


def test_a_run_of_a_study_that_fails_ends_it(tmp_path, monkeypatch, capsys):
    own = studies.Study("bad", "what cannot be", (studies.Run("digits6-180-se2-partial"),), seeds=(0, 1, 2))
    monkeypatch.setitem(studies._STUDIES, "bad", own)
    command = ["study", "bad", *TINY, "network.kernel_size=4", "--runs", str(tmp_path)]
    assert cli(command) == 1
    assert "digits6-180-se2-partial-0/log.txt" in capsys.readouterr().err
    assert "kernel_size" in (tmp_path / "digits6-180-se2-partial-0" / "log.txt").read_text()
    assert not (tmp_path / "digits6-180-se2-partial-1").exists()


def test_a_table_has_the_columns_of_all_rows_but_empty_ones():
    rows = [{"a": "1", "b": ""}, {"a": "2", "b": "", "c": "3"}]
    assert markdown(rows) == "| a | c |\n| --- | --- |\n| 1 |  |\n| 2 | 3 |\n"


def test_studies_are_listed_and_others_unknown(capsys):
    assert cli(["study", "--list"]) == 0
    out = capsys.readouterr().out
    assert "digits-toy" in out and "12 runs, seeds 0, 1, 2" in out
    assert cli(["study", "none"]) == 2 and cli(["study", "digits-toy", "epoch=3"]) == 2
    assert "choose one of digits-toy, digits-gates, rotated-digits" in capsys.readouterr().err
    for name in studies.names():
        jobs = study.make_jobs(studies.get(name), [], [0], Path("nowhere"))
        titles = {job.run.title for job in jobs}
        assert {*studies.get(name).ranges, *studies.get(name).epochs, *studies.get(name).response} <= titles
        assert all(job.epochs == configs.get(job.run.name).epochs and not job.over for job in jobs)
    for wrong in ([], ["digits-toy", "--workers", "0"]):
        with pytest.raises(SystemExit):
            cli(["study", *wrong])


def test_an_order_is_that_of_all_convolutions(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("pgconv.train.__main__.train", lambda *_: seen.append(dispatch.request("group_conv2d")))
    for options in (["--order", "materialize"], []):
        assert main([*COMMAND[3:], "--out", str(tmp_path), *options]) == 0
    assert seen == ["auto:materialize", "auto:auto"]


def test_gates_that_depend_on_the_input_are_part_of_the_result(tmp_path):
    command = ["digits6-180-se2-variational", *COMMAND[4:], "epochs=1", "--draws", "0", "--out", str(tmp_path)]
    assert main(command) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ranges"] == {} and list(result["gates"])[-1] == "last.sampler"
    assert all(len(own["kept"]) == len(own["spread"]) == 4 and own["kept"][0] == 1 for own in result["gates"].values())
    assert plot.ranges([result], tmp_path) == tmp_path / "ranges.png"
    (row,) = study_page._learned(result)
    assert row["layer 3"].startswith("kept 1.00, 0.") and "between images" in row["layer 3"]


BAD_SETTINGS = {
    "lr=abc": "lr must be a finite number > 0",
    "lr=nan": "lr must be a finite number > 0",
    "lr=1e999": "lr must be a finite number > 0",
    "lr=-0.01": "lr must be a finite number > 0",
    "lr=None": "lr must be a finite number > 0",
    "range_lr=x": "range_lr must be a finite number >= 0, or None",
    "omega_lr=-1": "omega_lr must be a finite number >= 0, or None",
    "clip=-1": "clip must be a finite number > 0, or None",
    "clip=0": "clip must be a finite number > 0, or None",
    "weight_penalty=x": "weight_penalty must be a finite number >= 0",
    "gate_penalty=-1": "gate_penalty must be a finite number >= 0",
    "monotone=true": "monotone must be a finite number >= 0",
    "monotone=True": "monotone must be a finite number >= 0",
    "seed=1.5": "seed must be an integer >= 0",
    "seed=-1": "seed must be an integer >= 0",
    "seed=99999999999999999999": "seed must be at most 9223372036854775807",
    "warmup_epochs=x": "warmup_epochs must be an integer >= 0",
    "network.foo=3": "network.OPTION must be arguments of CKResNet",
    "network.pools=3": "network.OPTION must be arguments of CKResNet",
}


def one_line(capsys):
    """Of the standard error; a traceback has more, and a usage goes before the errors of options."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("usage:", " "))]
    return line


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_a_setting_that_cannot_be_ends_in_one_line(setting, tmp_path, capsys):
    assert main([*COMMAND[3:], "epochs=1", "--out", str(tmp_path / "run"), setting]) == 2
    line = one_line(capsys)
    assert f"train: {BAD_SETTINGS[setting]}" in line and "received" in line
    assert setting.partition("=")[2].replace("1e999", "inf") in line or setting.startswith("network.")
    assert not (tmp_path / "run").exists()


def test_settings_that_mean_nothing_at_all_are_allowed():
    config = configs.get("digits6-180-se2-partial")
    settings = ["lr=1", "range_lr=0", "omega_lr=None", "clip=None", "monotone=0", "warmup_epochs=0", "seed=0"]
    assert config.changed(settings).lr == 1


def test_a_device_that_is_not_there(monkeypatch, whole, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in (["train", *COMMAND[3:]], ["evaluate", str(whole[0])]):
        assert cli([*command, "--device", "cuda"]) == 2
        assert "--device must be 'cpu'" in (line := one_line(capsys)) and "received 'cuda'" in line


def test_folders_that_cannot_be_written(whole, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "below")
    for command in (
        ["train", *COMMAND[3:], "--out", nowhere],
        ["plot", str(whole[0]), "--out", nowhere],
        ["study", "digits-toy", "--quiet", "--runs", str(tmp_path / "runs"), "--out", nowhere],
        ["study", "digits-toy", "--quiet", "--runs", nowhere],
    ):
        status, line = cli(command), one_line(capsys)
        assert status == 2 and f"received {nowhere}" in line and command[-2] in line and "must be a folder" in line


@pytest.mark.parametrize("command", [["train", *COMMAND[3:]], ["evaluate", "nowhere"]], ids=["train", "evaluate"])
@pytest.mark.parametrize("draws", ["-1", "x", "1.5"])
def test_a_number_of_draws_that_cannot_be(command, draws, capsys):
    with pytest.raises(SystemExit) as ended_with:
        cli([*command, "--draws", draws])
    assert ended_with.value.code == 2
    assert f"--draws: must be an integer >= 0, received '{draws}'" in one_line(capsys)
