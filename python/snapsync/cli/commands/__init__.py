"""The verbs, one per module: its arguments, its work and its summary. Every module here is a verb."""
