"""Decisions: where each item rests and what has to happen next; no Ray, no clock, no dice."""
