"""Rows on a terminal."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


def text_table(
    columns: Sequence[str], rows: Sequence[Mapping[str, Any]], floats: str = ".4g"
) -> str:
    """Rows as aligned text, numbers to the right, floats in the given format."""

    def cell(value) -> str:
        if value is None:
            return "-"
        if isinstance(value, float):
            return format(value, floats)
        return value.isoformat() if isinstance(value, datetime) else str(value)

    texts = [[cell(row[key]) for key in columns] for row in rows]
    numeric = [any(isinstance(r[key], int | float) for r in rows) for key in columns]
    widths = [max(map(len, parts)) for parts in zip(columns, *texts, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in (columns, *texts)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
