import ast
import pathlib

import pytest

import sagan

ORDER = (
    "schema architecture config source datacheck readers data prepare conv layers"
    " attention blocks generator discriminator losses state xla step devices sample"
    " snapshot checkpoint workdir sinks writer interrupt export loop cli"
).split()
ROOT = pathlib.Path(sagan.__file__).parent
MODULES = sorted(path for path in ROOT.glob("[a-z]*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    assert path.stem in ORDER, "give the new module its place in the order"
    above = ORDER[: ORDER.index(path.stem)]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        root, _, name = node.module.partition(".")
        if root == "sagan":
            for imported in [name] if name else [a.name for a in node.names]:
                assert imported in above, f"{path.stem} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, node.name
