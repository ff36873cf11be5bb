"""timm without torch's compiler: not set up where nobody compiles, and as it comes where somebody does."""

from __future__ import annotations

import subprocess
import sys


def answer_of(code: str) -> str:
    """What a process of its own prints last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.splitlines()[-1]


def test_making_and_using_a_network_sets_no_compiler_up() -> None:
    code = """
import sys, numpy as np
from heeler.learn.backbone import load_backbone
from heeler.learn.engines import torch_engine
from heeler.learn.network import LogitNet
look = load_backbone("tf_efficientnet_lite0")
torch_engine(LogitNet(look.model, look.spec), "cpu", "fp32").forward(np.zeros((1, 64, 64, 3), np.uint8))
print(sys.modules["timm"].is_model("resnet18"), [name for name in sys.modules if name.startswith("torch._dynamo")])
"""
    assert answer_of(code) == "True []"


def test_what_was_put_off_works_when_somebody_asks() -> None:
    code = """
import torch
disable = torch.compiler.disable
from heeler.learn.lean_timm import import_timm
timm = import_timm()
from torchvision.ops import roi_align
corners = torch.tensor([[0, 0, 0, 4, 4.0]])
pooled = roi_align(torch.ones(1, 1, 8, 8), corners, 1).item()
model = timm.create_model("naflexvit_base_patch16_gap", num_classes=3, embed_dim=48, depth=1, num_heads=3).eval()
photo = torch.rand(1, 3, 64, 64)
with torch.inference_mode():
    whole, compiled = model(photo), torch.compile(model, backend="eager")(photo)
import torch._dynamo.utils
near = torch.allclose(whole, compiled, atol=1e-5)
print(pooled == 1, near, torch.compiler.disable is disable, hasattr(torch._dynamo.utils, "counters"))
"""
    assert answer_of(code) == "True True True True"


def test_a_release_that_asks_for_more_is_imported_as_it_comes() -> None:
    code = """
import torch
from heeler.learn import lean_timm
lean_timm._part = lambda: __import__("types").ModuleType(lean_timm.PART)
timm = lean_timm.import_timm()
import sys
print(timm.is_model("resnet18"), "torch._dynamo" in sys.modules)
"""
    assert answer_of(code) == "True True"


def test_a_method_that_is_not_to_be_compiled_runs_uncompiled() -> None:
    code = """
import torch
from heeler.learn.lean_timm import _disabled_later

@_disabled_later
def seen(x):
    return x + 1 if not torch.compiler.is_compiling() else x

def whole(x):
    return seen(x * 2) * 3

graphs = []
def backend(graph, _):
    graphs.append(graph)
    return graph.forward
print(seen.__name__, torch.compile(whole, backend=backend)(torch.ones(2)).tolist(), len(graphs))
"""
    assert answer_of(code) == "seen [9.0, 9.0] 2"
