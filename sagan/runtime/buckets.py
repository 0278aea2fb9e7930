"""Objects in a bucket of Google Cloud Storage, below one path."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, final

from sagan.config.schema import ConfigError
from sagan.runtime.files import open_regular, whole_file

_SECONDS = (10, 120)  # to connect, and without an answer
_RETRY_SECONDS = 20.0  # for what only reads


class BucketError(OSError):
    """A request failed."""


class Unreachable(BucketError):
    """There was no answer, or one that asks to try again: not the user's mistake."""


class Conflict(BucketError):
    """The object is not the one that the request was for: somebody else wrote it."""


class Stored(NamedTuple):
    """An object: its generation, size in bytes, and CRC-32C in base64."""

    generation: int
    size: int
    crc32c: str


@contextlib.contextmanager
def as_mistake(what: str = "", kind: type[OSError] = BucketError) -> Iterator[None]:
    """Turns errors of a kind into ConfigErrors, but not Unreachable."""
    try:
        yield
    except Unreachable:
        raise
    except kind as error:
        raise ConfigError(f"{what}{error}") from error


def bucket_and_path(url: str) -> tuple[str, str]:
    """The parts of gs://BUCKET/PATH; a ConfigError if it is something else."""
    found = re.fullmatch(r"gs://([a-z0-9][a-z0-9._-]*[a-z0-9])/(.+?)/*", url)
    parts = found[2].split("/") if found else [""]
    if not found or {"", ".", ".."} & set(parts) or not url.isprintable():
        raise ConfigError(f"{url}: must be gs://BUCKET/PATH")
    return found[1], found[2]


@final
class Objects:
    """The objects below gs://BUCKET/PATH, by their names from there on.

    Every method raises a BucketError of one line if a request fails, and may be called
    by several threads.
    """

    def __init__(self, url: str):
        """Checks the name; connects to nothing yet.

        Raises:
          ConfigError: It is no gs://BUCKET/PATH, google-cloud-storage is not installed,
            or this machine has no credentials.
        """
        bucket, path = bucket_and_path(url)
        self.url = f"gs://{bucket}/{path}"
        try:
            from google.auth.exceptions import DefaultCredentialsError
            from google.cloud import storage
        except ImportError as error:
            needed = "needs google-cloud-storage: pip install 'sagan[gcs]'"
            raise ConfigError(f"{url}: {needed}") from error
        try:
            client: Any = storage.Client(project="none")  # it is never asked for
        except DefaultCredentialsError as error:
            raise ConfigError(
                f"{url}: this machine has no Google credentials; on one of your own,"
                " run `gcloud auth application-default login`"
            ) from error
        self._prefix = f"{path}/"
        self._bucket = client.bucket(bucket)

    def list(self) -> dict[str, Stored]:
        """All objects, by name, but the empty ones that stand for folders."""
        with self._told("cannot be listed"):
            found = self._bucket.list_blobs(prefix=self._prefix, **_options(retry=True))
            named = [(blob.name[len(self._prefix) :], blob) for blob in found]
        objects = {n: _stored(blob) for n, blob in named if n and n[-1] != "/"}
        if odd := [n for n in objects if {"", ".", ".."} & set(n.split("/"))]:
            raise BucketError(f"{self.url}: {odd[0]!r} cannot be the name of a file")
        return objects

    def stat(self, name: str) -> Stored | None:
        """An object; None if it is not there."""
        with self._told(f"{name}: cannot be found"):
            path = self._prefix + name
            blob = self._bucket.get_blob(path, **_options(retry=True))
        return None if blob is None else _stored(blob)

    def read(self, name: str) -> tuple[bytes, int] | None:
        """The content and generation of a small object; None if it is not there."""
        from google.api_core.exceptions import NotFound

        with self._told(f"{name}: cannot be read"):
            blob = self._blob(name)
            try:
                content = blob.download_as_bytes(**_options(retry=True))
            except NotFound:
                return None
            return content, int(blob.generation)

    def write(self, name: str, content: bytes | Path, before: int | None) -> int:
        """Writes an object, from a file if `content` is a path.

        Args:
          name: Name of the object.
          content: Its content.
          before: The generation that it replaces, 0 for none; None: whatever is there.

        Returns:
          Its generation.

        Raises:
          Conflict: Another object is there.
        """
        blob = self._blob(name)
        options = _options() | {"if_generation_match": before, "checksum": "crc32c"}
        with self._told(f"{name}: cannot be written"):
            if isinstance(content, bytes):
                blob.upload_from_string(content, **options)
            else:
                with open_regular(content) as file:  # of a log, what is there now
                    size = os.fstat(file.fileno()).st_size
                    blob.upload_from_file(file, size=size, **options)
        return int(blob.generation)

    def fetch(self, name: str, path: Path, stored: Stored) -> None:
        """Writes an object to a file, which is whole or absent."""
        path.parent.mkdir(parents=True, exist_ok=True)
        options = _options(retry=True) | {"if_generation_match": stored.generation}
        with self._told(f"{name}: cannot be read"), whole_file(path) as file:
            self._blob(name).download_to_file(file, checksum="crc32c", **options)

    def delete(self, name: str) -> None:
        """Removes an object, which may be gone."""
        from google.api_core.exceptions import NotFound

        with self._told(f"{name}: cannot be removed"), contextlib.suppress(NotFound):
            self._blob(name).delete(**_options())

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._prefix + name)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turns the many errors of the client into a BucketError of one line."""
        import requests
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption

        known: tuple = (exceptions.GoogleAPIError, GoogleAuthError, DataCorruption)
        known += (requests.RequestException,)
        try:
            yield
        except exceptions.NotFound as error:
            of_bucket = "listed" in what or "written" in what
            missing = "there is no such bucket" if of_bucket else "it is gone"
            raise BucketError(f"{self.url}: {what}: {missing}") from error
        except exceptions.PreconditionFailed as error:
            raise Conflict(f"{self.url}: {what}: somebody else wrote it") from error
        except (*known, ConnectionError, TimeoutError) as error:
            code = getattr(error, "code", None)
            final = code in range(400, 500) and code not in (408, 429)
            kind = BucketError if final else Unreachable
            raise kind(f"{self.url}: {what}: {_reason(error)}") from error


def _stored(blob: Any) -> Stored:
    return Stored(int(blob.generation), int(blob.size), blob.crc32c)


def _reason(error: Exception) -> str:
    """An error of the client in a few words."""
    code, name = getattr(error, "code", None), type(error).__name__
    if code:
        return "no permission" if code in (401, 403) else f"error {int(code)}"
    if name in ("RefreshError", "DataCorruption"):  # Google's words say what to do
        return " ".join(str(error).split())[:300]
    return f"no connection ({name})"


def crc32c_of(path: Path) -> str:
    """The CRC-32C of a file in base64, as buckets give it."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with open_regular(path) as file:
        while block := file.read(2**20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def _options(*, retry: bool = False) -> dict[str, Any]:
    from google.cloud.storage.retry import DEFAULT_RETRY

    patient = DEFAULT_RETRY.with_timeout(_RETRY_SECONDS) if retry else None
    return {"timeout": _SECONDS, "retry": patient}
