"""What the files of a Rust crate refer to of each other, read from the sources as far as that takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

Module = tuple[str, ...]

# Comments and literals. A quote before a lifetime is not followed by another one so soon.
NOISE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | \bb?r(\#*)".*?"\1 | b?"(?:\\.|[^"\\])*" | b?'(?:\\[^\n']+|[^\\'\n])'""",
    re.X | re.S,
)
USE = re.compile(r"\buse\s+([^;]+);")
INLINE = re.compile(r"(?<![\w:])(crate|super|self)((?:\s*::\s*\w+)+)")
MODULE = re.compile(r"\bmod\s+\w+\s*\{")
# All that a file which only lists others may hold.
LISTS = re.compile(r"#!?\[[^\]]*\]|(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+\s*;|pub(?:\([^)]*\))?\s+use\s+[^;]+;")


def code_of(text: str) -> str:
    """The text without comments and literals, each place where it was."""
    return NOISE.sub(lambda found: " " * len(found.group()), text)


def modules_of(source: Path) -> dict[Module, Path]:
    """A crate's modules and their files; () is lib.rs."""
    found = {}
    for path in sorted(source.rglob("*.rs")):
        parts = path.relative_to(source).with_suffix("").parts
        found[() if parts == ("lib",) else parts[:-1] if parts[-1] == "mod" else parts] = path
    return found


def only_lists(path: Path) -> bool:
    return not LISTS.sub("", code_of(path.read_text())).strip()


def leaves(tree: str) -> Iterator[list[str]]:
    """The paths of what follows `use`: `a::{b, c::{self, d}}` are `a::b`, `a::c` and `a::c::d`."""
    tree = tree.strip()
    start, brace, inside = tree.partition("{")
    if not brace:
        path = [part.strip() for part in re.sub(r"\s+as\s+\w+$", "", tree).split("::")]
        yield path[:-1] if path[-1] in ("self", "*") and path[1:] else path
        return
    head = [part.strip() for part in start.split("::") if part.strip()]
    depth, piece = 0, ""
    for letter in inside[: inside.rindex("}")] + ",":
        if letter == "," and not depth:
            for path in leaves(piece) if piece.strip() else ():
                yield [*head, *path] if path != ["self"] else head
            piece = ""
            continue
        depth += {"{": 1, "}": -1}.get(letter, 0)
        piece += letter


def paths_in(code: str) -> Iterator[tuple[int, list[str]]]:
    """Every path that may lead to another module of the crate, and where it stands."""
    spans = []
    for found in USE.finditer(code):
        spans.append(found.span())
        for path in leaves(found.group(1)):
            yield found.start(), path
    for found in INLINE.finditer(code):
        if not any(start <= found.start() < end for start, end in spans):
            yield found.start(), [found.group(1), *re.findall(r"\w+", found.group(2))]


def inner_modules(code: str) -> list[tuple[int, int]]:
    """Where modules stand that are written within the file."""
    found = []
    for opening in MODULE.finditer(code):
        at, depth = opening.end(), 1
        while depth:
            depth += {"{": 1, "}": -1}.get(code[at], 0)
            at += 1
        found.append((opening.end(), at))
    return found


def refers_to(module: Module, text: str, modules: dict[Module, Path]) -> set[Module]:
    """The modules that a file names. The root is among them where something is reached through it."""
    code = code_of(text)
    inner = inner_modules(code)
    found = set()
    for at, path in paths_in(code):
        depth = sum(start <= at < end for start, end in inner)
        ups = len([part for part in path if part == "super"])
        names = [part for part in path if part not in ("crate", "super", "self")]
        if path[0] == "crate":
            start: Module = ()
        elif path[0] in ("super", "self"):
            start = module[: len(module) - max(ups - depth, 0)]
        elif (*module, path[0]) in modules:
            start = module
        else:
            continue
        for name in names:
            if (*start, name) not in modules:
                break
            start = (*start, name)
        found.add(start)
    return found - {module} if module else found
