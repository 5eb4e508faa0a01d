"""Alembic's steps from each schema of the books to the next."""
