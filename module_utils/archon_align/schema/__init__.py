"""Schema alignment: inspect → compare → evidence → plan are readings and pure functions; only apply changes a database.

`from archon_align.schema import connect, inspect, compare, plan, apply, prove` is the Python API (docs/python-api.md).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Aligned, apply, compare, connect, inspect, plan, prove

__all__ = ["Aligned", "apply", "compare", "connect", "inspect", "plan", "prove"]


class _Package(ModuleType):
    """Loads the API when it is first asked for: a module's process that only compares need not load the planner.

    The names are properties, because importing a submodule (`inspect`, `compare`, …) sets an attribute of that name.
    """


def _lazy(name: str) -> property:
    def found(_: ModuleType) -> Any:
        return getattr(import_module(f"{__name__}.api"), name)

    def ignore(_: ModuleType, submodule: object) -> None:
        """The submodule is found in sys.modules."""

    return property(found, ignore)


for _name in __all__:
    setattr(_Package, _name, _lazy(_name))
sys.modules[__name__].__class__ = _Package
