"""Preflight: everything a run needs, looked at before anything is touched, all problems told at once."""
