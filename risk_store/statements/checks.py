"""What `risk-store check` counts in a store that is current."""

from __future__ import annotations

import sqlalchemy as sa

from risk_store.columns import IntCode
from risk_store.models import Base

__all__ = ["unknown_codes"]


def unknown_codes() -> sa.CompoundSelect[str, int]:
    """Rows whose code this release does not know, counted by column (``orders.type``); such rows are kept and returned.

    >>> [column.name for column in unknown_codes().selected_columns]
    ['column', 'rows']
    """
    return sa.union_all(
        *(
            sa.select(
                sa.literal_column(f"'{table.name}.{column.name}'", sa.Text()).label("column"),
                sa.func.count().label("rows"),
            )
            .select_from(table)
            .where(column.not_in([sa.literal_column(str(int(member))) for member in column.type.enum]))
            .having(sa.func.count() > 0)
            for table in Base.metadata.sorted_tables
            for column in table.columns
            if isinstance(column.type, IntCode)
        )
    )
