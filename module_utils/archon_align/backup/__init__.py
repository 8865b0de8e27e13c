"""Backups of whole schemas: dumped in the snapshot of their fingerprints, proved by restoring them."""
