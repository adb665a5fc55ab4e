"""Where a page is written: in the place of a file, all at once."""

import os
import secrets
import stat

from snapsync.errors import RefusedError, UsageError, told

_STORE = ".snapsync"


def check(file: str) -> None:
    """Raise UsageError or RefusedError where no page can or may be written to."""
    if _is_only_written_to(file):
        return
    place = _place(file)
    if _STORE in place.split("/"):
        message = f"cannot write the page to {file}: it is in the store of a volume"
        raise told(RefusedError(message), message, "name a file elsewhere")
    if os.path.isdir(place):
        message = f"cannot write the page to {file}: it is a directory"
        raise told(UsageError(message), message, f"name a file in it, as {os.path.join(file, 'report.html')}")
    if not os.path.isdir(os.path.dirname(place)):
        message = f"cannot write the page to {file}: its directory is not there"
        raise told(UsageError(message), message, "name a file in a directory that is there")


def write(file: str, page: str) -> None:
    """Write a page: in the place of a file, or into a pipe or a device."""
    try:
        if _is_only_written_to(file):
            with open(file, "w", encoding="utf-8") as out:
                out.write(page)
        else:
            _replace(_place(file), page)
    except OSError as error:
        raise told(error, f"cannot write the page to {file}: {error.strerror}") from None


def _is_only_written_to(file: str) -> bool:
    """Whether it is there, and no file that another could take the place of."""
    return os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file)


def _place(file: str) -> str:
    """The whole path, of a file and of its directory where links lead to. Whose link it is counts."""
    try:
        found = os.lstat(file)
    except OSError:
        found = None
    if found and stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
        message = f"{file} is a link of user {found.st_uid}, who decides where the page goes"
        raise told(RefusedError(message), message, "remove it, or name another file")
    return os.path.realpath(file)


def _replace(place: str, page: str) -> None:
    """Write a new file beside it, and rename that when it is complete."""
    directory = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    name = os.path.basename(place)
    temporary = f".{name[:200]}-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(temporary, flags, 0o666, dir_fd=directory)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(page)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(temporary, dir_fd=directory)
            raise
    finally:
        os.close(directory)
