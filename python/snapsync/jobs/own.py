"""What is the runner's own: his directories, and files that nobody else can have written."""

import os
import pwd
from pathlib import Path

from snapsync import _native


def home() -> Path | None:
    """The home of who runs this. In HOME sudo may leave that of who started it, which does not count."""
    told = os.environ.get("HOME")
    if told and _is_own(Path(told)):
        return Path(told)
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None


def config_home() -> Path | None:
    """Where his programs look for their configuration."""
    return _directory(os.environ.get("XDG_CONFIG_HOME"), ".config")


def state_home() -> Path | None:
    """Where his programs keep what they have to remember."""
    return _directory(os.environ.get("XDG_STATE_HOME"), ".local/state")


def expand(path: str) -> str:
    """A path in which a leading `~/` is his home; `~name` is that of another user."""
    at = home()
    if at is not None and (path == "~" or path.startswith("~/")):
        return str(at) + path[1:]
    return path if path.startswith("~/") else os.path.expanduser(path)


def read(what: str, path: Path) -> bytes:
    """The content of a file that nobody else can have written. `what` names it in a refusal."""
    with open(_native.trusted(what, str(path)), "rb") as file:
        return file.read()


def _directory(told: str | None, usual: str) -> Path | None:
    if told and _is_own(Path(told)):
        return Path(told)
    at = home()
    return None if at is None else at / usual


def _is_own(place: Path) -> bool:
    """Whether a variable can mean it: under sudo none counts."""
    if not place.is_absolute() or "SUDO_USER" in os.environ:
        return False
    there = next((above for above in (place, *place.parents) if above.exists()), None)
    if there is None:
        return False
    owner = there.stat().st_uid
    return owner == os.geteuid() or (owner == 0 and there != place)
