"""The `store` role: decode, validate, GPU-minutes, raw samples; write, announce, commit."""
