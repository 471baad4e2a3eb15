"""`python -m byok8s`: the same as the byok8s command."""

from byok8s.command import main

main()
