"""What a bucket holds at every moment, with one in memory."""

import itertools
import json
import random
import shutil
import threading

import pytest

from sagan.checkpoints import bucket_layout as layout
from sagan.checkpoints import mirror as mirror_lib
from sagan.config import ConfigError
from sagan.runtime import lease as lease_lib
from sagan.runtime import transfers
from sagan.runtime.buckets import BucketError, Conflict, Objects, Stored

URL = "gs://bucket/runs/x"


class Memory(Objects):
    """A bucket in memory that calls `after` with its contents after each change."""

    def __init__(self, after=lambda contents: None):
        self.url = URL
        self.contents, self.generations = {}, {}
        self.after, self.broken = after, None
        self._counter, self._lock = itertools.count(1), threading.Lock()

    def _change(self):
        if self.broken:
            raise self.broken
        self.after(self.contents)

    def _stored(self, name):
        content = self.contents[name]
        return Stored(self.generations[name], len(content), str(hash(content)))

    def list(self):
        return {name: self._stored(name) for name in self.contents}

    def stat(self, name):
        return self._stored(name) if name in self.contents else None

    def read(self, name):
        found = self.contents.get(name)
        return None if found is None else (found, self.generations[name])

    def write(self, name, content, before):
        content = content if isinstance(content, bytes) else content.read_bytes()
        with self._lock:
            if before not in (None, self.generations.get(name, 0)):
                raise Conflict(name)
            self._change()
            self.contents[name] = content
            self.generations[name] = next(self._counter)
            return self.generations[name]

    def delete(self, name):
        with self._lock:
            self._change()
            self.contents.pop(name, None)
            self.generations.pop(name, None)

    def fetch(self, name, path, stored):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.contents[name])


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    made = Memory()
    monkeypatch.setattr(mirror_lib, "Objects", lambda url: made)
    monkeypatch.setattr(transfers, "crc32c_of", lambda p: str(hash(p.read_bytes())))
    monkeypatch.setattr(mirror_lib, "PATIENCE", 0)
    monkeypatch.setattr(lease_lib, "EXPIRE", 0.2)
    return made


class Machine:
    """A local folder with a run that only counts its steps."""

    def __init__(self, local_dir):
        self.local_dir, self.told = local_dir, []
        self.stopped = []

    def begin(self):
        stop = lambda: self.stopped.append(True)  # noqa: E731
        self.mirror = mirror_lib.Mirror(
            URL, str(self.local_dir), stop, self.told.append
        )
        self.mirror.begin()
        self.folder = self.mirror.folder
        return self

    def send(self):
        assert self.mirror._try_pass()

    def train(self, step, keep=3):
        """A step that saves a checkpoint, and lines up to it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "metrics.jsonl").open("a") as file:
            print(json.dumps({"step": step}), file=file)
        place = self.folder / "checkpoints" / str(step)
        (place / "state" / "d").mkdir(parents=True)
        for i in range(3):
            (place / "state" / "d" / f"{i}").write_bytes(random.randbytes(9))
        (place / "meta").mkdir()
        (place / "meta" / "metadata").write_text(str(step))
        (place / layout.MARKER).write_text("")
        steps = sorted(self.steps())
        for old in steps[: max(0, len(steps) - keep)]:
            shutil.rmtree(self.folder / "checkpoints" / str(old))

    def roll_back(self, step):
        """What a rollback does with the folder."""
        aside = self.folder / "checkpoints" / "diverged"
        aside.mkdir(exist_ok=True)
        for newer in [s for s in self.steps() if s > step]:
            place = self.folder / "checkpoints" / str(newer)
            place.rename(aside / f"{newer}.{len(list(aside.glob(f'{newer}.*')))}")
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        (self.folder / "metrics.jsonl").write_text("".join(f"{x}\n" for x in kept))

    def steps(self):
        found = (self.folder / "checkpoints").glob("*")
        return [int(p.name) for p in found if p.name.isdecimal()]

    def files(self):
        names = layout.local_files(self.folder)
        return {name: (self.folder / name).read_bytes() for name in names}

    def die(self):
        """The process ends without a word; what waits for its lease is told so."""
        self.mirror._ended.set()
        self.mirror._thread.join()
        self.mirror._lease._ended.set()
        self.mirror._lease._thread.join()


@pytest.fixture
def machine(bucket, tmp_path):
    made = Machine(tmp_path / "local")
    yield made.begin()
    made.die()


def in_bucket(bucket):
    return {n: c for n, c in bucket.contents.items() if n != lease_lib.NAME}


def test_after_a_pass_the_bucket_has_the_files_of_the_folder(machine, bucket):
    machine.train(1)
    (machine.folder / ".lock").write_text("")
    (machine.folder / ".metrics.png.12.unfinished").write_text("")
    (machine.folder / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    (machine.folder / "checkpoints" / "2.orbax-checkpoint-tmp" / "a").write_text("")
    (machine.folder / "link").symlink_to("/etc/passwd")
    machine.send()
    assert in_bucket(bucket) == machine.files()
    assert not [n for n in bucket.contents if "lock" in n or "tmp" in n or "link" in n]
    for step in range(2, 7):
        machine.train(step)
    machine.send()
    assert in_bucket(bucket) == machine.files()
    assert layout.steps_in(bucket.contents) == {4, 5, 6}


def test_at_every_moment_the_newest_checkpoint_has_all_its_files_and_lines(
    machine, bucket
):
    complete = {}

    def after(contents):
        found = layout.steps_in(contents)
        if not found:
            assert not seen, "there was a checkpoint, and now there is none"
            return
        newest = max(found)
        seen.append(newest)
        names = {n for n in contents if layout.step_of(n) == newest}
        assert names == {n for n in complete if layout.step_of(n) == newest}
        assert all(contents[n] == complete[n] for n in names)
        lines = contents["metrics.jsonl"].decode().splitlines()
        assert [json.loads(x)["step"] for x in lines][:newest] == [
            *range(1, newest + 1)
        ]

    seen, bucket.after = [], after
    for step in (1, 2, 3, 4, 5, 6):
        machine.train(step)
        complete |= machine.files()
        if step != 2:
            machine.send()
    machine.roll_back(4)
    machine.send()
    assert layout.steps_in(bucket.contents) == {4}
    machine.train(5)
    complete |= machine.files()
    machine.send()
    assert in_bucket(bucket) == machine.files()
    assert {6, 5, 4} <= set(seen)


@pytest.mark.parametrize("writes", range(0, 30, 3))
def test_a_new_machine_goes_on_from_whatever_a_kill_left(writes, bucket, tmp_path):
    first = Machine(tmp_path / "first").begin()
    first.train(1)
    first.send()
    left = [writes]

    def after(contents):
        left[0] -= 1
        if left[0] < 0:
            bucket.broken = BucketError("killed")
            raise bucket.broken

    bucket.after = after
    for step in (2, 3, 4, 5):
        first.train(step)
    first.mirror._try_pass()
    first.die()
    bucket.broken, bucket.after = None, lambda contents: None
    second = Machine(tmp_path / "second").begin()
    newest = max(second.steps())
    assert newest >= 1
    lines = (second.folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) >= newest
    kept = {n: c for n, c in first.files().items() if layout.step_of(n) == newest}
    if newest > 1:  # the first is no longer there
        assert kept.items() <= second.files().items()
    second.send()
    assert in_bucket(bucket) == second.files()
    second.die()


def test_a_checkpoint_without_its_marker_is_named(bucket, tmp_path):
    first = Machine(tmp_path / "first").begin()
    for step in (1, 2):
        first.train(step)
    first.send()
    first.die()
    del bucket.contents[f"checkpoints/2/{layout.MARKER}"]
    second = Machine(tmp_path / "second").begin()
    assert second.steps() == [1]
    assert f"left out as unfinished (no {layout.MARKER}): 2" in second.told[-1]
    second.send()
    second.die()
    assert not any(name.startswith("checkpoints/2/") for name in bucket.contents)


def test_a_folder_that_is_ahead_of_the_bucket_goes_on(machine, bucket, tmp_path):
    machine.train(1)
    machine.send()
    machine.train(2)
    machine.roll_back(1)
    machine.train(2)
    machine.train(3, keep=1)
    ahead = machine.files()
    machine.die()
    again = Machine(tmp_path / "local").begin()
    assert again.files() == ahead
    again.send()
    assert in_bucket(bucket) == ahead
    again.die()


def test_a_folder_that_lost_its_checkpoints_gets_them_again(machine, bucket, tmp_path):
    machine.train(1)
    machine.train(2)
    machine.mirror.end()
    shutil.rmtree(machine.folder / "checkpoints")
    again = Machine(tmp_path / "local").begin()
    assert sorted(again.steps()) == [1, 2]
    again.die()


@pytest.mark.parametrize("arrived", [True, False])
def test_a_copy_that_another_machine_went_past_is_replaced(arrived, bucket, tmp_path):
    first = Machine(tmp_path / "first").begin()
    first.train(1)
    first.send()
    if arrived:
        first.mirror.end()
    else:
        for step in (2, 3, 4):
            first.train(step)
        first.die()
    second = Machine(tmp_path / "second").begin()
    second.train(2)
    second.train(3)
    second.mirror.end()
    again = Machine(tmp_path / "first").begin()
    assert again.files() == second.files()
    kept = list(again.folder.parent.glob("x.aside*"))
    assert bool(kept) != arrived and bool(kept) == any(
        "kept as" in x for x in again.told
    )
    again.die()


@pytest.mark.parametrize("files", range(1, 10, 2))
def test_a_kill_while_the_run_comes_down_does_not_pass_for_the_run(
    files, bucket, tmp_path, monkeypatch
):
    first = Machine(tmp_path / "first").begin()
    for step in (1, 2):
        first.train(step)
    first.mirror.end()
    fetch, left = bucket.fetch, [files]

    def stop_early(name, path, stored):
        left[0] -= 1
        if left[0] < 0:
            raise BucketError("killed")
        fetch(name, path, stored)

    monkeypatch.setattr(bucket, "fetch", stop_early)
    second = Machine(tmp_path / "second")
    with pytest.raises(BucketError):
        second.begin()
    second.mirror._lease._ended.set()
    monkeypatch.setattr(bucket, "fetch", fetch)
    again = Machine(tmp_path / "second").begin()
    assert again.files() == first.files() == in_bucket(bucket)
    again.die()


def test_evaluations_of_other_machines_stay(machine, bucket, tmp_path):
    machine.train(1)
    (machine.folder / "eval").mkdir()
    (machine.folder / "eval" / "old").write_text("ours")
    machine.send()
    bucket.write("eval/new", b"theirs", 0)
    bucket.write("eval/old", b"theirs", None)
    (machine.folder / "eval" / "new").write_text("ours")
    machine.train(2)
    machine.send()
    assert bucket.contents["eval/new"] == bucket.contents["eval/old"] == b"theirs"
    machine.die()
    again = Machine(tmp_path / "local").begin()
    assert (again.folder / "eval" / "old").read_text() == "theirs"
    assert (again.folder / "eval" / "new").read_text() == "theirs"
    again.die()


def test_a_bucket_that_fails_is_told_once_and_everything_arrives_later(machine, bucket):
    machine.train(1)
    bucket.broken = BucketError("gs://bucket/runs/x: no connection")
    for _ in range(3):
        assert not machine.mirror._try_pass()
    assert len(machine.told) == 1 and "no connection" in machine.told[0]
    assert str(machine.folder) in machine.told[0]
    bucket.broken = None
    machine.send()
    assert in_bucket(bucket) == machine.files() and "again" in machine.told[1]


@pytest.mark.parametrize("lost", [".", "checkpoints", "config.json"])
def test_a_folder_that_others_emptied_removes_nothing(machine, bucket, lost):
    machine.train(1)
    (machine.folder / "config.json").write_text("{}")
    machine.send()
    before = in_bucket(bucket)
    path = machine.folder / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert not machine.mirror._try_pass()
    assert in_bucket(bucket) == before and "was emptied" in machine.told[-1]


def test_an_error_of_any_kind_does_not_end_the_mirror(machine, bucket):
    machine.train(1)
    bucket.broken = ValueError("the client's own mistake")
    assert not machine.mirror._try_pass()
    bucket.broken = None
    machine.send()


def test_a_place_that_holds_something_else_is_refused(bucket, tmp_path):
    bucket.write("train-00000.records", b"images", 0)
    with pytest.raises(ConfigError, match="holds something else than a run"):
        Machine(tmp_path).begin()
    assert set(bucket.contents) == {"train-00000.records"}
    assert not (tmp_path / "runs").exists()


def test_a_start_that_fails_frees_the_lease_and_leaves_no_copy_aside(
    bucket, tmp_path, monkeypatch
):
    bucket.write("config.json", b"{}", 0)

    def fail(name, path, stored):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"part")
        raise BucketError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "fetch", fail)
        for _ in range(2):
            with pytest.raises(BucketError):
                Machine(tmp_path).begin()
    assert json.loads(bucket.contents["lease.json"])["held"] is False
    machine = Machine(tmp_path).begin()
    assert (machine.folder / "config.json").read_bytes() == b"{}"
    assert [p.name for p in machine.folder.parent.iterdir()] == ["x"]
    machine.mirror.end()


def test_what_has_not_arrived_at_the_end_is_an_error(machine, bucket):
    machine.train(1)
    bucket.broken = BucketError("gs://bucket/runs/x: no connection")
    with pytest.raises(OSError, match="not everything is in the bucket: .*local"):
        machine.mirror.end()


def test_an_answer_that_was_lost_is_no_conflict(machine, bucket, monkeypatch):
    write = bucket.write

    def lose_answer(name, content, before):
        write(name, content, before)
        monkeypatch.setattr(bucket, "write", write)
        raise BucketError("no answer")

    machine.train(1)
    monkeypatch.setattr(bucket, "write", lose_answer)
    assert not machine.mirror._try_pass()
    machine.send()
    assert in_bucket(bucket) == machine.files()


def test_a_living_process_keeps_its_lease_and_a_silent_one_loses_it(
    machine, bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(lease_lib, "_is_dead", lambda holder: False)
    lease = machine.mirror._lease
    renewed = threading.Thread(target=lambda: [lease._renew() for _ in range(200_000)])
    second = Machine(tmp_path / "second")
    stop = threading.Event()

    def renew():
        while not stop.wait(0.02):
            lease._renew()

    renewed = threading.Thread(target=renew)
    renewed.start()
    with pytest.raises(ConfigError, match=f"{URL}: another process trains here"):
        second.begin()
    stop.set()
    renewed.join()
    second.begin()
    assert any("taken over" in line for line in second.told)
    machine.train(1)
    with pytest.raises(OSError, match="another process took over"):
        machine.mirror._lease.confirm(now=True)
    assert machine.stopped and not machine.mirror._try_pass()
    assert set(bucket.contents) == {lease_lib.NAME}
    with pytest.raises(OSError, match="took over; what this one did is in"):
        machine.mirror.end()
    second.die()


def test_of_two_that_start_at_once_one_is_refused(bucket):
    told = []
    both = [lease_lib.Lease(bucket, name, lambda: None) for name in "ab"]
    for lease in both:
        assert lease.look(told.append) is None
    both[0].take()
    with pytest.raises(ConfigError, match="another process starts to train here"):
        both[1].take()
    both[0].release()
    assert lease_lib.Lease(bucket, "c", lambda: None).look(told.append) == "a"
    assert not told


@pytest.mark.parametrize("content", [b"", b"[1]", b"[" * 99999, b'{"held": 1}'])
def test_an_odd_lease_is_waited_for_at_most(content, bucket):
    bucket.write(lease_lib.NAME, content, 0)
    lease = lease_lib.Lease(bucket, "a", lambda: None)
    lease.look(lambda line: None)
    lease.take()
    lease.release()


@pytest.mark.parametrize(
    "url",
    [
        "gs://",
        "gs://b",
        "gs://bucket/",
        "gs://bucket/../x",
        "gs://bucket//x",
        "gs://Bu/x",
    ],
)
def test_a_url_that_is_no_path_in_a_bucket_is_one_line(url):
    with pytest.raises(ConfigError, match="must be gs://BUCKET/PATH"):
        Objects(url)
