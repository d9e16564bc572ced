"""What several units are made of: products, accumulators, windows, curves, memories of weights."""
