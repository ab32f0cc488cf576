"""`python -m torchstone` is the command line."""

from torchstone.cli import main

if __name__ == "__main__":
    main()
