"""The surface and the house: public names, floors, sizes, and what an import costs."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import plausible
from plausible import registry
from plausible.base import Generative

SOURCE = Path(plausible.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# A name added here is promised for good: think before you do.
PUBLIC = {
    *("AnomalyDetector", "BayesClassifier", "check_model", "compare", "Imputer", "load", "read"),
    *("data", "errors", "evaluate", "heads", "registry", "sampling", "space", "transforms", "uses"),
    "__version__",
}

# From the ground up; a module may import its own floor and those below.
FLOORS = (
    {"errors", "randomness", "options", "atomic"},
    {"space", "embedding", "transforms", "heads", "nn", "sampling"},
    {"data", "training"},
    {"base", "context", "module", "neural", "registry", "files"},
    {"families"},
    {"uses", "evaluate", "checks"},
    {"cli", "studio", "__main__"},
)
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
# The registry lists the families by name and imports one only when it is asked for.
ALLOWED = {("registry", "families")}
KNOW_NO_FAMILY = ("evaluate", "uses", "cli", "studio", "checks")


def part_of(path: Path) -> str:
    """Return the module or folder right under the package that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Return the parts of the package that a file imports, at its top or later."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "plausible":
            inner = node.module.split(".")[1:]
            found += inner[:1] or [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            found += [a.name.split(".")[1] for a in node.names if a.name.startswith("plausible.")]
    return found


def test_public_names():
    assert set(dir(plausible)) == PUBLIC | set(registry.class_names())


def test_every_public_name_is_there():
    for name in dir(plausible):
        assert getattr(plausible, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        plausible.no_such_name  # noqa: B018


def test_the_face_is_small():
    inherited = set(dir(__import__("sklearn.base").base.BaseEstimator))
    own = {name for name, _ in inspect.getmembers_static(Generative) if not name.startswith("_")} - inherited
    options = {f for f in Generative.__dataclass_fields__}
    assert len(own - options - {"traits"}) <= 12, sorted(own)


@pytest.mark.parametrize("name", registry.names())
def test_families_add_no_public_method(name):
    """What a family can do beyond the three verbs is a capability that a free function asks its module for."""
    cls = registry.get(name)
    methods = {n for n, v in inspect.getmembers_static(cls) if callable(v) and not n.startswith("_")}
    assert methods <= {n for n, _ in inspect.getmembers_static(Generative)} | set(cls.__dataclass_fields__)


@pytest.mark.parametrize("name", registry.names())
def test_no_option_is_mistaken_for_a_method(name):
    """scikit-learn tells what an estimator is by attributes such as these."""
    taken = {"transform", "predict", "predict_proba", "decision_function", "fit_transform", "fit_predict", "classes_"}
    assert not taken & set(registry.get(name).__dataclass_fields__)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_file_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_import_goes_up(path):
    part = part_of(path)
    if part == "__init__":
        return
    assert part in FLOOR, f"say in FLOORS on which floor {part!r} stands"
    up = [p for p in imports(path) if FLOOR.get(p, -1) > FLOOR[part] and (part, p) not in ALLOWED]
    assert not up, f"{part} imports {', '.join(up)} from a floor above"


@pytest.mark.parametrize("part", KNOW_NO_FAMILY)
def test_no_family_is_known_by_name(part):
    """Neither its class nor its name as a string, nor by an import from where families live."""
    known = {*registry.names(), *registry.class_names()}
    for path in [p for p in FILES if part_of(p) == part]:
        assert "families" not in imports(path), path
        found = words(path) & known
        assert not found, f"{path} knows {found}"


def words(path: Path) -> set[str]:
    """Return what starts with a capital, and strings of one word: 'made' is a word of English too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(node, "id", getattr(node, "attr", ""))
        if name[:1].isupper():
            found.add(name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+", node.value):
            found.add(node.value)
    return found


def test_import_is_light():
    """Neither `import plausible` nor the list of families loads what takes seconds to import."""
    code = "import sys, plausible; dir(plausible); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas", "sklearn", "scipy", "numpy", "matplotlib"} & set(loaded)
