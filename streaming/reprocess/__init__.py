"""Dead letters replayed: selected, mended by fix-ups, normalised again, published in a transaction with its record."""
