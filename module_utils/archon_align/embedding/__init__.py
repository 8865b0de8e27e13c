"""Embeddings: the service's client, the rebuild pipeline, the vector index and the proof of search."""
