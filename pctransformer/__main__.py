"""`python -m pctransformer` is the command `pctransformer`."""

import sys

from pctransformer.cli import main

if __name__ == "__main__":
    sys.exit(main())
