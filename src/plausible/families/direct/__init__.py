"""Densities written down directly: counts, closed forms, mixtures."""
