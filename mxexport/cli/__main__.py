"""`python -m mxexport.cli`."""

from mxexport.cli import main

main()
