"""`python -m snapsync` is the command."""

import os
import sys

from snapsync.cli.main import main

if turn := sys._xoptions.get("snapsync-turn"):
    # A round holds the turn of its job open for as long as it lasts; what it starts does not.
    os.set_inheritable(int(turn), False)
main()
