"""What of a map is no data because files cannot be read."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["listed"]

_TILES = 5  # of a file that are named


def listed(damaged: Mapping[str, str], what: str = "tiles") -> str:
    """A paragraph of one line for each file; empty where nothing is damaged.

    Args:
        damaged: by name of a tile, or of another part of the map, the reason, which begins with the file.
        what: the parts are.
    """
    if not damaged:
        return ""
    by_reason: dict[str, list[str]] = {}
    for name, reason in damaged.items():
        by_reason.setdefault(reason, []).append(name)
    lines = [f"  {len(damaged)} {what} are no data, for their files cannot be read:"]
    for reason, names in by_reason.items():
        more = f", ... ({len(names)})" if len(names) > _TILES else ""
        lines.append(f"    {reason}: {', '.join(names[:_TILES])}{more}")
    return "\n".join(lines)
