"""Files are not trusted: they run nothing, claim no memory, and name no path."""

import ast
import io
import json
import os
import pathlib
import pickle
import struct
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from PIL import EpsImagePlugin, Image, ImageFile

import sagan
from sagan.checkpoints.manager import Checkpoints
from sagan.config import Config, ConfigError, DataConfig, replace
from sagan.data.datasets import prepared
from sagan.data.pipeline import open_source
from sagan.evaluation import image_sets, npz, results
from sagan.runtime import cache
from sagan.runtime.files import file_name
from sagan.training.logger import Logger

ROOT = pathlib.Path(sagan.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return pathlib.Path.touch, (self.trace,)


@pytest.fixture
def evil(tmp_path):
    trace = tmp_path / "executed"
    yield Evil(trace)
    assert not trace.exists()


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_only_the_restricted_reader_knows_pickle():
    loaders = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
    found = {p.name for p in MODULES if loaders & set(imports(p))}
    assert found == {"unpickler.py"}


def test_only_a_config_file_and_a_named_function_are_run():
    runs = {"eval", "exec", "compile", "__import__", "runpy.run_path"}
    runs |= {"importlib.import_module", "os.system", "subprocess.run"}
    found = {(p.name, name) for p in MODULES for name, _ in calls(p) if name in runs}
    assert found == {
        ("loading.py", "runpy.run_path"),  # configs/*.py, which the user names
        ("features.py", "importlib.import_module"),  # --features module:function
        ("log_backends.py", "importlib.import_module"),  # of fixed names
    }


def test_arrays_are_never_read_as_pickles():
    for path in MODULES:
        for name, call in calls(path):
            if name == "np.load":
                given = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert given.get("allow_pickle") == "False", path


def test_the_malicious_object_would_have_been_executed(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


def test_object_arrays_are_refused_and_not_executed(evil, tmp_path, monkeypatch):
    path = tmp_path / "cache" / "images.npz"
    path.parent.mkdir()
    objects = np.array([evil, evil], object)
    np.savez(path, image=objects, label=objects, sha256=objects, allow_pickle=True)
    with pytest.raises(ConfigError, match="images.npz: cannot be read as .npz.*pickle"):
        image_sets.of_path(path)
    monkeypatch.setenv("SAGAN_CACHE", str(path.parent))
    made = cache.cached_arrays("images", lambda: {"a": np.zeros(1)})
    assert list(made) == ["a"]


@pytest.mark.parametrize("kind", ["pickle", "npy", "empty", "directory"])
def test_what_is_no_archive_is_one_line(evil, tmp_path, monkeypatch, kind):
    path = tmp_path / "images.npz"
    if kind == "directory":
        path.mkdir()
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(pickle.dumps(evil) if kind == "pickle" else b"")
    with pytest.raises(ConfigError, match="images.npz: ") as error:
        image_sets.of_path(path)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path))
    assert list(cache.cached_arrays("images", lambda: {"a": np.zeros(1)})) == ["a"]


def npy_header(shape):
    file = io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue()


def test_an_array_that_claims_more_than_there_is_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "images.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", npy_header((10**9, 10**6, 3)))
    with pytest.raises(ConfigError, match="cannot be read as .npz"):
        image_sets.of_path(path)
    np.savez_compressed(path, image=np.zeros((20, 100, 100, 3), np.uint8))
    monkeypatch.setattr(npz, "MOST_BYTES", 10**5)
    with pytest.raises(ConfigError, match="600,128 bytes unpacked, 100,000 at most"):
        image_sets.of_path(path)


# Checkpoints


def store_zarr(folder, metadata):
    base = {"driver": "ocdbt", "base": f"file://{folder}/"}
    store = tensorstore.KvStore.open(base).result()
    zarray = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "<f4"}
    zarray |= {"compressor": None, "fill_value": None, "order": "C", "filters": None}
    store.write(b"a/.zarray", json.dumps({**zarray, **metadata}).encode()).result()
    return store


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", 3, lambda line: None)
    for step in (1, 2):
        checkpoints.save(step, {"a": jnp.full(2, float(step))})
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


@pytest.mark.parametrize(
    "metadata", [{"dtype": "|O"}, {"dtype": "|O", "filters": [{"id": "pickle"}]}]
)
def test_pickles_in_a_checkpoint_are_passed_over(checkpoints, evil, metadata):
    folder = checkpoints.directory / "2"
    store = store_zarr(folder / "state", metadata)
    store.write(b"a/0", pickle.dumps(evil)).result()
    _, step = checkpoints.restore({"a": jnp.zeros(2)})
    assert step == 1


def test_pickles_in_place_of_json_are_passed_over(checkpoints, evil, tmp_path):
    folder = checkpoints.directory / "2"
    files = [folder / "meta" / "metadata", folder / "_CHECKPOINT_METADATA"]
    for file in [*files, folder / "state" / "_METADATA"]:
        assert file.exists()
        file.write_bytes(pickle.dumps(evil))
    checkpoints = Checkpoints(tmp_path / "c", 3, lambda line: None)
    _, step = checkpoints.restore({"a": jnp.zeros(2)})
    assert step == 1
    checkpoints.close()


def test_a_checkpoint_that_claims_too_much_memory_is_one_line(checkpoints):
    store_zarr(checkpoints.directory / "2" / "state", {"shape": [10**13]})
    with pytest.raises(ConfigError, match="40,000,000,000,000 bytes; this machine has"):
        checkpoints.restore({"a": jnp.zeros(2)})
    assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize(
    "features",
    [
        {"pythonClassName": "antigravity_of_mine.Feature"},
        {"python_class_name": "antigravity_of_mine.Feature"},
        {"CLASS": "antigravity_of_mine.Feature"},  # the key with an escape in it
        {"type": "antigravity_of_mine.Feature", "content": {}},  # as TFDS wrote it once
        {"sequence": {"feature": {"protoCls": "antigravity_of_mine.Feature"}}},
    ],
)
def test_a_data_set_that_names_code_is_refused(tmp_path, features):
    folder = tmp_path / "data" / "evil" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "evil", "version": "1.0.0"}')
    own = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    tree = {"pythonClassName": own, "featuresDict": {"features": {"image": features}}}
    text = json.dumps(tree).replace("CLASS", r"python\u0043lassName")
    (folder / "features.json").write_text(text)
    for path in (folder, folder.parents[1]):
        with pytest.raises(ConfigError, match=r"of antigravity_of_mine.*is not run"):
            prepared(DataConfig("evil", path=str(path)), "train")


OWN = "tensorflow_datasets.core.features.features_dict.FeaturesDict"


@pytest.mark.parametrize(
    "features",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "",
        "5",
        "null",
        "[1]",
        "{}",
        '{"pythonClassName": 5}',
        json.dumps({"pythonClassName": OWN}),
        json.dumps({"pythonClassName": OWN, "featuresDict": [1]}),
        json.dumps({"pythonClassName": OWN, "featuresDict": {"features": {"a": 5}}}),
        None,
    ],
    ids=lambda text: str(text)[:20],
)
def test_odd_features_of_a_data_set_are_one_line(tmp_path, features):
    folder = tmp_path / "data" / "odd" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "odd", "version": "1.0.0"}')
    if features is None:
        os.mkfifo(folder / "features.json")
    else:
        (folder / "features.json").write_text(features)
    for path in (folder, folder.parents[1]):
        with pytest.raises(ConfigError) as error:
            prepared(DataConfig("odd", path=str(path)), "train")
        line = str(error.value)
        assert "\n" not in line and line.startswith(f"{folder}: ") and len(line) < 400


# Images


def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width, height, *extra):
    """A PNG whose header claims a size, with one line of pixels at most."""
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [chunk(b"IHDR", ihdr), *extra, chunk(b"IDAT", zlib.compress(b"\0\0"))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


TEXT = b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)
BOMBS = {
    "error of Pillow": (png(60_000, 60_000), "3600000000 pixels.*limit of"),
    "warning of Pillow": (png(10_000, 10_000), "100000000 pixels.*limit of"),
    "text": (png(16, 16, chunk(*TEXT)), "too large for PngImagePlugin.MAX_TEXT_CHUNK"),
    "strip": (png(1, 100_000), r"\(1x100000\); lower"),
}


def folder_of(tmp_path, data, name="b.png"):
    for other in ("a.png", "c.png"):
        Image.new("L", (16, 16)).save(tmp_path / other)
    (tmp_path / name).write_bytes(data)
    values = {"name": "folder", "path": str(tmp_path), "size": 16, "channels": 1}
    return replace(Config(), {f"data.{name}": v for name, v in values.items()})


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("memory", [True, False])
def test_bombs_are_refused_by_name_before_they_are_decoded(
    tmp_path, monkeypatch, bomb, memory
):
    data, said = BOMBS[bomb]
    config = folder_of(tmp_path, data)
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda im: (decoded.append(im.size), load(im))[1]
    )
    if not memory:
        monkeypatch.setattr("sagan.data.validation.MEMORY", 0)
    with pytest.raises(ConfigError, match=f"b.png.*{said}") as error:
        open_source(config)
    assert "\n" not in str(error.value)
    assert max(map(max, decoded), default=0) <= 16 or bomb == "strip"
    with pytest.raises(ConfigError, match="b.png: "):
        image_sets.of_path(tmp_path)


def test_our_limit_holds_where_pillows_is_off(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ConfigError, match="b.png.*10000x10000 pixels; must be 89,478,"):
        open_source(folder_of(tmp_path, png(10_000, 10_000)))


def test_postscript_called_png_runs_no_program(tmp_path, monkeypatch):
    def run(*_):
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage"
    with Image.open(io.BytesIO(eps)) as opened:
        assert opened.format == "EPS"
    with pytest.raises(ConfigError, match="b.png.*no format that Pillow knows"):
        open_source(folder_of(tmp_path, eps))


@pytest.mark.parametrize("suffix", ["gif", "png", "tiff", "webp"])
def test_of_many_frames_the_first_is_read(tmp_path, suffix):
    frames = [Image.new("L", (16, 16), 255 * (i == 0)) for i in range(9)]
    file = io.BytesIO()
    frames[0].save(file, suffix, save_all=True, append_images=frames[1:], lossless=True)
    source = open_source(folder_of(tmp_path, file.getvalue(), f"b.{suffix}"))
    assert len(source) == 3
    assert source.examples(np.array([1])).image.min() == 255


# Names


@pytest.mark.parametrize(
    "text",
    [
        "..",
        ".",
        "",
        "../../x",
        "/etc/x",
        "a/b",
        "a\\b",
        ".hidden",
        "a\0b",
        "é",
        "x" * 999,
    ]
    + ["con\n", "a b", "~", "$HOME", "-"],
)
def test_any_text_is_the_name_of_a_file_in_its_folder(tmp_path, text):
    name = file_name(text)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert 0 < len(name.encode()) <= 128 and not name.startswith(".")
    (tmp_path / name).touch()


def test_no_two_texts_share_a_name_and_plain_ones_stay():
    texts = ["a/b", "a_b", "a\\b", "a:b", ".a", "a", "..", "...", "x" * 200, "x" * 201]
    assert len({file_name(text) for text in texts}) == len(texts)
    assert file_name("raw_00000100.png") == "raw_00000100.png"


def test_names_in_files_and_data_lead_nowhere(tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    with Logger(inside, replace(Config(), {"run.tensorboard": False}), 0) as writer:
        writer.image(1, "../../../out", np.zeros((2, 2, 3), np.uint8))
    monkeypatch.setenv("SAGAN_CACHE", str(inside / "cache"))
    cache.cached_arrays("../../../out", lambda: {"a": np.zeros(1)})
    result = results.new_result({"samples": 1}, {"what": "../../out", "step": 1})
    older = {**result, "sha256": "/../../../../out"}
    results.write_result(inside / "eval", result)
    (inside / "eval" / results.RESULTS).write_text(json.dumps(older))
    results.write_result(inside / "eval", result)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    folders = {p.parent.relative_to(inside).name for p in inside.rglob("*.*")}
    assert folders == {"", "samples", "cache", "eval"}
