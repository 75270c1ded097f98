"""Where a key stands in a TOML file: tomllib reads values and forgets their lines."""

import re


def line_of(text: str, *keys: str) -> int:
    """The line, counted from 1, on which a key of a TOML file is written, or its table begins, or 1."""
    lines = text.splitlines()
    table, found = "", 1
    for number, line in enumerate(lines, 1):
        header = re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]\]?", line)
        if header:
            table = header[1]
            if keys and table == keys[0]:
                found = number
                if len(keys) == 1:
                    return number
            continue
        key = re.match(r"""\s*("[^"]*"|'[^']*'|[\w-]+)\s*=""", line)
        path = ((table,) if table else ()) + ((key[1].strip("\"'"),) if key else ())
        if keys and path == keys:
            return number
    return found
