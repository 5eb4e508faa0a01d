"""From records on the bus to columns: learnt layouts, slot table, validation."""
