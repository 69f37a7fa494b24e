"""`python -m mlx_websockets` is `mlx`."""

import sys

from mlx_websockets.cli import main

sys.exit(main())
