"""Keras layers of convex networks, one a file; each owns the invariant that its name promises."""
