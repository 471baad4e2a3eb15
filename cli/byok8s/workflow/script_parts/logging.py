"""The logger that a script may use; its lines go to the job's log, as Snakemake's do."""

import logging

logger = logging.getLogger("snakemake")
if not logger.handlers:
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
