"""Fine-tune Lite0 on a GPU: twice, stopped and resumed, and with too little memory; prints one JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heeler.data.rows import RowStore
from heeler.learn.backbone import load_backbone
from heeler.learn.tune import fine_tune
from heeler.plans import Recipe
from heeler.records import Event, Note, Preprocessing

N_PHOTOS, N_VALID, SIDE_PX = 150, 30, 128
# An epoch is two batches of 60 photos.
RECIPE = Recipe(epochs=2, frozen_epochs=1, lr=1e-3, ema_decay=0.9)
MEMORY_BYTES = 800_000_000


def main(work: Path) -> None:
    """All runs, one after the other in this process: a GPU takes seconds to start."""
    chance = np.random.default_rng(0)
    store, names = RowStore(work / "rows", (SIDE_PX, SIDE_PX, 3), "uint8"), [str(i) for i in range(N_PHOTOS)]
    with store.writer() as writer:
        writer.append(names, chance.integers(0, 256, (N_PHOTOS, SIDE_PX, SIDE_PX, 3), dtype=np.uint8))
    rows, labels = store.view(names), chance.integers(0, 3, N_PHOTOS)
    backbone = load_backbone("tf_efficientnet_lite0", image_px=SIDE_PX)
    network, spec = backbone.model, backbone.spec
    network.reset_classifier(3)
    torch.nn.init.normal_(network.get_classifier().weight, std=0.01)
    events: list[Event] = []

    def tune(**options: Any) -> Any:
        return _tune(network, rows, labels, spec, events, **options)

    whole, again = tune(), tune()
    n_asked: list[int] = []

    def stop() -> bool:
        n_asked.append(1)
        return len(n_asked) == 5

    tune(folder=work / "kept", stop=stop)
    resumed = tune(folder=work / "kept", resume=True)
    device = next(network.parameters()).device
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(MEMORY_BYTES / torch.cuda.get_device_properties(0).total_memory)
    events.clear()
    short = tune()
    answer = {
        "start_stays_on": str(device),
        "again": _is_same(whole, again),
        "resumed": _is_same(whole, resumed),
        "losses": [epoch.valid_loss for epoch in whole.history],
        "short_losses": [epoch.valid_loss for epoch in short.history],
        "notes": [event.text for event in events if isinstance(event, Note)],
    }
    print(json.dumps(answer))


def _tune(network: Any, rows: Any, labels: Any, spec: Preprocessing, events: list[Event], **options: Any) -> Any:
    train, valid = np.arange(N_VALID, N_PHOTOS), np.arange(N_VALID)
    return fine_tune(network, rows, labels, train, valid, spec, RECIPE, events.append, **options)


def _is_same(one: Any, other: Any) -> bool:
    states = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
