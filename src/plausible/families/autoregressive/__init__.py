"""p(x) as a product of conditionals, one dimension after the other."""
