"""`python -m docs_site`."""

import sys

from docs_site.build_site import main

if __name__ == "__main__":
    sys.exit(main())
