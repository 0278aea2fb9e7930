import ast
import pathlib

import pytest

import sagan

ORDER = (
    "config runtime data METHOD metrics checkpoints sampling training evaluation"
    " weights visualization planning cli __main__"
).split()
METHOD = (
    "conv layers attention batch_norm blocks generator discriminator losses augment"
    " regularisers state diagnostics latents step"
).split()
MOST_IN_A_CHAIN = 18
ROOT = pathlib.Path(sagan.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("[a-z_]*.py"))
    if path.parent != ROOT or path.stem != "__init__"
}


def imported_by(name):
    """The modules of sagan that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            root, _, module = node.module.partition(".")
            if root == "sagan":
                inner = [f"{module}.{a.name}".strip(".") for a in node.names]
                found |= {inner_ if inner_ in MODULES else module for inner_ in inner}
    return found - {name}


IMPORTS = {name: imported_by(name) for name in MODULES}


def package_of(name):
    top = name.partition(".")[0]
    return "METHOD" if top in METHOD else top


def chain(name, above=()):
    """The longest chain of imports below a module; a circle fails."""
    assert name not in above, f"a circle: {' -> '.join([*above, name])}"
    below = [chain(other, (*above, name)) for other in IMPORTS[name]]
    return [name, *max(below, key=len, default=[])]


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    assert package_of(name) in ORDER, "a new package needs its place in the order"
    for other in IMPORTS[name]:
        mine, theirs = package_of(name), package_of(other)
        assert ORDER.index(theirs) <= ORDER.index(mine), f"{name} imports {other}"
        if mine == theirs == "METHOD":
            assert METHOD.index(other) < METHOD.index(name), f"{name} imports {other}"


def test_import_chains_are_short_and_have_no_circle():
    longest = max(map(chain, MODULES), key=len)
    assert len(longest) <= MOST_IN_A_CHAIN, " -> ".join(longest)


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_modules_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, node.name
