"""``python -m theus.cli``, where the ``theus`` command is not on the path."""

import sys

from theus.cli import main

if __name__ == "__main__":
    sys.exit(main())
