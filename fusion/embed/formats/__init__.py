"""Formats in which embeddings are written and read, a file each; the name of a file chooses among them."""
