"""Fixtures for plugin authors. pytest loads this module by its entry point in every run, so it imports next to nothing."""
