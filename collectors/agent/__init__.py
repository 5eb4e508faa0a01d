"""The node agent: reads every GPU each tick, integrates, and sends one record."""
