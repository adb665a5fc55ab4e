"""`python -m snapsync` is the command."""

from snapsync.cli.main import main

main()
