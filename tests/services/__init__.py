"""Other people's storage servers for tests, and a proxy in front of them that fails on demand."""
