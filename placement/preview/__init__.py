"""What the lab would do: the very same Machine, run ahead in a world where nothing goes wrong."""
