"""Recorded telemetry sent as if its nodes were there: nvidia-smi logs and snapshots."""
