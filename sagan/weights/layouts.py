"""LAYOUTS: the names that other projects give to the layers of a SAGAN."""

from typing import Literal, NamedTuple


class Layout(NamedTuple):
    """Names of one project's tensors, relative to what holds them.

    Attributes:
      title: Name of the project.
      sn: Which tensors a normalised layer has: "torch": weight_orig, weight_u and
        weight_v; "ajbrock": weight, u0 and sv0.
      sn_eval: model.sn_eval of its evaluation.
      tables: Values of g.sn_tables that it can hold.
      linear_tables: Whether the tables of batch norm are linear maps [c k] of the
        one-hot label, not embeddings [k c].
      g: Names in the generator: stem, out, conv1, conv2, shortcut, bn1, bn2.
      d: Names in the discriminator: logit, embed, conv1, conv2, shortcut.
      scale_and_bias: Names of the two tables in a conditional batch norm.
      moments: Names of the running mean and variance in one.
      out_norm: Names of scale, bias, mean and variance before the output.
      attention: Names of the paper's f, g, h and v, and of gamma.
      gamma_shape: Shape of gamma.
      blocks: Place of the block at an index.
      attention_place: Place of the attention after the block at an index; None: it
        counts as a block.
      first_d: Place of the discriminator's first block, if it has one of its own.
    """

    title: str
    sn: Literal["torch", "ajbrock"]
    sn_eval: Literal["iterate", "stored"]
    tables: tuple[str, ...]
    linear_tables: bool
    g: dict[str, str]
    d: dict[str, str]
    scale_and_bias: tuple[str, str]
    moments: tuple[str, str]
    out_norm: tuple[str, str, str, str]
    attention: tuple[str, str, str, str, str]
    gamma_shape: tuple[int, ...]
    blocks: str
    attention_place: str | None = None
    first_d: str | None = None


LAYOUTS = {
    # PyTorch-StudioGAN models/resnet.py, utils/ops.py
    "studiogan": Layout(
        title="PyTorch-StudioGAN",
        sn="torch",
        sn_eval="iterate",
        tables=("channels",),
        linear_tables=True,
        g={
            "stem": "linear0",
            "out": "conv2d5",
            "conv1": "conv2d1",
            "conv2": "conv2d2",
            "shortcut": "conv2d0",
            "bn1": "bn1",
            "bn2": "bn2",
        },
        d={
            "logit": "linear1",
            "embed": "embedding",
            "conv1": "conv2d1",
            "conv2": "conv2d2",
            "shortcut": "conv2d0",
        },
        scale_and_bias=("gain", "bias"),
        moments=("bn.running_mean", "bn.running_var"),
        out_norm=("bn4.weight", "bn4.bias", "bn4.running_mean", "bn4.running_var"),
        attention=(
            "conv1x1_phi",
            "conv1x1_theta",
            "conv1x1_g",
            "conv1x1_attn",
            "sigma",
        ),
        gamma_shape=(1,),
        blocks="blocks.{}.0",
    ),
    # BigGAN-PyTorch BigGAN.py, layers.py, without --G_shared
    "biggan": Layout(
        title="BigGAN-PyTorch",
        sn="ajbrock",
        sn_eval="iterate",
        tables=("none", "classes"),
        linear_tables=False,
        g={
            "stem": "linear",
            "out": "output_layer.2",
            "conv1": "conv1",
            "conv2": "conv2",
            "shortcut": "conv_sc",
            "bn1": "bn1",
            "bn2": "bn2",
        },
        d={
            "logit": "linear",
            "embed": "embed",
            "conv1": "conv1",
            "conv2": "conv2",
            "shortcut": "conv_sc",
        },
        scale_and_bias=("gain", "bias"),
        moments=("stored_mean", "stored_var"),
        out_norm=(
            "output_layer.0.gain",
            "output_layer.0.bias",
            "output_layer.0.stored_mean",
            "output_layer.0.stored_var",
        ),
        attention=("phi", "theta", "g", "o", "gamma"),
        gamma_shape=(),
        blocks="blocks.{}.0",
        attention_place="blocks.{}.1",
    ),
    # MMGeneration mmgen/models/architectures/sagan, sngan_proj, biggan
    "mmgen": Layout(
        title="MMGeneration",
        sn="torch",
        sn_eval="stored",
        tables=("none", "classes"),
        linear_tables=False,
        g={
            "stem": "noise2feat",
            "out": "to_rgb.conv",
            "conv1": "conv_1.conv",
            "conv2": "conv_2.conv",
            "shortcut": "shortcut.conv",
            "bn1": "norm_1",
            "bn2": "norm_2",
        },
        d={
            "logit": "decision",
            "embed": "proj_y",
            "conv1": "conv_1.conv",
            "conv2": "conv_2.conv",
            "shortcut": "shortcut.conv",
        },
        scale_and_bias=("weight_embedding", "bias_embedding"),
        moments=("norm.running_mean", "norm.running_var"),
        out_norm=(
            "to_rgb.bn.weight",
            "to_rgb.bn.bias",
            "to_rgb.bn.running_mean",
            "to_rgb.bn.running_var",
        ),
        attention=("phi.conv", "theta.conv", "g.conv", "o.conv", "gamma"),
        gamma_shape=(),
        blocks="conv_blocks.{}",
        first_d="from_rgb",
    ),
}


class Places(NamedTuple):
    """Where a project has the blocks of a network, and the attention after each."""

    blocks: list[str]
    attention: list[str | None]


def places(layout: Layout, slots: list[bool], *, d: bool) -> Places:
    """The places of blocks, after some of which there is attention.

    Args:
      layout: The project's names.
      slots: Whether attention follows, for each block.
      d: Whether it is the discriminator.
    """
    at, found = 0, Places([], [])
    for i, slot in enumerate(slots):
        apart = d and i == 0 and layout.first_d is not None
        found.blocks.append(layout.first_d or "" if apart else layout.blocks.format(at))
        here, at = at, at + (not apart)
        if not slot:
            found.attention.append(None)
        elif layout.attention_place is not None:
            found.attention.append(layout.attention_place.format(here))
        else:
            found.attention.append(layout.blocks.format(at))
            at += 1
    return found
