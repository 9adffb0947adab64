"""Hypothesis without deadlines: how busy the machine is proves nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tusd", deadline=None)
settings.load_profile("tusd")
