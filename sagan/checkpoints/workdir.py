"""A run's directory: claimed by one config, and read by later commands."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from sagan.config.fields import differences, from_tree, replace, to_json
from sagan.config.schema import MAY_CHANGE, Config, ConfigError
from sagan.config.validation import check_config, is_local
from sagan.runtime import files
from sagan.runtime.progress import printable

_NAME = "config.json"
_UNFINISHED = f".{_NAME}."
_LOCK = ".lock"
_DATA = "data.json"
IMPORTED = "import.json"  # says where imported weights are from


def check_workdir(workdir: str | pathlib.Path, config: Config) -> Config:
    """Checks, before the data is opened, that a run may use `workdir`; creates it.

    A directory without `config.json` must be empty. A run with checkpoints may be
    resumed by a config that differs only in the fields of MAY_CHANGE.

    Returns:
      The config. Where it gives no number of classes (or, to resume, no
      run.init_from), that of the run.

    Raises:
      ConfigError: The directory cannot be used, or belongs to something else.
    """
    workdir = pathlib.Path(workdir)
    try:
        os.path.abspath(workdir).encode()
    except UnicodeEncodeError as error:  # Orbax could not save there
        raise ConfigError(f"{workdir}: a workdir's path must be UTF-8") from error
    _create(workdir)
    if (workdir / _NAME).exists():
        run = read_config(workdir)
        if config.data.classes is None:
            config = replace(config, {"data.classes": run.data.classes})
        if has_checkpoint(workdir):  # else nothing was trained that could be lost
            config = _with_source_of(run, config)
            _refuse_another(workdir, run, config)
    elif strangers := _strangers(workdir):
        raise ConfigError(
            f"{workdir}: holds something else ({strangers}) and no {_NAME}; choose a"
            " new or empty directory"
        )
    return config


def claim(
    workdir: str | pathlib.Path,
    config: Config,
    images: int,
    class_names: Sequence[str],
    digest: str = "",
) -> list[str]:
    """Makes a checked `workdir` the directory of a run of `config` on these data.

    `data.json` has images and classes of the first start from which training began,
    and images and digest (source.contents_digest) of every start. Paths in
    `config.json` are absolute, as later commands may be called from anywhere.

    Returns:
      Lines for the user.

    Raises:
      ConfigError: The directory cannot be written.
    """
    workdir = pathlib.Path(workdir)
    _create(workdir)
    notes, path, then = [], workdir / _DATA, _read_data(workdir)
    data = {"images": images, "classes": list(class_names), "starts": []}
    if has_checkpoint(workdir):
        notes = changed_data(workdir, images, digest)
        if then is not None:  # without starts, if it is from before 0.2
            data = {**then, "starts": then.get("starts", [{"images": then["images"]}])}
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    data["starts"] += [{"time": time, "images": images, "digest": digest}]
    try:
        if path.exists() and then is None:
            path.rename(files.beside_damaged(path))
        files.write_whole(path, json.dumps(data) + "\n")
    except OSError as error:
        raise ConfigError(f"{workdir}: cannot be written: {error.strerror}") from error
    write_config(workdir, config)
    return notes


def write_config(workdir: pathlib.Path, config: Config) -> None:
    """Writes `config.json`, its paths absolute; ConfigError if it cannot be written."""
    places = {"data.path": config.data.path, "run.local_dir": config.run.local_dir}
    config = replace(config, {name: absolute(path) for name, path in places.items()})
    try:
        files.write_whole(workdir / _NAME, to_json(config))
    except OSError as error:
        raise ConfigError(f"{workdir}: cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def locked(workdir: str | pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in `workdir`, which is created.

    Raises:
      ConfigError: Another process trains there, or the directory cannot be used.
    """
    workdir = pathlib.Path(workdir)
    _create(workdir)
    with files.open_append(workdir / _LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{workdir}: another process trains here") from error
        except OSError:
            pass  # a file system without locks
        for folder, inner, _ in os.walk(workdir):  # follows no link
            files.remove_unfinished(pathlib.Path(folder))
            inner[:] = [name for name in inner if name != "checkpoints"]
        yield


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether the directory has a checkpoint, good or not."""
    found = (workdir / "checkpoints").glob("*")  # some may be half written
    return any(path.name.isdecimal() for path in found)


def changed_data(workdir: pathlib.Path, images: int, digest: str = "") -> list[str]:
    """Lines for the user if the data has changed since the run began."""
    then, path = _read_data(workdir), workdir / _DATA
    if then is None and not path.exists() and (workdir / IMPORTED).exists():
        return []  # nobody knows what it was trained on
    if then is None:
        state = "damaged" if path.exists() else "gone"
        return [f"{path}: is {state}: the data are not compared with those of the run"]
    known = then.get("starts", [{}])[0].get("digest")
    what = ""
    if then["images"] != images:
        what = f"{then['images']} images then, {images} now"
    elif digest and known and known != digest:
        what = f"still {images} images, but with other names or sizes"
    return [f"the data changed since the run began: {what}"] if what else []


def absolute(path: str) -> str:
    """The same path from any folder; none at all, or with a scheme, stays."""
    return (
        os.path.abspath(os.path.expanduser(path)) if path and is_local(path) else path
    )


def split_step(text: str) -> tuple[pathlib.Path, int | None]:
    """The absolute path and, if there is one, the step in WORKDIR[:STEP]."""
    head, _, tail = text.rpartition(":")
    path, step = (head, int(tail)) if head and tail.isdecimal() else (text, None)
    return pathlib.Path(os.path.realpath(os.path.expanduser(path))), step


def _with_source_of(run: Config, now: Config) -> Config:
    """A config with run.init_from of its run, unless it names another source."""
    given, stored = now.run.init_from, run.run.init_from
    values = {"run.init_digest": now.run.init_digest or run.run.init_digest}
    (path, step), (known_path, known_step) = split_step(given), split_step(stored)
    if not given or (stored and path == known_path and step in (None, known_step)):
        values["run.init_from"] = stored
    return replace(now, values)


def class_names(workdir: pathlib.Path) -> list[str]:
    """Names of the run's classes by label; empty if they are not known."""
    return known_classes(workdir) or []


def known_classes(workdir: pathlib.Path) -> list[str] | None:
    """Names of the run's classes by label, perhaps none; None: they are not known."""
    with contextlib.suppress(OSError):
        if then := _read_data(workdir):
            return then["classes"]
    names = _read_imported(workdir).get("classes")
    return names if names and is_names(names) else None


def imported_from(workdir: pathlib.Path) -> str:
    """The project and the files that a run was imported from; empty: trained here."""
    known = _read_imported(workdir)
    sources = known.get("sha256")
    if not isinstance(sources, dict):
        return ""
    whose = " ".join(filter(None, [str(known.get("like", "")), ", ".join(sources)]))
    recipe = known.get("recipe")
    return printable(f"{whose}; recipe {recipe}" if recipe else whose)


def _read_imported(workdir: pathlib.Path) -> dict[str, Any]:
    """The content of import.json; empty if none can be read."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(known := files.read_json(workdir / IMPORTED), dict):
            return known
    return {}


def is_names(value: Any) -> bool:
    """Whether a value from a file can be names of classes."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _read_data(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The file about the data that `claim` wrote; None if it is gone or damaged."""
    try:
        then = files.read_json(workdir / _DATA)
        names, counts = then["classes"], [then["images"]]
        starts = then.get("starts", [{"images": 0}])
        counts += [start["images"] for start in starts] or [None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno not in files.DAMAGE:
            raise
        return None
    known = is_names(names) and all(isinstance(count, int) for count in counts)
    return then if known else None


def read_config(workdir: str | pathlib.Path) -> Config:
    """The config of the run in `workdir`.

    Raises:
      ConfigError: There is no run, or its config cannot be read.
    """
    path = pathlib.Path(workdir) / _NAME
    try:
        config = from_tree(files.read_json(path))
        check_config(config)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{workdir}: holds no run (there is no {_NAME})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is not a config: {error}") from error
    return config


def _create(workdir: pathlib.Path) -> None:
    if not is_local(str(workdir)):
        raise ConfigError(
            f"{workdir}: must be a path on this machine, without a scheme"
        )
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"{workdir}: is a file, not a directory")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{workdir}: cannot be created: {error.strerror}") from error
    if not os.access(workdir, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{workdir}: cannot be written: no permission")


def _strangers(workdir: pathlib.Path, show: int = 3) -> str:
    names = sorted(path.name for path in workdir.iterdir())
    # A process killed while claiming, or one claiming at this moment, leaves its own.
    own = (_UNFINISHED, _LOCK, f".{_DATA}.", _DATA, "output.log")
    names = [name for name in names if not name.startswith(own)]
    return ", ".join(names[:show] + ["..."] * (len(names) > show))


def _refuse_another(workdir: pathlib.Path, run: Config, now: Config) -> None:
    free = set(MAY_CHANGE)
    if run.optim.decay_start is not None:
        free.discard("run.steps")  # the rates fall to 0 at run.steps
    changes = {k: v for k, v in differences(run, now).items() if k not in free}
    if not changes:
        return
    lines = [f"{workdir}: holds a run of another config:"]
    lines += [
        f"  {k}: {old!r} in the run, {new!r} now" for k, (old, new) in changes.items()
    ]
    lines += [
        "To start a new run from the weights of this one, name another workdir and"
        f" --run.init-from {workdir}"
    ]
    if "run.steps" in changes:
        lines += ["run.steps must stay: with optim.decay_start the rates depend on it"]
    raise ConfigError("\n".join(lines))
