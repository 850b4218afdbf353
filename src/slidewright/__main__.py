"""`python -m slidewright`."""

import sys

from slidewright.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
