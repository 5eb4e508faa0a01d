"""Heat of GPUs as it should be, learnt from each one's own past, and what departs from it."""
