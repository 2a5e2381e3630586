"""Settings of every suite; it imports nothing that the bare environment lacks."""

from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile(
    "soak",
    parent=settings.get_profile("ci"),
    derandomize=False,
    max_examples=5_000,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")  # `pytest --hypothesis-profile soak` replaces it
