"""How long a new run waits for an earlier one to be gone, in seconds. Apart, so that the starter need not load the driver."""

from __future__ import annotations

# A run that was just killed or has just ended is being tidied up by its keeper: that takes two seconds at most.
PATIENCE = 3.0
REMAINS_SECONDS = 10.0
