"""The house keeps its shape: dependencies point one way, and unsafe code has one address."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from machine import missing
from rust_paths import Module, modules_of, only_lists, refers_to

ROOT = Path(__file__).parents[1]

# A crate may depend on crates of its own level and below; cargo itself forbids cycles.
LEVELS = {
    "model": 0,
    "sys": 1,
    "manifest": 2,
    "mount": 2,
    "walk": 2,
    "snapshot": 2,
    "compare": 2,
    "stream": 2,
    "apply": 2,
    "log": 2,
    "history": 2,
    "engine": 3,
    "python": 4,
}
DEVELOPMENT = {"benches", "fuzz"}


@pytest.fixture(scope="module")
def crates() -> dict[str, dict[str, Any]]:
    """The workspace's crates by the name of their directory."""
    if not shutil.which("cargo"):
        missing("cargo")
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1", "--offline"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    packages = json.loads(ran.stdout)["packages"]
    return {Path(package["manifest_path"]).parent.name: package for package in packages}


def dependencies(crate: dict[str, Any], *, development: bool = False) -> set[str]:
    """What it depends on: crates of the workspace by directory, others by name."""
    return {
        Path(found["path"]).name if found.get("path") else found["name"]
        for found in crate["dependencies"]
        if development or found["kind"] != "dev"
    }


def test_every_crate_of_the_design_is_there_and_no_other(crates: dict[str, dict[str, Any]]) -> None:
    assert set(LEVELS) <= set(crates) <= set(LEVELS) | DEVELOPMENT


def test_dependencies_point_one_way(crates: dict[str, dict[str, Any]]) -> None:
    for name, level in LEVELS.items():
        inside = dependencies(crates[name]) & set(crates)
        wrong = {other for other in inside if LEVELS.get(other, 9) > level}
        assert not wrong, f"{name} depends on {wrong}"


def test_compare_knows_only_model_and_sys(crates: dict[str, dict[str, Any]]) -> None:
    assert dependencies(crates["compare"]) & set(crates) <= {"model", "sys"}


def test_model_does_no_io(crates: dict[str, dict[str, Any]]) -> None:
    source = "".join(path.read_text() for path in rust_files("model"))
    calls = re.search(r"\b(File::|OpenOptions|fs::\w+\(|std::net|std::process|rustix|libc::)", source)
    assert not calls


def test_only_manifest_knows_arrow_and_only_python_knows_pyo3(
    crates: dict[str, dict[str, Any]],
) -> None:
    for name, crate in crates.items():
        outside = dependencies(crate)
        if name not in ("manifest", "python"):
            assert not any(found.startswith("arrow") for found in outside), name
        if name != "python":
            assert not any(found.startswith("pyo3") for found in outside), name


def test_no_crate_needs_what_is_for_development_only(crates: dict[str, dict[str, Any]]) -> None:
    for name, crate in crates.items():
        assert name in DEVELOPMENT or not DEVELOPMENT & dependencies(crate), name


def rust_files(crate: str) -> list[Path]:
    return sorted((ROOT / "rust" / crate).rglob("*.rs"))


def test_unsafe_code_is_under_sys_only(crates: dict[str, dict[str, Any]]) -> None:
    assert any(says_unsafe(path) for path in rust_files("sys")), "the search finds nothing at all"
    for name in crates:
        for path in rust_files(name) if name != "sys" else []:
            assert not says_unsafe(path), f"unsafe code in {path.relative_to(ROOT)}"


def says_unsafe(path: Path) -> bool:
    code = re.sub(r"//.*", "", path.read_text())
    return re.search(r"\bunsafe\b", code) is not None


def test_python_loads_no_crate_but_through_the_native_module() -> None:
    for path in (ROOT / "python").rglob("*.py"):
        assert not re.search(r"\b(ctypes|cffi)\b", path.read_text()), path


def test_a_release_is_built_without_what_only_tests_may_reach() -> None:
    """Nothing turns faults on by itself, and the one place that knows their variables is part of them."""
    if not shutil.which("cargo"):
        missing("cargo")
    tree = ["cargo", "tree", "--offline", "--locked", "--package", "snapsync-python", "--format", "{p} {f}"]
    usual, tested = (
        subprocess.run([*tree, *more], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for more in ([], ["--features", "faults"])
    )
    enabled = re.compile(r"snapsync-sys .*\bfaults\b")
    assert enabled.search(tested)
    assert not enabled.search(usual)
    assert "faults" not in (ROOT / "pyproject.toml").read_text()
    plan = ROOT / "rust/sys/src/fault/plan.rs"
    sources = [path for crate in LEVELS for path in (ROOT / "rust" / crate / "src").rglob("*.rs")]
    told = {path: re.findall(r"\benv::var\w*\(\"(\w+)\"", path.read_text()) for path in sources}
    assert told.pop(plan) == ["SNAPSYNC_FAULT", "SNAPSYNC_FAULT_TRACE"]
    assert re.search(r'#\[cfg\(feature = "faults"\)\]\nmod plan;', plan.parent.with_suffix(".rs").read_text())
    shipped = {name for path, names in told.items() if not path.stem.endswith("_tests") for name in names}
    assert shipped <= {"SSH_CONNECTION", "PATH", "HOME", "AWS_PROFILE", "XDG_DATA_HOME"}


def test_what_a_release_asks_the_environment_about_object_stores_it_asks_in_two_places() -> None:
    """By names that all begin with AWS; the client of the store asks for these and for more of them."""
    sources = [path for crate in LEVELS for path in (ROOT / "rust" / crate / "src").rglob("*.rs")]
    by_name = re.compile(r"\benv::var\w*\((?!\"|[A-Z_]+\))")
    asking = {path for path in sources if by_name.search(path.read_text()) or "from_env(" in path.read_text()}
    tests = {path for path in asking if path.stem.endswith("tests")}
    places = {ROOT / "rust/log/src/store.rs", ROOT / "rust/log/src/profile.rs"}
    assert asking - tests == places
    listed = [name for path in places for name in re.findall(r'"([A-Z]+(?:_[A-Z0-9]+)+)"', path.read_text())]
    assert {name.split("_")[0] for name in listed} == {"AWS"}


def test_a_module_knows_the_variables_of_faults_only_where_it_has_places_for_them() -> None:
    native = pytest.importorskip("snapsync._native")
    assert (b"SNAPSYNC_FAULT" in Path(native.__file__).read_bytes()) == bool(native.fault_points())


def test_the_commands_ask_for_no_variables_but_those_that_are_documented() -> None:
    manual = (ROOT / "python/snapsync/cli/commands/run.py").read_text() + (ROOT / "docs/log.md").read_text()
    for path in (ROOT / "python").rglob("*.py"):
        for name in re.findall(r"environ(?:\.get)?[\[(]\"(\w+)\"", path.read_text()):
            # A terminal is asked about by everybody; only a build with faults obeys the other one.
            assert name in ("TERM", "SNAPSYNC_DEBUG") or name in manual, f"{path} asks for {name}"


# --- the rooms of each crate ------------------------------------------------------------------------

# Of each folder of sources what is in it, files and rooms. Each line is a level: a file imports from lines
# above its own, and from none of its own line. A room behind a file of its name lies below that file.
RUST_LEVELS = {
    "model": """
        accounts amount extent guarded identity mutex object printable subset
        content
        before error inode name snapshot
        path plain promotion restless unread
        skipped
        monitor
        change selection side
    """,
    "sys": """
        acl fault holder ioctl memory mounts private rights scratch trust ways
        attributes encryption fs xfs
        data flags
        batches entry files items
        btrfs directory sharing
        place subvolumes times
        ext4 root
        spot step
    """,
    "sys/fault": """
        plan
    """,
    "manifest": """
        column file
        changes frames table
        vet
    """,
    "manifest/changes": """
        attributes
        schema
        read write
        lookup
    """,
    "manifest/table": """
        file known
        layers
        find objects path
    """,
    "walk": """
        details hidden listing names pattern
        moves subset
        foreign left_out searched
        pass
        tree
        relabel search
    """,
    "snapshot": """
        store
        received
        pool volume
        snapshots
    """,
    "snapshot/store": """
        frozen mark steady
        bound
        restoring
    """,
    "snapshot/received": """
        copy identity
        area
        shelf
        bases
        work
    """,
    "snapshot/volume": """
        listed moment scrubbed
        record
        handle
        locked
        alive opening standbys
    """,
    "snapshot/pool": """
        elusive pack
        store
        before
        ground hand_over hidden packer
        remove
        attempt in_tree
        inodes objects
        merge snapshot weight
        earlier_rows scan
        take
        follow
    """,
    "snapshot/snapshots": """
        find missing open
        alone differing garbage
        keep lost
        take
        delete unkept
        clones light passed_over recovery
    """,
    "compare": """
        share told trust
        data
        pair
        changes lost
    """,
    "stream": """
        budget codec held link
        channel together wire
        read receive
        send
    """,
    "apply": """
        access layout limits
        attributes journal names
        known
        check vet
        stage
        commit
    """,
    "apply/check": """
        space unlisted
        rehearsal
        drift
        untouched
    """,
    "apply/check/rehearsal": """
        tried unseen
        trial
        directories existing links names values
    """,
    "apply/stage": """
        fresh received sources
        incoming intact
        rows
        clones entries frames objects resume share touched
        carry foresee prepare
    """,
    "apply/commit": """
        aside returned
        forward
        moves save
        before loosen
        displace undo
    """,
    "apply/vet": """
        claim
        paths row sources
        manifest
        tests
    """,
    "mount": """
        index point source
        slots
        answers
        ahead
        filesystem
        mount
    """,
    "log": """
        at_once keys profile seals
        commit keyring store
        format numbers probe
        log
        line objects
        fetch fold footer
        checkpoint pack past prune renumber side upload
    """,
    "history": """
        directories looks step
        timeline
        fold places traced
        life
    """,
    "engine": """
        accounts names unified
        digest jobs keep report
        options pairs secret
        process
        location
        delta
        volume
        round
        log
        remote
        verbs
        fuzz
    """,
    "engine/accounts": """
        left rows system
        arriving leaving translated
    """,
    "engine/log": """
        checkpoint pinned renumbered seen steps wanted
        past
        window
        follow keeping promotion publish restored
    """,
    "engine/process": """
        overheard trust
        command
        hooks
        taking
    """,
    "engine/report": """
        checks
        history
        rounds snapshots
        volumes
    """,
    "engine/location": """
        logs text
        directory
        inside target
        place shown
        beneath
    """,
    "engine/delta": """
        became nested outgoing output_file reading room
        as_taken completed hidden noting pruned widened
        staging
        incoming
        copied
        selected sides
        landing
    """,
    "engine/volume": """
        holds kept lost made now owned parts pieces recovery replacement standing
        copies rewind trimmed
        retention
        drift
        adopted let_in roles
    """,
    "engine/round": """
        brought commands following guard held passed_over steps
        adopted foreseen passes passing rights scrub sizes told
        known standby
        agreement
        plan primary
        ending noted snapshot
    """,
    "engine/remote": """
        edits question screen ssh_config
        child messages
        wire
        relay ssh
        channels digests fetched gate pulled roles
        answered
        asked
        supply
        standby_client standby_server
        client tests
        server
    """,
    "engine/verbs": """
        change_of clone delete diff find hold init kept log inspect mount promote prune receive \
            receive_as_snapshot recover restore send snapshot status sync trust verify
        list mend rejoin switch versions
        serve
    """,
    "engine/fuzz": """
        lies messages script
        delta peer
        world
        primary standby
        client server
    """,
    "engine/verbs/restore": """
        differing elsewhere in_place
        paths
        directory
    """,
    "python": """
        error options
        watch
        comparisons history location mount restores roles rounds snapshots
        native
    """,
}


def rust_modules(crate: str) -> dict[Module, Path]:
    return modules_of(ROOT / "rust" / crate / "src")


def rust_level(crate: str, module: Module) -> int:
    """The line that a file or a room stands in, of the table of its folder."""
    lines = RUST_LEVELS.get("/".join((crate, *module[:-1])), "").strip().splitlines()
    return next((level for level, line in enumerate(lines) if module[-1] in line.split()), -1)


def may_import(crate: str, modules: dict[Module, Path], module: Module, other: Module) -> bool:
    """Whether it is a file that lies below, and not the root or a room."""
    parted = next((n for n, (a, b) in enumerate(zip(module, other, strict=False)) if a != b), None)
    if parted is None:
        # One lies in the other: a file in front of a room knows it, and nothing in it knows the front.
        return len(other) > len(module)
    here, there = module[: parted + 1], other[: parted + 1]
    is_file = modules[other].name not in ("lib.rs", "mod.rs")
    return is_file and rust_level(crate, there) < rust_level(crate, here)


@pytest.mark.parametrize("crate", LEVELS)
def test_every_file_of_a_crate_is_in_a_room_and_every_room_is_there(crate: str) -> None:
    modules = rust_modules(crate)
    homeless = [path for module, path in modules.items() if module and rust_level(crate, module) < 0]
    assert not homeless, f"in no line of RUST_LEVELS: {homeless}"
    folders = {name: text.split() for name, text in RUST_LEVELS.items() if name.split("/")[0] == crate}
    named = {(*folder.split("/")[1:], name) for folder, names in folders.items() for name in names}
    assert named == set(modules) - {()}


@pytest.mark.parametrize("crate", LEVELS)
def test_rust_files_import_from_below_only(crate: str) -> None:
    modules = rust_modules(crate)
    wrong = [
        f"{path.relative_to(ROOT)} imports {'::'.join(('crate', *other))}"
        for module, path in modules.items()
        for other in (refers_to(module, path.read_text(), modules) if module else ())
        if not may_import(crate, modules, module, other)
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("crate", LEVELS)
def test_roots_and_rooms_list_what_is_in_them_and_nothing_more(crate: str) -> None:
    for path in rust_modules(crate).values():
        assert path.name not in ("lib.rs", "mod.rs") or only_lists(path), f"{path} has code of its own"


@pytest.mark.parametrize(
    "written",
    [
        "use crate::verbs::sync::sync;",
        "use crate::{keep::Keep, round::{self, known::{at, fence}, primary}};",
        "use crate::Options;",
        "use crate::report;",
        "fn f() { crate::verbs::sync::sync() }",
        "fn f() { super::super::verbs::sync::sync() }",
        "#[cfg(test)]\nmod tests {\n    use super::super::recovery::recover;\n}",
    ],
)
def test_a_wrong_import_is_seen_however_it_is_written(written: str) -> None:
    """In a file of `volume`: from a level above, from its own, through the root or a room."""
    modules, here = rust_modules("engine"), ("volume", "holds")
    assert any(not may_import("engine", modules, here, other) for other in refers_to(here, written, modules))


def test_what_only_looks_like_an_import_is_none() -> None:
    text = (
        "//! See `crate::verbs::sync`.\n"
        'const A: &str = "use crate::verbs::sync;";\n'
        "mod tests {\n    use super::*;\n    use std::fmt::{self, Debug};\n}\n"
    )
    assert refers_to(("volume", "holds"), text, rust_modules("engine")) == set()


def test_rust_files_are_short_or_say_why_not() -> None:
    for crate in LEVELS:
        for path in (ROOT / "rust" / crate / "src").rglob("*.rs"):
            text = path.read_text()
            is_told = "longer than other files" in text.partition("\nuse ")[0]
            assert text.count("\n") <= 600 or is_told, f"{path} is too long"
            assert max(map(len, text.splitlines()), default=0) <= 110, f"{path} is too wide"


def test_no_public_type_has_the_name_of_another() -> None:
    declared = re.compile(r"^\s*pub (?:struct|enum|union|trait|type) (\w+)", re.MULTILINE)
    sources = [path.read_text() for crate in LEVELS for path in (ROOT / "rust" / crate / "src").rglob("*.rs")]
    found = Counter(name for text in sources for name in declared.findall(text))
    assert found["Volume"] == 1
    assert [name for name, times in found.items() if times > 1] == []


# --- the Python package ---------------------------------------------------------------------------

PACKAGE = ROOT / "python/snapsync"

# Each line is a level: a module imports from lines above its own, and from none of its own line. A name is
# that of a module, or of a package: then it stands for all modules in it that are not named by themselves.
PYTHON_LEVELS = """
    _native declare record types units
    errors options_of_changes options_of_commands options_of_owners options_of_reading
    options reports.base
    reports.values
    options_of_paths options_of_taking
    options_of_history
    render reports.comparisons reports.history reports.pages reports.restores reports.rounds reports.snapshots
    manifest reports.roles
    api.checks api.elsewhere api.owners history
    api.comparisons api.history api.restores api.roles api.rounds api.snapshots
    volume
    jobs.calendar jobs.child jobs.fork_server jobs.hooks jobs.own jobs.reports jobs.shown jobs.unit_files
    jobs.several
    jobs.telling
    jobs.values
    jobs.config jobs.environment
    jobs.spelled jobs.state
    jobs.around jobs.outcomes jobs.sharing jobs.turns
    jobs.places
    jobs.lag jobs.prometheus jobs.runner
    jobs.metered
    page.file page.kept page.library page.markup page.rows page.timeline page.unusual
    page.charts page.tables page.tree
    page.figures
    page.look page.volume
    page.page
    cli.arguments cli.journal cli.monitoring cli.progress cli.summaries cli.terminal
    cli.output
    cli.parse.verbs
    cli.commands
    cli.complete cli.parse.full cli.parse.plain
    cli.main
    __main__
"""
# The verbs are found by looking into their package: whoever does that names none of them. And what stays and
# starts commands is one of them.
FOUND_BY_NAME = {("cli.parse.verbs", "cli.commands"), ("cli.commands.run", "cli.main")}


def python_modules() -> dict[str, ast.Module]:
    """The package's modules by name, but for those that only hold others."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py*")):
        if path.suffix in (".py", ".pyi") and path.name != "__init__.py":
            name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            found[name] = ast.parse(path.read_text())
    return found


def python_imports(tree: ast.Module, modules: set[str]) -> set[str]:
    """What of the package a module imports: anywhere in it, and also for types alone."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            of = node.module or ""
            inside = of == "snapsync" or of.startswith("snapsync.")
            whole = {f"{of}.{alias.name}" for alias in node.names} if inside else set()
            found |= {name if name.removeprefix("snapsync.") in modules else of for name in whole}
    return {name.removeprefix("snapsync.") for name in found if name.startswith("snapsync.")}


def python_level(module: str) -> int:
    """The line that a module, or the package that it is in, stands in."""
    lines = [line.split() for line in PYTHON_LEVELS.strip().splitlines()]
    while module:
        for level, line in enumerate(lines):
            if module in line:
                return level
        module = module.rpartition(".")[0]
    return -1


def test_python_modules_import_from_below_only() -> None:
    trees = python_modules()
    homeless = [name for name in trees if python_level(name) < 0]
    assert not homeless, f"in no line of PYTHON_LEVELS: {homeless}"
    wrong = [
        f"{name} imports {other}"
        for name, tree in trees.items()
        for other in python_imports(tree, {*trees, "cli.commands"})
        if python_level(other) >= python_level(name) and (name, other) not in FOUND_BY_NAME
    ]
    assert not wrong, wrong


def test_packages_that_hold_others_have_no_code_of_their_own() -> None:
    for path in PACKAGE.glob("*/**/__init__.py"):
        assert len(ast.parse(path.read_text()).body) == 1, f"{path} is more than a docstring"


def test_every_room_of_the_python_package_is_there() -> None:
    modules = set(python_modules()) | {"cli.commands"}
    assert set(PYTHON_LEVELS.split()) <= modules


def test_what_the_package_loads_by_name_is_what_type_checkers_see() -> None:
    (checked, loaded) = next(
        (node.body, node.orelse)
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    )
    seen = {
        (str(node.module).removeprefix("snapsync."), alias.asname)
        for node in checked
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = next(ast.literal_eval(node.value) for node in loaded if isinstance(node, ast.Assign))
    assert seen == {(home, name) for home, names in homes.items() for name in names.split()}


def test_jobs_print_nothing_and_only_the_command_line_does() -> None:
    for name, tree in python_modules().items():
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not prints or name.startswith("cli."), f"{name} prints"


def test_python_files_and_functions_are_short() -> None:
    for name, tree in python_modules().items():
        ends = [node.end_lineno or 0 for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        assert max(ends) <= 400, f"{name} is too long"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{name}.{node.name} is too long"
