"""``python -m pgconv COMMAND``: the command ``pgconv`` where its script is not on the path."""

import sys

from pgconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
