"""The HTTP API: what is true now, series, health and metrics, behind one guard."""
