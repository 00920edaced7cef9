"""Images from a generator, and what is behind them."""
