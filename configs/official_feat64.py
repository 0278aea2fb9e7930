"""As official_feat32, with attention at 64x64: the row of the paper's abstract.

python train.py configs/official_feat64.py --workdir runs/feat64 --data.path data
Cost and FID: not run here. The paper: FID 18.65, Inception Score 52.52 after 1M steps.
"""

from sagan.config import Config, DiscriminatorConfig, GeneratorConfig

PROVENANCE = {
    "g.attention": "generator_test_64: official generator.py:221",
    "d.attention": "discriminator_test_64: official discriminator.py:208",
}


def config() -> Config:
    """The official recipe with attention at 64x64."""
    return Config(
        g=GeneratorConfig(attention=(64,)), d=DiscriminatorConfig(attention=(64,))
    )
