"""The plan's own rebuild: documents are uploaded to Archon again, and old pages go only when the new ones are proved."""
