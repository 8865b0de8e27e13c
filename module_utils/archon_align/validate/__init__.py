"""Phase 6: what is true now, read without changing anything, and the plan's success criteria with their evidence."""
