"""The losses, the step and the loop around it."""
