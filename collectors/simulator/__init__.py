"""A whole GPU centre by numbers: sites, jobs, physics, and what must come out of them."""
