"""A delta is what docs/format.md says, and a damaged one changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import listing
import pytest
from delta import MIB, MOST, Delta, Frame, Span, compressed, data_extents, digest, metadata, parse
from keepsake import keep
from machine import KINDS, FileSystems, Place, assert_told, done, run, sh, snapshots, store
from oracle import assert_same, freeze, touch_marks
from told import assert_told as assert_rows
from told import path_of
from transfer import Sent, deliver, delivered, freeze_subvolume, send, shown, stages, take
from worlds import World, fill, node, preallocate, punch, set_acl, set_xattr

FIXED = Path(__file__).parent / "deltas"


# --- what is sent -----------------------------------------------------------------------------


@dataclass
class Changed:
    """Two snapshots of a random tree, copies of it, and the deltas to them."""

    kind: str
    volume: Path
    names: tuple[str, str]
    trees: tuple[Path, Path, Path]
    sent: tuple[Sent, Sent]


@pytest.fixture(scope="module", params=KINDS)
def changed(request: pytest.FixtureRequest, file_systems: FileSystems) -> Iterator[Changed]:
    place, kind = Place(file_systems), request.param
    try:
        volume, trees = place(kind), (place(kind), place(kind), place(kind))
        world = World(volume, seed=41)
        world.grow(120)
        fill(volume / "large", 0, 9 * MIB, 1)
        first = take(volume, "first")
        keep(volume, trees[1])
        world.churn(200)
        fill(volume / "large", 2 * MIB, 5 * MIB + 17, 4)
        second = take(volume, "second")
        keep(volume, trees[2])
        sent = send(first), send(second, "--base", first)
        yield Changed(kind, volume, (first, second), trees, sent)
    finally:
        place.clear()


def test_a_delta_is_what_the_page_says(changed: Changed) -> None:
    for sent in changed.sent:
        assert parse(sent.content).bytes() == sent.content


def test_a_delta_leads_from_one_tree_to_the_other(changed: Changed) -> None:
    """The rows say what changed, and the frames hold the bytes of the target."""
    for sent, base, target in zip(changed.sent, changed.trees, changed.trees[1:], strict=False):
        delta = sent.delta
        assert_rows(base, target, delta.rows)
        paths = {row["inode"]: path_of(row) for row in delta.rows if not row["change"]["deleted"]}
        assert delta.frames
        for frame in delta.frames:
            path = paths[frame.inode]
            assert path is not None
            with open(bytes(target) + b"/" + path, "rb") as file:
                file.seek(frame.offset)
                assert file.read(len(frame.raw)) == frame.raw, path


def test_the_header_says_what_it_leads_to(changed: Changed) -> None:
    first, second = snapshots(changed.volume)
    full, increment = (sent.delta.header for sent in changed.sent)
    assert full["base"] is None
    assert (full["snapshot"]["id"], increment["snapshot"]["id"]) == (first["id"], second["id"])
    assert increment["base"]["id"] == first["id"]
    for header, snapshot in ((full, first), (increment, second)):
        for key in ("id", "name", "sequence", "parent", "created"):
            assert header["snapshot"][key] == snapshot[key]
        assert header["volume"]
        assert header["lineage"]
        assert header["epoch"] == json.loads((store(changed.volume) / "volume.json").read_text())["epoch"]
        assert header["filesystem"] == changed.kind
        assert (header["origin"] is not None) == (changed.kind == "btrfs")
        for identity in (header["snapshot"]["id"], header["volume"], header["lineage"]):
            assert isinstance(identity, str)


def test_the_origin_is_the_subvolume(place: Place) -> None:
    volume = place("btrfs")
    fill(volume / "file", 0, 9_000, 1)
    base = freeze_subvolume(volume, place.absent("btrfs"))
    fill(volume / "file", 0, 100, 2)
    target = freeze_subvolume(volume, place.absent("btrfs"))
    header = send(target, "--base", base).delta.header
    for tree, origin in ((target, header["origin"]), (base, header["base"]["origin"])):
        told = shown(tree)
        assert origin["uuid"].replace("-", "") == told["UUID"].replace("-", "")
        assert origin["transid"] == int(told["Generation"]) or "Send transid" in told
    assert header["snapshot"]["id"].replace("-", "") == shown(target)["UUID"].replace("-", "")
    assert (header["volume"], header["lineage"], header["epoch"]) == (None, None, 0)


def test_the_report_counts_what_the_delta_holds(changed: Changed) -> None:
    for sent, base in zip(changed.sent, (None, "first"), strict=True):
        report, delta = sent.report, sent.delta
        raw = sum(len(frame.raw) for frame in delta.frames)
        assert report["verb"] == "send"
        assert (report["base"] or {}).get("name") == base
        assert report["snapshot"]["id"] == delta.header["snapshot"]["id"]
        assert report["output"] is None
        assert report["data_bytes"] == raw == delta.header["totals"]["data_bytes"]
        assert report["frames"] == len(delta.frames)
        assert report["changes"]["created"] == delta.header["totals"]["created"]
        assert report["stored_bytes"] == sum(len(frame.stored) for frame in delta.frames)


def test_equal_snapshots_give_equal_deltas_whatever_the_threads(changed: Changed) -> None:
    """The frames may come in any order."""
    first, second = changed.names
    for jobs in (1, 2, 7):
        again = send(second, "--base", first, "--jobs", jobs).delta
        assert again.rows == changed.sent[1].delta.rows
        assert held(again) == held(changed.sent[1].delta)


def held(delta: Delta) -> dict[tuple[int, int], bytes]:
    """The bytes of every extent, however frames cut them."""
    found: dict[tuple[int, int], bytes] = {}
    for row in delta.rows:
        for extent in [] if row["change"]["deleted"] else data_extents(row):
            start, end = extent["offset"], extent["offset"] + extent["length"]
            inside = [f for f in delta.frames if f.inode == row["inode"] and start <= f.offset < end]
            found[row["inode"], start] = b"".join(f.raw for f in sorted(inside, key=lambda f: f.offset))
    return found


@pytest.mark.parametrize(("option", "compresses"), [("none", False), ("zstd:1", True), ("zstd:19", True)])
def test_compression_is_as_asked(place: Place, option: str, compresses: bool) -> None:
    volume = place("xfs")
    (volume / "text").write_bytes(b"again and again " * 100_000)
    (volume / "noise").write_bytes(random.Random(1).randbytes(100_000))
    sent = send(take(volume, "one"), "--compress", option)
    by_inode = {row["inode"]: row["path"] for row in sent.delta.rows}
    codecs = {(by_inode[frame.inode], frame.codec) for frame in sent.delta.frames}
    assert codecs == {("text", int(compresses)), ("noise", 0)}
    assert (sent.report["stored_bytes"] < 200_000) == compresses


@pytest.mark.parametrize("bad", ["zstd:0", "zstd:99", "zstd:", "gzip", "zstd:x"])
def test_a_compression_that_does_not_exist_is_a_usage_error(place: Place, bad: str) -> None:
    volume = place("xfs")
    snap = take(volume, "one")
    assert run("send", snap, "--compress", bad).code == 2


def test_no_frame_is_larger_than_4_mib(changed: Changed) -> None:
    sizes = [len(frame.raw) for sent in changed.sent for frame in sent.delta.frames]
    assert max(sizes) <= MOST


@pytest.mark.parametrize("kind", KINDS)
def test_a_delta_does_not_say_where_it_goes(changed: Changed, place: Place, kind: str) -> None:
    """The same bytes make a standby on any file system, and the snapshots there."""
    target, folder = place.absent(kind), place(kind)
    for sent, tree in zip(changed.sent, changed.trees[1:], strict=True):
        delivered(sent.content, target)
        assert_same(tree, target)
        made = delivered(sent.content, "--as-snapshot", folder)
        assert_same(tree, Path(made["path"]))


# --- the tool itself --------------------------------------------------------------------------


def test_the_reader_finds_every_flipped_bit(changed: Changed) -> None:
    """Without this the tests above would pass for a reader that checks nothing.

    Zstandard has bits that mean nothing (RFC 8878, 3.1.1.1.1.3): with them turned a frame holds the same.
    """
    sent = changed.sent[1]
    chance = random.Random(5)
    for span in sampled(sent.delta.spans(), chance, 150):
        damaged = flipped(sent.content, chance.randrange(span.start, span.end), chance)
        try:
            delta = parse(damaged)
        except AssertionError:
            continue
        number = int(span.name.removeprefix("frame ").removesuffix(" bytes"))
        assert sent.delta.frames[number].codec == 1
        assert [f.raw for f in delta.frames] == [f.raw for f in sent.delta.frames]


def test_a_rewritten_delta_is_received(changed: Changed, place: Place) -> None:
    """What the lies of other tests are told with is itself honest: other frames, another Arrow writer."""
    delta = changed.sent[0].delta.change(lambda rows: None)
    whole = [frame for frame in delta.frames if len(frame.raw) > 1]
    delta.frames = [frame for frame in delta.frames if len(frame.raw) == 1]
    for frame in whole:
        half = len(frame.raw) // 2
        for offset, raw in ((half, frame.raw[half:]), (0, frame.raw[:half])):
            shorter = len(compressed(raw)) < len(raw)
            delta.frames.append(Frame.of(frame.inode, frame.offset + offset, raw, codec=int(shorter)))
    random.Random(3).shuffle(delta.frames)
    parse(delta.bytes())
    target = place.absent(changed.kind)
    delivered(delta.bytes(), target)
    assert_same(changed.trees[1], target)


# --- damage -----------------------------------------------------------------------------------


@dataclass
class Parcel:
    """A standby, and the next delta for it: small, with frames of both codecs."""

    kind: str
    standby: Path
    full: bytes
    content: bytes
    after: Path

    @property
    def delta(self) -> Delta:
        return parse(self.content)

    def fields(self, chance: random.Random) -> list[Span]:
        """Where to damage it: everywhere on one file system, in some places on the other."""
        spans = self.delta.spans()
        return spans if self.kind == "xfs" else sampled(spans, chance, 12)


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def parcel(request: pytest.FixtureRequest, file_systems: FileSystems) -> Iterator[Parcel]:
    place = Place(file_systems)
    try:
        source = place("xfs")
        (source / "dir").mkdir()
        fill(source / "dir/old", 0, 30_000, 1)
        full = send(first := take(source, "first")).content
        fill(source / "new", 0, 50_000, 3)
        fill(source / "text", 0, 50_000, 4)
        fill(source / "dir/old", 8192, 5_000, 5)
        (source / "dir").rename(source / "renamed")
        content = send(take(source, "second"), "--base", first).content
        standby = place.absent(request.param)
        delivered(full, standby)
        yield Parcel(request.param, standby, full, content, source)
    finally:
        place.clear()


def sampled(spans: list[Span], chance: random.Random, most: int) -> list[Span]:
    return spans if len(spans) <= most else chance.sample(spans, most)


def flipped(content: bytes, at: int, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[at] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def harmed(content: bytes, start: int, end: int, chance: random.Random) -> bytes:
    """One bit between these places flipped, of those that mean something."""
    while True:
        damaged = flipped(content, chance.randrange(start, end), chance)
        try:
            parse(damaged)
        except AssertionError:
            return damaged


def codes_of(name: str) -> set[int]:
    """How a receive may end where the field of this name is wrong."""
    if name in ("head version", "head required"):
        return {3, 4}
    if name == "manifest length":
        return {3, 4, 5}  # there may be no room for so much
    # A length that is too large looks like a delta that ends too early.
    return {4, 5} if name.endswith("length") else {4}


def shifted(name: str) -> set[int]:
    """The same where all that follows the beginning of a field is out of place."""
    return {3, 4, 5} if name.startswith(("head", "manifest")) else {4, 5}


def assert_refused(parcel: Parcel, content: bytes, codes: set[int]) -> None:
    marks, before = touch_marks(parcel.standby), freeze(parcel.standby)
    left = stages(parcel.standby)
    ran = deliver(content, parcel.standby, "--quiet")
    assert_told(ran, codes=tuple(codes))
    assert touch_marks(parcel.standby) == marks
    assert_same(before, parcel.standby)
    assert len(snapshots(parcel.standby)) == 1
    if ran.code != 5:  # what is no delta leaves a cut one as it was
        assert not stages(parcel.standby) or stages(parcel.standby) == left


def test_a_flipped_bit_in_any_field_is_damage(parcel: Parcel, subtests: pytest.Subtests) -> None:
    chance = random.Random(11)
    for span in parcel.fields(chance):
        with subtests.test(field=span.name):
            damaged = harmed(parcel.content, span.start, span.end, chance)
            assert_refused(parcel, damaged, codes_of(span.name))


def test_a_byte_too_many_anywhere_is_damage(parcel: Parcel, subtests: pytest.Subtests) -> None:
    """What follows is out of place, and may look like anything."""
    chance = random.Random(12)
    for span in parcel.fields(chance):
        with subtests.test(before=span.name):
            damaged = parcel.content[: span.start] + chance.randbytes(1) + parcel.content[span.start :]
            assert_refused(parcel, damaged, shifted(span.name))
    for tail in (b"\0", b"E", parcel.content[-56:], parcel.content):
        with subtests.test(tail=tail[:8]):
            assert_refused(parcel, parcel.content + tail, {4})


def test_a_byte_too_few_anywhere_is_damage(parcel: Parcel, subtests: pytest.Subtests) -> None:
    for span in parcel.fields(random.Random(15)):
        with subtests.test(field=span.name):
            damaged = parcel.content[: span.start] + parcel.content[span.start + 1 :]
            assert_refused(parcel, damaged, shifted(span.name))


def test_random_damage_changes_nothing(parcel: Parcel, subtests: pytest.Subtests) -> None:
    for seed in range(20):
        with subtests.test(seed=seed):
            chance = random.Random(seed)
            at, length = chance.randrange(len(parcel.content)), chance.randrange(1, 200)
            noise = chance.randbytes(length)
            how = chance.choice(["overwritten", "inserted", "cut out"])
            end = at if how == "inserted" else at + length
            between = b"" if how == "cut out" else noise
            damaged = parcel.content[:at] + between + parcel.content[end:]
            if damaged != parcel.content:
                assert_refused(parcel, damaged, {3, 4, 5})


def test_a_delta_without_its_end_is_an_interruption(parcel: Parcel, subtests: pytest.Subtests) -> None:
    cuts = {span.start for span in parcel.fields(random.Random(16))} | {len(parcel.content) - 1}
    for cut in sorted(cuts - {0}):
        with subtests.test(cut=cut):
            assert_refused(parcel, parcel.content[:cut], {5})


def test_an_empty_delta_or_anything_else_is_refused(parcel: Parcel) -> None:
    for content in (b"", b"\n", b"not a delta at all\n" * 50, bytes(100_000), b"ARROW1\0\0"):
        assert_refused(parcel, content, {4} if len(content) >= 8 else {4, 5})


def test_zz_the_standby_takes_the_whole_delta_after_all_that(parcel: Parcel) -> None:
    """The last of the tests on this standby."""
    report = delivered(parcel.content, parcel.standby)
    assert report["snapshot"]["name"] == "second"
    assert_same(parcel.after, parcel.standby)
    assert not stages(parcel.standby)


def test_damage_to_a_first_delta_leaves_no_volume(parcel: Parcel, place: Place) -> None:
    chance = random.Random(13)
    for kind in ("xfs", "btrfs"):
        parent = place(kind)
        for _ in range(10):
            damaged = harmed(parcel.full, 40, len(parcel.full), chance)
            assert_told(deliver(damaged, parent / "standby", "--quiet"), codes=(4, 5))
            target = parent / "standby"
            assert not target.exists() or len(freeze(target).entries) == 1
            assert {path.name for path in parent.iterdir()} <= {"standby"}
        delivered(parcel.full, parent / "standby")


def test_damage_makes_no_snapshot(parcel: Parcel, place: Place) -> None:
    chance = random.Random(14)
    for kind in ("xfs", "btrfs", "ext4"):
        folder = place(kind)
        delivered(parcel.full, "--as-snapshot", folder)
        visible = sorted(path.name for path in folder.iterdir())
        before = freeze(folder / "first")
        for _ in range(8):
            damaged = harmed(parcel.content, 40, len(parcel.content), chance)
            assert_told(deliver(damaged, "--as-snapshot", folder, "--quiet"), codes=(4, 5))
            made = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
            assert made == {name for name in visible if not name.startswith(".")}
            assert_same(before, folder / "first")
        delivered(parcel.content, "--as-snapshot", folder)
        assert_same(parcel.after, folder / "second")


# --- inspect ----------------------------------------------------------------------------------


def test_inspect_tells_what_a_delta_holds(changed: Changed, tmp_path: Path) -> None:
    for number, sent in enumerate(changed.sent):
        file = tmp_path / f"{number}.delta"
        file.write_bytes(sent.content)
        report = done("inspect", file)
        delta, told = sent.delta, report["delta"]
        assert told["version"] == 2
        assert told["snapshot"]["id"] == delta.header["snapshot"]["id"]
        assert told["base"] == (delta.header["base"] or {}).get("id")
        assert told["origin"] == (delta.header["origin"] or {}).get("uuid")
        for key in ("lineage", "epoch"):
            assert told[key] == delta.header[key]
        assert told["frames"] == len(delta.frames)
        assert told["raw_bytes"] == sum(len(frame.raw) for frame in delta.frames)
        assert told["stored_bytes"] == sum(len(frame.stored) for frame in delta.frames)
        assert told["complete"] is True
        assert report["totals"]["rows"] == len(delta.rows)
        assert "second" in run("inspect", file).out or number == 0


def test_inspect_tells_a_manifest_from_a_delta(changed: Changed, tmp_path: Path) -> None:
    first, second = changed.names
    done("diff", first, second, "-o", tmp_path / "changes.arrow")
    assert done("inspect", tmp_path / "changes.arrow")["delta"] is None


def test_inspect_tells_a_cut_delta_and_a_damaged_one(changed: Changed, tmp_path: Path) -> None:
    content, file = changed.sent[1].content, tmp_path / "file.delta"
    file.write_bytes(content[:-30])
    ran = run("inspect", file, "--json")
    assert ran.code in (0, 5), ran
    assert ran.code == 5 or ran.json["delta"]["complete"] is False
    for span in changed.sent[1].delta.spans():
        # What it does not read it cannot judge: the bytes of frames are for `receive`.
        if span.name in ("head header", "manifest bytes", "frame 0 offset", "end digest"):
            damaged = bytearray(content)
            damaged[(span.start + span.end) // 2] ^= 1
            file.write_bytes(damaged)
            assert_told(run("inspect", file, "--quiet"), str(file), codes=(4,))


# --- for ever ---------------------------------------------------------------------------------


def fixed_tree(root: Path) -> None:
    """What `deltas/full.delta` was made of. Kept to say what it holds, not to make it again."""
    (root / "dir/deep").mkdir(parents=True)
    fill(root / "dir/text", 0, 9_000, 2)
    fill(root / "dir/deep/noise", 0, 7_001, 1)
    fill(root / "dir/deep/sparse", 40_960, 5_000, 3)
    preallocate(root / "dir/deep/reserved", 0, 16_384)
    (root / "link").symlink_to("dir/nowhere")
    (root / "hard").hardlink_to(root / "dir/text")
    node(root / "fifo", 0o010000)
    (root / "gone").write_bytes(b"gone")
    set_xattr(root / "dir", b"user.note", b"\0bytes\xff")
    set_acl(root / "dir/text", "access", 1005, 5)
    (root / "dir" / "naïve ✓").write_bytes(b"text")
    open(bytes(root) + b"/\xff\xfe", "wb").close()


def fixed_change(root: Path) -> None:
    """What `deltas/incremental.delta` was made of."""
    (root / "dir").rename(root / "moved")
    (root / "gone").unlink()
    fill(root / "moved/text", 4096, 100, 5)
    punch(root / "moved/deep/noise", 0, 4096)
    sh("cp", "--reflink=auto", root / "moved/deep/sparse", root / "clone")
    fill(root / "new", 0, 6_000, 6)
    (root / "hard").unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_a_delta_of_the_first_version_is_received_for_ever(place: Place, kind: str) -> None:
    target, folder = place.absent(kind), place(kind)
    for name in ("full", "incremental"):
        content = (FIXED / f"{name}.delta").read_bytes()
        parse(content)
        expected = listing.read(FIXED / f"{name}.tree")
        delivered(content, target)
        assert_same(expected, target)
        made = delivered(content, "--as-snapshot", folder)
        assert_same(expected, Path(made["path"]))


@pytest.mark.parametrize("name", ["full", "incremental"])
def test_a_delta_of_the_first_version_is_inspected_for_ever(name: str) -> None:
    file = FIXED / f"{name}.delta"
    delta = parse(file.read_bytes())
    report = done("inspect", file)
    assert report["delta"]["snapshot"]["name"] == name
    assert report["delta"]["complete"] is True
    assert report["totals"]["rows"] == len(delta.rows)
    assert report["delta"]["base"] == (delta.header["base"] or {}).get("id")


def test_the_kept_deltas_are_what_they_were() -> None:
    """Whoever makes them again proves nothing any more."""
    sums = dict(line.split()[::-1] for line in (FIXED / "B3SUMS").read_text().splitlines())
    kept = [path for path in FIXED.iterdir() if path.suffix in (".delta", ".tree")]
    found = {path.name: digest(path.read_bytes()).hex() for path in kept}
    assert found == sums
    assert sum(path.stat().st_size for path in FIXED.iterdir()) < 100_000


def test_every_kind_of_thing_is_in_the_kept_deltas() -> None:
    full, increment = (parse((FIXED / f"{name}.delta").read_bytes()) for name in ("full", "incremental"))
    extents = [extent for row in full.rows + increment.rows for extent in row["extents"]]
    operations = {extent["op"] for extent in extents}
    assert operations == {"data", "hole", "unwritten", "clone"}
    assert {row["kind"] for row in full.rows} == {"file", "directory", "symlink", "fifo"}
    assert {frame.codec for frame in full.frames} == {0, 1}
    flags = {flag for row in increment.rows for flag, on in row["change"].items() if on}
    assert flags >= {"created", "deleted", "renamed", "data", "links"}
    assert metadata(increment.manifest)["snapsync.format"] == "1"
