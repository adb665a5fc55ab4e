"""The directories of the user who runs this, and files that no other user can have written."""

import os
import pwd
from pathlib import Path

from snapsync import _native


def home() -> Path | None:
    """The home of the user who runs this. Under sudo HOME may be that of another user, and is ignored."""
    told = os.environ.get("HOME")
    if told and _is_own(Path(told)):
        return Path(told)
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None


def config_home() -> Path | None:
    """The directory in which this user's programs look for their configuration."""
    return _directory(os.environ.get("XDG_CONFIG_HOME"), ".config")


def state_home() -> Path | None:
    """The directory in which this user's programs keep their state."""
    return _directory(os.environ.get("XDG_STATE_HOME"), ".local/state")


def expand(path: str) -> str:
    """Replace a leading `~/` by this user's home, and `~name/` by that of another user."""
    at = home()
    if at is not None and (path == "~" or path.startswith("~/")):
        return str(at) + path[1:]
    return path if path.startswith("~/") else os.path.expanduser(path)


def read(what: str, path: Path) -> bytes:
    """Read a file, and refuse it if another user can have written it. `what` names it in the refusal."""
    with open(_native.trusted(what, str(path)), "rb") as file:
        return file.read()


def _directory(told: str | None, usual: str) -> Path | None:
    if told and _is_own(Path(told)):
        return Path(told)
    at = home()
    return None if at is None else at / usual


def _is_own(place: Path) -> bool:
    """Whether a directory named by a variable belongs to this user. Under sudo no variable counts."""
    if not place.is_absolute() or "SUDO_USER" in os.environ:
        return False
    there = next((above for above in (place, *place.parents) if above.exists()), None)
    if there is None:
        return False
    owner = there.stat().st_uid
    return owner == os.geteuid() or (owner == 0 and there != place)
