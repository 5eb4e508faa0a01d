"""Exporters that a centre already has, read for a whole fleet from one place."""
