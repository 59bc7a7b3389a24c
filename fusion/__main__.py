"""``python -m fusion`` is ``fusion``."""

import sys

from .cli import main

sys.exit(main())
