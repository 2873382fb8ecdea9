"""What the command ends with: one table, which `--help` and docs/command-line.md show."""

from __future__ import annotations

__all__ = ["ALERTS", "CHECK_CODES", "EXIT_CODES", "FAILURE", "INTERRUPTED", "NOT_CURRENT", "QUESTION", "USAGE"]

FAILURE, USAGE, NOT_CURRENT, QUESTION, ALERTS, INTERRUPTED = 1, 2, 3, 4, 5, 130

EXIT_CODES = {
    0: "ok",
    FAILURE: "failure",
    USAGE: "usage",
    NOT_CURRENT: "the schema is not current",
    QUESTION: "upgrade has a question",
    ALERTS: "--fail-on found alerts",
    INTERRUPTED: "interrupted",
}

CHECK_CODES = {"current": 0, "empty": 10, "legacy_v1": 11, "behind": 12, "ahead": 13, "foreign": 14, "drifted": 15}
"""`check` has one for each state of a schema."""
