"""What the native half reports and what Python types it as have the same fields, all the way down."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from snapsync.record import Record

ROOT = Path(__file__).parents[1]
FAMILIES = ("comparisons", "restores", "roles", "rounds", "snapshots")
# What Python itself puts into a report.
OWN = {"StatusReport": {"lags", "verdict"}}


@cache
def rust(place: str) -> str:
    """All sources beneath a place, without comments."""
    files = sorted((ROOT / "rust").glob(f"{place}/**/*.rs"))
    return re.sub(r"//.*", "", "\n".join(path.read_text() for path in files))


@cache
def structs() -> dict[str, dict[str, str]]:
    """The types that can be reported: their fields, each with the name of its type."""
    found: dict[str, dict[str, str]] = {}
    # A name that crates use for two things is that of the crate nearest to the engine.
    sources = "".join(rust(f"{crate}/src") for crate in ("*", "apply", "snapshot", "model", "engine"))
    for match in re.finditer(r"#\[derive\(([^)]*)\)\][^;{]*?\bstruct (\w+) \{(.*?)\n\}", sources, re.DOTALL):
        derived, name, body = match.groups()
        if "Serialize" in derived:
            body = re.sub(r"#\[serde\(skip\)\]\s*(?:pub(?:\(crate\))? )?\w+: [^\n]*,", "", body)
            fields = re.findall(r"^\s*(?:pub(?:\(crate\))? )?(\w+): (.+),$", body, re.MULTILINE)
            found[name] = {
                field: re.sub(r"^(?:(?:Option|Vec|Box)<)+|>+$|^.*::", "", kind) for field, kind in fields
            }
    aliases = re.findall(r"\bpub type (\w+) = (?:\w+::)*(\w+);", sources)
    return found | {alias: found[name] for alias, name in aliases if name in found}


def answers() -> Iterator[tuple[str, str, type[Record]]]:
    """Each native function that the API calls, the type it answers with in Rust, and that in Python."""
    border, engine = rust("python/src"), rust("engine/src")
    for family in FAMILIES:
        module = importlib.import_module(f"snapsync.api.{family}")
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            text = ast.unparse(function)
            report = re.search(r"\b(\w+)\.from_json\(", text)
            for native in re.findall(r"\b_native\.(\w+)\(", text) if report else ():
                body = re.search(rf"\nfn {native}\(.*?\n}}", border, re.DOTALL)
                called = re.search(r"snapsync_engine::(\w+)\(", body[0]) if body else None
                assert called, f"the native function {native} calls nothing of the engine"
                head = re.search(rf"\npub fn {called[1]}\((?:[^{{]|\n)*?-> Result<(.*?)> \{{", engine)
                assert head, f"{called[1]} is not in the engine"
                answer = re.sub(r"^(?:Option<|\()|[,>].*$", "", head[1])
                yield native, answer, getattr(module, str(report and report[1]))


def kinds(annotation: Any) -> Iterator[type[Record]]:
    """The records that an annotation names."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Record):
            yield kind
        elif kind is not annotation:
            yield from kinds(kind)


def differences(answer: str, kind: type[Record], known: dict[str, dict[str, str]]) -> Iterator[str]:
    """Where a type of Rust and one of Python do not have the same fields, in them or in what they hold."""
    fields, typed = known[answer], {of.name: of for of in kind.__dataclass_fields__.values()}
    typed_here = typed.keys() - OWN.get(kind.__name__, set())
    for name in (fields.keys() - {"verb"}) ^ typed_here:
        yield f"{name} is either in {answer} of Rust or in {kind.__name__} of Python"
    for name in fields.keys() & typed_here:
        inner = list(kinds(kind.__annotations__.get(name, typed[name].type)))
        assert len(inner) <= 1
        if (fields[name] in known) != bool(inner):
            yield f"{kind.__name__}.{name} is {fields[name]} in Rust"
        elif inner:
            yield from differences(fields[name], inner[0], known)


@pytest.mark.parametrize(("native", "answer", "kind"), list(answers()))
def test_what_is_reported_is_what_is_typed(native: str, answer: str, kind: type[Record]) -> None:
    wrong = sorted(set(differences(answer, kind, structs())))
    assert not wrong, f"{native}: {'; '.join(wrong)}"


def test_every_report_of_the_native_half_is_looked_at() -> None:
    looked_at = {kind for _, _, kind in answers()}
    for family in FAMILIES:
        module = importlib.import_module(f"snapsync.reports.{family}")
        for name, kind in vars(module).items():
            if getattr(kind, "__module__", "") == module.__name__:
                assert kind in looked_at, f"{name} is answered by no native function"
