"""Measurements that a person starts: what Tierce does beside what others do, in one run on one machine."""
