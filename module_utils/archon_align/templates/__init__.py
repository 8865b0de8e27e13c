"""Template components and definitions, moved from DEV to PROD by their names."""
