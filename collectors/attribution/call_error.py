"""What a call of the kubelet can end with; known without anything that makes such calls."""

from __future__ import annotations


class CallError(RuntimeError):
    """There is no answer, or none that can be read; the message says why."""
