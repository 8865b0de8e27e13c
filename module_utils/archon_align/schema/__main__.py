"""`python -m archon_align.schema` (see command.py)."""

from __future__ import annotations

import sys

from .command import main

sys.exit(main())
