"""Backends that come with tusd. They import `tusd.plugin` only, and are reached through entry points only."""
