"""The report of a run: assembled from what the phases handed back, written to the run's folder, told in a screenful."""

from .assemble import build, now, started_at
from .files import read, snapshot, write
from .interruption import interrupted
from .terminal import summary

__all__ = ["build", "interrupted", "now", "read", "snapshot", "started_at", "summary", "write"]
