"""The numbers of SPEC 1. Files written years ago hold them: a change here is a change of other people's data."""

from enum import IntEnum

import pytest

from risk_store import codes
from risk_store.codes import TERMINAL_STATES, WORKING_STATES, OrderSide, OrderState, OrderType, PositionType

FROZEN: dict[type[IntEnum], dict[str, int]] = {
    OrderType: {"MARKET": 1, "LIMIT": 2, "STOP": 3, "STOP_LIMIT": 4, "TRAILING_STOP": 5},
    OrderSide: {"BUY": 0, "SELL": 1},
    OrderState: {
        "PENDING": 1,
        "ACTIVE": 2,
        "FILLED": 3,
        "CANCELED": 4,
        "REJECTED": 5,
        "EXPIRED": 6,
        "PARTIAL": 7,
        "SUSPENDED": 8,
    },
    PositionType: {"LONG": 1, "SHORT": 2},
}


@pytest.mark.parametrize("enum", FROZEN, ids=lambda enum: enum.__name__)
def test_every_stored_number_is_frozen(enum: type[IntEnum]) -> None:
    # __members__ lists aliases too: a second name for a number is a change as well.
    assert {name: member.value for name, member in enum.__members__.items()} == FROZEN[enum]


def test_there_is_no_code_that_this_page_does_not_freeze() -> None:
    enums = {value for value in vars(codes).values() if isinstance(value, type) and issubclass(value, IntEnum)}
    assert enums - {IntEnum} == set(FROZEN)


def test_trailing_stop_is_the_fifth_type_as_the_specification_validates_it() -> None:
    assert OrderType.TRAILING_STOP == 5
    assert OrderType.TRAILING_STOP in OrderType.__members__.values()


def test_these_states_are_working_and_those_are_terminal() -> None:
    assert {state.name for state in WORKING_STATES} == {"PENDING", "ACTIVE", "PARTIAL", "SUSPENDED"}
    assert {state.name for state in TERMINAL_STATES} == {"FILLED", "CANCELED", "REJECTED", "EXPIRED"}


@pytest.mark.parametrize("state", OrderState)
def test_every_state_is_either_working_or_terminal(state: OrderState) -> None:
    assert state.is_working != state.is_terminal
    assert state.is_working == (state in WORKING_STATES)
    assert state.is_terminal == (state in TERMINAL_STATES)


def test_no_state_is_listed_twice() -> None:
    assert len(WORKING_STATES) + len(TERMINAL_STATES) == len(OrderState)
