"""What iocontainers.py asks for; a script's files are plain strings."""


class _IOFile(str):
    """No file is one."""


def strip_wildcard_constraints(pattern):  # type: ignore[no-untyped-def]
    """Nothing here has wildcards any more."""
    return pattern
