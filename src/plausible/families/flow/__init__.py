"""p(x) as an invertible image of a simple density."""
