"""How fast this machine is, next to its matrix products alone."""
