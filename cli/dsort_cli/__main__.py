"""`python -m dsort_cli` is `dsort`."""

import sys

from dsort_cli.main import main

sys.exit(main())
