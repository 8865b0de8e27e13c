"""The running Archon services: what they really use, what they reach, and restarting them so that they use what is stored."""
