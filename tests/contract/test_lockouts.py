"""LockoutRepository, the same on each engine (SPEC 4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from risk_store import EnforcementLog, InvalidValue, Lockout, LockoutRepository

if TYPE_CHECKING:
    from tests.contract.conftest import Clock

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def lockouts(session: Session, clock: Clock) -> LockoutRepository:
    return LockoutRepository(session, clock)


@pytest.fixture
def unasked(clock: Clock) -> LockoutRepository:
    """Without a database: bad arguments are refused before one is asked."""
    return LockoutRepository(Session(), clock)


def a_v1_row(session: Session, **changes: Any) -> None:
    """As a v1 daemon writes it."""
    values = {"account_id": 456, "is_locked": True, "reason": "v1", "locked_until": None, "rule_id": "RULE-001"}
    values |= changes
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    session.execute(sa.text(f"INSERT INTO lockouts ({names}) VALUES ({marks})"), values)


def log_rows(session: Session) -> list[EnforcementLog]:
    return list(session.scalars(sa.select(EnforcementLog)))


# set


def test_a_lockout_is_kept_as_it_was_set(lockouts: LockoutRepository, clock: Clock) -> None:
    assert lockouts.set(456, "Daily loss limit hit: -$550", "RULE-003", until=clock.now + HOUR)
    assert lockouts.get(456) == Lockout(
        account_id=456,
        is_locked=True,
        reason="Daily loss limit hit: -$550",
        locked_at=clock.now,
        locked_until=clock.now + HOUR,
        rule_id="RULE-003",
        created_at=clock.now,
        updated_at=clock.now,
    )
    assert lockouts.get(457) is None


def test_a_longer_lockout_replaces_a_shorter_one(lockouts: LockoutRepository, clock: Clock) -> None:
    lockouts.set(456, "first", "RULE-001", until=clock.now + HOUR)
    began = clock.now
    clock.forward(minutes=1)
    assert lockouts.set(456, "second", "RULE-002", until=began + HOUR + SECOND)
    found = lockouts.get(456)
    assert found is not None
    assert (found.reason, found.rule_id, found.locked_until) == ("second", "RULE-002", began + HOUR + SECOND)
    assert (found.created_at, found.locked_at, found.updated_at) == (began, clock.now, clock.now)


def test_a_lockout_that_ends_no_later_leaves_the_running_one(lockouts: LockoutRepository, clock: Clock) -> None:
    until = clock.now + HOUR
    lockouts.set(456, "first", "RULE-001", until=until)
    clock.forward(minutes=1)
    for sooner in (timedelta(0), SECOND, HOUR):
        assert not lockouts.set(456, "second", "RULE-002", until=until - sooner)
    found = lockouts.get(456)
    assert found is not None
    assert (found.reason, found.rule_id, found.locked_until) == ("first", "RULE-001", until)
    assert found.updated_at == clock.now - timedelta(minutes=1)


def test_a_lockout_until_released_beats_any_time(lockouts: LockoutRepository, clock: Clock) -> None:
    lockouts.set(456, "a year", "RULE-001", until=clock.now + 8760 * HOUR)
    assert lockouts.set(456, "for good", "RULE-002")
    assert not lockouts.set(456, "a year again", "RULE-001", until=datetime.max.replace(tzinfo=UTC))
    assert not lockouts.set(456, "for good again", "RULE-001")
    found = lockouts.get(456)
    assert found is not None
    assert (found.reason, found.locked_until) == ("for good", None)


def test_a_lockout_that_is_over_gives_way_to_any(lockouts: LockoutRepository, clock: Clock) -> None:
    lockouts.set(456, "first", "RULE-001", until=clock.now + HOUR)
    clock.forward(minutes=60)
    assert lockouts.set(456, "second", "RULE-002", until=clock.now + SECOND)
    lockouts.release(456, "checked", by="ann")
    assert lockouts.set(456, "third", "RULE-003", until=clock.now + SECOND)
    assert lockouts.is_locked(456)


def test_an_end_in_another_zone_is_the_same_instant(lockouts: LockoutRepository, clock: Clock) -> None:
    until = clock.now + HOUR
    lockouts.set(456, "first", "RULE-001", until=until.astimezone(timezone(timedelta(hours=-5))))
    assert not lockouts.set(456, "second", "RULE-002", until=until.astimezone(timezone(timedelta(hours=9))))
    assert lockouts.is_locked(456, at=until - SECOND)
    assert not lockouts.is_locked(456, at=until)


def test_accounts_are_locked_one_by_one(lockouts: LockoutRepository) -> None:
    lockouts.set(456, "loss", "RULE-003")
    assert not lockouts.is_locked(457)


# Minutes to wait, then an operation: set until so many minutes from then (None: until released), release, or expire.
steps = st.tuples(
    st.sampled_from([0, 1, 5, 10]),
    st.one_of(
        st.tuples(st.just("set"), st.none() | st.sampled_from([0, 1, 5, 9, 10, 30])),
        st.sampled_from([("release", None), ("expire", None)]),
    ),
)


@settings(max_examples=40)
@given(st.lists(steps, max_size=8))
def test_whatever_the_order_of_events_the_longest_running_lockout_holds(
    session: Session, undone: Callable[[], Any], told: list[tuple[int, tuple[str, int | None]]]
) -> None:
    minute, end = 0, 0.0  # the model: locked while minute < end
    start = datetime(2025, 10, 21, 17, 0, tzinfo=UTC)
    lockouts = LockoutRepository(session, lambda: start + timedelta(minutes=minute))
    with undone():
        for wait, (what, minutes) in told:
            minute += wait
            if what == "set":
                until = None if minutes is None else start + timedelta(minutes=minute + minutes)
                asked = float("inf") if minutes is None else minute + minutes
                took = lockouts.set(456, "why", "RULE-003", until=until)
                assert took == (asked > end or end <= minute)
                end = asked if took else end
            elif what == "release":
                assert lockouts.release(456, "checked", by="ann") == (minute < end)
                end = min(end, minute)
            else:
                lockouts.expire()
            assert lockouts.is_locked(456) == (minute < end)
            assert [lockout.account_id for lockout in lockouts.active()] == ([456] if minute < end else [])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("account_id", 0),
        ("account_id", -1),
        ("account_id", 2**63),
        ("account_id", True),
        ("account_id", "456"),
        ("reason", ""),
        ("reason", None),
        ("rule_id", ""),
        ("rule_id", 3),
        ("until", datetime(2025, 10, 21)),  # noqa: DTZ001
        ("until", "2025-10-21"),
        ("until", datetime.min.replace(tzinfo=timezone(HOUR))),
    ],
)
def test_a_lockout_that_cannot_be_is_refused_by_name(unasked: LockoutRepository, argument: str, value: Any) -> None:
    arguments = {"account_id": 456, "reason": "loss", "rule_id": "RULE-003", "until": None} | {argument: value}
    with pytest.raises(InvalidValue) as caught:
        unasked.set(**arguments)
    assert (caught.value.field, caught.value.value) == (argument, value)


# is_locked, active, expire


def test_an_account_is_locked_until_just_before_the_end(lockouts: LockoutRepository, clock: Clock) -> None:
    until = clock.now + HOUR
    lockouts.set(456, "loss", "RULE-003", until=until)
    assert lockouts.is_locked(456)
    assert lockouts.is_locked(456, at=until - timedelta(microseconds=1))
    assert not lockouts.is_locked(456, at=until)
    clock.forward(minutes=60)
    assert not lockouts.is_locked(456)


def test_an_unlocked_row_locks_nobody(lockouts: LockoutRepository, session: Session) -> None:
    a_v1_row(session, is_locked=False)
    assert not lockouts.is_locked(456)
    assert lockouts.active() == []


def test_a_database_error_is_raised_and_not_taken_for_free(lockouts: LockoutRepository, session: Session) -> None:
    session.execute(sa.text("DROP TABLE lockouts"))
    with pytest.raises((OperationalError, ProgrammingError)):
        lockouts.is_locked(456)


def test_the_active_lockouts_are_those_that_run_by_account(lockouts: LockoutRepository, clock: Clock) -> None:
    lockouts.set(3, "for good", "RULE-003")
    lockouts.set(1, "an hour", "RULE-003", until=clock.now + HOUR)
    lockouts.set(2, "a second", "RULE-003", until=clock.now + SECOND)
    assert [lockout.account_id for lockout in lockouts.active()] == [1, 2, 3]
    assert [lockout.account_id for lockout in lockouts.active(at=clock.now + SECOND)] == [1, 3]
    assert [lockout.account_id for lockout in lockouts.active(at=clock.now + HOUR)] == [3]


def test_lockouts_that_have_ended_expire_and_stay_as_rows(lockouts: LockoutRepository, clock: Clock) -> None:
    for account_id, minutes in ((3, 1), (1, 1), (2, 2)):
        lockouts.set(account_id, "loss", "RULE-003", until=clock.now + timedelta(minutes=minutes))
    lockouts.set(4, "for good", "RULE-003")
    clock.forward(minutes=1)
    assert lockouts.expire() == [1, 3]
    assert lockouts.expire() == []
    found = lockouts.get(1)
    assert found is not None
    assert (found.is_locked, found.reason, found.updated_at) == (False, "loss", clock.now)
    assert lockouts.expire(at=clock.now + timedelta(minutes=1)) == [2]
    assert [lockout.account_id for lockout in lockouts.active()] == [4]


def test_a_lockout_extended_meanwhile_does_not_expire(lockouts: LockoutRepository, clock: Clock) -> None:
    lockouts.set(456, "loss", "RULE-003", until=clock.now + SECOND)
    lockouts.set(456, "more loss", "RULE-003", until=clock.now + HOUR)
    assert lockouts.expire(at=clock.now + SECOND) == []
    assert lockouts.is_locked(456)


@pytest.mark.parametrize("at", [datetime(2025, 10, 21), "2025-10-21"])  # noqa: DTZ001
def test_what_is_no_instant_is_refused_by_name(unasked: LockoutRepository, at: Any) -> None:
    for ask in (lambda: unasked.is_locked(456, at=at), lambda: unasked.active(at=at), lambda: unasked.expire(at=at)):
        with pytest.raises(InvalidValue) as caught:
            ask()
        assert (caught.value.field, caught.value.value) == ("at", at)


@pytest.mark.parametrize("account_id", [0, 2**63, True, "456", None])
def test_an_account_that_cannot_exist_is_refused_and_not_free(unasked: LockoutRepository, account_id: Any) -> None:
    for ask in (unasked.is_locked, unasked.get, lambda account: unasked.release(account, "checked", by="ann")):
        with pytest.raises(InvalidValue) as caught:
            ask(account_id)
        assert (caught.value.field, caught.value.value) == ("account_id", account_id)


def test_an_object_read_before_shows_what_changed(lockouts: LockoutRepository, clock: Clock) -> None:
    lockouts.set(456, "first", "RULE-001", until=clock.now + HOUR)
    held = lockouts.get(456)
    lockouts.set(456, "second", "RULE-002")
    assert lockouts.get(456) is held
    assert held is not None
    assert held.reason == "second"
    lockouts.release(456, "checked", by="ann")
    lockouts.set(456, "third", "RULE-003", until=clock.now + HOUR)
    assert [lockout.reason for lockout in lockouts.active()] == ["third"]


# release


def test_a_release_unlocks_and_says_in_the_log_who_why_and_what(
    lockouts: LockoutRepository, session: Session, clock: Clock
) -> None:
    began = clock.now
    lockouts.set(456, "Daily loss limit hit", "RULE-003", until=began + HOUR)
    clock.forward(minutes=1)
    assert lockouts.release(456, "Limit was set wrong", by="ann") is True
    assert not lockouts.is_locked(456)
    (row,) = log_rows(session)
    assert (row.account_id, row.rule_id, row.action, row.reason, row.success, row.timestamp) == (
        456,
        "RULE-003",
        "RELEASE_LOCKOUT",
        "Limit was set wrong",
        True,
        clock.now,
    )
    assert json.loads(row.details or "") == {
        "released_by": "ann",
        "released": {
            "rule_id": "RULE-003",
            "reason": "Daily loss limit hit",
            "locked_at": began.isoformat(),
            "locked_until": (began + HOUR).isoformat(),
        },
    }


def test_a_release_of_a_lockout_without_a_rule_is_manual(lockouts: LockoutRepository, session: Session) -> None:
    a_v1_row(session, rule_id=None)
    assert lockouts.release(456, "checked", by="ann")
    assert [row.rule_id for row in log_rows(session)] == ["MANUAL"]


def test_releasing_what_is_not_locked_writes_nothing(
    lockouts: LockoutRepository, session: Session, clock: Clock
) -> None:
    assert not lockouts.release(456, "checked", by="ann")
    lockouts.set(456, "loss", "RULE-003", until=clock.now + HOUR)
    clock.forward(minutes=60)
    assert not lockouts.release(456, "checked", by="ann")
    found = lockouts.get(456)
    assert found is not None
    assert found.updated_at == clock.now - HOUR
    assert log_rows(session) == []


@pytest.mark.parametrize(("argument", "value"), [("reason", ""), ("reason", None), ("by", ""), ("by", None)])
def test_a_release_without_a_reason_or_a_name_is_refused(unasked: LockoutRepository, argument: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        unasked.release(456, **({"reason": "checked", "by": "ann"} | {argument: value}))
    assert (caught.value.field, caught.value.value) == (argument, value)


def test_nothing_is_committed_behind_the_callers_back(lockouts: LockoutRepository, session: Session) -> None:
    lockouts.set(456, "loss", "RULE-003")
    session.rollback()
    assert not lockouts.is_locked(456)
    lockouts.set(456, "loss", "RULE-003")
    session.commit()
    lockouts.release(456, "checked", by="ann")
    session.rollback()
    assert lockouts.is_locked(456)
    assert log_rows(session) == []


# rows of v1


def test_a_lockout_of_v1_runs_and_ends_like_todays(lockouts: LockoutRepository, session: Session) -> None:
    a_v1_row(session, locked_until="2025-10-21 22:00:00")
    end = datetime(2025, 10, 21, 22, tzinfo=UTC)
    assert lockouts.is_locked(456, at=end - SECOND)
    assert not lockouts.is_locked(456, at=end)
    assert not lockouts.set(456, "shorter", "RULE-003", until=end - SECOND)
    assert lockouts.set(456, "longer", "RULE-003", until=end + SECOND)


# The same instant, 22:00 UTC, as v1 daemons wrote it; no other engine has more than one form.
FORMS = ["2025-10-21T22:00:00", "2025-10-21T22:00:00Z", "2025-10-21T17:00:00-05:00", "2025-10-21 22:00:00.000000",
         "2025-10-22 07:00:00+09:00", "2025-10-21T22:00"]  # fmt: skip


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("form", FORMS)
def test_an_end_in_another_form_is_the_same_end(lockouts: LockoutRepository, session: Session, form: str) -> None:
    a_v1_row(session, locked_until=form)
    end = datetime(2025, 10, 21, 22, tzinfo=UTC)
    assert lockouts.is_locked(456, at=end - SECOND)
    assert not lockouts.is_locked(456, at=end)
    assert lockouts.active(at=end) == []
    assert not lockouts.set(456, "shorter", "RULE-003", until=end - SECOND)
    assert lockouts.expire(at=end - SECOND) == []
    assert lockouts.expire(at=end) == [456]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "garbage", ["tomorrow", "", "2025-13-45 22:00:00", "22:00", 1761084000, 2460970.4, b"\xff\xfe"]
)
def test_an_end_that_cannot_be_read_never_comes(
    lockouts: LockoutRepository, session: Session, clock: Clock, garbage: Any
) -> None:
    a_v1_row(session, locked_until=garbage)
    late = datetime.max.replace(tzinfo=UTC)
    assert lockouts.is_locked(456, at=late)
    assert [lockout.locked_until for lockout in lockouts.active(at=late)] == [garbage]
    assert lockouts.expire(at=late) == []
    assert not lockouts.set(456, "timed", "RULE-003", until=late)
    assert lockouts.release(456, "checked", by="ann")  # and can still be released by hand
    assert not lockouts.is_locked(456)
    assert lockouts.set(456, "an hour", "RULE-003", until=clock.now + HOUR)
    assert not lockouts.is_locked(456, at=clock.now + HOUR)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_odd_names_of_v1_do_not_keep_an_account_locked(lockouts: LockoutRepository, session: Session) -> None:
    a_v1_row(session, rule_id="a\0b", reason=b"\xff")
    assert lockouts.release(456, "checked", by="ann")
    assert [row.rule_id for row in log_rows(session)] == ["a\\x00b"]
