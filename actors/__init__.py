"""Effects: the actors of a lab, and the machines that they run."""
