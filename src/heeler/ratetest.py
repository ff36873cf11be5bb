"""The learning-rate range test on a run's photos, from where its tuning began."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from heeler.clock import Clock
from heeler.data.catalogue import thin_catalogue
from heeler.learn.backbone import with_head
from heeler.learn.plan import MIN_OF_CLASS
from heeler.learn.rates import RateRange, rate_range
from heeler.photos import list_files, read_and_split
from heeler.planning import look_of, tuning_recipe
from heeler.plans import Setting
from heeler.records import OnEvent
from heeler.runs import asked_of, saved_plan
from heeler.train import all_features, probe_candidate

# Of each photo, where the last stages alone are trained: the first photo as it is, then as training varies it.
N_VIEWS = 2


def try_rates(run: Path, setting: Setting, n_steps: int, batch_size: int | None, on_event: OnEvent) -> RateRange:
    """Try rising learning rates on the photos and the layers that a run tuned; nothing of the run is changed.

    Pixels and features come from the cache, where the run left them.

    Args:
        run: its folder.
        setting: network and preprocessing.
        n_steps: training steps.
        batch_size: photos of a step; None is the run's own.
        on_event: told of stages and progress.

    Raises:
        UsageError: the photos are not where they were.
    """
    source, options = asked_of(run)
    clock = Clock(on_event)
    catalogue = list_files(source, options, clock)
    plan = saved_plan(run)
    if plan and plan.n_read < plan.n_found:
        catalogue = thin_catalogue(catalogue, plan.n_read, MIN_OF_CLASS, options.seed)
    with clock.stage("load backbone", unit=""):
        look = look_of(setting, options)
    photos = read_and_split(catalogue, look.spec, options, clock)
    features, _ = all_features(photos, look, clock)
    _, fitted = probe_candidate(photos, look, features, options, clock)
    start = with_head(look.backbone, fitted.head)
    recipe, _ = tuning_recipe(photos, look, start, plan, options, clock)
    n_views = 0 if recipe.last_s else min(N_VIEWS, recipe.last_views)  # all layers have more of the time
    recipe = replace(recipe, batch_size=batch_size or recipe.batch_size, last_views=n_views)
    rows, labels, train = photos.pixels.rows, photos.labels, photos.split.train
    with clock.stage("try rates", total=n_steps, unit="steps") as tell:
        return rate_range(start, rows, labels, train, look.spec, recipe, n_steps, tell)
