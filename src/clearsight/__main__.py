"""`python -m clearsight` is the command line."""

import sys

from clearsight.cli import main

sys.exit(main())
