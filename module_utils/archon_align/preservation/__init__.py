"""The proof that protected rows are what they were."""
