"""Measurements that docs/performance.md quotes; never part of the tests."""
