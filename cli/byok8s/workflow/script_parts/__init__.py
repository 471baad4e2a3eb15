"""Stands for Snakemake beside a Python script in an image of the rule's own.

These files are sent to the pod, where the script's preamble finds them as the package `snakemake`;
`iocontainers.py`, the classes of the object `snakemake`, is the leader's Snakemake's own and joins
them. Nothing here is imported by byok8s. An image may have an old Python: 3.7 will do.
"""
