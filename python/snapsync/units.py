"""Durations, rates and commands as people write them: 15m, 1h30m, 10M, ssh -p 2222."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def duration(text: str) -> int:
    """The seconds that a duration means: 90s, 15m, 1h30m, 2d. Raises ValueError for any other text."""
    import re

    if not re.fullmatch(r"([0-9]{1,9}[smhdw])+", text):
        raise ValueError(f"{text!r} is no duration")
    seconds = sum(int(count) * _SECONDS[unit] for count, unit in re.findall(r"([0-9]+)([smhdw])", text))
    if not seconds:
        raise ValueError(f"{text!r} is no time at all")
    return seconds


def rate(text: str) -> int:
    """The bytes, or bytes a second, that a text means: 500K, 10M, 1.5G. Raises ValueError for any other."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    try:
        bytes_a_second = int(float(number) * 1024 ** ("", "K", "M", "G").index(unit))
    except (ValueError, OverflowError):
        bytes_a_second = 0
    if not 0 < bytes_a_second < 1 << 63:
        raise ValueError(f"{text!r} is no number of bytes")
    return bytes_a_second


def percent(text: str) -> int:
    """The hundredths that a text means: 25%, or `off` for all of them. Raises ValueError for any other."""
    number = "100" if text == "off" else text.removesuffix("%")
    if not (number.isascii() and number.isdigit() and int(number) <= 100):
        raise ValueError(f"{text!r} is neither a share, such as 25%, nor `off`")
    return int(number)


def words(command: str) -> list[str]:
    """The words of a command, as a shell takes them. Raises ValueError for one that cannot be understood."""
    import shlex

    return shlex.split(command)
