"""Run by Alembic: migrates on the connection that `pipeline.books.database` hands over."""

from __future__ import annotations

from alembic import context

from pipeline.books.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
