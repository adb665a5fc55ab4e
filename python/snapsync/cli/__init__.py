"""The command line: a verb a file in `commands`; how its lines are read is told in `parse`."""
