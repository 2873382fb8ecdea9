"""What Grafana makes of a query of a dashboard before PostgreSQL sees it.

First the browser writes the values of the dashboard's variables into it, then the PostgreSQL data source expands its
macros (documented under "Macros" of that data source). Only what our dashboard uses is here; anything else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class View:
    """What somebody looks at: a window (both ends are in it), the width of a bucket, and what is chosen."""

    since: datetime
    until: datetime
    interval: str = "1h"
    chosen: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    """By variable: one value or several. A variable that is not named stands on All, or on its current value."""


def expand(sql: str, view: View, variables: Sequence[Mapping[str, Any]]) -> str:
    """The statement that PostgreSQL gets."""
    if "$" in (left := re.sub(r"\$\{\w+:sqlstring\}|\$__interval\b|\$__\w+\(", "", sql)):
        raise ValueError(f"not a form of variable or macro that is known here: {left[left.index('$') :][:40]}")
    by_name = {variable["name"]: variable for variable in variables}

    def value(found: re.Match[str]) -> str:
        return _quoted(by_name[found["name"]], view.chosen)

    sql = re.sub(r"\$\{(?P<name>\w+):sqlstring\}", value, sql).replace("$__interval", view.interval)
    return re.sub(r"\$(\w+)\(([^)]*)\)", lambda found: _macro(found[1], found[2].split(","), view), sql)


def _quoted(variable: Mapping[str, Any], chosen: Mapping[str, str | Sequence[str]]) -> str:
    """The format `sqlstring`: quoted, with commas between. A custom value for All goes in as it is."""
    values = chosen.get(variable["name"])
    if values is None and variable["includeAll"]:
        return str(variable["allValue"])
    values = variable["current"]["value"] if values is None else values
    several = [values] if isinstance(values, str) else values
    return ",".join("'" + value.replace("'", "''").replace('"', '\\"') + "'" for value in several)


def _macro(name: str, given: Sequence[str], view: View) -> str:
    column = given[0].strip()
    if name == "__timeFilter":
        return f"{column} BETWEEN '{_rfc3339(view.since)}' AND '{_rfc3339(view.until)}'"
    if name == "__timeGroupAlias":
        width = re.fullmatch(r"(\d+)([smhd])", given[1].strip(" '"))
        if width is None:
            raise ValueError(f"not a width of a bucket: {given[1]}")
        seconds = int(width[1]) * SECONDS[width[2]]
        return f'floor(extract(epoch from {column})/{seconds})*{seconds} AS "time"'
    raise ValueError(f"a macro that is not known here: ${name}")


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
