"""Allocations that somebody has in a table: what was held before Petawatch was there."""
