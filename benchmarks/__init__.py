"""Benchmarks of whole processes, on data that everybody can make again byte for byte."""
