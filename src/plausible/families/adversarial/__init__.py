"""Samplers trained against an opponent; no density."""
