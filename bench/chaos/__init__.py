"""Runs of a workflow on a real cluster while things go wrong, drawn from a seed."""
