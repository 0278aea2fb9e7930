"""The model card of an exported generator, as the Hugging Face hub reads it."""

from __future__ import annotations

import json

from sagan.checkpoints.restore import OpenedRun
from sagan.evaluation import card, results
from sagan.runtime.progress import printable
from sagan.state import count


def model_card(opened: OpenedRun, grid: str) -> str:
    """Markdown with YAML in front; the licence is left to fill in.

    Args:
      opened: The exported checkpoint.
      grid: Name of a picture of samples beside the card.
    """
    data = opened.config.data
    name = printable(opened.workdir.resolve().name)
    front = [
        "---",
        "license: # fill in, as the training data allow",
        "library_name: sagan",
        "pipeline_tag: unconditional-image-generation",
        "tags: [gan, sagan, self-attention, jax, flax]",
        f"datasets: [{json.dumps(data.name)}]",
        "---",
    ]
    classes = f"{data.classes} classes" if data.classes else "no classes"
    about = (
        f"Generator of a self-attention GAN (arXiv:1805.08318): {data.name} at"
        f" {data.size}x{data.size}, {classes}; {opened.words};"
        f" {count(opened.state.g.params):,} parameters."
    )
    use = [
        "```",
        "sagan import FOLDER --workdir runs/imported",
        "sagan sample runs/imported",
        "```",
    ]
    lines = [*front, "", f"# {name}", "", about, "", f"![samples]({grid})", "", *use]
    return "\n".join([*lines, "", *_evaluation(opened), ""])


def _evaluation(opened: OpenedRun) -> list[str]:
    folder = opened.workdir / "eval" / f"step_{opened.step}"
    result = results.read_complete_result(folder / results.RESULTS)
    if result is None:
        return ["## Evaluation", "", "None of this checkpoint."]
    table = card.markdown_table(card.result_table(result))
    samples = result["protocol"].get("samples")
    return ["## Evaluation", "", f"{samples} samples.", "", table]
