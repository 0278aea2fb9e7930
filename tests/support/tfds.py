"""TFDS data sets, as other people's builders write them."""

import io

import tensorflow_datasets as tfds
from PIL import Image


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def build(name, root, features, examples):
    """Writes a split train with all examples, and a split test with the first two."""
    dataset_name = name

    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset_name
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            connectors = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(
                builder=self, features=connectors, disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"train": enumerate(examples), "test": enumerate(examples[:2])}

        def _generate_examples(self):
            raise NotImplementedError

    Foreign(data_dir=str(root), file_format="array_record").download_and_prepare()
