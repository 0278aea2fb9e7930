import contextlib
import json
import struct
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from sagan.config import Config, ConfigError, replace
from sagan.state import GANState, Player
from sagan.training.divergence import MUST_BE_FINITE, Diverged
from sagan.training.feedback import Feedback
from sagan.training.logger import Logger
from sagan.training.monitor import Monitor


def make_config(**run):
    values = {"log_every": 2, "tensorboard": False, **run}
    return replace(Config(), {f"run.{name}": v for name, v in values.items()})


def metrics_of(step, **values):
    """What a train step returns: arrays on the devices."""
    finite = {"d_loss": step + 0.5, "g_loss": -0.25, "d_grad_norm": 3, "g_grad_norm": 0}
    finite |= {"d_weight_norm": 2, "g_weight_norm": 1, "gamma/g": step}
    return {k: jnp.float32(v) for k, v in {**finite, **values}.items()}


class Logs:
    """A logger with the feedback that fills it, as the loop has them."""

    def __init__(self, workdir, config, start, *, active=True):
        self.every = config.run.log_every
        self.logger = Logger(workdir, config, start, active=active)
        monitor = Monitor(workdir, config, NOTHING, active=active)
        self.feedback = Feedback(monitor, self.logger, print)

    def __enter__(self):
        self.logger.__enter__()
        return self

    def __exit__(self, kind, error, trace):
        try:
            if error is None:
                self.feedback.flush()
        except Diverged as late:
            self.logger.__exit__(type(late), late, None)
            raise
        self.logger.__exit__(kind, error, trace)

    def write(self, step, values):
        self.feedback.put(step, values, logged=step % self.every == 0)

    @property
    def latest(self):
        return self.feedback.latest


PLAYER = Player(params={}, stats={}, opt_state=())
NOTHING = GANState(step=0, g=PLAYER, d=PLAYER, ema=(), rollbacks=0)


def run(workdir, start, stop, config=None, **kwargs):
    with Logs(workdir, config or make_config(), start, **kwargs) as logs:
        for step in range(start + 1, stop + 1):
            logs.write(step, {**metrics_of(step), "images_per_s": 64.0})
    return logs


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def test_line_is_one_json_object_of_plain_floats(tmp_path):
    run(tmp_path, 0, 4)
    assert [json.loads(line) for line in lines(tmp_path)] == [
        {"step": step, "d_loss": step + 0.5, "g_loss": -0.25, "d_grad_norm": 3.0}
        | {"g_grad_norm": 0.0, "d_weight_norm": 2.0, "g_weight_norm": 1.0}
        | {"gamma/g": step, "images_per_s": 64.0}
        for step in (2, 4)
    ]
    assert lines(tmp_path)[0].startswith('{"step": 2, "d_loss": 2.5, "g_loss"')


def test_only_every_nth_step_is_logged(tmp_path):
    run(tmp_path, 0, 7, make_config(log_every=3))
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [3, 6]


def test_write_deals_with_the_step_before(tmp_path):
    with Logs(tmp_path, make_config(log_every=1), 0) as logs:
        assert logs.latest == {}
        logs.write(1, metrics_of(1))
        assert logs.latest == {} and lines(tmp_path) == []
        logs.write(2, metrics_of(2))
        assert logs.latest["d_loss"] == 1.5 and len(lines(tmp_path)) == 1
        logs.feedback.flush()
        assert logs.latest["d_loss"] == 2.5 and len(lines(tmp_path)) == 2
        logs.feedback.flush()
    assert len(lines(tmp_path)) == 2
    assert set(logs.latest) == set(MUST_BE_FINITE)


def test_resumed_run_leaves_the_lines_of_an_unbroken_one(tmp_path):
    (tmp_path / "a").mkdir()
    run(tmp_path / "a", 0, 10)
    (tmp_path / "b").mkdir()
    run(tmp_path / "b", 0, 7)
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "d_lo')
    run(tmp_path / "b", 5, 10)
    assert lines(tmp_path / "b") == lines(tmp_path / "a")


@pytest.mark.parametrize(
    "torn", ['{"step": 2', '{"step": 2}', "\x00\x00", '{"a": 1}\n']
)
def test_torn_last_line_is_dropped(tmp_path, torn):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + torn)
    run(tmp_path, 2, 2)
    assert lines(tmp_path) == ['{"step": 1}']


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "samples", "samples/raw_00000004.png", "tensorboard"]
)
def test_logs_follow_no_link_out_of_the_workdir(tmp_path, name):
    workdir, outside = tmp_path / "run", tmp_path / "outside"
    target = outside / "file"
    outside.mkdir()
    target.write_text("precious")
    (workdir / name).parent.mkdir(parents=True)
    (workdir / name).symlink_to(target if "." in name else outside)
    refused = contextlib.nullcontext()
    if "." not in name:
        refused = pytest.raises(ConfigError, match=f"/{name}: is a symbolic link")
    with refused, Logs(workdir, make_config(tensorboard=True), 0) as logs:
        for step in range(1, 5):
            logs.write(step, metrics_of(step))
        logs.logger.image(4, "raw", np.zeros((4, 4, 1), np.uint8))
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert target.read_text() == "precious"


def test_run_that_starts_again_from_nothing_drops_all_lines(tmp_path):
    run(tmp_path, 0, 6)
    run(tmp_path, 0, 2)
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [2]


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "player"),
    [(name, ("discriminator", "generator")[name[0] == "g"]) for name in MUST_BE_FINITE],
)
def test_first_value_that_is_not_finite_stops_the_run(
    tmp_path, name, player, bad, active
):
    config = make_config(log_every=100)  # unlogged steps are checked too
    with pytest.raises(Diverged, match=f"step 3: {name} is .*the {player}") as error:
        with Logs(tmp_path, config, 0, active=active) as logs:
            for step in range(1, 9):
                logs.write(step, metrics_of(step, **{name: bad if step > 2 else 1}))
    assert (error.value.step, error.value.name) == (3, name)
    assert isinstance(error.value, ArithmeticError)


def test_flush_finds_the_last_step(tmp_path):
    logs = Logs(tmp_path, make_config(), 0)
    logs.write(1, metrics_of(1, g_loss=float("nan")))
    with pytest.raises(Diverged, match="step 1: g_loss is nan"):
        logs.feedback.flush()
    logs.logger.__exit__(None, None, None)


def test_clean_exit_checks_the_last_step(tmp_path):
    with pytest.raises(Diverged, match="step 1"):
        with Logs(tmp_path, make_config(), 0) as logs:
            logs.write(1, metrics_of(1, d_loss=float("nan")))


def test_error_of_the_loop_is_not_hidden_by_the_last_step(tmp_path):
    with pytest.raises(KeyError):
        with Logs(tmp_path, make_config(), 0) as logs:
            logs.write(1, metrics_of(1, d_loss=float("nan")))
            raise KeyError


def test_other_values_may_be_infinite_and_the_line_is_still_json(tmp_path):
    odd = {"a": float("nan"), "b": float("inf"), "c": -float("inf")}
    with Logs(tmp_path, make_config(log_every=1), 0) as logs:
        logs.write(1, metrics_of(1, **odd))

    def refuse(name):
        raise ValueError(name)

    line = json.loads(lines(tmp_path)[0], parse_constant=refuse)
    assert {name: line[name] for name in odd} == {"a": "nan", "b": "inf", "c": "-inf"}


def test_inactive_writer_leaves_nothing(tmp_path):
    config = make_config(tensorboard=True, wandb=True)
    logs = run(tmp_path, 0, 4, config, active=False)
    logs.logger.image(4, "fake", np.zeros((2, 2, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
    assert logs.latest["d_loss"] == 4.5


def test_metrics_may_live_on_several_devices(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with Logs(tmp_path, make_config(), 0) as logs:
        logs.write(2, jax.device_put(metrics_of(2), everywhere))
    assert json.loads(lines(tmp_path)[0])["d_loss"] == 2.5


def tensorboard_events(workdir):
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, event, its checksum
            (length,) = struct.unpack_from("<Q", data, at)
            yield event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16


def test_tensorboard_has_the_scalars_and_forgets_what_is_done_again(tmp_path):
    config = make_config(tensorboard=True)
    run(tmp_path, 0, 4, config)
    with Logs(tmp_path, config, 2) as logs:
        logs.logger.image(3, "fake", np.full((4, 6, 3), 9, np.uint8))
    events = list(tensorboard_events(tmp_path))
    scalars = [
        (event.step, value.simple_value)
        for event in events
        for value in event.summary.value
        if value.tag == "d_loss"
    ]
    assert scalars == [(2, 2.5), (4, 4.5)]
    starts = [event.step for event in events if event.HasField("session_log")]
    assert starts == [1, 3]
    image = events[-1].summary.value[0]
    assert (image.tag, image.image.height, image.image.width) == ("fake", 4, 6)


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for the package: a list of what was called."""
    calls = []
    session = types.SimpleNamespace(
        log=lambda values, step: calls.append(("log", step, values["d_loss"])),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )
    module = types.ModuleType("wandb")
    module.init = lambda **kwargs: (calls.append(("init", kwargs)), session)[1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_goes_on_in_the_same_run(tmp_path, wandb):
    run(tmp_path, 0, 2, make_config(wandb=True))
    run(tmp_path, 2, 4, make_config(wandb=True))
    inits = [call[1] for call in wandb if call[0] == "init"]
    assert inits[0]["id"] == inits[1]["id"] and inits[0]["resume"] == "allow"
    assert inits[0]["dir"] == str(tmp_path)
    assert inits[0]["config"]["run.wandb"] is True
    rest = [call for call in wandb if call[0] != "init"]
    assert rest == [("log", 2, 2.5), ("finish", 0), ("log", 4, 4.5), ("finish", 0)]


def test_wandb_learns_that_a_run_failed(tmp_path, wandb):
    with pytest.raises(Diverged):
        with Logs(tmp_path, make_config(wandb=True), 0) as logs:
            logs.write(1, metrics_of(1, d_loss=float("nan")))
    assert wandb[-1] == ("finish", 1)


@pytest.mark.parametrize("module", [None, types.ModuleType("wandb")])
def test_wandb_that_is_not_installed_is_one_line(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ConfigError) as error:
        Logs(tmp_path, make_config(wandb=True), 0)
    assert str(error.value) == "run.wandb: needs W&B: pip install 'sagan[wandb]'"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_on_disk_is_the_picture(tmp_path, channels):
    picture = np.arange(4 * 5 * channels, dtype=np.uint8).reshape(4, 5, channels)
    with Logs(tmp_path, make_config(), 0) as logs:
        logs.logger.image(12, "ema", picture)
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["ema_00000012.png"]
    read = np.asarray(Image.open(tmp_path / "samples" / "ema_00000012.png"))
    np.testing.assert_array_equal(read.reshape(picture.shape), picture)
