"""What a distributed PostgreSQL (Citus) would refuse, found without one: in models, revisions and statements.

Statements are read by PostgreSQL's own parser. Each rule is one that Citus 13 was seen to hold; docs/scaling.md tells
them in words. What is found is told as ``rule: where``; a finding of nothing says that `risk-store distribute` can
shard these tables by account, and that these statements run there.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pglast import parse_sql
from sqlalchemy.dialects import postgresql, sqlite

from risk_store import statements
from risk_store.models import Base
from risk_store.schema.verdict import TABLES_OF_OLD
from risk_store.sharding import SHARD_COLUMN, Placement, placement_of, widened_keys
from risk_store.statements.ids import DISTRIBUTED

Node = Mapping[str, Any]

SHARDED = {table.name for table in Base.metadata.tables.values() if placement_of(table) is Placement.SHARDED}
LOCAL = {table.name for table in Base.metadata.tables.values() if placement_of(table) is Placement.LOCAL}
WIDENED = {name for table in Base.metadata.tables.values() for name, _ in widened_keys(table)}
PRIMARY_KEYS = {str(table.primary_key.name) for table in Base.metadata.tables.values()}

# Not IMMUTABLE, and so refused in DO UPDATE SET; those that are VOLATILE are refused in UPDATE SET too.
VOLATILE = {"clock_timestamp", "timeofday", "random", "gen_random_uuid", "uuidv7", "nextval", "setval", "pg_sleep"}
STABLE = {"now", "transaction_timestamp", "statement_timestamp", "current_setting", "to_char", "age"}

NO_KEY = "a unique key without the distribution column"
NO_COLUMN = "no distribution column"
OTHER_TYPE = "another type of the distribution column"
NO_NAME = "a constraint without a name"
REFERENCES = "a foreign key that leaves its shard"
TRIGGER = "a trigger"
IDENTITY = "an identity that is added later, or is no BIGINT"
MOVES = "an update of the distribution column"
NOT_IMMUTABLE = "a function in DO UPDATE SET that is not IMMUTABLE"
IS_VOLATILE = "a VOLATILE function in UPDATE SET"
LOCKS = "a lock on rows of several accounts"
JOINS = "a join that is not on the distribution column"
LOCAL_JOINS = "a table of the coordinator's joined row by row with a sharded one"
TARGET = "a conflict target without the distribution column"
GROUPS = "grouping sets over shards"
RECURSION = "a recursive query over shards"
MERGES = "a MERGE"
SEVERAL = "several statements at once"


# Models ---------------------------------------------------------------------------------------------------------------


def of_models(metadata: sa.MetaData, names: set[str] | None = None) -> list[str]:
    """What is wrong with the tables, of which all are taken for sharded, or those of `names`."""
    return [
        f"{rule}: {table.name}{f'.{what}' if what else ''}"
        for table in metadata.sorted_tables
        if names is None or table.name in names
        for rule, what in _of_table(table)
    ]


def _of_table(table: sa.Table) -> Iterator[tuple[str, str]]:
    dialect = postgresql.dialect()
    column = table.columns.get(SHARD_COLUMN)
    if column is None or column.nullable:
        yield NO_COLUMN, ""
    elif column.type.compile(dialect) != "BIGINT":
        yield OTHER_TYPE, column.type.compile(dialect)
    widened = dict(widened_keys(table)) if table.name in Base.metadata.tables else {}
    unique = [c for c in table.constraints if isinstance(c, (sa.UniqueConstraint, sa.PrimaryKeyConstraint))]
    for key in (*unique, *(index for index in table.indexes if index.unique)):
        names = {*(c.name for c in key.columns), *widened.get(str(key.name), ())}
        if key.columns and SHARD_COLUMN not in names:
            yield NO_KEY, str(key.name)
    for constraint in table.constraints:
        if constraint.name is None and not _is_named_later(constraint, table.metadata.naming_convention):
            yield NO_NAME, type(constraint).__name__
        if isinstance(constraint, sa.ForeignKeyConstraint):
            pairs = {(e.parent.name, e.target_fullname.rpartition(".")[2]) for e in constraint.elements}
            if (SHARD_COLUMN, SHARD_COLUMN) not in pairs:
                yield REFERENCES, str(constraint.name)
    for each in table.columns:
        if each.identity is not None and each.type.compile(dialect) != "BIGINT":
            yield IDENTITY, each.name


def _is_named_later(constraint: sa.Constraint, convention: Mapping[Any, Any]) -> bool:
    """Whether the naming convention names it when it is made: not a CHECK, which must have a name to build upon."""
    if isinstance(constraint, sa.PrimaryKeyConstraint) and not constraint.columns:
        return True  # there is none to be named
    kinds = {sa.PrimaryKeyConstraint: "pk", sa.UniqueConstraint: "uq", sa.ForeignKeyConstraint: "fk"}
    return kinds.get(type(constraint)) in convention


# Statements and revisions ---------------------------------------------------------------------------------------------


def of_statement(sql: str) -> list[str]:
    """What is wrong with one statement as the store sends it, with the driver's parameters in it."""
    parsed = [raw.stmt for raw in parse_sql(as_parsed(sql))]
    found = [(SEVERAL, "")] if len(parsed) > 1 else []
    found += [each for statement in parsed for each in _of_node(statement(), {})]
    return _told(found, sql)


def as_parsed(sql: str) -> str:
    """The same with each parameter as $1: psycopg's %(name)s and %s (and %% for a percent sign), asyncpg's $1, $2."""
    return re.sub(r"%\(\w+\)s|%s|\$\d+", "$1", sql).replace("%%", "%")


def of_revisions(sql: str) -> list[str]:
    """What is wrong with the DDL of a script, such as `alembic upgrade head --sql` prints."""
    found = [each for raw in parse_sql(sql) for each in _of_ddl(raw.stmt())]
    return _told(found, "the revisions")


def _told(found: Sequence[tuple[str, str]], where: str) -> list[str]:
    return sorted({f"{rule}{f' ({what})' if what else ''}: {where}" for rule, what in found})


def _of_node(node: Any, outer: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Walks a statement. `outer`: of the queries around it, the tables by the names that they have there."""
    if isinstance(node, (tuple, list)):
        for each in node:
            yield from _of_node(each, outer)
        return
    if not isinstance(node, Mapping):
        return
    kind = node.get("@")
    around = outer
    if kind in ("SelectStmt", "UpdateStmt", "DeleteStmt"):
        yield from _of_query(node, outer)
        around = {**outer, **_tables(node)}
    if kind in ("InsertStmt", "UpdateStmt"):
        yield from _of_write(node)
    if kind == "MergeStmt":
        yield MERGES, ""
    for name, value in node.items():
        # Only a sublink sees the tables of the query that it is in; a FROM and a CTE stand by themselves.
        alone = name in ("fromClause", "usingClause", "withClause", "larg", "rarg") and kind != "A_Expr"
        yield from _of_node(value, outer if alone else around)


def _of_query(node: Node, outer: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    own = _tables(node)
    sharded = {alias for alias, table in own.items() if table in SHARDED}
    conditions = list(_conjuncts(node.get("whereClause")))
    for source in (*_list(node.get("fromClause")), *_list(node.get("usingClause"))):
        conditions += _join_conditions(source)
    used = {alias for alias in _qualifiers(node) if alias in outer and alias not in own}
    seen = sharded | {alias for alias in used if outer[alias] in SHARDED}
    pinned = {alias for alias in seen if _is_pinned(conditions, alias, only=len(seen) == 1)}
    if len(seen) > 1 and not _is_connected(seen, pinned, conditions):
        yield JOINS, ", ".join(sorted(seen))
    local = {table for table in own.values() if table in LOCAL} | {outer[a] for a in used if outer[a] in LOCAL}
    if local and seen:
        yield LOCAL_JOINS, ", ".join(sorted(local))
    if node.get("lockingClause") and sharded - pinned:
        yield LOCKS, ", ".join(sorted(sharded - pinned))
    if sharded and any(each.get("@") == "GroupingSet" for each in _list(node.get("groupClause"))):
        yield GROUPS, ""
    clause = node.get("withClause")
    if clause and clause["recursive"] and any(_has_sharded(cte) for cte in clause["ctes"]):
        yield RECURSION, ""


def _of_write(node: Node) -> Iterator[tuple[str, str]]:
    table = node["relation"]["relname"]
    if table not in SHARDED:
        return
    if node["@"] == "UpdateStmt":
        targets = _list(node["targetList"])
        yield from ((IS_VOLATILE, name) for name in sorted(_functions(targets) & VOLATILE))
    else:
        if SHARD_COLUMN not in {column["name"] for column in _list(node["cols"])}:
            yield NO_COLUMN, f"INSERT INTO {table}"
        conflict = node["onConflictClause"]
        if conflict is None:
            return
        targets = _list(conflict["targetList"])
        yield from ((NOT_IMMUTABLE, name) for name in sorted(_functions(targets) & (STABLE | VOLATILE)))
        target = conflict["infer"]
        if target is None:
            return  # only DO NOTHING can be without one, and then any key of the shard's
        elements = {element["name"] for element in _list(target["indexElems"])}
        if target["conname"] not in PRIMARY_KEYS and SHARD_COLUMN not in elements:
            yield TARGET, str(target["conname"] or ", ".join(sorted(map(str, elements))))
    if SHARD_COLUMN in {target["name"] for target in targets}:
        yield MOVES, table


def _of_ddl(node: Node) -> Iterator[tuple[str, str]]:
    kind = node["@"]
    if kind == "CreateTrigStmt":
        yield TRIGGER, str(node["trigname"])
    elif kind == "CreateStmt":
        table = node["relation"]["relname"]
        for element in _list(node["tableElts"]):
            yield from _of_element(element, table)
    elif kind == "AlterTableStmt":
        for command in node["cmds"]:
            definition = command["def_"] if "def_" in command else command.get("def")
            if not isinstance(definition, Mapping):  # nothing, or storage parameters, which each shard takes
                continue
            yield from _of_element(definition, node["relation"]["relname"], added=True)
    elif kind == "IndexStmt" and node["unique"]:
        names = [element["name"] for element in node["indexParams"]]
        yield from _of_key(str(node["idxname"]), names, node["relation"]["relname"])


def _of_element(node: Node, table: str, added: bool = False) -> Iterator[tuple[str, str]]:
    """A column or a constraint of a table."""
    if node.get("@") == "Constraint":
        yield from _of_constraint(node, table, [key["sval"] for key in _list(node["keys"])])
    elif node.get("@") == "ColumnDef":
        type_ = node["typeName"]["names"][-1]["sval"]
        if node["colname"] == SHARD_COLUMN and type_ != "int8":
            yield OTHER_TYPE, f"{table} {type_}"
        for constraint in _list(node["constraints"]):
            name = constraint["contype"]["name"]
            if name == "CONSTR_IDENTITY" and (added or type_ != "int8"):
                yield IDENTITY, f"{table}.{node['colname']}"
            yield from _of_constraint(constraint, table, [node["colname"]])


def _of_constraint(node: Node, table: str, keys: list[str]) -> Iterator[tuple[str, str]]:
    kind = node["contype"]["name"]
    if kind not in ("CONSTR_PRIMARY", "CONSTR_UNIQUE", "CONSTR_CHECK", "CONSTR_FOREIGN", "CONSTR_EXCLUSION"):
        return
    if not node["conname"]:
        yield NO_NAME, table
    if kind in ("CONSTR_PRIMARY", "CONSTR_UNIQUE", "CONSTR_EXCLUSION"):
        yield from _of_key(str(node["conname"]), keys, table)
    if kind == "CONSTR_FOREIGN":
        there = [key["sval"] for key in _list(node["pk_attrs"])]
        here = [key["sval"] for key in _list(node["fk_attrs"])] or keys
        if (SHARD_COLUMN, SHARD_COLUMN) not in zip(here, there, strict=False):
            yield REFERENCES, str(node["conname"])


def _of_key(name: str, columns: Sequence[str | None], table: str) -> Iterator[tuple[str, str]]:
    placed = Base.metadata.tables.get(table)
    if placed is not None and placement_of(placed) is not Placement.SHARDED:
        return
    # Of the tables that later revisions have taken away all were the coordinator's.
    if table.endswith("_version") or table in TABLES_OF_OLD or SHARD_COLUMN in columns or name in WIDENED:
        return
    yield NO_KEY, name


# Parts of a statement


def _list(value: Any) -> Sequence[Any]:
    return value or ()


def _tables(node: Node) -> dict[str, str]:
    """The tables of a query's own FROM, by the names that they have in it."""
    found: dict[str, str] = {}

    def collect(source: Any) -> None:
        if not isinstance(source, Mapping):
            return
        if source.get("@") == "RangeVar":
            found[(source["alias"] or {}).get("aliasname") or source["relname"]] = source["relname"]
        elif source.get("@") == "JoinExpr":
            collect(source["larg"])
            collect(source["rarg"])

    if node["@"] != "SelectStmt":
        collect(node["relation"])
    for source in (*_list(node.get("fromClause")), *_list(node.get("usingClause"))):
        collect(source)
    return found


def _join_conditions(source: Any) -> Iterator[Any]:
    if isinstance(source, Mapping) and source.get("@") == "JoinExpr":
        yield from _conjuncts(source["quals"])
        yield from _join_conditions(source["larg"])
        yield from _join_conditions(source["rarg"])


def _conjuncts(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping) and node.get("@") == "BoolExpr" and node["boolop"]["name"] == "AND_EXPR":
        for each in node["args"]:
            yield from _conjuncts(each)
    elif node is not None:
        yield node


def _equality(node: Any) -> tuple[Any, Any] | None:
    is_equal = isinstance(node, Mapping) and node.get("@") == "A_Expr" and node["kind"]["name"] == "AEXPR_OP"
    return (node["lexpr"], node["rexpr"]) if is_equal and node["name"][-1]["sval"] == "=" else None


def _column(node: Any) -> tuple[str | None, str] | None:
    """(qualifier or None, name) of a column."""
    if not isinstance(node, Mapping) or node.get("@") != "ColumnRef":
        return None
    fields = [field.get("sval", "*") for field in node["fields"]]
    return (fields[-2] if len(fields) > 1 else None, fields[-1])


def _is_value(node: Any) -> bool:
    """A parameter or a constant, perhaps in a cast."""
    while isinstance(node, Mapping) and node.get("@") == "TypeCast":
        node = node["arg"]
    return isinstance(node, Mapping) and node.get("@") in ("ParamRef", "A_Const")


def _is_pinned(conditions: Sequence[Any], alias: str, only: bool) -> bool:
    """Whether a table's distribution column equals one value, so that one shard is asked."""
    for condition in conditions:
        for one, other in [pair for both in [_equality(condition)] if both for pair in (both, both[::-1])]:
            qualifier, name = _column(one) or ("", "")
            if name == SHARD_COLUMN and _is_value(other) and (qualifier == alias or (qualifier is None and only)):
                return True
    return False


def _is_connected(seen: set[str], pinned: set[str], conditions: Sequence[Any]) -> bool:
    reached = {min(seen)} | (pinned if min(seen) in pinned else set())
    links = []
    for condition in conditions:
        both = _equality(condition)
        columns = [_column(side) for side in both] if both else []
        if all(column and column[1] == SHARD_COLUMN for column in columns) and len(columns) == 2:
            links.append({str(column[0]) for column in columns if column})
    while True:
        grown = reached | {alias for link in links if link & reached for alias in link}
        grown |= pinned if grown & pinned else set()
        if grown == reached:
            return seen <= reached
        reached = grown


def _nodes(node: Any) -> Iterator[Node]:
    if isinstance(node, (tuple, list)):
        for each in node:
            yield from _nodes(each)
    elif isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from _nodes(value)


def _qualifiers(node: Node) -> set[str]:
    return {column[0] for each in _nodes(node) if (column := _column(each)) and column[0]}


def _functions(node: Any) -> set[str]:
    names = {each["funcname"][-1]["sval"].lower() for each in _nodes(node) if each.get("@") == "FuncCall"}
    return names | {"now" for each in _nodes(node) if each.get("@") == "SQLValueFunction"}


def _has_sharded(node: Any) -> bool:
    return any(each.get("@") == "RangeVar" and each["relname"] in SHARDED for each in _nodes(node))


# What the store sends -------------------------------------------------------------------------------------------------


def compiled(statement: Any) -> str:
    """A statement in the SQL that is sent with psycopg."""
    return str(statement.compile(dialect=postgresql.psycopg.dialect()))


def statements_of_modules() -> Iterator[tuple[str, Any]]:
    """Every statement that is an object of a module under `risk_store.statements`, by where it is.

    Of one that has a form for a distributed store, that form.
    """
    for found in pkgutil.iter_modules(statements.__path__, f"{statements.__name__}."):
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if name.isupper() or name.startswith("_"):
                yield from _statements_in(f"{found.name}.{name}", value)


def _statements_in(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and "postgresql" in value:
        value = value.get(DISTRIBUTED, value["postgresql"])
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _statements_in(f"{where}[{number}]", each)
    elif isinstance(value, (sa.Select, sa.Insert, sa.Update, sa.Delete)) and not isinstance(value, sqlite.Insert):
        yield where, value


def replaced_forms() -> set[str]:
    """Statements for one server that have another form for a distributed store, each as :func:`as_known` tells it."""
    replaced = set()
    for found in pkgutil.iter_modules(statements.__path__, f"{statements.__name__}."):
        for value in vars(importlib.import_module(found.name)).values():
            if isinstance(value, dict) and DISTRIBUTED in value:
                forms = value["postgresql"] if isinstance(value["postgresql"], list) else [value["postgresql"]]
                replaced |= {as_known(compiled(form)) for form in forms}
    return replaced


def as_known(sql: str) -> str:
    """A statement whichever driver it is for: without the casts that only some drivers need."""
    return re.sub(r"::[A-Z ]+", "", as_parsed(sql))


_REPLACED = replaced_forms()
_seen: set[str] = set()


def of_sent(sql: str) -> list[str]:
    """What is wrong with a statement that was sent, unless it was looked at before or has a form for a cluster."""
    known = as_known(sql)
    if known in _seen or known in _REPLACED:
        return []
    _seen.add(known)
    return of_statement(sql)
