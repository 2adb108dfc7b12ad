"""What imports what: the order of the package's layers, and that heavy packages wait until they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pctransformer.cli import COMMANDS

PACKAGE = Path(__file__).parents[2] / "pctransformer"
HEAVY = {"spconv", "open3d", "torch_scatter", "h5py", "trimesh", "matplotlib"}

NOUNS = {"points", "voxels", "boxes"}
TENSORS = {"ops", *NOUNS}
VIEWS = {"layers", *TENSORS}
MODELS = {"point_view", "grid_view", "heads", "atomic", "errors", *VIEWS}
AROUND = {"datasets", "evaluation", "visualization", "atomic", "errors", *TENSORS}
PREDICTORS = {"predict_classes", "predict_parts", "predict_scenes", "predict_boxes"}
MAY_IMPORT = {
    "errors": set(),
    "atomic": set(),
    "ops": set(),
    **{noun: {"ops", *NOUNS} for noun in NOUNS},
    "layers": {"errors", *TENSORS},
    # the two views and the heads do not know each other
    "point_view": VIEWS,
    "grid_view": VIEWS,
    "heads": VIEWS,
    "models": MODELS,
    "datasets": {"atomic", "errors", *TENSORS},
    "evaluation": {"datasets", "errors", *TENSORS},
    "visualization": {"atomic", "datasets", "evaluation", "errors", "layers", *TENSORS},
    "training": {"models", *MODELS, *AROUND},
    "predict": {"models", "training", *PREDICTORS, *MODELS, *AROUND},
    "predict_clouds": {"models", "training", *MODELS, *AROUND},
    "predict_classes": {"models", "training", "predict_clouds", *MODELS, *AROUND},
    "predict_parts": {"models", "training", "predict_clouds", *MODELS, *AROUND},
    "predict_scenes": {"models", "training", *MODELS, *AROUND},
    "predict_boxes": {"models", "training", *MODELS, *AROUND},
    "demo": {"models", "training", "predict", *MODELS, *AROUND},
    "commands": {"models", "training", "predict", *PREDICTORS, *MODELS, *AROUND},
    "cli": {"errors"},  # commands are imported by name when they are called
    "__main__": {"cli"},
}
"""Part of the package -> the other parts it may import. A new part gets its line here."""


def waits(node: ast.AST) -> bool:
    """Whether what stands below a node is not executed when its file is imported."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def imports(tree: ast.AST, *, at_import_only: bool = False) -> Iterator[str]:
    """Full names of all modules that a file imports; `from a import b` counts as a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute in this package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (at_import_only and waits(node)):
            yield from imports(node, at_import_only=at_import_only)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers_import_downwards_only(path):
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
    names = (name.split(".") for name in imports(ast.parse(path.read_text())))
    used = {name[1] for name in names if name[0] == "pctransformer" and len(name) > 1}
    parts = {part_of(file) for file in FILES}
    assert (used & parts) - {part} <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_they_are_used(path):
    at_import = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), at_import_only=True)}
    assert at_import & HEAVY == set()


def test_the_reader_of_imports_sees_them():
    tree = ast.parse("import a.b\nif c:\n    from d import e\ndef f():\n    import g\nif TYPE_CHECKING:\n    import h")
    assert list(imports(tree)) == ["a.b", "d.e", "g", "h"]
    assert list(imports(tree, at_import_only=True)) == ["a.b", "d.e"]


def loaded_by(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a fresh Python."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in result.stdout.splitlines()[-1].split()}


def test_the_package_and_its_operators_load_nothing_heavy():
    assert loaded_by("import pctransformer") & {"torch", "numpy", *HEAVY} == set()
    loaded = loaded_by("import pctransformer; pctransformer.PointBatch")
    assert "torch" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_needs_no_torch(name):
    code = f"""import pctransformer.cli
try:
    pctransformer.cli.main({[*name.split(), "--help"]})
except SystemExit:
    pass"""
    assert loaded_by(code) & {"torch", *HEAVY} == set()


def test_help_needs_no_torch_and_is_quick(capsys):
    assert (
        loaded_by("import pctransformer.cli; pctransformer.cli.main(['--help'])") & {"torch", "tyro", *HEAVY} == set()
    )
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pctransformer", "--help"], check=True, stdout=subprocess.DEVNULL)
    with capsys.disabled():
        print(f"\npctransformer --help: {time.perf_counter() - begin:.2f} s")
