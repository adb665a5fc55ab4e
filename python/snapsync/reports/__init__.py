"""What each verb answers, by families of verbs: frozen dataclasses, built from what the native half reports.

Sizes are bytes, durations seconds, moments timezone-aware (UTC). Keys that a class does not name are
ignored, so a report can grow without breaking its readers. `tests/test_reports.py` holds the fields here
and the native ones together.
"""
