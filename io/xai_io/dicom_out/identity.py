"""Whose results these are: nobody's by default, or the original patient's where that is asked for."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from .._files import config_folder
from ..errors import ExportError

SECRET_VARIABLE = "NAPARI_XAI_SECRET"
_LEAST_BYTES = 16


def user_secret() -> bytes:
    """Return the key that maps identifiers: from the environment (NAPARI_XAI_SECRET), else of this user's own.

    The user's own key is 32 random bytes in hexadecimal, made once, readable by the user alone, in the user's
    configuration folder. Sites that want one mapping on all their machines set the variable.

    Raises
    ------
    ExportError
        If the key is too short to be one, or its file can be neither made nor read.
    """
    given = os.environ.get(SECRET_VARIABLE)
    if given is not None:
        return _long_enough(given.encode())
    path = config_folder() / "secret"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return _existing(path)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        return _existing(path)
    except OSError as error:
        raise ExportError(
            f"The key for pseudonyms at {path} can be neither made nor read ({error.strerror or error}); "
            f"set {SECRET_VARIABLE} to a long random text."
        ) from error


def _long_enough(secret: bytes) -> bytes:
    """Refuse a key that could be guessed."""
    if len(secret) < _LEAST_BYTES:
        raise ExportError(
            f"A key for pseudonyms of {len(secret)} bytes was given; at least {_LEAST_BYTES} are needed: "
            f"set {SECRET_VARIABLE} to a long random text, or unset it."
        )
    return secret


def _existing(path: Path) -> bytes:
    """Read a key that another process may be writing at this moment."""
    for _ in range(20):
        found = path.read_bytes().strip()
        if len(found) >= 2 * 32:
            return found
        time.sleep(0.05)
    raise ExportError(f"The key for pseudonyms at {path} is cut short; remove the file, and a new one will be made.")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """How identifiers of the source become identifiers of results.

    By default everything that could identify the patient is left out, and UIDs are mapped by one secret key, so
    that all results of a scan, and the scan itself where it is written beside them, refer to each other but
    cannot be traced to the originals without the key (PS3.15, Basic Application Confidentiality Profile). The same
    scan gets the same identifiers on every export.

    Pixels are never altered: a head can be recognised by its face, and text burned into a scan stays there (scans
    that say they have such text are refused where their pixels would be shown).

    Parameters
    ----------
    keep
        File the results into the original study instead: its patient, study and frame of reference are kept.
    secret
        Key of the mapping; in no output, nor in `repr`. None is this user's own (see `user_secret`), which is only
        made or read where something has to be mapped.

    Raises
    ------
    ExportError
        If the key has fewer than 16 bytes.
    """

    keep: bool = False
    secret: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a key that could be guessed."""
        if self.secret is not None:
            _long_enough(self.secret)

    def uid(self, original: str) -> str:
        """Map a UID of the source: the same for the same one, always; unchanged where identity is kept."""
        return str(original) if self.keep else self.new_uid(str(original))

    def new_uid(self, *parts: str) -> str:
        """UID derived from what a new object is made of (PS3.5 B.2: 2.25 and a 128-bit integer)."""
        return f"2.25.{int.from_bytes(self._digest('uid', *parts)[:16], 'big')}"

    def pseudonym(self, *original: str) -> str:
        """Name for a patient that says nothing: 60 bits of the keyed digest, in hexadecimal."""
        return f"XAI-{self._digest('patient', *original).hex()[:15].upper()}"

    def _digest(self, purpose: str, *parts: str) -> bytes:
        message = "\0".join((purpose, *(part.strip(" \0") for part in parts)))
        return hmac.new(
            user_secret() if self.secret is None else self.secret, message.encode(), hashlib.sha256
        ).digest()
