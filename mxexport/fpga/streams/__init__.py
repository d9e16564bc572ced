"""What streams between units carry: words, types, and where the axes of a tensor are in them."""
