"""The `watch` role: reads all partitions in one process and says what is delivered now."""
