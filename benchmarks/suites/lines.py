"""Where a key stands in a TOML file: tomllib reads values and forgets their lines."""

import re

__all__ = ["line_of"]


def line_of(text: str, *keys: str, nth: int = 0) -> int:
    """The line, counted from 1, on which a key of a TOML file is written, or its table begins, or 1.

    `nth`: in which of several tables of one name, [[claims]], counted from 0.
    """
    table, begun, tables = "", 1, -1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]\]?", line)
        if header:
            table = header[1]
            tables += bool(keys) and table == keys[0]
            if keys and table == keys[0] and tables == nth:
                begun = number
                if len(keys) == 1:
                    return number
            continue
        key = re.match(r"""\s*("[^"]*"|'[^']*'|[\w-]+)\s*=""", line)
        path = ((table,) if table else ()) + ((key[1].strip("\"'"),) if key else ())
        if keys and path == keys and (len(keys) == 1 or tables == nth):
            return number
    return begun
