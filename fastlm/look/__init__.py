"""Attention as pictures: what each token looks at, in a terminal, as a PNG or as a page for any browser."""
