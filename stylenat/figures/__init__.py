"""Every figure, one function each."""
