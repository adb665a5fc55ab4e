"""The reports of the verbs, by families: frozen dataclasses, built from the reports of the native half.

Sizes are bytes, durations seconds, moments timezone-aware (UTC). Keys that a class does not name are
ignored, so a report can grow without breaking its readers. `tests/test_reports.py` holds the fields here
and the native ones together.
"""
