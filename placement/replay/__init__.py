"""A lab's asks played again: the same Machine, a virtual clock, and the well-known caches beside it."""
