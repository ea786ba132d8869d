"""The shape of the house: which package may import which, and what every public name owes its readers."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("garden", "training", "serving")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ENTRY_POINTS = {
    Path("garden/cli.py"),
    Path("garden/corpus_commands.py"),
    Path("garden/launch_commands.py"),
}  # may import anything, but not before a command needs it
# Methods that Keras defines: they have docstrings only where there is more to say.
KERAS = {"build", "call", "get_config", "from_config", "train_step", "test_step", "predict_step", "update_step"}
# Each part of garden, and the parts of it that it may import.
ARROWS = {
    "layers": {"layers", "checkpoints"},
    "tokenizers": {"tokenizers", "checkpoints"},
    "checkpoints": {"checkpoints"},
    "models": {"layers", "checkpoints", "models"},
    "tasks": {"layers", "tokenizers", "checkpoints", "models", "tasks"},
    "generation": {"layers", "tokenizers", "checkpoints", "models", "generation"},
    "analysis": {"layers", "tokenizers", "checkpoints", "models", "tasks", "generation", "analysis"},
}


def name_of(path: Path) -> str:
    """The module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """The modules that a file imports; with `lazy=False` only those that importing the file imports."""
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where a name comes from"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_type_checking(node)
        if lazy or not inside:
            for child in ast.iter_child_nodes(node):
                visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


def test_there_is_something_to_check():
    assert len(FILES) > 30
    assert {"garden.layers.attention"} <= imports(ROOT / "garden/layers/blocks.py")


@pytest.mark.parametrize("path", [path for path in FILES if path.is_relative_to(ROOT / "garden")], ids=name_of)
def test_garden_knows_nothing_of_training_and_serving(path):
    lazily = path.relative_to(ROOT) in ENTRY_POINTS
    for module in imports(path, lazy=not lazily):
        assert module.split(".")[0] not in ("training", "serving"), f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.is_relative_to(ROOT / "serving")], ids=name_of)
def test_serving_does_not_train(path):
    assert not {module for module in imports(path) if module.split(".")[0] == "training"}


def test_the_server_and_its_client_know_saved_models_only():
    for path in [*(ROOT / "serving/server").rglob("*.py"), ROOT / "serving/client.py", ROOT / "serving/reload.py"]:
        assert not {module for module in imports(path) if module.split(".")[0] in ("garden", "training")}, path


@pytest.mark.parametrize("part", ARROWS)
def test_arrows_point_one_way(part):
    for path in (ROOT / "garden" / part).rglob("*.py"):
        for module in imports(path):
            if module.startswith("garden."):
                assert module.split(".")[1] in ARROWS[part], f"{path.relative_to(ROOT)} imports {module}"


def test_every_part_of_garden_has_its_place():
    parts = {path.name for path in (ROOT / "garden").iterdir() if (path / "__init__.py").exists()}
    assert parts <= set(ARROWS)


def test_no_file_is_called_utils():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]


# Scripts called make_something made files that ship; users never run them.
@pytest.mark.parametrize("path", [path for path in FILES if not path.stem.startswith("make_")], ids=name_of)
def test_library_code_does_not_print(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"]
    assert not calls, f"{path.relative_to(ROOT)}, line {calls[0].lineno}: use logging"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_say_what_they_are_and_stay_readable(path):
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), f"{path}: no docstring"
    assert source.count("\n") <= 500, f"{path}: too long to read top to bottom"


def packages():
    return [name_of(path) for path in FILES if path.name == "__init__.py"]


@pytest.mark.parametrize("package", packages())
def test_public_names_resolve_and_say_what_they_are(package):
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert sorted(set(names)) == sorted(names), "twice the same name"
    for name in names:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        assert (value.__doc__ or "").strip(), f"{package}.{name} has no docstring"
        if inspect.isclass(value) and value.__module__.split(".")[0] in PACKAGES:
            for member, function in vars(value).items():
                if member.startswith("_") or member in KERAS or not inspect.isfunction(function):
                    continue
                inherited = [getattr(base, member, None) for base in value.__mro__[1:]]
                documented = [function, *inherited]
                assert any(getattr(each, "__doc__", None) for each in documented), f"{package}.{name}.{member}"


@pytest.mark.parametrize("package", ["garden", "garden.tokenizers", "serving", "training", "garden.cli"])
def test_importing_a_package_does_not_import_tensorflow(package):
    """`garden --help` answers at once."""
    code = f"import sys, {package}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_public_names_are_those_of_the_design():
    import garden
    import serving

    assert {"Backbone", "MaskedLM", "TextClassifier", "Tokenizer"} <= set(garden.__all__) <= set(dir(garden))
    assert callable(serving.export)
    assert callable(importlib.import_module("serving").export), "importing the module of that name changes nothing"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        garden.Nothing  # noqa: B018
