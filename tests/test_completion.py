"""The real shells complete by the scripts of `snapsync completion`, and nothing typed is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import snapsync
from snapsync import Volume

BIN = Path(sys.executable).parent
ZSH = r"""
zmodload zsh/zpty
zpty z 'PS1=">" zsh -f -i'
zpty -w z "autoload -U compinit; compinit -u -D; source ./script; unsetopt zle_bracketed_paste; echo rea''dy"
zpty -r -m z got '*ready*'
zpty -w -n z "$LINE"$'\t'
sleep 1
zpty -w -n z $'\x01echo \'got: \x05\'\n'
zpty -r -m z got "*"$'\n'"*got: *"
print -r -- "$got"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    volume = tmp_path / "v"
    volume.mkdir()
    subprocess.run([BIN / "snapsync", "init", volume, "--quiet"], check=True)
    Volume(volume).snapshot(name="monday")
    jobs = 'web = { source = "/a", target = "/b" }\nmail = { source = "/c", target = "/d" }\n'
    (tmp_path / "snapsync").mkdir()
    (tmp_path / "snapsync/config.toml").write_text(f"[job]\n{jobs}")
    return tmp_path


def completed(shell: str, line: str, home: Path) -> str:
    """What a shell makes of the line."""
    package = str(Path(snapsync.__file__).parent.parent)
    paths = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": package, "XDG_CONFIG_HOME": str(home)}
    env = os.environ | paths | {"LINE": line}
    script = subprocess.run(["snapsync", "completion", shell], env=env, capture_output=True, check=True)
    (home / "script").write_bytes(script.stdout)
    ask = {
        "bash": "source ./script; COMP_LINE=$LINE COMP_POINT=${#LINE}; _snapsync;"
        " printf '%s\\n' \"${COMPREPLY[@]}\"",
        "fish": 'source ./script; complete -C "$LINE"',
        "zsh": ZSH,
    }
    command = [shell, *(["-f"] if shell == "zsh" else []), "-c", ask[shell]]
    said = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=30)
    return said.stdout


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("snapsync snaps", "snapshot"),
        ("snapsync restore v@mo", "monday"),
        ("snapsync run we", "web"),
        ("snapsync sync --keep-ho", "--keep-hourly"),
        ("snapsync init --history fu", "full"),
    ],
)
def test_a_shell_completes(shell: str, line: str, wanted: str, home: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    assert wanted in completed(shell, line, home)


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_nothing_that_was_typed_is_run(shell: str, home: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    completed(shell, "snapsync restore '$(touch ran)'$(touch ran)@mo", home)
    assert not (home / "ran").exists()


def test_a_broken_configuration_completes_nothing_and_says_nothing(home: Path) -> None:
    (home / "snapsync/config.toml").write_text("[job")
    assert completed("bash", "snapsync run w", home).strip() == ""
