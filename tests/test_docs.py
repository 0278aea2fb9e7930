"""The documentation keeps up with the code: names, links, commands and quotes."""

import ast
import importlib
import pathlib
import re

import numpy as np
import pytest

from sagan.cli.main import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "benchmarks" / "README.md"]
README = (ROOT / "README.md").read_text()
TESTS = {
    path.relative_to(ROOT / "tests").as_posix(): {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
}
LIBRARY = [
    "sagan.config.load",
    "sagan.state.create",
    "sagan.state.make_game",
    "sagan.step.train_step",
    "sagan.checkpoints.restore.open_run",
    "sagan.attention.SelfAttention",
    "sagan.metrics.METRICS",
]


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def name(path):
    return path.relative_to(ROOT).as_posix()


def can_be_imported(dotted):
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    parent, _, attribute = dotted.rpartition(".")
    return hasattr(importlib.import_module(parent), attribute)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tests_that_are_named_exist(page):
    text, everywhere = page.read_text(), set().union(*TESTS.values())
    for file, test in re.findall(r"((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?", text):
        known = TESTS.get(file.removeprefix("tests/"))
        if known is None:  # by its last part, in prose
            assert any(path.endswith(f"/{file}") for path in TESTS), file
        elif test:
            assert test in known, f"{file}::{test}"
    for test in re.findall(r"`(?:[\w/]+\.py::)?(test_\w+)`", text):
        assert test in everywhere, test


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_commands_and_modules_that_are_named_exist(page):
    if page.name == "CHANGELOG.md":  # names what is no more
        return
    text = page.read_text()
    for path in re.findall(r"\b(?:configs|benchmarks|sagan)/[\w/]+\.(?:py|txt)", text):
        assert (ROOT / path).is_file(), path
    for command in re.findall(r"^(?:\| .* \| )?`?sagan ([a-z]+)", text, re.M):
        assert command in COMMANDS, command
    for dotted in re.findall(r"`(sagan(?:\.\w+)+)", text):
        assert can_be_imported(dotted), dotted


def test_readme_is_short_and_has_the_commands_to_set_up():
    assert len(README.splitlines()) <= 150
    train = "python train.py configs/digits.py --workdir runs/digits"
    assert f"\npython -m pip install -e . && {train}\n" in README
    assert "\npython -m pip install -e '.[test]' && python -m pytest\n" in README


@pytest.mark.slow
def test_readme_example_draws_reads_attention_and_trains():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    small = 'digits.py", {"g.width": 8, "d.width": 8, '
    code = code.replace('"configs/digits.py", {', f'"{ROOT}/configs/{small}')
    names = {}
    exec(code, names)
    assert names["x"].shape == (10, 16, 16, 1)
    assert abs(names["x"]).max() <= 1
    assert names["beta"].shape == (10, 64, 16)
    np.testing.assert_allclose(names["beta"].sum(2), 1, rtol=1e-5)
    assert names["now"].step == 1 and np.isfinite(names["metrics"]["d_loss"])


@pytest.mark.parametrize("dotted", LIBRARY)
def test_names_of_the_library_are_documented_and_importable(dotted):
    assert can_be_imported(dotted)
    assert dotted in README or dotted.removeprefix("sagan.") in README


def test_lines_of_attention_that_are_quoted_are_in_the_code():
    quoted = (ROOT / "docs" / "attention.md").read_text()
    table = quoted[quoted.index("| paper, section 3 |") :].partition("\n\n")[0]
    code = "".join((ROOT / "sagan" / "attention.py").read_text().split())
    lines = re.findall(r"`([^`]+)`", table.partition("\n")[2])
    assert len(lines) >= 7
    for part in (part for line in lines for part in line.split("…")):
        assert "".join(part.split()) in code, part


def test_messages_that_people_and_scripts_look_for_are_in_the_code():
    cloud = (ROOT / "docs" / "cloud.md").read_text()
    code = "".join(path.read_text() for path in sorted((ROOT / "sagan").rglob("*.py")))
    for message in (
        "done: step",
        "the processes did not all meet within",
        "this process was ended, most likely because another one died",
        "another process trains here",
        ": must be divisible by",
    ):
        assert message in cloud and message in code, message
