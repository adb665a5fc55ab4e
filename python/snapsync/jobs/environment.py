"""Credentials from a file: variables of the environment, for the client of an object store."""

import os
import re
from pathlib import Path
from typing import NoReturn

from snapsync.errors import UsageError, told
from snapsync.jobs import own

_NAMES = re.compile(r"AWS_[A-Z0-9_]+|SNAPSYNC_(IDENTITY|KEYS)")


def take(file: str) -> None:
    """Set the variables that `file` names, a line NAME=VALUE each, as systemd's EnvironmentFile= does.

    Raises UsageError where others can read or write it, or a line is none.
    """
    path = Path(own.expand(file))
    try:
        content = own.read("the credentials", path)
        mode = path.stat().st_mode
    except OSError as error:
        _wrong(f"cannot read the credentials in {path}: {error.strerror}", "check the path")
    if mode & 0o077:
        _wrong(f"others can read the credentials in {path}", f"chmod 600 {path}")
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", ";")):
            continue
        name, is_one, value = line.partition("=")
        if not is_one or not _NAMES.fullmatch(name.strip()):
            # The line itself may be a secret.
            _wrong(
                f"line {number} of {path} sets no variable of credentials",
                "write lines such as AWS_ACCESS_KEY_ID=…; other names than AWS_…, SNAPSYNC_IDENTITY and "
                "SNAPSYNC_KEYS have no place there",
            )
        os.environ[name.strip()] = _unquoted(value.strip())


def _unquoted(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value


def _wrong(message: str, advice: str) -> NoReturn:
    raise told(UsageError(message), message, advice) from None
