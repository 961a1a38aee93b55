"""One training pass: draw, second forward pass, first forward pass, compare, add, count."""
