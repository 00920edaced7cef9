"""Neighborhood attention: the partitions, one function, its layers and its backends."""
