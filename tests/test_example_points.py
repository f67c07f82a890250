"""The example on digits as points: its command line, its point sets, and that turning all elements changes nothing."""

import csv

import pytest
import torch

from examples.digits_as_points import __main__ as command
from examples.digits_as_points import data, model, train
from pgconv.sampling import Samples

SMALL = ["--epochs", "1", "--train-digits", "32", "--points", "8", "--width", "4", "--angles", "2"]


def _rows(folder):
    rows = list(csv.DictReader((folder / "results.csv").open()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_command_line_writes_table_plot_and_csv_and_a_seed_repeats_them(tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    assert command.main([*SMALL, "--output", str(first)]) == 0
    text = capsys.readouterr().out
    for words in ("32 training and 597 test digits", "upright -> rotated", "SE(2)", "T(2)", "a 6 can look like a 9"):
        assert words in text
    assert (first / "accuracy_by_rotation.png").read_bytes().startswith(b"\x89PNG")
    assert [row["network"] for row in _rows(first)] == ["SE(2)", "T(2)"]
    assert command.main([*SMALL, "--no-plot", "--output", str(again)]) == 0
    assert _rows(again) == _rows(first)
    assert [path.name for path in again.iterdir()] == ["results.csv"]


def test_options_that_are_wrong(capsys):
    for arguments in (["--epochs", "0"], ["--points", "65"], ["--points", "0"], ["--threads", "x"]):
        with pytest.raises(SystemExit):
            command.parser().parse_args(arguments)
        assert arguments[0] in capsys.readouterr().err
    for option in ("--epochs", "--points", "--threads", "--seed", "--output", "--no-plot"):
        assert option in command.parser().format_help()


def test_networks_have_about_the_same_number_of_parameters():
    se2, t2 = (sum(p.numel() for p in model.PointNet(group).parameters()) for group in command.NETWORKS)
    assert abs(se2 - t2) < 0.02 * t2


def test_points_are_the_brightest_pixels_about_the_centre():
    image = torch.zeros(2, 8, 8)
    image[0, 0, 7], image[0, 7, 0], image[0, 3, 4] = 0.25, 0.5, 1.0
    image[1] = 0.5
    x, f, mask = data.from_images(image, 4)
    assert torch.equal(f[..., 0], torch.tensor([[1.0, 0.5, 0.25, 0.0], [0.5] * 4]))
    assert torch.equal(mask, torch.tensor([[True, True, True, False], [True] * 4]))
    assert torch.allclose(x[0, :3], torch.tensor([[1 / 7, 1 / 7], [-1.0, -1.0], [1.0, 1.0]]))
    assert torch.allclose(x[1], torch.tensor([[-1.0, 1.0], [-5 / 7, 1.0], [-3 / 7, 1.0], [-1 / 7, 1.0]]))
    for points in (0, 65):
        with pytest.raises(ValueError, match="points must be from 1 to 64"):
            data.from_images(image, points)
    with pytest.raises(ValueError, match=r"images must be \[n, 8, 8\]"):
        data.from_images(image[..., :7], 4)


def test_splits_do_not_overlap():
    for validate, sizes in ((False, (1200, 597)), (True, (1000, 200))):
        digits, held_out = data.load(64, seed=1, validate=validate)
        assert (len(digits), len(held_out)) == sizes
    digits, held_out = data.load(64, seed=1)
    # Positions tell pixels apart, whatever the order of equally bright ones.
    signature = torch.cat(
        [(d.f * d.x * torch.tensor([1.0, 100.0])).sum(1) + 1e4 * d.f.sum(1) for d in (digits, held_out)]
    )
    assert len(signature.double().unique(dim=0)) == 1797


def test_quarter_turns_are_exact_and_turns_keep_radii():
    digits, _ = data.load(32, seed=0)
    digits = digits[:5]
    assert torch.equal(digits.rotated(90.0).x, torch.stack([-digits.x[..., 1], digits.x[..., 0]], -1))
    assert torch.equal(digits.rotated(180.0).x, -digits.x)
    assert torch.equal(digits.rotated(270.0).rotated(90.0).x, digits.rotated(360.0).x)
    assert torch.equal(digits.rotated(360.0).x, digits.x)
    # Turning pixels of the image and turning points is the same, up to the order of the points.
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = data.from_images(torch.rot90(image, 1, (1, 2)), 64)[0]
    assert torch.allclose(data.rotate(data.from_images(image, 64)[0], 90.0), turned)
    angles = data.random_angles(5, seed=0)
    assert torch.allclose(digits.rotated(angles).x.norm(dim=-1), digits.x.norm(dim=-1), atol=1e-6)
    radians = torch.deg2rad(angles[3]).float()
    x, y = digits.x[3, 0]
    expected = torch.stack([radians.cos() * x - radians.sin() * y, radians.sin() * x + radians.cos() * y])
    assert torch.allclose(digits.rotated(angles).x[3, 0], expected, atol=1e-6)


def test_se2_does_not_see_a_rotation_of_all_elements_and_t2_does():
    digits, _ = data.load(24, seed=0)
    digits = digits[:6]
    angle = 37.0
    differences = {}
    for group in command.NETWORKS:
        torch.manual_seed(0)
        net = model.PointNet(group, angles=4, width=8).eval()
        signal, samples = net.lift(digits.x, digits.f, digits.mask)
        elements = samples.elements.clone()
        elements[..., :2] = data.rotate(elements[..., :2], angle)
        if group == "SE(2)":
            elements[..., 2] += torch.deg2rad(torch.tensor(angle))
        logits = net.from_elements(signal, samples)
        turned = net.from_elements(signal, Samples(elements, samples.weights))
        differences[group] = ((turned - logits).abs().max() / logits.abs().max()).item()
    assert differences["SE(2)"] < 1e-5
    assert differences["T(2)"] > 1e-3


def test_points_that_are_not_there_change_nothing():
    digits, _ = data.load(32, seed=0)
    digits = digits[:16]
    assert not digits.mask.all()
    net = model.PointNet("T(2)", width=8).eval()
    moved = torch.where(digits.mask[..., None], digits.x, 7.0)
    junk = torch.where(digits.mask[..., None], digits.f, 7.0)
    assert torch.allclose(net(moved, junk, digits.mask), net(digits.x, digits.f, digits.mask), atol=1e-6)


def test_predictions_repeat_and_do_not_depend_on_the_batch():
    digits, _ = data.load(16, seed=0)
    digits = digits[:20]
    net = model.PointNet("SE(2)", angles=2, width=8).eval()
    assert torch.equal(train.predict(net, digits), train.predict(net, digits, batch_size=3))
