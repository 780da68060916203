"""`python -m costar`."""

from costar.core.cli import main

if __name__ == "__main__":
    main()
