"""Fixtures that every test of the SDK may use."""

import hypothesis

# How long one example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
