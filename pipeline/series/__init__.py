"""The series store: raw samples, GPU-minute parts and masks of what was seen."""
