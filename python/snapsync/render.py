"""Forms for people: sizes, counts, moments, names that may hold any byte, and tables."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from snapsync.reports.values import Changes, Hold, Loss, Skipped, Snapshot, Subset

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(number: int) -> str:
    """A number of bytes in binary units, three digits or so: 512 B, 1.5 KiB, 20.0 GiB."""
    if abs(number) < 1024:
        return f"{number} B"
    value, power = number / 1024, 0
    while abs(value) >= 1023.95 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.1f} {_UNITS[power]}"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: 1 snapshot, 2,000 snapshots."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def entries(number: int) -> str:
    return count(number, "entry", "entries")


def amount(done: int, total: int, unit: str) -> str:
    """How many bytes or entries are done, and out of how many; a total of 0 is not known."""
    form = size if unit == "bytes" else entries
    if not total:
        return form(done)
    return f"{size(done) if unit == 'bytes' else f'{done:,}'} of {form(total)}"


def seconds(number: float) -> str:
    """A duration: 0.8 s, 2 min 5 s, 1 h 2 min."""
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def name(text: str) -> str:
    """A name that is safe to print: bytes that are not UTF-8 and control characters are escaped."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that was not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def word(text: str) -> str:
    """Text as a word of a command that can be typed, whatever bytes are in it."""
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_typed, text))}'"


def address(volume: str, snapshot: str) -> str:
    """How a snapshot is written: `VOLUME@SNAP`; the path of a part, `VOLUME@PART/`, has the sign already."""
    from snapsync._native import Location

    is_part = volume.endswith("/") and Location.known(volume).part is not None
    return f"{volume}{'' if is_part else '@'}{snapshot}"


def _typed(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def snapshot(snap: Snapshot) -> str:
    if snap.aside:
        return f"snapshot {name(snap.name)}"
    return f"snapshot {snap.sequence} ({name(snap.name)})"


def subset(part: Subset) -> str:
    """What of a volume is replicated: everything; all but *.tmp; all but /var/*, with /var/lib."""
    return f"all but {left_out(part)}" if part else "everything"


def left_out(part: Subset) -> str:
    """The patterns of what is not replicated: *.tmp; /var/*, with /var/lib."""
    back = f", with {', '.join(part.include)}" if part.include else ""
    return name(f"{', '.join(part.exclude)}{back}")


def hold(held: Hold) -> str:
    """What keeps a snapshot: base of /mnt/standby; by hand: before the audit."""
    if held.standby is not None:
        return name(f"base of {held.standby}")
    return name(f"by hand: {held.reason}") if held.reason else "by hand"


def changes(found: Changes) -> str:
    """The four counts that every summary opens with."""
    return (
        f"created {found.created:,}, changed {found.changed:,}, "
        f"renamed {found.renamed:,}, deleted {found.deleted:,}"
    )


def losses(lost: Iterable[Loss]) -> Iterator[str]:
    """What the target goes without, in lines: for want of a right, or because it cannot hold it."""
    lost = tuple(lost)
    yield from _losses("the target's file system cannot hold:", (loss for loss in lost if not loss.right))
    yield from _losses("whoever writes the target may not set:", (loss for loss in lost if loss.right))


def skipped(entries_: Iterable[Skipped]) -> Iterator[str]:
    """What could not be read, every path of it."""
    for number, entry in enumerate(entries_):
        if number == 0:
            yield "  passed over, and as in the snapshot before, or absent if new:"
        yield f"    {name(entry.path)}: {name(entry.why)}"


def _losses(heading: str, lost: Iterable[Loss]) -> Iterator[str]:
    for number, loss in enumerate(lost):
        if number == 0:
            yield f"  {heading}"
        takes = f" (takes {name(loss.right)}, as root has)" if loss.right else ""
        yield f"    {name(loss.what)}{takes}: {count(loss.count, 'time')}, for example {name(loss.example)}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of aligned columns. Columns whose heading starts with `>` are aligned to the right."""
    cells = [[heading.lstrip(">") for heading in headings]]
    cells += [[name(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = [">" if heading.startswith(">") else "<" for heading in headings]
    for row in cells:
        padded = (f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True))
        yield "  ".join(padded).rstrip()
