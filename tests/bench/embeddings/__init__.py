"""Measurements of the embedding rebuild: `python -m tests.bench.embeddings --help`."""
