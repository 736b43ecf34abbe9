"""Bench measures latency, throughput, cold start and memory of every artifact, side by side."""
