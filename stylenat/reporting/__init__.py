"""Records of runs, and the tables built from them."""
