"""Parameter groups, the reset of optimizer state, and the advance of a chain."""
