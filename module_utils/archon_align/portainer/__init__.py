"""Portainer's API: log-in, environments, stacks, and the engines behind it."""
