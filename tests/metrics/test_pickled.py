import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from sagan.config import ConfigError
from sagan.metrics.pickled import MAGIC, PROTOCOL, read_checkpoint, read_state_dict

try:
    import torch
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Storage:
    """What torch.save writes as a persistent object."""

    def __init__(self, array, size=None, key="0"):
        self.array = array
        self.id = ("storage", FloatStorage, key, "cpu", size or array.size)


class Tensor:
    """Pickled as a tensor is, with whatever view of its storage it is given."""

    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, {})

    def __reduce__(self):
        return rebuild, self.arguments


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


# by name, as pickle writes functions and classes; not in sys.modules after a test
FloatStorage = type("FloatStorage", (), {"__module__": "torch"})


def rebuild(*arguments):
    raise AssertionError("only named in the files")


rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"


@pytest.fixture(autouse=True)
def named(monkeypatch):
    """Lets pickle find our stand-ins under torch's names while a test writes."""
    if torch is None:
        module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        monkeypatch.setitem(sys.modules, "torch", module)
        monkeypatch.setitem(sys.modules, "torch._utils", utils)
    else:
        module, utils = torch, torch._utils
    monkeypatch.setattr(module, "FloatStorage", FloatStorage, raising=False)
    monkeypatch.setattr(utils, "_rebuild_tensor_v2", rebuild, raising=False)


def pickled(thing, storages):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                storages[obj.id[2]] = obj
                return obj.id

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(thing)
    return file.getvalue()


def write(path, thing, *, zipped, program=None, compress=zipfile.ZIP_STORED):
    """A file as torch.save writes it, without torch; or one with another program."""
    storages = {}
    program = pickled(thing, storages) if program is None else program
    if zipped:
        with zipfile.ZipFile(path, "w", compress) as archive:
            archive.writestr("archive/data.pkl", program)
            archive.writestr("archive/byteorder", b"little")
            for key, storage in storages.items():
                archive.writestr(f"archive/data/{key}", storage.array.tobytes())
        return path
    machine = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, machine)]
    parts += [program, pickle.dumps(sorted(storages), 2)]
    for _, storage in sorted(storages.items()):
        parts += [struct.pack("<q", storage.array.size), storage.array.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def plain(array):
    """A contiguous tensor."""
    strides = np.array(array.strides) // array.itemsize
    return Tensor(Storage(array), 0, array.shape, tuple(strides.tolist()))


def refusal(path):
    """The message of the refusal, which must be the only thing that is raised."""
    with pytest.raises(ConfigError) as info:
        read_state_dict(path, path.read_bytes())
    assert str(info.value).startswith(f"{path}: ")
    assert "\n" not in str(info.value)
    return str(info.value)


ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


@formats
def test_tensors_come_back_from_a_file_that_torch_did_not_write(tmp_path, zipped):
    state = collections.OrderedDict(a=plain(ARRAY))
    state._metadata = {"": {"version": 1}}  # as nn.Module.state_dict has it
    path = write(tmp_path / "w.pth", state, zipped=zipped)
    found = read_state_dict(path, path.read_bytes())
    np.testing.assert_array_equal(found["a"], ARRAY)


@formats
@pytest.mark.parametrize(
    ("forbidden", "name"),
    [
        (lambda path: Call(os.system, f"touch {path}"), "posix.system"),
        (lambda path: Call(eval, f"open({str(path)!r}, 'w')"), "builtin__.eval"),
        (lambda path: Call(getattr, "", "join"), "builtin__.getattr"),
    ],
    ids=["system", "eval", "getattr"],
)
@pytest.mark.parametrize("nested", [True, False])
def test_a_malicious_pickle_is_refused_and_not_executed(
    tmp_path, zipped, forbidden, name, nested
):
    mark = tmp_path / "executed"
    thing = forbidden(mark)
    thing = {"a": plain(ARRAY), "b": thing} if nested else thing
    path = write(tmp_path / "w.pth", thing, zipped=zipped)
    message = refusal(path)
    assert "refused: it names" in message and name in message
    assert not mark.exists()


def test_the_malicious_pickle_would_have_been_executed(tmp_path):
    mark = tmp_path / "executed"
    pickle.loads(pickled(Call(os.system, f"touch {mark}"), {}))
    assert mark.exists()


@pytest.mark.parametrize("position", range(4))
def test_every_pickle_of_the_legacy_format_is_restricted(tmp_path, position):
    mark = tmp_path / "executed"
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {}, {})]
    parts[position] = pickle.dumps(Call(os.system, f"touch {mark}"))
    (tmp_path / "w.pth").write_bytes(b"".join(parts))
    refusal(tmp_path / "w.pth")
    assert not mark.exists()


@formats
@pytest.mark.parametrize(
    "arguments",
    [
        (0, (10**6, 10**6), (0, 0)),  # 4 TB of one number
        (0, (13,), (1,)),
        (1, (3, 4), (4, 1)),
        (0, (2,), (12,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2.0,), (1,)),
        (0, (2, 2), (1,)),
    ],
    ids=str,
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, zipped, arguments):
    thing = {"a": Tensor(Storage(ARRAY), *arguments)}
    path = write(tmp_path / "w.pth", thing, zipped=zipped)
    assert "impossible shape or strides" in refusal(path)


@formats
def test_sizes_that_the_file_does_not_have_are_refused(tmp_path, zipped):
    claimed = {"a": Tensor(Storage(ARRAY, size=10**13), 0, (2,), (1,))}
    assert "numbers" in refusal(write(tmp_path / "w.pth", claimed, zipped=zipped))
    programs = [
        ("memo", b"\x80\x02}r\xff\xff\xff\xff."),  # LONG_BINPUT: 2^33 objects
        ("ValueError", b"\x80\x02X\xff\xff\xff\x7fa."),  # BINUNICODE of 2 GiB
        ("ValueError", b"\x80\x05\x8e" + b"\xff" * 7 + b"\x00a."),  # BINBYTES8
    ]
    for says, program in programs:
        path = write(tmp_path / "w.pth", None, zipped=zipped, program=program)
        assert says in refusal(path)


DOUBLED = b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(60))
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
WIDE = b"(" + b"K\x01" * 2000 + b"t" + b"q\x000(" + b"h\x00" * 2000 + b"t"


@formats
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (b"}(K\x01\x85" + DOUBLED + b"K\x01u.", "nested too deep"),
        (b"}(" + WIDE + b"K\x01u.", "nested too deep or too often"),
        (b"}(X\x01\x00\x00\x00a" + REBUILD + b"(K\x01K\x00))tRu.", "without storage"),
        (b"}(K\x01(\x91K\x01u.", "frozenset"),
        (b"ccollections\nOrderedDict\n(X\x05\x00\x00\x00\x1b[2JatR.", "(ValueError)"),
    ],
    ids=["doubled", "wide", "tensor", "frozenset", "text"],
)
def test_what_would_take_forever_or_reach_the_terminal_is_refused(
    tmp_path, zipped, program, said
):
    path = write(tmp_path / "w.pth", None, zipped=zipped, program=b"\x80\x04" + program)
    for read in (read_state_dict, read_checkpoint):
        with pytest.raises(ConfigError) as error:
            read(path, path.read_bytes())
        assert said in str(error.value) and "\x1b" not in str(error.value)


@formats
def test_a_file_cut_short_anywhere_is_refused(tmp_path, zipped):
    path = write(tmp_path / "w.pth", {"a": plain(ARRAY)}, zipped=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refusal(path)


@formats
@pytest.mark.parametrize(
    "thing",
    [[plain(ARRAY)], {"state_dict": {"a": plain(ARRAY)}}, {0: plain(ARRAY)}, "text"],
    ids=["list", "nested", "number as name", "text"],
)
def test_what_is_not_a_state_dict_is_refused(tmp_path, zipped, thing):
    message = refusal(write(tmp_path / "w.pth", thing, zipped=zipped))
    assert "state_dict" in message and "damaged" not in message


@pytest.mark.parametrize(
    "data", [b"", b"not torch's\n", b"PK\x03\x04zip", pickle.dumps(3), os.urandom(999)]
)
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "w.pth").write_bytes(data)
    refusal(tmp_path / "w.pth")


def test_zip_archives_that_torch_does_not_make_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    bomb = zipfile.ZIP_DEFLATED
    write(path, {"a": plain(np.zeros(10**6, "f4"))}, zipped=True, compress=bomb)
    assert "compressed" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something.txt", b"else")
    assert "not one that torch.save made" in refusal(path)
    with zipfile.ZipFile(write(path, {}, zipped=True)) as archive:
        assert archive.namelist()
    data = bytearray(write(path, {"a": plain(ARRAY)}, zipped=True).read_bytes())
    data[data.index(ARRAY.tobytes()) + 4] ^= 1  # the archive has a sum of each part
    path.write_bytes(data)
    assert "BadZipFile" in refusal(path)


@needs_torch
@formats
def test_tensors_of_torch_save_come_back(tmp_path, zipped, monkeypatch):
    monkeypatch.undo()  # torch's own classes
    torch.manual_seed(0)
    base = torch.randn(6, 5, 4)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4))
    state = {
        **net.state_dict(),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "bool": base > 0,
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base),
        "transposed": base.permute(2, 0, 1),
        "every second": base[1::2, :, 1::3],
        "last": base.flatten()[-1],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    assert not state["every second"].is_contiguous()
    path = tmp_path / "w.pth"
    ordered = net.state_dict()  # an OrderedDict with _metadata
    ordered.update(state)
    torch.save(ordered, path, _use_new_zipfile_serialization=zipped)
    found = read_state_dict(path, path.read_bytes())
    assert list(found) == list(state)
    for name, tensor in state.items():
        if name == "bfloat16":  # which NumPy has from JAX
            expected = np.asarray(jnp.asarray(base.numpy(), jnp.bfloat16))
        else:
            expected = tensor.detach().numpy()
        assert found[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


class Stateful:
    """Pickled as an object with a state, items and an attribute."""

    def __reduce__(self):
        return os.getcwd, (), {"a": 1}, iter([1, 2]), iter([("k", 3)])


@formats
def test_a_checkpoint_gives_its_tensors_and_does_nothing_else(tmp_path, zipped):
    mark, x = tmp_path / "mark", np.arange(6, dtype="<f4").reshape(2, 3)
    around = {"epoch": 3, "hook": Call(os.system, f"touch {mark}"), "more": Stateful()}
    inner = {"w": plain(x), 5: plain(x), "deeper": {"n": None}}
    path = write(tmp_path / "a.pth", {**around, "state_dict": inner}, zipped=zipped)
    tree, inert = read_checkpoint(path, path.read_bytes())
    assert not mark.exists()
    assert set(tree) == {"state_dict"} and set(tree["state_dict"]) == {"w", "deeper"}
    np.testing.assert_array_equal(tree["state_dict"]["w"], x)
    assert inert == sorted(
        f"{os.system.__module__}.{name}" for name in ("getcwd", "system")
    )
    with pytest.raises(ConfigError, match="names"):
        read_state_dict(path, path.read_bytes())


@formats
def test_dictionaries_that_hold_themselves_or_each_other_often_end(tmp_path, zipped):
    tree = {"w": plain(np.zeros(2, "<f4"))}
    for _ in range(40):  # 2^40 paths
        tree = {"a": tree, "b": tree}
    tree["itself"] = tree
    path = write(tmp_path / "a.pth", tree, zipped=zipped)
    found, inert = read_checkpoint(path, path.read_bytes())
    assert found["itself"] is found and inert == []


@formats
def test_a_checkpoint_of_something_else_is_one_line(tmp_path, zipped):
    for thing in ([plain(np.zeros(2, "<f4"))], Call(os.getcwd)):
        path = write(tmp_path / "a.pth", thing, zipped=zipped)
        with pytest.raises(ConfigError, match="not a state_dict") as info:
            read_checkpoint(path, path.read_bytes())
        assert "\n" not in str(info.value)
