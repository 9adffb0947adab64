"""The test kit of plugin authors: suites that prove a plugin right, and what they are made of.

`storage.StorageSuite`, `locking.LockingSuite`, `limiting.LimitingSuite`, `hooks.HooksSuite` and `metrics.MetricsSuite` are
subclassed in a plugin's tests; `server.ServerProcess` runs a real server.
The fixtures come with pytest by themselves (`pytest_plugin`); nothing else here imports pytest.
"""
