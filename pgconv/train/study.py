"""``pgconv study NAME``: all runs of a study with all seeds, several at a time, and a page with their tables and plots.

Runs that have ended are not run again: the same command goes on after an end that was not planned.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pgconv._env import with_threads
from pgconv.demo.terminal import made
from pgconv.train import configs, finished, studies, study_page
from pgconv.train.progress import bar
from pgconv.train.studies import Run, Study


@dataclass(frozen=True)
class Job:
    """One seed of a run, and where it is written."""

    run: Run
    seed: int
    settings: tuple[str, ...]
    folder: Path

    @property
    def command(self) -> list[str]:
        """Of a process of its own."""
        order = [] if self.run.order is None else ["--order", self.run.order]
        return [
            sys.executable,
            "-m",
            "pgconv.train",
            self.run.name,
            *self.settings,
            "--out",
            str(self.folder),
            "--quiet",
            *order,
        ]

    @property
    def epochs(self) -> int:
        """That it takes, at most."""
        return configs.get(self.run.name).changed(self.settings).epochs

    @property
    def over(self) -> bool:
        """Whether it has ended, with these settings."""
        try:
            return finished.result(self.folder)["settings"] == list(self.settings)
        except FileNotFoundError:
            return False

    @property
    def done(self) -> int:
        """Epochs so far."""
        try:
            return len((self.folder / "epochs.csv").read_text(encoding="utf-8").splitlines()) - 1
        except FileNotFoundError:
            return 0


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, 1 where a run failed, 2 for a command that cannot be run."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="pgconv study", description=__doc__)
    parser.add_argument("study", nargs="?", help="name of a study, see --list")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="what is different in all runs, as in pgconv train"
    )
    parser.add_argument("--list", action="store_true", help="all studies and what they compare")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the study's own")
    parser.add_argument("--workers", type=int, default=min(2, cores), help="runs at a time, which share the cores (2)")
    parser.add_argument("--runs", type=Path, help="folder of the runs; runs/NAME by default")
    parser.add_argument("--out", type=Path, help="folder of the page; results/NAME by default")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    chosen = parser.parse_intermixed_args(arguments)
    if chosen.list:
        for name in studies.names():
            study = studies.get(name)
            print(f"{name}: {study.about} ({len(study.runs)} runs, seeds {', '.join(map(str, study.seeds))})")
        return 0
    if chosen.study is None or chosen.workers < 1:
        parser.error("name a study, or --list" if chosen.study is None else "--workers must be at least 1")
    try:
        study = studies.get(chosen.study)
        runs = chosen.runs or Path("runs") / study.name
        jobs = make_jobs(study, chosen.settings, chosen.seeds or study.seeds, runs)
        for option, folder in (("--runs", runs), ("--out", chosen.out)):
            if folder is not None:
                made(f"study: {option}", folder)
        todo = [job for job in jobs if not job.over]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    begin, total = time.monotonic(), sum(job.epochs for job in todo)
    with bar(not chosen.quiet, total=total, desc=study.name, unit="epoch") as line:

        def tick(ended: int) -> None:
            if line is not None:
                line.set_postfix(runs=f"{ended}/{len(todo)}", refresh=False)
                line.update(sum(job.done for job in todo) - line.n)

        failed = run_all(todo, chosen.workers, max(1, cores // chosen.workers), tick)
    if failed is not None:
        print(f"{shlex.join(failed.command)} failed, see {log(failed)}", file=sys.stderr)
        return 1
    spent = time.monotonic() - begin if len(todo) == len(jobs) else None
    out = chosen.out or Path("results") / study.name
    command = shlex.join(["pgconv", "study", *(sys.argv[1:] if arguments is None else arguments)])
    study_page.write(study, [job.folder for job in jobs], out, study_page.Circumstances(command, chosen.workers, spent))
    print((out / "README.md").read_text(encoding="utf-8"))
    return 0


def make_jobs(study: Study, settings: Iterable[str], seeds: Iterable[int], folder: Path) -> list[Job]:
    """All runs with all seeds.

    Raises:
        ValueError: for settings that a run does not know
    """
    jobs = [
        Job(run, seed, (*settings, f"seed={seed}"), folder / f"{run.title}-{seed}")
        for seed in seeds
        for run in study.runs
    ]
    for job in jobs:
        configs.get(job.run.name).changed(job.settings)
    return jobs


def run_all(jobs: list[Job], workers: int, threads: int, tick: Callable[[int], None]) -> Job | None:
    """Run them, ``workers`` at a time with ``threads`` threads each; ``tick`` is called now and then with the number that ended.

    Returns:
        the first that failed, with which the others end; None where none has
    """
    waiting, running = list(reversed(jobs)), {}
    with ExitStack() as stack:
        stack.callback(lambda: [process.kill() or process.wait() for process in running])
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop()
                job.folder.mkdir(parents=True, exist_ok=True)
                with open(log(job), "wb") as file:
                    running[subprocess.Popen(job.command, env=with_threads(threads), stdout=file, stderr=file)] = job
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                if process.returncode:
                    return job
            tick(len(jobs) - len(waiting) - len(running))
    return None


def log(job: Job) -> Path:
    """What it says."""
    return job.folder / "log.txt"


if __name__ == "__main__":
    sys.exit(main())
