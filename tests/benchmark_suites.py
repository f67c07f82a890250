"""Tiny suites that the tests of the benchmarks run."""

from dataclasses import replace

from benchmarks import engine, group_conv2d, machine, point_conv, timing

Case, PointCase = group_conv2d.Case, point_conv.Case
TINY = Case(
    "tiny", "no network", False, batch=2, inputs=3, outputs=2, nv=3, nu=2, kernel=3, hidden=4, height=5, width=6
)
IMAGES = (
    TINY,
    replace(TINY, batch=1, bias=True),
    replace(TINY, per_example=True),
    replace(TINY, kernel=7, height=7, width=7, padding="valid"),
    replace(TINY, kernel=7, height=7, width=7, padding="valid", per_example=True),
    replace(TINY, kernel=1, hidden=1),
    replace(TINY, inputs=1, nv=1, kernel=5, needs=("phi", "weight")),
)
CLOUD = PointCase("T(3)", "no network", batch=2, nv=7, nu=5, inputs=3, outputs=4, hidden=6)
POINTS = (
    CLOUD,
    replace(CLOUD, batch=1, needs=("f", "weight")),
    replace(CLOUD, neighbors=3),
    replace(CLOUD, depthwise=True, outputs=3),
    replace(CLOUD, group="SE(2)", activation="silu"),
    replace(CLOUD, group="SE(2)", shared=True),
    replace(CLOUD, group="SE(2)", shared=True, depthwise=True, outputs=3),
    replace(CLOUD, group="SE(2)", neighbors=3),
    replace(CLOUD, group="SE(3)"),
    replace(CLOUD, group="SE(3)", neighbors=3, depthwise=True, outputs=3, activation="silu"),
)
SUITES = (replace(group_conv2d.SUITE, cases=IMAGES), replace(point_conv.SUITE, cases=POINTS))
NAMES = [suite.name for suite in SUITES]
QUICK = engine.Settings(rounds=2, baselines="materialised,factored,disc", memory=False)


def with_wrong_baseline(suite, function):
    """The suite whose first baseline is another function, made from its own."""
    first, *others = suite.baselines
    return replace(suite, baselines=(replace(first, make=lambda: function(first.make())), *others))


def command(monkeypatch):
    """The command on a tiny table, with samples too short to mean anything."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(machine, "PROBE_MILLISECONDS", 1)

    def run(*arguments, suite=SUITES[0]):
        first = suite.baselines[0].name
        return engine.main(suite, ["--rounds", "1", "--no-memory", "--baselines", first, *arguments])

    return run
