"""Alerts: rules over arrays of all GPUs, on event time, a function of the log alone."""
