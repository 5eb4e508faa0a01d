"""Everything that runs near the hardware or a scheduler; depends on nobody of ours."""
