"""Which trading day an instant belongs to (SPEC 7)."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk_store import InvalidValue
from risk_store.trading_day import CHICAGO_17, DayEnd

CHICAGO = ZoneInfo("America/Chicago")


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        ("2026-08-19T21:59:59.999999Z", date(2026, 8, 19)),  # 16:59:59.999999 CDT
        ("2026-08-19T22:00:00Z", date(2026, 8, 20)),  # 17:00 CDT belongs to the next day
        ("2026-08-20T00:30:00Z", date(2026, 8, 20)),  # UTC's date, by chance
        ("2026-08-20T23:59:59Z", date(2026, 8, 21)),  # not UTC's date
        ("2026-01-15T22:59:59Z", date(2026, 1, 15)),  # 16:59:59 CST: an hour later in UTC
        ("2026-01-15T23:00:00Z", date(2026, 1, 16)),
        ("2026-12-31T23:00:00Z", date(2027, 1, 1)),
        ("2026-11-25T17:00:00-06:00", date(2026, 11, 26)),
    ],
)
def test_the_day_ends_at_seventeen_in_chicago_and_never_by_utc(instant: str, day: date) -> None:
    assert CHICAGO_17.day_of(datetime.fromisoformat(instant)) == day


@given(st.integers(631_152_000, 2_208_988_800), st.times(), st.integers(0, 86_400))  # from 1990 to 2040
def test_a_later_instant_never_has_an_earlier_day(epoch: int, ends: time, seconds: int) -> None:
    instant = datetime.fromtimestamp(epoch, UTC)
    end = DayEnd(ends.isoformat(), "America/Chicago")
    earlier, later = end.day_of(instant), end.day_of(instant + timedelta(seconds=seconds))
    assert earlier <= later <= earlier + timedelta(days=2)


def test_where_the_clocks_go_back_the_first_passing_of_the_time_ends_the_day() -> None:
    end = DayEnd("01:30", "America/Chicago")
    first, second = (datetime(2026, 11, 1, 1, 30, tzinfo=CHICAGO, fold=fold).astimezone(UTC) for fold in (0, 1))
    assert [end.day_of(at) for at in (first - timedelta(minutes=1), first, second - timedelta(minutes=20), second)] == [
        date(2026, 11, 1),
        *[date(2026, 11, 2)] * 3,
    ]


def test_where_the_clocks_skip_the_time_the_day_ends_all_the_same() -> None:
    end = DayEnd("02:30", "America/Chicago")
    before, after = (datetime.fromisoformat(f"2026-03-08T{text}Z") for text in ("07:30:00", "08:30:00"))
    assert (end.day_of(before), end.day_of(after)) == (date(2026, 3, 8), date(2026, 3, 9))


def test_a_day_that_ends_at_midnight_has_the_date_that_it_fills() -> None:
    end = DayEnd("00:00", "Europe/Berlin")
    assert end.day_of(datetime.fromisoformat("2026-08-19T23:30:00+02:00")) == date(2026, 8, 19)
    assert end.day_of(datetime.fromisoformat("2026-08-20T00:00:00+02:00")) == date(2026, 8, 20)


@pytest.mark.parametrize(
    ("end", "field"),
    [
        (DayEnd("25:00", "America/Chicago"), "reset_time_config"),
        (DayEnd("five", "America/Chicago"), "reset_time_config"),
        (DayEnd("17:00+01:00", "America/Chicago"), "reset_time_config"),
        (DayEnd("17:00", "America/Chikago"), "timezone"),
        (DayEnd("17:00", "/etc/passwd"), "timezone"),
        (DayEnd("17:00", ""), "timezone"),
    ],
)
def test_a_time_or_a_zone_that_is_none_is_refused_by_name(end: DayEnd, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        end.day_of(datetime(2026, 8, 19, tzinfo=UTC))
    assert caught.value.field == field


@pytest.mark.parametrize(("instant", "zone"), [("0001-01-01", "America/Chicago"), ("9999-12-31", "Pacific/Kiritimati")])
def test_an_instant_at_the_edge_of_the_calendar_is_refused_by_name(instant: str, zone: str) -> None:
    with pytest.raises(InvalidValue, match=r"^timestamp"):
        DayEnd("17:00", zone).day_of(
            datetime.fromisoformat(f"{instant}T23:00:00Z" if zone > "P" else f"{instant}T00:00Z")
        )
