"""Schema alignment: inspect → compare → evidence → plan are readings and pure functions; only apply changes a database."""
