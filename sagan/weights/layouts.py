"""LAYOUTS: the names that other projects give to the layers of a SAGAN."""

from typing import Literal, NamedTuple


class Layout(NamedTuple):
    """Names of one project's tensors, relative to what holds them.

    Attributes:
      title: Name of the project.
      sn: Which tensors a normalised layer has: "torch": weight_orig, weight_u and
        weight_v; "biggan": weight, u0 and sv0.
      sn_eval: model.sn_eval of its evaluation.
      tables: Values of g.sn_tables that it can hold.
      linear_tables: Whether the tables of batch norm are linear maps [c k] of the
        one-hot label, not embeddings [k c].
      names: Names of the generator's stem, out, bn1 and bn2, of the discriminator's
        logit and embed, and of conv1, conv2 and shortcut in the blocks of both.
      scale_and_bias: Names of the two tables in a conditional batch norm.
      moments: Names of the running mean and variance in one.
      out_norm: Names of scale, bias, mean and variance before the output.
      attention: Names of the paper's f, g, h and v, and of gamma.
      gamma_shape: Shape of gamma.
      bn_eps: Epsilon of its batch norm unless it is told another.
      ema_decay: Decay of its average unless it is told another.
      blocks: Place of the block at an index.
      attention_place: Place of the attention after the block at an index; None: it
        counts as a block.
      first_d: Place of the discriminator's first block, if it has one of its own.
      iterations_count_d: Whether the iterations in its files' names are updates of D.
      sizes: Image sizes for which it has an architecture; empty: any.
      not_in_files: Options for what its files do not say, and what that is.
    """

    title: str
    sn: Literal["torch", "biggan"]
    sn_eval: Literal["iterate", "stored"]
    tables: tuple[str, ...]
    linear_tables: bool
    names: dict[str, str]
    scale_and_bias: tuple[str, str]
    moments: tuple[str, str]
    out_norm: tuple[str, str, str, str]
    attention: tuple[str, str, str, str, str]
    gamma_shape: tuple[int, ...]
    bn_eps: float
    ema_decay: float
    blocks: str
    attention_place: str | None = None
    first_d: str | None = None
    iterations_count_d: bool = False
    sizes: tuple[int, ...] = ()
    not_in_files: tuple[tuple[str, str], ...] = ()

    def spot(self, at: int, *, first_of_d: bool) -> "Spot":
        """Where the next block is.

        Args:
          at: Number of the blocks before it, as the project counts.
          first_of_d: Whether it is the first of the discriminator.
        """
        apart = first_of_d and self.first_d is not None
        block = self.first_d or "" if apart else self.blocks.format(at)
        after = at + (not apart)
        if self.attention_place is not None:
            return Spot(block, self.attention_place.format(at), after, after)
        return Spot(block, self.blocks.format(after), after, after + 1)


class Spot(NamedTuple):
    """Place of a block, and of the attention that may follow it.

    Attributes:
      after: Number of the blocks so far, as the project counts, without attention.
      after_attention: With it.
    """

    block: str
    attention: str
    after: int
    after_attention: int


LAYOUTS = {
    # PyTorch-StudioGAN models/resnet.py, utils/ops.py
    "studiogan": Layout(
        title="PyTorch-StudioGAN",
        sn="torch",
        sn_eval="iterate",
        tables=("channels",),
        linear_tables=True,
        names={
            "stem": "linear0",
            "out": "conv2d5",
            "conv1": "conv2d1",
            "conv2": "conv2d2",
            "shortcut": "conv2d0",
            "bn1": "bn1",
            "bn2": "bn2",
            "logit": "linear1",
            "embed": "embedding",
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
        bn_eps=1e-4,
        ema_decay=0.9999,
        blocks="blocks.{}.0",
        sizes=(32, 64, 128, 256, 512),
    ),
    # BigGAN-PyTorch BigGAN.py, layers.py, without --G_shared
    "biggan": Layout(
        title="BigGAN-PyTorch",
        sn="biggan",
        sn_eval="iterate",
        tables=("none", "classes"),
        linear_tables=False,
        names={
            "stem": "linear",
            "out": "output_layer.2",
            "conv1": "conv1",
            "conv2": "conv2",
            "shortcut": "conv_sc",
            "bn1": "bn1",
            "bn2": "bn2",
            "logit": "linear",
            "embed": "embed",
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
        bn_eps=1e-5,
        ema_decay=0.9999,
        blocks="blocks.{}.0",
        sizes=(32, 64, 128, 256, 512),
        attention_place="blocks.{}.1",
    ),
    # MMGeneration mmgen/models/architectures/sagan, sngan_proj, biggan
    "mmgen": Layout(
        title="MMGeneration",
        sn="torch",
        sn_eval="stored",
        tables=("none", "classes"),
        linear_tables=False,
        names={
            "stem": "noise2feat",
            "out": "to_rgb.conv",
            "conv1": "conv_1.conv",
            "conv2": "conv_2.conv",
            "shortcut": "shortcut.conv",
            "bn1": "norm_1",
            "bn2": "norm_2",
            "logit": "decision",
            "embed": "proj_y",
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
        bn_eps=1e-4,
        ema_decay=0.999,
        blocks="conv_blocks.{}",
        first_d="from_rgb",
        iterations_count_d=True,
        not_in_files=(
            ("--bgr", "whether images are BGR, as MMGeneration's own are: --bgr"),
            (
                "--d.rectified-shortcut",
                "whether D's ReLU was in place: --d.rectified-shortcut",
            ),
        ),
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
        spot = layout.spot(at, first_of_d=d and i == 0)
        found.blocks.append(spot.block)
        found.attention.append(spot.attention if slot else None)
        at = spot.after_attention if slot else spot.after
    return found
