"""The house: what is public, what an import costs, and that hot paths send statements that were built once (D11)."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import risk_store
from risk_store import EnforcementLog, Order, OrderSide, OrderState, OrderType, RiskStore
from risk_store.repositories.outcomes import Intent, Outcome

PACKAGE = Path(risk_store.__file__).parent


def test_every_public_name_is_loaded_on_first_use_and_is_listed() -> None:
    for name in risk_store.__all__:
        assert getattr(risk_store, name) is not None
    assert set(risk_store.__all__) == {*risk_store._HOME_OF, *risk_store._MODULES}
    assert set(risk_store.__all__) <= set(dir(risk_store))


def test_the_names_that_type_checkers_see_are_the_public_ones() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(risk_store.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchThing"):
        risk_store.NoSuchThing  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import risk_store", ["sqlalchemy", "alembic", "pydantic", "typer", "rich"]),
        ("from risk_store import RiskStore, Order", ["alembic", "pydantic", "typer", "rich", "psycopg"]),
        ("from risk_store import OrderType", ["sqlalchemy"]),
    ],
)
def test_an_import_pays_only_for_what_it_uses(statement: str, absent: list[str]) -> None:
    code = f"{statement}\nimport sys\nassert not set({absent!r}) & set(sys.modules), set({absent!r}) & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_every_module_says_what_it_is_for() -> None:
    for file in PACKAGE.rglob("*.py"):
        if "_alembic" not in file.parts:
            assert ast.get_docstring(ast.parse(file.read_text())), f"{file} has no docstring"


class Sent:
    """The statements that a store's engine is given, and the SQL that its driver is: as objects."""

    def __init__(self, store: RiskStore) -> None:
        self.statements: list[Any] = []
        sa.event.listen(store.engine, "before_execute", self._note)
        sa.event.listen(store.engine, "before_cursor_execute", self._note_sql)

    def _note(self, _connection: object, statement: Any, *_: object) -> None:
        self.statements.append(statement)

    def _note_sql(self, _connection: object, _cursor: object, sql: str, *_: object) -> None:
        self.statements.append(sql)

    def take(self) -> list[Any]:
        taken, self.statements = self.statements, []
        return taken


def test_hot_paths_send_statements_that_were_built_once(store: RiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(store)
    for kind in (Intent, Outcome):  # which go past SQLAlchemy's events

        def noting(job: Any, cursor: Any, write: Any = kind.write) -> None:
            sent.statements += [sql for sql, _ in job.encoded()]
            write(job, cursor)

        monkeypatch.setattr(kind, "write", noting)

    def enforce(number: int) -> None:
        with store.enforce(number, "RULE-003", "CLOSE_ALL", "loss", lock_until=None):
            pass

    def save(number: int) -> None:
        with store.begin() as tx:
            tx.orders.save(
                Order(
                    id=number,
                    account_id=1,
                    contract_id="X",
                    type=OrderType.MARKET,
                    side=OrderSide.BUY,
                    size=1,
                    state=OrderState.ACTIVE,
                )
            )

    def record(number: int) -> None:
        store.record(EnforcementLog(account_id=number, rule_id="R", action="A", reason="x", success=True))

    for work in (enforce, save, record):
        work(9)  # opens what it will need
        sent.take()
        work(1)
        first = sent.take()
        work(2)
        second = sent.take()
        assert first
        assert len(first) == len(second)
        for before, after in zip(first, second, strict=True):
            assert before is after, f"{work.__name__} builds anew: {after}"
