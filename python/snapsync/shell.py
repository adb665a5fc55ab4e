"""Commands as people write them."""

from snapsync.errors import UsageError, told


def words(command: str) -> list[str]:
    """The words of a command, as a shell takes them."""
    import shlex

    try:
        return shlex.split(command)
    except ValueError as error:
        message = f"cannot understand the command {command!r}: {str(error).lower()}"
        raise told(UsageError(message), message, "use --rsh ssh, or leave it out") from None
