"""Units that `snapsync service install` has written: which they are, and whether one was changed by hand."""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from snapsync.errors import RefusedError, told

MARK = "# Written by `snapsync service install`, which replaces it."
# After the mark comes a digest of the rest: what was changed by hand is seen by it.
_SUM = "# To change something, `systemctl edit`: this file is as it was written, "


def signed(text: str) -> str:
    """The text of a unit with its digest, after its first line."""
    mark, _, rest = text.partition("\n")
    return f"{mark}\n{_SUM}{_digest(rest)}\n{rest}"


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _is_as_written(text: str) -> bool:
    """Whether nobody has changed a unit. One of an older version has no digest, and cannot be told."""
    _, line, rest = [*text.split("\n", 2), "", ""][:3]
    return not line.startswith(_SUM) or line == _SUM + _digest(rest)


def are_as_written(files: Iterable[Path], manager: str) -> None:
    """Refuse to replace or remove what somebody has changed by hand."""
    for file in files:
        if not _is_as_written(file.read_text("utf-8", "surrogateescape")):
            message = f"{file} was changed by hand since `snapsync service install` wrote it"
            advice = (
                f"put your changes into a drop-in, which stays: `{manager} edit {file.name}`; "
                "then --force replaces or removes the file"
            )
            raise told(RefusedError(message), message, advice)


def written(home: Path, patterns: Iterable[str]) -> list[Path]:
    """The units there that this command has written."""
    files = sorted(file for pattern in patterns for file in home.glob(pattern))
    return [file for file in files if file.read_text("utf-8", "replace").startswith(MARK)]


def is_own(file: Path) -> bool:
    """Whether a unit is there. One that was not written by this command is refused."""
    try:
        text = file.read_text("utf-8", "replace")
    except FileNotFoundError:
        return False
    if text.startswith(MARK):
        return True
    message = f"{file} was not written by `snapsync service install`"
    raise told(RefusedError(message), message, "move it away first, or name another directory with --dir")
