"""A table of the configuration that stands for several jobs: with `targets`, or with a wildcard.

Job `web` with two targets is the jobs `web.1` and `web.2`. A source `/srv/*` whose target has `{name}` is a
job for each directory there is, such as `web.shop` for `/srv/shop`.
"""

import os
import re
from collections.abc import Mapping
from fnmatch import translate
from hashlib import blake2b
from typing import Any

_HERE = "{name}"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_LONGEST = 64


class Mistake(Exception):
    """A key that is wrong, why, and what to do."""

    def __init__(self, key: str, why: str, advice: str) -> None:
        self.key, self.why, self.advice = key, why, advice


def is_wild(keys: Mapping[str, Any]) -> bool:
    """Whether a table stands for the directories that there are."""
    return _HERE in keys.get("target", "")


def expanded(name: str, keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The keys of each job that a table stands for, by the job's name."""
    _is_one_each(keys)
    if "targets" in keys:
        return _targets(name, keys)
    return _directories(name, keys) if is_wild(keys) else {name: dict(keys)}


def _is_one_each(keys: Mapping[str, Any]) -> None:
    """Refuse one target for all directories of a wildcard. A directory may be called so, too."""
    source = keys.get("source", "")
    is_wild_source = source.startswith("/") and re.search(r"[*?\[]", os.path.basename(source))
    if not is_wild_source or os.path.isdir(source):
        return
    if "target" in keys and _HERE not in keys["target"]:
        why = (
            f"has no {_HERE}, but `source` has a wildcard: each of its directories needs a standby of its own"
        )
        raise Mistake("target", why, 'write a target such as "/mnt/standby/{name}"')
    if "targets" in keys:
        why = "stands beside a wildcard in `source`: each of its directories needs a standby of its own"
        raise Mistake("targets", why, 'write a table for each, with `target = "/mnt/standby/{name}"`')


def fixed(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a table with a wildcard, about the directories that all its jobs lie in."""
    above = {key: os.path.dirname(keys[key].partition(_HERE)[0]) or "/" for key in ("source", "target")}
    return {**{key: value for key, value in keys.items() if key != "part"}, **above}


def matches(keys: Mapping[str, Any], source: str) -> bool:
    """Whether a directory is one that a table with a wildcard stands for, if it is there."""
    above, pattern = os.path.split(keys["source"])
    return os.path.dirname(source) == above and bool(re.match(translate(pattern), os.path.basename(source)))


def _targets(name: str, keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if "target" in keys:
        raise Mistake("targets", "stands beside `target`", "name all of them in `targets`")
    targets, common = keys["targets"], {key: value for key, value in keys.items() if key != "targets"}
    if any(_HERE in target for target in targets):
        raise Mistake("targets", f"has {_HERE}, which only `target` may have", "write a job for each")
    if len(set(targets)) < len(targets):
        raise Mistake("targets", "has one of them twice", "leave it out")
    return {
        _called(name, str(number)): {**common, "target": target} for number, target in enumerate(targets, 1)
    }


def _directories(name: str, keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    above, pattern = os.path.split(keys.get("source", ""))
    if not above.startswith("/") or re.search(r"[*?\[]", above) or not re.search(r"[*?\[]", pattern):
        why = f"has no wildcard in its last part, but `target` has {_HERE}"
        raise Mistake("source", why, 'write a source such as "/srv/*"')
    if os.path.dirname(keys["target"].partition(_HERE)[0]) == above:
        why = "lies where the wildcard of `source` looks, and would become a source itself"
        raise Mistake("target", why, "let the standbys lie in another directory")
    try:
        with os.scandir(above) as entries:
            there = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:  # not mounted, perhaps: what had matched is told
        there = []
    is_one = re.compile(translate(pattern)).match
    found = [entry for entry in there if is_one(entry) and not entry.startswith(".")]
    return {
        _called(name, entry): {
            **keys,
            "source": os.path.join(above, entry),
            "target": keys["target"].replace(_HERE, entry),
        }
        for entry in found
    }


def _called(name: str, part: str) -> str:
    """The name of one of a table's jobs. A part that cannot stand in a job's name gets a digest."""
    whole = f"{name}.{part}"
    if _NAME.fullmatch(part) and len(whole) <= _LONGEST:
        return whole
    digest = blake2b(os.fsencode(whole), digest_size=6).hexdigest()
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", whole)
    return f"{plain[: _LONGEST - len(digest) - 1]}-{digest}"
