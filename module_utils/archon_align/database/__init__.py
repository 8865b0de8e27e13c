"""Connections, identifiers, the execution gate and the transaction protocol."""
