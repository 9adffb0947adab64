"""Needs what is not installed."""

import a_library_that_nobody_has  # type: ignore[import-not-found]

Store = a_library_that_nobody_has.Store
