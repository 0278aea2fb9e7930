"""An experiment: its fields, their allowed values, and the files that set them."""

from sagan.config.fields import differences, fields, from_json, replace, to_json
from sagan.config.loading import load, provenance
from sagan.config.schema import (
    MAY_CHANGE,
    AugmentConfig,
    Config,
    ConfigError,
    DataConfig,
    DiscriminatorConfig,
    EmaConfig,
    GeneratorConfig,
    ModelConfig,
    OptimConfig,
    RegConfig,
    RuleConfig,
    RunConfig,
)
from sagan.config.validation import check_batch, check_config

__all__ = [
    "MAY_CHANGE",
    "AugmentConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DiscriminatorConfig",
    "EmaConfig",
    "GeneratorConfig",
    "ModelConfig",
    "OptimConfig",
    "RegConfig",
    "RuleConfig",
    "RunConfig",
    "check_batch",
    "check_config",
    "differences",
    "fields",
    "from_json",
    "load",
    "provenance",
    "replace",
    "to_json",
]
