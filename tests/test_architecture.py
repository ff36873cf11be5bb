"""The design's promises about the code itself, read from the syntax tree: who imports whom, sizes and names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import heeler

ROOT = Path(heeler.__file__).parent
TREES = {
    ".".join(("heeler", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(ROOT.rglob("*.py"))
}
MODULES = tuple(TREES)
ROOMS = ("data", "learn", "judge", "ship")
DOORS = ("heeler", "heeler.cli", *(module for module in MODULES if module.startswith("heeler.verbs")))
BASE = {
    f"heeler.{name}" for name in ("allocator", "collecting", "errors", "files", "fixes", "machine", "plans", "records")
}

# What each room may import beyond itself and BASE. ``learn.network`` and ``learn.memory`` belong to ``learn.engines``.
MAY_IMPORT = {
    "data": (),
    "learn": ("heeler.data",),
    "judge": (),
    "ship": (
        "heeler",
        "heeler.limits",
        "heeler.data.decode",
        "heeler.learn.backbone",
        "heeler.learn.engines",
        "heeler.learn.memory",
        "heeler.learn.network",
    ),
}
HEAVY = {"torch", "torchvision", "timm", "accelerate", "onnx", "onnxruntime", "openvino", "sklearn", "scipy"}
UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NEVER_NAMED = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("torch.save", "torch.jit.load", "np.load", "numpy.load"),
}
NEVER_ATTRIBUTES = {"extractall", "unpack_archive"}
NEVER_TORCH = (
    "allocator",
    "collecting",
    "errors",
    "files",
    "machine",
    "plans",
    "records",
    "judge.advice",
    "judge.certainty",
    "judge.charts",
    "judge.explain",
    "judge.figures",
    "judge.gallery",
    "judge.images",
    "judge.plots",
    "judge.prospects",
    "judge.quality",
    "judge.report",
    "judge.scores",
    "judge.sections",
    "judge.sheet",
    "judge.suspects",
)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """Everything below ``if TYPE_CHECKING``."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def inside_functions(tree: ast.Module) -> set[ast.AST]:
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
        if inner is not node
    }


def imports(module: str, *, at_import: bool = False) -> Iterator[str]:
    """Full names of the modules that a module imports; ``at_import`` leaves out what waits inside functions."""
    tree = TREES[module]
    skipped = type_checking_only(tree) | inside_functions(tree) if at_import else set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in TREES else node.module or ""


def ours(module: str, *, at_import: bool = False) -> set[str]:
    found = {name for name in imports(module, at_import=at_import) if name.split(".")[0] == "heeler"}
    assert found <= set(TREES), f"{module} imports what is not there: {found - set(TREES)}"
    return found


def functions(module: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(TREES[module]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def n_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def test_the_rooms_are_there() -> None:
    assert {room_of(module) for module in MODULES} == {"", *ROOMS}
    assert set(MODULES) > BASE and {"heeler.train", "heeler.cli"} < set(MODULES)


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module)])
def test_a_room_imports_only_what_it_may(module: str) -> None:
    room = room_of(module)
    allowed = (f"heeler.{room}", *MAY_IMPORT[room])
    for name in sorted(ours(module) - BASE):
        # The package itself is allowed for its version, and it alone: everything else begins with its name.
        assert any(name == each or (each != "heeler" and name.startswith(each + ".")) for each in allowed), (
            f"{module} imports {name}; {room} may import {', '.join(allowed)}"
        )


@pytest.mark.parametrize("module", sorted(BASE))
def test_what_all_import_imports_nothing_of_the_rooms(module: str) -> None:
    assert ours(module) <= BASE


def test_train_alone_sees_all_rooms() -> None:
    seen = {
        module: {room_of(name) for name in ours(module)} - {""}
        for module in MODULES
        if not room_of(module) and module not in DOORS
    }
    assert seen.pop("heeler.train") == set(ROOMS)
    # Short stories of their own: to plan is to try networks on photos, to preview is to show what they are fed.
    assert seen.pop("heeler.planning") == {"data", "learn"}
    # What the report shows is answers that were judged, and the network that gave them.
    assert seen.pop("heeler.reporting") == {"learn", "judge"}
    # Another process of the same run: it reads the photos and tunes.
    assert seen.pop("heeler.follow") == {"data", "learn"}
    assert seen.pop("heeler.preview") == {"data", "learn", "judge"}
    # A run in Python is its figures and its model.
    assert seen.pop("heeler.run") == {"judge", "ship"}
    # A model that is served: its engine, its answers, and where it looked.
    assert seen.pop("heeler.serving") == {"learn", "judge", "ship"}
    # Training again for a few steps, on the photos of a run; and the last layer alone, in scikit-learn's terms.
    assert seen.pop("heeler.ratetest") == {"data", "learn"}
    assert seen.pop("heeler.estimator") == {"data", "learn", "judge"}
    # The first half of a training and what it shows of the photos: it splits into folds, and fits a head out of fold.
    assert seen.pop("heeler.deep") == {"data", "learn"}
    # What is wrong with photos: their copies are the data's to tell, the rest is a judgement.
    assert seen.pop("heeler.flaws") == {"data", "judge"}
    # An export is proved: what it costs is a judgement.
    assert seen.pop("heeler.exporting") == {"judge", "ship"}
    assert {module: rooms for module, rooms in seen.items() if len(rooms) > 1} == {}


@pytest.mark.parametrize("module", DOORS)
def test_the_doors_import_inside_functions(module: str) -> None:
    assert ours(module, at_import=True) <= BASE | {"heeler.options", "heeler.exits", *DOORS}
    assert HEAVY.isdisjoint(name.split(".")[0] for name in imports(module))


def test_imports_run_in_no_circle() -> None:
    waiting = {module: ours(module, at_import=True) - {module, "heeler"} for module in MODULES}
    while ready := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in ready:
            del waiting[module]
    assert waiting == {}


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) != "learn"])
def test_torch_is_imported_at_the_top_in_learn_alone(module: str) -> None:
    heavy = HEAVY & {name.split(".")[0] for name in imports(module, at_import=True)}
    # An estimator is built on scikit-learn's; the module is loaded when its class is first asked for.
    assert heavy == ({"sklearn"} if module == "heeler.estimator" else set())


@pytest.mark.parametrize("name", NEVER_TORCH)
def test_scores_and_reports_never_import_torch(name: str) -> None:
    module = f"heeler.{name}"
    if module not in TREES:
        pytest.skip(f"{module} is not written yet")
    assert {"torch", "torchvision", "timm"}.isdisjoint(name.split(".")[0] for name in imports(module))


LISTS_LOADED = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
heavy = ("torch", "timm", "onnxruntime", "sklearn", "matplotlib.pyplot")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def loaded_by(*modules: str) -> list[str]:
    command = [sys.executable, "-c", LISTS_LOADED, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_importing_heeler_loads_no_torch() -> None:
    assert loaded_by("heeler", "heeler.cli") == []


def test_importing_what_does_not_learn_loads_no_torch() -> None:
    light = [module for module in MODULES if room_of(module) in ("data", "judge") or module in BASE]
    assert (
        loaded_by(*light, "heeler.check", "heeler.doctor", "heeler.flaws", "heeler.terminal", "heeler.ship.rows") == []
    )


def run_here(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_are_sorted_and_there() -> None:
    assert heeler.__all__ == sorted(set(heeler.__all__))
    code = (
        "import heeler\nfor name in heeler.__all__: getattr(heeler, name)\nprint(sorted(heeler.__all__) == dir(heeler))"
    )
    assert run_here(code) == "True\n"
    assert (
        run_here("from heeler import *\nprint(callable(train), callable(load), callable(check))") == "True True True\n"
    )


@pytest.mark.parametrize("first", ["heeler.check", "heeler.load", "heeler.train", "import_module('heeler.train')",
                                   "import_module('heeler.check')"])  # fmt: skip
def test_the_public_functions_are_functions_in_any_order(first: str) -> None:
    code = f"import heeler\nfrom importlib import import_module\n{first}\n"
    assert (
        run_here(code + "print([callable(f) for f in (heeler.train, heeler.check, heeler.load)])")
        == "[True, True, True]\n"
    )


def test_a_public_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = heeler.nothing


def forbidden_calls(tree: ast.Module) -> list[str]:
    """What a tree does that runs text as code, starts a shell, or unpacks an archive without looking."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = ast.unparse(node)
            # Also where it is only named: ``run = eval`` calls it later.
            if name in NEVER_NAMED or (isinstance(node, ast.Attribute) and node.attr in NEVER_ATTRIBUTES):
                found.append(name)
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            found.append(f"shell={ast.unparse(node.value)}")
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += sorted(names & NEVER_NAMED)
    return found


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "exec(x)",
        "run = eval",
        "builtins.eval(x)",
        "os.system(x)",
        "from os import system",
        "os.popen(x)",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=flag)",
        "subprocess.getoutput(x)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(x)",
        "np.load(x)",
        "torch.save(x, y)",
        "torch.jit.load(x)",
    ],
)
def test_what_is_forbidden_is_seen(code: str) -> None:
    assert len(forbidden_calls(ast.parse(code))) == 1


def test_what_only_sounds_forbidden_is_allowed() -> None:
    fine = "model.eval()\nfile.extract(entry, folder)\nsubprocess.run([x])\nre.compile(x)\njson.load(x)"
    assert forbidden_calls(ast.parse(fine)) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_pickle_and_no_star(module: str) -> None:
    tree = TREES[module]
    assert UNSAFE.isdisjoint(part for name in imports(module) for part in name.split("."))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "*" not in names
    assert forbidden_calls(tree) == []
    if module != "heeler.learn.backbone":
        assert "torch.load" not in ast.unparse(tree)
        from_torch = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "torch"]
        assert all(alias.name != "load" for node in from_torch for alias in node.names)


def test_the_one_torch_load_reads_weights_alone() -> None:
    calls = [node for node in ast.walk(TREES["heeler.learn.backbone"]) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert len(loads) == 1
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in loads[0].keywords}
    assert options.get("weights_only") == "True"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


def test_functions_are_short() -> None:
    sizes = {f"{module}.{each.name}": n_lines(each) for module in MODULES for each in functions(module)}
    assert {name: size for name, size in sizes.items() if size > 60} == {}
    assert sum(size <= 45 for size in sizes.values()) >= 0.9 * len(sizes)


def test_nothing_is_named_for_what_it_is_not() -> None:
    vague = re.compile(r"(^|_)(utils?|helpers?|misc|common)(_|$)")
    names = [part for module in MODULES for part in module.split(".")]
    names += [each.name for module in MODULES for each in functions(module)]
    names += [node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [name for name in names if vague.search(name.lower())] == []


def test_no_class_is_built_on_a_class_of_ours_but_the_errors() -> None:
    classes = {
        node.name: (module, [ast.unparse(base).split(".")[-1] for base in node.bases])
        for module in MODULES
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.ClassDef)
    }
    for name, (module, bases) in classes.items():
        assert len(bases) <= 1, f"{module}.{name} has {len(bases)} bases"
        if module != "heeler.errors":
            assert not set(bases) & classes.keys(), f"{module}.{name} is built on {bases[0]}"


def is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        made = ast.unparse(value.func).split(".")[-1]
        return made in ("list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict")
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


MUTATORS = {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}


@pytest.mark.parametrize("module", MODULES)
def test_tables_at_the_top_are_constants_that_nothing_changes(module: str) -> None:
    for node in TREES[module].body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for name in map(ast.unparse, targets):
            constant = name == "__all__" or re.fullmatch(r"_?[A-Z][A-Z0-9_]*", name)
            assert constant or not is_mutable(node.value), f"{module}.{name} is mutable and no constant"  # type: ignore[attr-defined]
    for node in ast.walk(TREES[module]):
        assert not isinstance(node, ast.Global), f"{module} changes a global"
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            changed = ast.unparse(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            changed = ast.unparse(node.func.value)
        else:
            continue
        assert not re.fullmatch(r"(\w+\.)?_?[A-Z][A-Z0-9_]{2,}", changed), f"{module} changes {changed}"


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_does_nothing_but_define(module: str) -> None:
    for node in TREES[module].body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{module}:{node.lineno} runs at import"
        elif isinstance(node, ast.If):
            assert ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"), f"{module}:{node.lineno}"
        else:
            defines = ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef
            defines |= ast.AsyncFunctionDef
            assert isinstance(node, defines), f"{module}:{node.lineno} runs at import"


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()


def test_the_readme_has_a_line_for_each_module() -> None:
    readme = (ROOT.parent.parent / "README.md").read_text()
    modules = [path for path in ROOT.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(modules) > 100
    assert [path.name for path in modules if not re.search(rf"\b{re.escape(path.name)}\b", readme)] == []
