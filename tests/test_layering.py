import ast
import pathlib

import pytest

import sagan

ORDER = (
    "schema architecture config source datacheck readers data prepare xla conv"
    " layers attention blocks generator discriminator losses state vitals step devices"
    " witness processes cache"
    " metrics.protocol metrics.extract metrics.gaussian metrics.frechet metrics.kernel"
    " metrics.inception_score metrics.neighbours metrics.resize metrics.pickled"
    " metrics.inception metrics.weights metrics.classifier metrics.accuracy"
    " metrics metrics.features sample maps snapshot checkpoint workdir sinks writer"
    " symptoms doctor interrupt export loop imagesets protocol judge floor card fakes"
    " evaluate compare topology cost advice plan arguments look.picture"
    " look.draw look.mixture look.nearest look.sheet look.canvas look.seen look.record"
    " look.ablate look.attend look.panels look.curves look.explorer look.page"
    " look.report look.cli look cli"
).split()
ROOT = pathlib.Path(sagan.__file__).parent
MODULES = sorted([*ROOT.glob("[a-z]*.py"), *ROOT.glob("[a-z]*/*.py")])


def name_of(path: pathlib.Path) -> str:
    """Such as `loop`, `metrics.kernel`, and `metrics` for its __init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    assert name_of(path) in ORDER, "give the new module its place in the order"
    above = ORDER[: ORDER.index(name_of(path))]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        root, _, name = node.module.partition(".")
        if root == "sagan":
            below = [f"{name}.{a.name}".strip(".") for a in node.names]
            for imported in below if set(below) & set(ORDER) else [name]:
                assert imported in above, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, node.name
