"""A finished run in Python: its scores, plots, model and report, in the process that made it or in another."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heeler.errors import UsageError
from heeler.evidence import (
    Judged,
    read_history,
    read_judged,
    read_manifest,
    setting_of,
    squares_of,
)
from heeler.fixes import Fix, read_fixes
from heeler.judge.scores import score, scores_from_json
from heeler.keywords import optional_path, require_number
from heeler.notebook import framed_page, progress, shown
from heeler.records import RunResult, Scores
from heeler.terminal import headline

if TYPE_CHECKING:
    from heeler.judge.plots import Chart
    from heeler.ship.predict import Classifier

__all__ = ["RateTest", "Report", "Run", "open_run"]

# Of ``result.json``, as it is; paths are those of the folder that is opened, and scores are in the model's own file.
TOLD = (
    "chosen", "n_train", "n_valid", "n_test", "temperature", "seconds", "rates_per_s", "planned_s", "flaws",
    "n_test_changed",
)  # fmt: skip


def open_run(run: str | os.PathLike[str]) -> Run:
    """Open the folder of a run that ended, in this process or another: everything that ``heeler.train`` returned.

    Args:
        run: such as ``runs/photos-1``.

    Raises:
        UsageError: the folder holds no finished run.

    Example:
        >>> import heeler
        >>> heeler.open_run("runs/photos-1").classes
        ('cat', 'coffee', 'person', 'rocket')
    """
    folder = optional_path("run", run) or Path()
    manifest = read_manifest(folder)
    try:
        told = json.loads((folder / "result.json").read_bytes())
        result = RunResult(
            run=folder,
            model=folder / "model",
            report=folder / "report.html",
            predictions=folder / "predictions.csv",
            scores=scores_from_json(manifest["scores"]),
            classes=tuple(told["classes"]),
            notes=tuple(told["notes"]),
            **{name: told[name] for name in TOLD},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder / 'result.json'} cannot be read: {type(error).__name__} {error}",
            hint="copy the whole run again, or train again",
        ) from error
    return Run(result)


@dataclass(frozen=True)
class Report:
    """The report of a run: shows itself in a notebook, in a frame that reaches nothing around it; elsewhere a path."""

    path: Path

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        return framed_page(self.path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class RateTest:
    """How the loss went as the learning rate rose; counts as the suggested rate where a number is wanted.

    Args:
        suggestion: rate of the head to train with: pass it, or this, as ``lr``.
        rates: of the head, at each step.
        losses: of each step's batch, in nats.
        figure: both drawn.
    """

    suggestion: float
    rates: tuple[float, ...] = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    figure: Chart = field(repr=False)

    def __float__(self) -> float:
        return self.suggestion


@dataclass(frozen=True, repr=False)
class Run:
    """A finished training; ``heeler.train`` makes one, and ``heeler.open_run`` opens one that was made before.

    Args:
        result: what was made and how it went.

    Example:
        >>> import heeler
        >>> run = heeler.open_run("runs/photos-1")
        >>> run.error == run.scores.error, run.interval == run.scores.interval
        (True, True)
        >>> run.model.predict("photos/cat/0.jpg")[0].label
        'cat'
        >>> str(run.report)
        'runs/photos-1/report.html'
    """

    result: RunResult

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {headline(self.result)})"

    def _repr_html_(self) -> str:
        places = "".join(
            f"<tr><td style='text-align:left'>{name}</td><td style='text-align:left'>"
            f"<code>{escape(str(getattr(self.result, name)))}</code></td></tr>"
            for name in ("model", "report", "predictions")
        )
        return f"<p><b>{escape(headline(self.result))}</b></p><table>{places}</table>"

    @property
    def folder(self) -> Path:
        """Where everything that the run made lies."""
        return self.result.run

    @property
    def scores(self) -> Scores:
        """How good the model is on photos that it did not learn from."""
        return self.result.scores

    @property
    def error(self) -> float:
        """Share of those photos that it got wrong, in [0, 1]."""
        return self.scores.error

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the error, (low, high)."""
        return self.scores.interval

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.result.classes

    @cached_property
    def model(self) -> Classifier:
        """The model, which is opened and checked when it is first asked for."""
        from heeler.ship.predict import load

        return load(self.result.model)

    @property
    def report(self) -> Report:
        """The page for people; the last line of a notebook's cell shows it."""
        return Report(self.result.report)

    @cached_property
    def judged(self) -> Judged:
        """The photos that the scores are of: names, labels (N,) and probabilities (N, K)."""
        return read_judged(self.result)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One mapping for each time that tuning was judged: epoch, losses in nats, errors in [0, 1]."""
        return read_history(self.folder)

    @property
    def fixes(self) -> list[Fix]:
        """What seems wrong with photos and labels, a row for each problem; ``heeler fix`` decides about them.

        Example:
            >>> import heeler
            >>> heeler.open_run("runs/photos-1").fixes
            []
        """
        return read_fixes(self.folder / "fixes.csv")

    def show_results(self, n: int = 9, *, seed: int = 0) -> Chart:
        """Show some of the judged photos with the given class above the predicted one.

        Args:
            n: how many, 1 to 100.
            seed: another one shows others.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            DataError: the photos are neither in the cache nor where they were.

        Example:
            >>> import heeler
            >>> heeler.open_run("runs/photos-1").show_results(4).savefig("results.png")
        """
        require_number("n", n, whole=True, limits=(1, 100))
        from heeler.judge.plots import plot_results

        judged, classes = self.judged, self.classes
        n_photos = len(judged.paths)
        rows = np.sort(np.random.default_rng(seed).permutation(n_photos)[: int(n)])
        shares = judged.probabilities[rows]
        chart = plot_results(
            squares_of(self.folder, [judged.paths[row] for row in rows]),
            [classes[k] for k in judged.labels[rows]],
            [classes[k] for k in shares.argmax(1)],
            shares.max(1).tolist(),
            f"given, predicted: {len(rows):,} of {n_photos:,} photos",
        )
        return shown(chart)

    def plot_top_losses(self, n: int = 9) -> Chart:
        """Show the photos that the model got most wrong, worst first.

        Args:
            n: how many, 1 to 100.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            DataError: the photos are neither in the cache nor where they were.

        Example:
            >>> import heeler
            >>> heeler.open_run("runs/photos-1").plot_top_losses(4).savefig("worst.png")
        """
        require_number("n", n, whole=True, limits=(1, 100))
        from heeler.judge.plots import plot_top_losses

        judged = self.judged
        found = score(judged.probabilities, judged.labels, self.classes, judged.paths, n_top_losses=int(n))
        worst = found.top_losses
        chart = plot_top_losses(
            squares_of(self.folder, [loss.path for loss in worst]),
            [loss.given for loss in worst],
            [loss.predicted for loss in worst],
            [loss.probability for loss in worst],
            [loss.loss for loss in worst],
            f"given, predicted: the worst of {len(judged.paths):,} photos",
        )
        return shown(chart)

    def plot_confusion_matrix(self, *, normalize: bool = False) -> Chart:
        """Show which classes are taken for which: rows given, columns predicted.

        Args:
            normalize: print per cent of the row, and not counts.

        Returns:
            A matplotlib figure, which a notebook shows.

        Example:
            >>> import heeler
            >>> heeler.open_run("runs/photos-1").plot_confusion_matrix().savefig("matrix.png")
        """
        from heeler.judge.plots import plot_confusion_matrix

        return shown(plot_confusion_matrix(self.scores.confusion, self.classes, normalize=normalize))

    def plot_curves(self) -> Chart:
        """Show losses and errors as tuning went on; where the last layer alone was fitted, there are none.

        Returns:
            A matplotlib figure, which a notebook shows.

        Example:
            >>> import heeler
            >>> heeler.open_run("runs/photos-1").plot_curves().savefig("curves.png")
        """
        from heeler.judge.plots import plot_curves

        return shown(plot_curves(self.history))

    def plot_reliability(self) -> Chart:
        """Show whether the model is right as often as it says; on the diagonal it is.

        Returns:
            A matplotlib figure, which a notebook shows.

        Example:
            >>> import heeler
            >>> heeler.open_run("runs/photos-1").plot_reliability().savefig("reliability.png")
        """
        from heeler.judge.plots import plot_reliability

        return shown(plot_reliability(self.judged.probabilities, self.judged.labels))

    def find_lr(self, n_steps: int = 100, *, batch_size: int | None = None, quiet: bool = False) -> RateTest:
        """Find a learning rate: train a copy for some steps while the rate rises, and see where the loss falls.

        This is the range test of Smith (2017), on the photos that the run learnt from and on the layers that it tuned
        (all, where it tuned none), from where tuning begins. The run itself is not changed.

        Args:
            n_steps: how many steps, 10 to 10,000; a test ends sooner where the loss has doubled.
            batch_size: photos of a step; the run's own where None.
            quiet: show no progress.

        Returns:
            The suggestion for ``heeler.train(photos, lr=...)``, a tenth of the highest rate at which the loss was near
            its lowest; the figure is shown in a notebook.

        Raises:
            UsageError: an argument does not make sense, or the photos are not where they were.
            ResourceError: the memory is too small for one photo at a time.

        Example:
            >>> import heeler
            >>> run = heeler.open_run("runs/photos-1")
            >>> 1e-7 < float(run.find_lr(10, batch_size=4, quiet=True)) < 1
            True
        """
        require_number("n_steps", n_steps, whole=True, limits=(10, 10_000))
        require_number("batch_size", batch_size, whole=True, optional=True)
        from heeler.judge.plots import plot_rates
        from heeler.ratetest import try_rates

        with progress(quiet=quiet) as tell:
            found = try_rates(self.folder, setting_of(self.folder), int(n_steps), batch_size and int(batch_size), tell)
        chart = shown(plot_rates(found.rates, found.losses, found.smooth, found.suggestion))
        return RateTest(found.suggestion, found.rates, found.losses, chart)
