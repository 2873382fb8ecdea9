"""Payloads of the gateway: recorded, documented and constructed ones, each with its public source.

A `meaning` there is in the gateway's terms; storage follows the table of SPEC 7.
"""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "data" / "gateway_samples.jsonl"
SAMPLES: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def samples_of(*events: str) -> list[dict[str, Any]]:
    """Those of some kinds of event that are to be understood."""
    wanted = [sample for sample in SAMPLES if sample["event"] in events]
    return [sample for sample in wanted if sample["meaning"].get("expect") != "reject"]
