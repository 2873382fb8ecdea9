"""Rows as CSV: what a spreadsheet is given, and what a program reads back."""

import csv
import io
import math
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk_store import OrderSide
from risk_store.csv_text import csv_text

FORMULA = "=+-@\t\r\n＝＋－＠"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.one_of(
    TEXTS, st.builds(str.__add__, st.sampled_from(FORMULA), TEXTS), st.none(), st.integers(), st.floats(), st.booleans()
)


def read_back(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width))))
def test_no_text_begins_a_formula_and_every_value_is_read_back(rows: list[list[Any]]) -> None:
    columns = [f"c{number}" for number in range(len(rows[0]) if rows else 1)]
    header, *lines = read_back("".join(csv_text(columns, rows)))
    assert header == columns
    for row, cells in zip(rows, lines, strict=True):
        for value, cell in zip(row, cells, strict=True):
            if isinstance(value, str):
                assert not cell.startswith(tuple(FORMULA))
                assert cell == (f"'{value}" if value.startswith(tuple(FORMULA)) else value)
            elif isinstance(value, bool):
                assert cell == str(value).lower()
            elif isinstance(value, float):
                assert float(cell) == value or (math.isnan(value) and math.isnan(float(cell)))
            else:
                assert cell == ("" if value is None else str(value))


@pytest.mark.parametrize("first", FORMULA)
def test_what_a_spreadsheet_takes_for_the_beginning_of_a_formula_gets_an_apostrophe(first: str) -> None:
    assert read_back("".join(csv_text(["reason"], [[first + "1+1"]])))[1] == [f"'{first}1+1"]


def test_numbers_stay_numbers_and_other_values_have_one_form() -> None:
    row = (-550, -0.000000125, True, None, OrderSide.SELL, datetime(2026, 11, 25, 10, 30, tzinfo=UTC), b"\xff=")
    [_, line] = csv_text(list("abcdefg"), [row])
    assert line == "-550,-1.25e-07,true,,SELL,2026-11-25T10:30:00+00:00,x'ff3d'\r\n"
    assert list(csv_text(["=day"], [[date(2026, 11, 25)]])) == ["'=day\r\n", "2026-11-25\r\n"]


def test_a_row_is_written_before_the_next_one_is_asked_for() -> None:
    asked = []

    def rows() -> Any:
        for number in range(3):
            asked.append(number)
            yield [number]

    lines = csv_text(["n"], rows())
    assert (next(lines), asked) == ("n\r\n", [])
    assert (next(lines), asked) == ("0\r\n", [0])
