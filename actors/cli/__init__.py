"""The long parts of the commands that a person types."""
