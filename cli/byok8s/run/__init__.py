"""The story of one run: look up files, check, plan, execute, report."""
