"""The whole alignment under fire: faults at seeded moments, users who go on writing, and an oracle that keeps its own books."""
