"""Restore points: what each phase did, written down before COMMIT, and how it is undone."""
