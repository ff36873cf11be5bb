"""Training steps with folded normalisation have torch's gradients, and only what can be folded is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from heeler.data.rows import Rows
from heeler.errors import HeelerError
from heeler.learn import engines, worker
from heeler.learn.backbone import load_backbone
from heeler.learn.fast_steps import FastSteps, Norm, norms_of
from heeler.learn.stages import last_groups
from heeler.learn.team import Team
from heeler.plans import Recipe
from heeler.records import ignore_events

PX = 64


class Twice(nn.Module):
    """What a convolution makes is taken by its normalisation, and by something else as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, batch: Tensor) -> Tensor:
        made: Tensor = self.conv(batch)
        return self.norm(made) + made.mean()


class Beside(Twice):
    """What a convolution makes is taken by its normalisation, and by something that takes a list."""

    def forward(self, batch: Tensor) -> Tensor:
        made: Tensor = self.conv(batch)
        return torch.cat([self.norm(made), made], 1)


class Kept(Twice):
    """What a convolution makes is an answer of the network as well."""

    def forward(self, batch: Tensor) -> Tensor:
        made: Tensor = self.conv(batch)
        self.norm(made)
        return made


class Standardised(nn.Module):
    """A convolution's weight is computed anew in each pass; its normalisation serves something else too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(3, 3, 1, 1)), nn.BatchNorm2d(3)

    def forward(self, batch: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean()
        return self.norm(torch.conv2d(batch, weight, None, (1, 1), (0, 0), (1, 1), 1)) + self.norm(batch)


class Both(nn.Module):
    """One normalisation, behind a convolution and behind nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.norm(self.conv(batch)) + self.norm(batch)


class Shared(nn.Module):
    """One convolution is used twice, before two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norms = nn.Conv2d(3, 3, 1), nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, batch: Tensor) -> Tensor:
        for norm in self.norms:
            batch = norm(self.conv(batch))
        return batch


class Before(nn.Module):
    """Normalisation comes before the convolution, or keeps no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3),
            nn.BatchNorm2d(4, track_running_stats=False),
        )  # fmt: skip

    def forward(self, batch: Tensor) -> Tensor:
        made: Tensor = self.parts(batch)
        return made


class Bare(nn.Module):
    """A convolution with a bias before a normalisation without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(inplace=True))

    def forward(self, batch: Tensor) -> Tensor:
        made: Tensor = self.parts(batch)
        return made


def lived_in(model: nn.Module) -> nn.Module:
    """A network whose normalisation has statistics and parameters unlike those it begins with."""
    chance = torch.Generator().manual_seed(5)
    for norm in (one for one in model.modules() if isinstance(one, nn.BatchNorm2d)):
        for tensor, low, high in (
            (norm.running_mean, -0.3, 0.3),
            (norm.running_var, 0.5, 2.0),
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.3, 0.3),
        ):
            if tensor is not None:
                tensor.data.uniform_(low, high, generator=chance)
    return model.eval()


def gradients(model: nn.Module, fast: bool, precision: str = "fp32") -> tuple[Tensor, dict[str, Tensor]]:
    """Answers, and the gradient of each parameter."""
    torch.manual_seed(4)
    batch = torch.randn(4, 3, PX, PX)
    folded = norms_of(model, batch[:1]) if fast else {}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        if fast:
            with FastSteps(folded):
                out = model(batch)
        else:
            out = model(batch)
    out.float().square().mean().backward()
    return out, {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "resnet18", "test_convnext"])
def test_whole_networks_have_the_gradients_of_torch(name: str) -> None:
    torch.manual_seed(3)
    model = lived_in(timm.create_model(name, num_classes=3))
    (plain_out, plain), (out, fast) = gradients(model, False), gradients(model, True)
    torch.testing.assert_close(out, plain_out, rtol=1e-3, atol=1e-4)
    assert plain.keys() == fast.keys() == {name for name, _ in model.named_parameters()}
    for key in plain:
        assert float((fast[key] - plain[key]).norm() / plain[key].norm()) < 1e-3, key


def test_in_bf16_the_gradients_are_as_near_to_the_exact_ones_as_torchs() -> None:
    torch.manual_seed(3)
    model = lived_in(timm.create_model("tf_efficientnet_lite0", num_classes=3))
    exact, plain, fast = (
        torch.cat([one.flatten() for one in gradients(model, *how)[1].values()])
        for how in ((False, "fp32"), (False, "bf16"), (True, "bf16"))
    )
    assert float((fast - exact).norm()) < 1.2 * float((plain - exact).norm())


def test_a_network_that_takes_another_way_is_not_trained_wrongly() -> None:
    model = lived_in(Bare())
    folded = norms_of(model, torch.zeros(1, 3, PX, PX))
    conv, norm = list(model.modules())[2:4]
    with pytest.raises(HeelerError, match="another way"), FastSteps(folded):
        conv(torch.zeros(1, 3, PX, PX))
    with pytest.raises(HeelerError, match="another way"), FastSteps(folded):
        nn.BatchNorm2d(8).eval()(conv(torch.zeros(1, 3, PX, PX)))
    with FastSteps(folded):
        norm(conv(torch.zeros(1, 3, PX, PX)))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "resnet18"])
def test_every_normalisation_behind_a_convolution_is_folded(name: str) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    n_norms = sum(isinstance(one, nn.BatchNorm2d) for one in model.modules())
    assert len(norms_of(model, torch.zeros(1, 3, PX, PX))) == n_norms > 10


@pytest.mark.parametrize(
    ("make", "n"),
    [(Twice, 0), (Beside, 0), (Kept, 0), (Standardised, 0), (Both, 1), (Shared, 0), (Before, 0), (Bare, 1)],
)
def test_only_what_can_be_folded_is(make: Callable[[], nn.Module], n: int) -> None:
    torch.manual_seed(3)
    model = lived_in(make())
    assert len(norms_of(model, torch.zeros(1, 3, PX, PX))) == n
    (plain_out, plain), (out, fast) = gradients(model, False), gradients(model, True)
    torch.testing.assert_close(out, plain_out, rtol=1e-4, atol=1e-5)
    for key in plain:
        torch.testing.assert_close(fast[key], plain[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("last_views", [0, 1])
@pytest.mark.parametrize("learns_norms", [False, True])
def test_a_worker_folds_what_keeps_its_statistics(
    last_views: int, learns_norms: bool, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    from accelerate import Accelerator

    n_folded: list[int] = []

    class Spy(FastSteps):
        def __init__(self, folded: Mapping[int, Norm]) -> None:
            n_folded.append(len(folded))
            super().__init__(folded)

    monkeypatch.setattr(worker, "FastSteps", Spy)
    # Whichever engine is faster just now, both gradients are of the same activations.
    monkeypatch.setattr(engines, "_timed", lambda engine, sample: engine)
    backbone = load_backbone("tf_efficientnet_lite0", image_px=PX)
    squares = np.random.default_rng(0).integers(0, 255, (8, PX, PX, 3), np.uint8)
    places = np.arange(len(squares))
    rows = Rows((squares,), np.zeros(len(squares), np.int64), places, ())

    def gradient(folds: bool) -> Tensor:
        torch.manual_seed(6)
        model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
        lived_in(model)
        recipe = Recipe(last_stages=2, last_views=last_views, augment="none")
        accelerator, labels = (
            Accelerator(mixed_precision=worker.training_precision()),
            torch.zeros(len(squares), dtype=torch.int64),
        )
        one = worker.Worker(accelerator, Team(), model, rows, labels, backbone.spec, recipe, ignore_events)
        if last_views:
            one.divide(places, places[:0], float("inf"))
        if not folds:
            one._folded = {}
        parameters = last_groups(model, 2) if last_views else [list(model.parameters())]
        one.begin(parameters, learns_norms=learns_norms)
        one.gradient(places, 1)
        one.close()
        return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    plain, fast = gradient(False), gradient(True)
    # Before its first step, a worker measures what one keeps.
    assert n_folded == [49, 0, 49, 0 if learns_norms else 49]
    limit = 1e-3 if worker.training_precision() == "no" else 0.25  # bf16 has eight bits, and there are 50 layers
    assert float((fast - plain).norm()) < limit * float(plain.norm())
