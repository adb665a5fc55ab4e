"""`python -m snapsync` is the command."""

from snapsync.cli import main

main()
