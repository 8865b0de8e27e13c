"""The embedded world: two PostgreSQL servers in the state that the plan describes, and an embedding service."""
