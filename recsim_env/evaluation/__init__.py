"""Metrics over run folders: ranking, beyond accuracy, intervals, summaries. Reads tables only: no engine, no GPU."""
