"""Which type changes keep every value, by proof rather than by looking at the rows."""

from __future__ import annotations

import re

_TYPE = re.compile(r"(?P<base>[^(\[]+?)\s*(?:\((?P<mods>[\d,\s-]+)\))?(?P<rest>[^\[(]*)(?P<array>(?:\[\])*)$")
_INTEGERS = ("smallint", "integer", "bigint")
_INTEGER_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_FLOATS = {"real": 6, "double precision": 15}
_UNLIMITED = 16383
_EXACT_IN_FLOAT = {("smallint", "real"), ("smallint", "double precision"), ("integer", "double precision")}
# Changes that only alter the catalogue, not the file.
_BINARY = {("character varying", "text"), ("cidr", "inet")}
_ZONED = {"timestamp with time zone", "time with time zone"}
_UNZONED = {"timestamp without time zone", "date", "time without time zone"}


def split(name: str) -> tuple[str, tuple[int, ...], str]:
    """`(base, modifiers, array brackets)` of a type as format_type writes it."""
    match = _TYPE.match(name)
    if match is None:
        return name, (), ""
    base = match["base"] + match["rest"]
    return base, tuple(int(part) for part in (match["mods"] or "").split(",") if part.strip()), match["array"]


def keeps_values(old: str, new: str) -> bool:
    """Is every value of `old` the same value of `new`, whatever the rows hold?"""
    (old_base, old_mods, old_array), (new_base, new_mods, new_array) = split(old), split(new)
    if old_array != new_array:
        return False
    if old_base == new_base == "numeric":
        return _numeric_grows(old_mods, new_mods)
    if old_base == new_base:
        if old_base in ("character varying", "bit varying") or old_base.startswith(("timestamp", "time")):
            # No modifier means no limit (for time stamps: the full six digits).
            return not new_mods or (bool(old_mods) and new_mods[0] >= old_mods[0])
        return old_mods == new_mods
    if old_base in _INTEGERS and new_base in _INTEGERS:
        return _INTEGERS.index(old_base) < _INTEGERS.index(new_base)
    if old_base in _INTEGERS and new_base == "numeric":
        return not new_mods or new_mods[0] - (new_mods[1] if len(new_mods) > 1 else 0) >= _INTEGER_DIGITS[old_base]
    if (old_base, new_base) == ("character varying", "text"):
        return True
    return (old_base, new_base) in _EXACT_IN_FLOAT or (old_base, new_base) in (
        ("real", "double precision"),
        ("cidr", "inet"),
    )


def _numeric_grows(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    if not new:
        return True
    if not old:
        return False
    old_scale, new_scale = (mods[1] if len(mods) > 1 else 0 for mods in (old, new))
    return new_scale >= old_scale and new[0] - new_scale >= old[0] - old_scale


def loses_precision(old: str, new: str) -> bool:
    """Has the new type room for fewer digits behind the point, or of a second? The rows tell whether any are lost."""
    (old_base, old_mods, _), (new_base, new_mods, _) = split(old), split(new)
    if old_base in _INTEGERS and new_base in _FLOATS:
        return (old_base, new_base) not in _EXACT_IN_FLOAT
    one, other = _digits(old_base, old_mods), _digits(new_base, new_mods)
    return one is not None and other is not None and other < one


def _digits(base: str, mods: tuple[int, ...]) -> int | None:
    if base in _INTEGERS:
        return 0
    if base == "numeric":
        return mods[1] if len(mods) > 1 else 0 if mods else _UNLIMITED
    if base == "date":
        return -1  # no time of day at all
    if base.startswith(("timestamp", "time")):
        return mods[0] if mods else 6
    return _FLOATS.get(base)


def rewrites(old: str, new: str) -> bool:
    """Does the server write the whole table anew for this change?"""
    (old_base, _, old_array), (new_base, _, new_array) = split(old), split(new)
    if old_array != new_array:
        return True
    return not (keeps_values(old, new) and (old_base == new_base or (old_base, new_base) in _BINARY))


def assumes_time_zone(old: str, new: str) -> bool:
    """Does the change need a time zone that no row states?"""
    bases = split(old)[0], split(new)[0]
    return any(one in _ZONED and other in _UNZONED for one, other in (bases, bases[::-1]))
