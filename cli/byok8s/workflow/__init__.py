"""Everything that knows Snakemake; the only importer of snakemake*.

This file stays empty of imports: pods import byok8s.workflow.storage alone.
"""
