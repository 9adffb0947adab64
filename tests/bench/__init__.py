"""Benchmarks. They report figures; no test fails because a machine is slow."""
